"""Connections between apps over TCP: where they could be taken for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.node import Namespaces, NodeDaemon, enter
from e2e.world import PROGRAMS, PYTHON, Switched
from harness import Addresses, App


@pytest.fixture
def few_ports(addresses: Addresses) -> Iterator[Switched]:
    """A node that has only 200 ports for connections of its own."""
    with Namespaces() as namespaces, NodeDaemon(namespaces.node) as daemon:
        words = ["sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=50000 50199"]
        with App(enter(namespaces.node, words), daemon.environment()) as sysctl:
            assert sysctl.wait() == 0, sysctl
        with Switched(daemon, addresses, "tcp") as made:
            yield made


def test_connections_from_one_port_to_several_servers(few_ports: Switched, place: Path) -> None:
    """The kernel gives one port of the host to connections to different destinations: each keeps its own identity."""
    program, fifos = PROGRAMS / "pending.py", [str(place / f"go-{number}") for number in range(3)]
    for fifo in fifos:
        os.mkfifo(fifo)
    servers = [few_ports.start(PYTHON, program, "server", "9000", fifo, listening=9000) for fifo in fifos]
    hosts = [str(server.ip) for server in servers]
    got = few_ports.run(PYTHON, program, "client", "9000", ",".join(fifos), "50", *hosts)
    assert got.stdout == "150 connections, 0 wrong\n"
