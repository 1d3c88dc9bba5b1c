"""What ICMPv6 quotes of a datagram that nobody took."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appswitch.address import Address, ip_bytes
from appswitch.switch.strays import Stray, parse

SOURCE, TO = Address(ip_bytes("fd00::1"), 40000), Address(ip_bytes("fd00::2"), 53)


def message(data: bytes, length: int | None = None, *, kind: int = 1, code: int = 4, protocol: int = 17) -> bytes:
    """RFC 4443 section 3.1, RFC 8200 section 3, RFC 768."""
    size = 8 + len(data) if length is None else length
    udp = struct.pack(">HHHH", SOURCE.port, TO.port, size, 0) + data
    return (
        struct.pack(">BBHI", kind, code, 0, 0)
        + struct.pack(">IHBB", 6 << 28, size, protocol, 64)
        + SOURCE.ip
        + TO.ip
        + udp
    )


@pytest.mark.parametrize("data", [b"", b"x", b"question" * 100])
def test_quoted_whole(data: bytes) -> None:
    assert parse(message(data)) == Stray(SOURCE, TO, data)


def test_quoted_in_part() -> None:
    assert parse(message(b"x" * 1184, 2000)) == Stray(SOURCE, TO, None)
    assert parse(message(b"", 0)) == Stray(SOURCE, TO, None)


def test_other_messages() -> None:
    for other in (message(b"x", kind=3), message(b"x", code=0), message(b"x", protocol=58), message(b"")[:-1], b""):
        assert parse(other) is None


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    found = parse(b"\1\4" + data)
    assert found is None or (len(found.source.ip), len(found.to.ip)) == (16, 16)
