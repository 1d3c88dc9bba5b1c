"""Node.js: libuv's epoll loop as server and client, kept connections, and the cluster module."""

from __future__ import annotations

import json

import pytest
from e2e.world import PROGRAMS, World, url, wait_output
from harness import App

WEB = PROGRAMS / "web.js"


def load(world: World, server: App, count: int = 200, at_once: int = 20) -> tuple[dict, dict]:
    got = json.loads(world.run("node", WEB, "load", url(server.ip, 8080), str(count), str(at_once)).stdout)
    return got["keep"], got["fresh"]


@pytest.mark.also("tcp")
def test_server_and_client(world: World) -> None:
    server = world.start("node", WEB, "serve", "8080", "0.0.0.0", listening=8080)
    client = world.addresses.v4()
    hello = world.run("curl", "-sS", "--max-time", "10", url(server.ip, 8080), ip=client).stdout
    assert hello.startswith(f"hello {client}|")
    assert f" on {server.ip}|8080 by " in hello
    keep, fresh = load(world, server)
    assert (keep["done"], fresh["done"]) == (200, 200)
    assert keep["connections"] == 20
    assert fresh["connections"] > 100, "a connection each, though a port may come again"
    assert server.stop() == 0


def test_dual_stack_server_sees_mapped_addresses(world: World) -> None:
    v4, v6 = world.addresses.v4(), world.addresses.v6()
    server = world.start("node", WEB, "serve", "8080", ip=f"{v4},{v6}", listening=8080)
    wait_output(server, r'"address":"::","family":"IPv6","port":8080')
    c4, c6 = world.addresses.v4(), world.addresses.v6()
    assert f"hello ::ffff:{c4}|" in world.run("curl", "-sS", "--max-time", "10", url(v4, 8080), ip=c4).stdout
    assert f"hello {c6}|" in world.run("curl", "-sS", "-g", "--max-time", "10", url(v6, 8080), ip=c6).stdout


@pytest.mark.parametrize("policy", ["rr", "none"])
def test_cluster(world: World, policy: str) -> None:
    """``rr``: the primary accepts and passes sockets on. ``none``: the listening socket itself goes to the workers."""
    server = world.start("node", WEB, "cluster", "8080", env={"NODE_CLUSTER_SCHED_POLICY": policy}, listening=8080)
    wait_output(server, r"(?s)listening.*listening")
    keep, fresh = load(world, server)
    assert (keep["done"], fresh["done"]) == (200, 200)
    if policy == "rr":
        assert len(fresh["pids"]) == 2
    assert server.stop() == 0
