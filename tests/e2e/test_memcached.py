"""memcached, several threads each; three of them on one virtual address."""

from __future__ import annotations

import json
import subprocess

import pytest
from e2e.world import PROGRAMS, PYTHON, Switched, World, hang_up, say, wait_output
from harness import App


def memcached(world: World, ip: str | None = None) -> App:
    return world.start("memcached", "-u", "root", "-p", "11211", "-t", "4", "-m", "16", ip=ip, listening=11211)


def client(world: World, server: str, count: int, threads: int) -> dict[str, dict[str, int]]:
    got = world.run(PYTHON, PROGRAMS / "memcached_client.py", server, "11211", str(count), str(threads))
    return json.loads(got.stdout)


@pytest.mark.also("tcp", "rootless")
def test_one_server_many_threads(world: World) -> None:
    server = memcached(world)
    told = client(world, server.ip, count=200, threads=8)
    assert told == {"served": {str(server.pid): 200}, "peers": [f"{server.ip}:11211"]} or (
        sum(told["served"].values()) == 200 and len(told["served"]) == 1
    )


@pytest.mark.also("tcp")
def test_three_servers_on_one_address_share_the_connections(switched: Switched, kind: str) -> None:
    switched.transport = "tcp" if kind == "tcp" else ""
    ip = switched.addresses.v4()
    servers = [memcached(switched, ip) for _ in range(3)]
    told = client(switched, ip, count=300, threads=8)
    assert told["peers"] == [f"{ip}:11211"]
    assert set(told["served"]) == {str(server.pid) for server in servers}
    assert min(told["served"].values()) >= 60, "picked at random: 100 each, give or take"

    # One goes; the others take over, and what is new comes in.
    servers[0].stop()
    told = client(switched, ip, count=60, threads=4)
    assert set(told["served"]) == {str(server.pid) for server in servers[1:]}
    servers.append(memcached(switched, ip))
    told = client(switched, ip, count=120, threads=4)
    assert set(told["served"]) == {str(server.pid) for server in servers[1:]}


def test_the_server_sees_the_clients_address(world: World) -> None:
    server = memcached(world)
    ip = world.addresses.v4()
    client = world.start("socat", "-", f"TCP:{server.ip}:11211", ip=ip, stdin=subprocess.PIPE)
    say(client, "stats conns\r\n")
    wait_output(client, r"\nEND\n")
    assert f":addr tcp:{ip}:" in client.stdout, client.stdout
    hang_up(client)
    assert client.wait() == 0
