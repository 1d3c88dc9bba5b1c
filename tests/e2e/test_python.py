"""Python's own servers: threads, processes, asyncio, and loops over select, poll and epoll."""

from __future__ import annotations

import json
import subprocess

import pytest
from e2e.world import PROGRAMS, PYTHON, World, hang_up, say, url, wait_output
from harness import App

LINES = PROGRAMS / "lines.py"


def serve(world: World, kind: str, ip: str | None = None) -> App:
    family = ["6"] if ip and ":" in ip else []
    return world.start(PYTHON, PROGRAMS / "servers.py", kind, "9000", *family, ip=ip, listening=9000)


@pytest.mark.parametrize(
    "kind", ["threading", "forking", "asyncio", "prefork", "select", "poll", "epoll", "edge", "oneshot", "exclusive"]
)
def test_server(world: World, kind: str) -> None:
    server = serve(world, kind)
    client = world.addresses.v4()
    got = world.run(PYTHON, LINES, server.ip, "9000", "80", "8", ip=client)
    assert got.stdout == f"{client} {server.ip}|9000\n"


@pytest.mark.also("tcp", "rootless")
def test_server_also(world: World) -> None:
    server = serve(world, "asyncio")
    client = world.addresses.v4()
    got = world.run(PYTHON, LINES, server.ip, "9000", "80", "8", ip=client)
    assert got.stdout == f"{client} {server.ip}|9000\n"


@pytest.mark.parametrize("kind", ["threading", "asyncio", "edge"])
def test_server_ipv6(world: World, kind: str) -> None:
    server = serve(world, kind, world.addresses.v6())
    client = world.addresses.v6()
    got = world.run(PYTHON, LINES, server.ip, "9000", "20", "4", ip=client)
    assert got.stdout == f"{client} {server.ip}|9000\n"


def test_source_port_of_the_clients_choice(world: World) -> None:
    server = serve(world, "threading")
    client = world.addresses.v4()
    got = world.run(PYTHON, LINES, server.ip, "9000", "1", "1", "2", "33000", ip=client)
    assert got.stdout == f"{client} {server.ip}|9000\n"


def test_asyncio_stops_on_sigterm_and_its_port_is_free_again(world: World) -> None:
    ip = world.addresses.v4()
    for _ in range(2):
        server = serve(world, "asyncio", ip)
        assert world.run(PYTHON, LINES, ip, "9000", "1", "1").stdout.endswith(f"{ip}|9000\n")
        assert server.stop() == 0


def test_http_server_and_urllib(world: World) -> None:
    server = serve(world, "httpd")
    client = world.addresses.v4()
    script = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode(), end='')"
    got = world.run(PYTHON, "-c", script, url(server.ip, 9000, "/path"), ip=client)
    assert got.stdout.startswith(f"{client}|")
    assert got.stdout.endswith(f" {server.ip}|9000 /path\n")


def test_multiprocessing_connection(world: World) -> None:
    server = world.start(PYTHON, PROGRAMS / "managers.py", "server", "9000", listening=9000)
    client = world.addresses.v4()
    got = world.run(PYTHON, PROGRAMS / "managers.py", "client", server.ip, "9000", "20", ip=client)
    assert got.stdout == f"{client}\ndone 20\n"


def test_an_idle_connection_stays(world: World) -> None:
    """A client that says nothing for a while, then goes on; the server sees its end."""
    server = serve(world, "threading")
    client = world.start("socat", "-", f"TCP:{server.ip}:9000", stdin=subprocess.PIPE)
    say(client, "one\n")
    wait_output(client, "one\n")
    assert world.run(PYTHON, LINES, server.ip, "9000", "200", "8").returncode == 0
    say(client, "two\n")
    wait_output(client, "two\n")
    hang_up(client)
    assert client.wait() == 0


def test_killed_clients_and_servers_are_noticed(world: World) -> None:
    """A server that dies by SIGKILL resets its connections; its port is refused, then taken anew."""
    server = serve(world, "prefork", world.hold())
    client = world.start("socat", "-", f"TCP:{server.ip}:9000", stdin=subprocess.PIPE)
    say(client, "one\n")
    wait_output(client, "one\n")
    server.kill()
    client.wait()
    refused = world.run("socat", "-t10", "-", f"TCP:{server.ip}:9000", status=None)
    assert refused.returncode == 1
    serve(world, "threading", server.ip)
    assert world.run(PYTHON, LINES, str(server.ip), "9000", "4", "2").stdout.endswith(f"{server.ip}|9000\n")


def test_getaddrinfo_and_hostname(world: World) -> None:
    """Names of the app's own: localhost, and a numeric address as getaddrinfo takes it."""
    script = (
        "import json, socket; print(json.dumps([a[4][0] for a in socket.getaddrinfo('localhost', 80, socket.AF_INET)]))"
    )
    assert "127.0.0.1" in json.loads(world.run(PYTHON, "-c", script).stdout)
