"""Which addresses of the host lead to which sockets of an app."""

from __future__ import annotations

import errno

import pytest

from appswitch.address import Address, ip_bytes
from appswitch.model import Expose
from appswitch.switch.exposure import announce, complain, openings

BOTH = ["0.0.0.0:8080", "[::]:8080"]


def shown(exposes: list[Expose], protocol: str, ip: str, port: int = 80, v6only: bool = False) -> list[str]:
    return [str(one.actual) for one in openings(exposes, protocol, Address(ip_bytes(ip), port), v6only)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bound", "v6only", "wanted"),
    [
        ("0.0.0.0", False, BOTH[:1]),
        ("10.0.0.1", False, BOTH[:1]),
        ("::", False, BOTH),
        ("::", True, BOTH[1:]),
        ("fd00::1", False, BOTH[1:]),
        ("127.0.0.1", False, []),
        ("::1", False, []),
    ],
)
def test_peers_of_the_families_that_a_socket_speaks(bound: str, v6only: bool, wanted: list[str]) -> None:
    """Without an address: docker's -p."""
    assert shown([Expose(80, 8080)], "tcp", bound, v6only=v6only) == wanted


def test_protocols_ports_and_addresses() -> None:
    exposes = [Expose(80, 1, protocol="tcp"), Expose(80, 2, protocol="udp"), Expose(81, 3), Expose(80, 4, "192.0.2.1")]
    assert shown(exposes, "tcp", "0.0.0.0") == ["0.0.0.0:1", "192.0.2.1:4"]
    assert shown(exposes, "udp", "0.0.0.0") == ["0.0.0.0:2", "192.0.2.1:4"]
    assert shown([Expose(80, 5, "::1")], "tcp", "0.0.0.0") == []
    assert shown([Expose(80, 5, "::1")], "tcp", "::") == ["[::1]:5"]


def test_a_host_without_ipv6() -> None:
    """Nobody has asked for it by its address, so it is no error."""
    v4, v6 = openings([Expose(80, 8080)], "tcp", Address(ip_bytes("::"), 80), False)
    (asked,) = openings([Expose(80, 8080, "::")], "tcp", Address(ip_bytes("::"), 80), False)
    for error in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
        assert (v4.failed(error), v6.failed(error), asked.failed(error)) == (True, False, True)
    for one in (v4, v6, asked):
        assert one.failed(errno.EADDRINUSE)
        assert not one.failed(0)


def test_what_the_operator_is_told() -> None:
    said: list[tuple[str, dict[str, object]]] = []
    (one,) = openings([Expose(80, 8080)], "udp", Address(ip_bytes("10.0.0.1"), 80), False)
    complain(lambda event, **more: said.append((event, more)), "00000001", one, "udp", errno.EADDRINUSE)
    announce(lambda event, **more: said.append((event, more)), "00000001", one, "udp")
    (event, fields), (other, _) = said
    assert (event, other) == ("cannot expose", "exposed")
    assert (fields["host"], fields["error"]) == ("0.0.0.0:8080", "EADDRINUSE")
    assert "ss -tulpn" in str(fields["hint"])
