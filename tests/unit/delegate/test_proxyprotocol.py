"""PROXY headers: what is encoded is decoded again, and nothing else is let through."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.delegate import strategies as some
from tests.unit.delegate.vectors import HEADERS, at

from appswitch.delegate import proxyprotocol
from appswitch.delegate.crc32c import crc32c
from appswitch.delegate.errors import IncompleteError, MalformedError
from appswitch.delegate.proxyprotocol import Command, Header, Ssl, Transport, Type
from appswitch.delegate.tlv import Tlv

TCP4 = HEADERS["tcp4"]


@given(some.headers, st.booleans())
def test_round_trip(header: Header, checksum: bool) -> None:
    decoded = proxyprotocol.decode(proxyprotocol.encode(header, checksum=checksum))
    assert decoded._replace(tlvs=tuple(one for one in decoded.tlvs if one.type != Type.CRC32C)) == header
    assert (decoded.value(Type.CRC32C) is not None) == (checksum and header.command is Command.PROXY)


@given(some.headers, st.binary(max_size=20))
def test_prefix_of_a_stream(header: Header, more: bytes) -> None:
    data = proxyprotocol.encode(header)
    assert proxyprotocol.decode_prefix(data + more) == (header, len(data))


@given(some.headers, st.data())
def test_every_truncation_is_incomplete(header: Header, draw: st.DataObject) -> None:
    data = proxyprotocol.encode(header)
    part = data[: draw.draw(st.integers(0, len(data) - 1))]
    with pytest.raises(IncompleteError):
        proxyprotocol.decode(part)
    assert proxyprotocol.needed(part) <= len(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", proxyprotocol.SIGNATURE]))
def test_random_bytes(data: bytes, begin: bytes) -> None:
    with contextlib.suppress(MalformedError):
        proxyprotocol.decode_prefix(begin + data)


@given(some.headers, st.booleans(), st.data())
def test_mutations(header: Header, checksum: bool, draw: st.DataObject) -> None:
    data = bytearray(proxyprotocol.encode(header, checksum=checksum))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        proxyprotocol.encode(proxyprotocol.decode(bytes(data)))


@given(some.headers.filter(lambda header: header.command is Command.PROXY), st.data())
def test_a_checksum_finds_each_changed_bit(header: Header, draw: st.DataObject) -> None:
    data = bytearray(proxyprotocol.encode(header, checksum=True))
    data[draw.draw(st.integers(0, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    try:
        decoded = proxyprotocol.decode(bytes(data))
    except MalformedError:
        return
    assert decoded.command is Command.LOCAL or decoded.value(Type.CRC32C) is None  # it says that there is none


def test_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the catalogue of CRCs
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 appendix B.4


def test_a_checksum_where_none_is_allowed() -> None:
    with pytest.raises(MalformedError):
        proxyprotocol.decode(proxyprotocol.encode(TCP4, checksum=True), allow_checksum=False)


def test_mixed_families_are_ipv6() -> None:
    mixed = TCP4._replace(source=at("2001:db8::1", 1))
    data = proxyprotocol.encode(mixed)
    assert data[13] == 0x21
    assert proxyprotocol.decode(data) == mixed


def test_local_is_discarded_whatever_it_has() -> None:
    data = bytearray(proxyprotocol.encode(HEADERS["tlvs"]))
    data[12] = 0x20
    assert proxyprotocol.decode(bytes(data)) == Header(Command.LOCAL)


def test_unknown_tlvs_are_kept_even_twice() -> None:
    header = TCP4._replace(tlvs=(Tlv(0xE1, b"a"), Tlv(0xE1, b"b")))
    assert proxyprotocol.decode(proxyprotocol.encode(header)) == header


def test_the_longest() -> None:
    header = Header(tlvs=(Tlv(0xE1, bytes(65532)),))
    data = proxyprotocol.encode(header)
    assert len(data) == proxyprotocol.MAX_SIZE
    assert proxyprotocol.decode(data) == header
    with pytest.raises(ValueError, match="do not fit"):
        proxyprotocol.encode(Header(tlvs=(Tlv(0xE1, bytes(65533)),)))


def test_too_many_tlvs() -> None:
    with pytest.raises(MalformedError, match="too many"):
        proxyprotocol.decode(proxyprotocol.encode(Header(tlvs=(Tlv(Type.NOOP, b""),) * 65)))


@pytest.mark.parametrize(
    "header",
    [
        Header(Command.LOCAL, Transport.STREAM, at("10.0.0.1", 1), at("10.0.0.2", 2)),
        Header(Command.PROXY, Transport.STREAM),
        Header(Command.PROXY, Transport.UNSPEC, at("10.0.0.1", 1), at("10.0.0.2", 2)),
        Header(Command.PROXY, Transport.STREAM, at("10.0.0.1", 1), b"/path"),
        Header(Command.PROXY, Transport.STREAM, b"/path", bytes(109)),
    ],
)
def test_what_has_no_form(header: Header) -> None:
    with pytest.raises(ValueError, match=r"."):
        proxyprotocol.encode(header)


@given(st.builds(Ssl, st.integers(0, 255), some.counts, *[some.names] * 5))
def test_ssl(ssl: Ssl) -> None:
    assert proxyprotocol.decode_ssl(proxyprotocol.encode_ssl(ssl).value) == ssl


@given(st.binary(max_size=60))
def test_random_ssl(value: bytes) -> None:
    with contextlib.suppress(MalformedError):
        proxyprotocol.decode_ssl(value)


# Version 1: the examples of section 2.1.
@pytest.mark.parametrize(
    ("line", "header"),
    [
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Header(Command.PROXY, Transport.STREAM, at("255.255.255.255", 65535), at("255.255.255.255", 65535)),
        ),
        (
            b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n",
            Header(Command.PROXY, Transport.STREAM, at("2001:db8::1", 1), at("::1", 2)),
        ),
        (b"PROXY UNKNOWN\r\n", Header()),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", Header()),
    ],
)
def test_version_1(line: bytes, header: Header) -> None:
    assert proxyprotocol.decode(line) == header
    assert proxyprotocol.decode_prefix(line + b"GET /\r\n") == (header, len(line))
    for part in (line[:6], line[:-1]):
        with pytest.raises(IncompleteError):
            proxyprotocol.decode(part)


def test_version_1_without_an_end() -> None:
    with pytest.raises(MalformedError, match="version 1"):
        proxyprotocol.decode(b"PROXY UNKNOWN " + b"x" * 200)
