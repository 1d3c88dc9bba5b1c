"""socat, iperf3, wrk, curl: tools that move data in ways of their own."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from e2e.servers import Nginx
from e2e.world import World, hang_up, say, url, wait_output


@pytest.mark.also("tcp", "rootless")
def test_socat_forks_for_each_connection(world: World) -> None:
    show = "SYSTEM:echo $SOCAT_PEERADDR $SOCAT_SOCKADDR\\:$SOCAT_SOCKPORT; cat"
    server = world.start("socat", "TCP-LISTEN:7000,fork,reuseaddr", show, listening=7000)
    clients = [world.addresses.v4() for _ in range(3)]
    for client in clients:
        got = world.run("socat", "-t5", "-", f"TCP:{server.ip}:7000", ip=client, input="hello\n")
        assert got.stdout == f"{client} {server.ip}:7000\nhello\n"


def test_socat_relays_between_apps(world: World, place: Path) -> None:
    """A relay of the user's own: listens, connects on, shovels with select."""
    content = os.urandom(4 << 20)
    (place / "data").write_bytes(content)
    back = world.start(*Nginx(place).argv, listening=80)
    relay = world.start("socat", "TCP-LISTEN:80,fork,backlog=20,nodelay", f"TCP:{back.ip}:80,nodelay", listening=80)
    script = 'curl -sS --max-time 15 "$0" | sha256sum'
    got = world.run("sh", "-c", script, url(relay.ip, path="/files/data"))
    assert got.stdout.split()[0] == hashlib.sha256(content).hexdigest()


def test_half_closed_connections(world: World) -> None:
    """The client ends its direction; the server reads to the end, and only then answers."""
    server = world.start("socat", "TCP-LISTEN:7000,fork", "EXEC:sha256sum", listening=7000)
    data = os.urandom(1 << 20)
    got = world.run("socat", "-t15", "-", f"TCP:{server.ip}:7000", input=data)
    assert got.stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_socat_ipv6(world: World) -> None:
    server = world.start("socat", "TCP6-LISTEN:7000,fork", "SYSTEM:echo $SOCAT_PEERADDR", ip=world.addresses.v6(),
                         listening=7000)  # fmt: skip
    got = world.run("socat", "-t10", "-", f"TCP6:[{server.ip}]:7000", ip=(client := world.addresses.v6()))
    groups = got.stdout.strip().strip("[]").split(":")
    assert [int(group, 16) for group in groups] == _groups(client)


def _groups(address: str) -> list[int]:
    text = ipaddress.IPv6Address(address).exploded
    return [int(group, 16) for group in text.split(":")]


@pytest.mark.also("tcp")
@pytest.mark.parametrize("options", [("-P", "4"), ("-P", "4", "-R"), ("--bidir",), ("-Z",)], ids=" ".join)
def test_iperf3(world: World, options: tuple[str, ...]) -> None:
    server = world.start("iperf3", "-s", listening=5201)
    client = world.addresses.v4()
    got = world.run("iperf3", "-c", server.ip, "-t", "1", "-J", *options, ip=client)
    told = json.loads(got.stdout)
    assert "error" not in told
    assert told["end"]["sum_received"]["bytes"] > 1 << 20
    assert {one["remote_host"] for one in told["start"]["connected"]} == {server.ip}
    wait_output(server, rf"Accepted connection from {re.escape(client)}, port")
    assert server.running()


def test_wrk_against_nginx(world: World, place: Path) -> None:
    server = world.start(*Nginx(place).argv, listening=80)
    got = world.run("wrk", "-t", "2", "-c", "40", "-d", "1s", url(server.ip))
    assert "Socket errors" not in got.stdout, got.stdout
    assert int(re.search(r"(\d+) requests in", got.stdout)[1]) > 500, got.stdout
    fresh = world.run("wrk", "-t", "2", "-c", "10", "-d", "1s", "-H", "Connection: close", url(server.ip))
    assert int(re.search(r"(\d+) requests in", fresh.stdout)[1]) > 50, fresh.stdout


def test_curl_many_urls_in_parallel_and_its_own_report(world: World, place: Path) -> None:
    server = world.start(*Nginx(place).argv, listening=80)
    client = world.addresses.v4()
    report = "%{local_ip} %{remote_ip} %{remote_port}\n"
    urls = [word for n in range(20) for word in ("-o", "/dev/null", url(server.ip, path=f"/{n}"))]
    got = world.run("curl", "-sS", "-Z", "--max-time", "10", "-w", report, *urls, ip=client)
    assert got.stdout.splitlines() == [f"{client} {server.ip} 80"] * 20


def test_curl_from_a_port_and_interface_of_its_choice(world: World, place: Path) -> None:
    server = world.start(*Nginx(place).argv, listening=80)
    client = world.addresses.v4()
    got = world.run("curl", "-sS", "--max-time", "10", "--interface", client, "--local-port", "34567", "-w",
                    "%{local_ip}:%{local_port}", "-o", "/dev/null", url(server.ip), ip=client)  # fmt: skip
    assert got.stdout == f"{client}:34567"


def test_an_interactive_session(world: World) -> None:
    """Bash's own /dev/tcp: a shell that reads and writes a socket across fork and exec."""
    server = world.start("socat", "TCP-LISTEN:7000,fork", "EXEC:cat", listening=7000)
    shell = world.start("bash", stdin=subprocess.PIPE)
    say(
        shell,
        f"exec 5<>/dev/tcp/{server.ip}/7000; echo one >&5; head -1 <&5; (echo two >&5); read x <&5; echo got $x\n",
    )
    wait_output(shell, "one\ngot two\n")
    hang_up(shell)
    assert shell.wait() == 0
