"""A TLS ClientHello: RFC 8446 section 4.1.2, and what came before it (RFC 5246 section 7.4.1.2)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from appswitch.routing.l7.peeked import MalformedError
from appswitch.routing.l7.reading import Reader

# RFC 8446 section 4.2, RFC 6066 section 3, RFC 7301 section 3.1
SERVER_NAME, SIGNATURE_ALGORITHMS, ALPN, SUPPORTED_VERSIONS = 0, 13, 16, 43

MAX_EXTENSIONS = 256  # that a hello may have; browsers send twenty
MAX_PROTOCOLS = 256  # that ALPN may list
HOST_NAME = 0  # RFC 6066 section 3
GREASE = frozenset(0x0A0A + 0x1010 * n for n in range(16))  # RFC 8701 section 2: 0x0a0a, 0x1a1a … 0xfafa
_EXTENSION = struct.Struct("!HH")  # type, length


class Hello(NamedTuple):
    """What a client offers, in its order, without the values that mean nothing (GREASE, RFC 8701)."""

    legacy_version: int
    ciphers: tuple[int, ...]
    extensions: tuple[int, ...]
    versions: tuple[int, ...] = ()
    signature_algorithms: tuple[int, ...] = ()
    server_name: bytes = b""
    alpn: tuple[bytes, ...] = ()


def read_hello(body: bytes) -> Hello:
    """The handshake message's body. Raises MalformedError for what a server would answer with decode_error."""
    reader = Reader(body, 0, len(body))
    version = reader.uint(2)
    if version >> 8 != 3:
        raise MalformedError
    reader.skip(32)  # random
    reader.vector(1)  # session id
    ciphers = _numbers(reader.vector(2))
    reader.vector(1)  # compression methods
    found = _extensions(reader) if reader else {}
    if reader:
        raise MalformedError
    return Hello(
        legacy_version=version,
        ciphers=ciphers,
        extensions=tuple(kind for kind in found if kind not in GREASE),
        versions=_listed(found.get(SUPPORTED_VERSIONS), 1),
        signature_algorithms=_listed(found.get(SIGNATURE_ALGORITHMS), 2),
        server_name=_server_name(found.get(SERVER_NAME)),
        alpn=_alpn(found.get(ALPN)),
    )


def _extensions(reader: Reader) -> dict[int, bytes]:
    """By type, in their order. None may come twice: RFC 8446 section 4.2."""
    data = reader.vector(2)
    found: dict[int, bytes] = {}
    at = 0
    while at + _EXTENSION.size <= len(data):
        kind, length = _EXTENSION.unpack_from(data, at)
        if kind in found or len(found) == MAX_EXTENSIONS:
            raise MalformedError
        at += _EXTENSION.size + length
        found[kind] = data[at - length : at]
    if at != len(data):
        raise MalformedError
    return found


def _listed(data: bytes | None, size: int) -> tuple[int, ...]:
    """Numbers of two bytes with the list's length before them, a number of ``size`` bytes."""
    if data is None:
        return ()
    reader = Reader(data, 0, len(data))
    numbers = _numbers(reader.vector(size))
    if reader:
        raise MalformedError
    return numbers


def _numbers(data: bytes) -> tuple[int, ...]:
    if len(data) % 2:
        raise MalformedError
    return tuple(number for number in struct.unpack(f"!{len(data) // 2}H", data) if number not in GREASE)


def _server_name(data: bytes | None) -> bytes:
    """The first name; there is one kind of them. The list is empty where a library was told of an empty name."""
    if not data:
        return b""
    names = Reader(data, 0, len(data)).inner(2)
    return names.vector(2) if names and names.uint(1) == HOST_NAME else b""


def _alpn(data: bytes | None) -> tuple[bytes, ...]:
    if data is None:
        return ()
    listed = Reader(data, 0, len(data)).vector(2)
    names: list[bytes] = []
    at = 0
    while at < len(listed) and len(names) < MAX_PROTOCOLS:
        end = at + 1 + listed[at]
        names.append(listed[at + 1 : end])
        at = end
    if at != len(listed):
        raise MalformedError
    return tuple(names)
