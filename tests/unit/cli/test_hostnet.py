"""The host's networks, as the kernel tells them."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys

import pytest

from appswitch.cli import hostnet


def test_loopback_is_everywhere() -> None:
    assert ipaddress.ip_network("127.0.0.1/32") in hostnet.networks()


def test_addresses_and_routes_of_every_table() -> None:
    script = """
        ip link set lo up
        ip address add 10.1.2.3/24 dev lo
        ip address add 2001:db8::5/64 dev lo
        ip route add 10.9.0.0/16 dev lo
        ip route add 172.30.0.0/16 dev lo table 51820
        ip route add blackhole 192.168.0.0/16
        ip -6 route add fd00:9::/32 dev lo
        ip route add default dev lo
        ip route add 128.0.0.0/1 dev lo
        ip -6 route add 2000::/3 dev lo
        exec "$@"
    """
    program = "from appswitch.cli import hostnet; print(*hostnet.networks())"
    own = () if os.geteuid() == 0 else ("--map-root-user",)
    command = ("unshare", "--net", *own, "sh", "-ec", script, "sh", sys.executable, "-c", program)
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    expected = "10.1.2.3/32 10.9.0.0/16 172.30.0.0/16 192.168.0.0/16 2001:db8::5/128 fd00:9::/32"
    assert set(expected.split()) <= set(found)
    assert not {"0.0.0.0/0", "128.0.0.0/1", "2000::/3", "::/0"} & set(found)


def test_a_kernel_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("appswitch.cli.hostnet.socket.socket", no_socket)
    assert hostnet.networks() == []
