"""Java: IPv6 sockets that speak to IPv4 peers (v4-mapped addresses), threads, selectors."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.world import ENVIRONMENT, PROGRAMS, World, url, wait_output
from harness import App

SMALL = ("-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m")


@pytest.fixture(scope="module")
def classes() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="axt-java-", dir="/tmp"))
    try:
        subprocess.run(["javac", "-d", place, PROGRAMS / "Web.java"], check=True, env=ENVIRONMENT)
        yield place
    finally:
        shutil.rmtree(place)


def java(classes: Path, *arguments: str) -> list[str]:
    return ["java", *SMALL, "-cp", str(classes), "Web", *arguments]


def serve(world: World, classes: Path, what: str, *options: str, ip: str | None = None) -> App:
    words = java(classes, what, "8080")
    app = world.start(*words[:1], *options, *words[1:], ip=ip, listening=8080)
    wait_output(app, "listening")
    return app


@pytest.mark.also("tcp")
def test_server_sockets_and_threads(world: World, classes: Path) -> None:
    server = serve(world, classes, "plain")
    client = world.addresses.v4()
    got = world.run(*java(classes, "lines", server.ip, "8080", "100"), ip=client)
    assert got.stdout == f"hello {client} on {server.ip} 8080 0\ndone 100\n"


def test_selectors(world: World, classes: Path) -> None:
    server = serve(world, classes, "nio")
    client = world.addresses.v4()
    got = world.run(*java(classes, "requests", url(server.ip, 8080), "60"), ip=client)
    assert got.stdout == f"hello {client} on {server.ip} 8080\ndone 60\n"


def test_ipv4_only_virtual_machine(world: World, classes: Path) -> None:
    server = serve(world, classes, "plain", "-Djava.net.preferIPv4Stack=true")
    client = world.addresses.v4()
    got = world.run(*java(classes, "lines", server.ip, "8080", "3"), ip=client)
    assert got.stdout.startswith(f"hello {client} on {server.ip} 8080 0\n")


def test_ipv6(world: World, classes: Path) -> None:
    server = serve(world, classes, "plain", ip=world.addresses.v6())
    got = world.run(*java(classes, "lines", server.ip, "8080", "20"), ip=world.addresses.v6())
    assert got.stdout.endswith("done 20\n")
