"""What an app sees of its network, and what `ax get` shows of it: addresses, names, resolv.conf, exposed ports."""

from __future__ import annotations

import ipaddress
import json
import socket
import sys
from pathlib import Path

import pytest
from harness import Addresses, Daemon, free_port, wait_until

SERVE = "import signal, socket; s = socket.create_server(('0.0.0.0', 80)); signal.pause()"


def _addresses(daemon: Daemon, *options: str) -> dict[str, list[str]]:
    """Interface: its addresses, as `ip address` shows them within an app."""
    done = daemon.run("ip", "-json", "address", options=options)
    return {
        one["ifname"]: [f"{info['local']}/{info['prefixlen']}" for info in one["addr_info"] if info["scope"] != "link"]
        for one in json.loads(done.stdout)
    }


def test_an_app_has_its_addresses(daemon: Daemon, addresses: Addresses) -> None:
    v4, v6 = addresses.v4(), addresses.v6()
    assert _addresses(daemon) == {"lo": ["127.0.0.1/8", "::1/128"]}
    found = _addresses(daemon, "--ip", f"{v4},{v6}")
    assert {one: sorted(of) for one, of in found.items()} == {
        "lo": sorted(["127.0.0.1/8", "::1/128", f"{v4}/32", f"{v6}/128"])
    }


def test_an_interface_has_its_addresses(daemon: Daemon, addresses: Addresses) -> None:
    v4 = addresses.v4()
    found = _addresses(daemon, "--ip", v4, "--interface", "eth0")
    assert (found["lo"], found["eth0"]) == (["127.0.0.1/8", "::1/128"], [f"{v4}/32"])
    assert daemon.run("hostname", "-I", ip=v4, options=["--interface", "eth0"]).stdout.split() == [v4]


def test_a_name_draws_addresses(daemon: Daemon) -> None:
    pools = [ipaddress.ip_network(row["network"]) for row in daemon.get("pools")]
    with daemon.spawn("sleep", "60", name="drawn-1"), daemon.spawn("sleep", "60", name="drawn-1"):
        wait_until(  # one that is stopped before its launcher has come is known for a while
            lambda: [row["app"]["name"] for row in daemon.get("apps") if row["phase"] == "running"] == ["drawn-1"] * 2,
            "two apps of one name",
        )
        (row,) = [row for row in daemon.get("names") if row["name"] == "drawn-1"]
        assert row["fqdn"] == "drawn-1.appswitch.local"
        for address, pool in zip(map(ipaddress.ip_address, row["addresses"]), pools, strict=True):
            assert address in pool
        assert [row["used"] for row in daemon.get("pools")] == [1] * len(pools)
    daemon.wait_idle()
    assert daemon.get("names") == []


def _exposed(daemon: Daemon, *columns: str) -> list[tuple[str, ...]]:
    return [tuple(row[column] for column in columns) for row in daemon.get("exposed")]


def test_exposed_ports_wait_and_open(daemon: Daemon, addresses: Addresses) -> None:
    port = free_port()
    options = ["--expose", f"80:{port}/tcp"]
    with daemon.spawn("sleep", "60", ip=addresses.v4(), options=options):
        # Who ends before its launcher has come leaves a registration, which keeps the port until it expires.
        wait_until(lambda: daemon.known("apps"), "an app that runs")
        rows = [(row["internal"], row["address"], row["proto"], row["state"]) for row in daemon.get("exposed")]
        assert rows == [(80, f"{ip}:{port}", "tcp", "waiting") for ip in ("0.0.0.0", "[::]")]
    daemon.wait_idle()
    with daemon.spawn(sys.executable, "-c", SERVE, ip=addresses.v4(), options=options, listening=80):
        # The server is for IPv4. What is shown comes by events, which may be behind.
        wait_until(lambda: _exposed(daemon, "address", "state") == [(f"0.0.0.0:{port}", "open")], "the port to be open")
    daemon.wait_idle()


def test_exposed_at_a_port_that_is_drawn(daemon: Daemon, addresses: Addresses) -> None:
    """`ax get exposed` and the log say which one; TCP and UDP have the same."""
    serve = "import socket; u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('', 80));" + SERVE
    with daemon.spawn(sys.executable, "-c", serve, ip=addresses.v4(), options=["--expose", "80"], listening=80):
        both = [("tcp", "open"), ("udp", "open")]
        wait_until(lambda: _exposed(daemon, "proto", "state") == both, lambda: f"both open: {daemon.get('exposed')}")
        (address,) = {address for (address,) in _exposed(daemon, "address")}
        assert 40000 <= int(address.removeprefix("0.0.0.0:")) <= 60000
        actual = [one for row in daemon.get("servers") for one in row["actual"]]
        assert actual.count(address) == 2
        wait_until(lambda: daemon.output.count(address) >= 2, "the log to say so")
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))).close()


@pytest.mark.parametrize("which", ["daemon", "rootless_daemon"])
def test_dns_override(request: pytest.FixtureRequest, which: str) -> None:
    before = Path("/etc/resolv.conf").read_bytes()
    one: Daemon = request.getfixturevalue(which)
    seen = one.run("cat", "/etc/resolv.conf", options=["--dns-override"]).stdout.splitlines()
    assert seen[1:] == ["nameserver 127.0.0.53", "search appswitch.local", "options edns0"]
    assert one.run("cat", "/etc/resolv.conf").stdout.encode() == before
