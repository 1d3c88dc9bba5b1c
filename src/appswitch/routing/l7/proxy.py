"""The PROXY protocol, which a load balancer puts before the client's bytes: versions 1 and 2.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import re
from typing import NamedTuple

from appswitch.address import Address, ip_bytes, unmap
from appswitch.routing.l7.peeked import IncompleteError, MalformedError
from appswitch.routing.l7.reading import Reader, begins

MAX_V1 = 107  # bytes with CRLF: section 2.1
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # section 2.2
LOCAL, PROXY = 0x20, 0x21  # version and command
_FAMILIES = {1: 4, 2: 16}  # AF_INET, AF_INET6: bytes of an address
_UNIX, _UNIX_SIZE = 3, 216
_V1 = re.compile(
    rb"PROXY (?:TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]{1,5}) ([0-9]{1,5})|UNKNOWN[^\r\n]*)\r\n"
)


class Header(NamedTuple):
    """The attributes ``proxy.*``, and where the client's own bytes begin."""

    attributes: dict[str, str]
    length: int


def sniff(data: bytes) -> bool | None:
    """One of the two signatures."""
    first, second = begins(data, b"PROXY "), begins(data, SIGNATURE)
    return second if first is False else first


def parse(data: bytes) -> Header:
    """Raises IncompleteError, MalformedError."""
    return _v2(data) if data.startswith(SIGNATURE) else _v1(data)


def _v1(data: bytes) -> Header:
    line, end, _ = data[:MAX_V1].partition(b"\n")
    if not end and len(data) < MAX_V1:
        raise IncompleteError
    found = _V1.fullmatch(line + end)
    if found is None:
        raise MalformedError
    if found[1] is None:
        return Header({"proxy.version": "1"}, found.end())
    size = _FAMILIES[1] if found[1] == b"4" else _FAMILIES[2]
    source, destination = _written(found[2], found[4], size), _written(found[3], found[5], size)
    return Header(_ends("1", source, destination), found.end())


def _written(ip: bytes, port: bytes, size: int) -> Address:
    try:
        packed = ip_bytes(ip.decode())
    except ValueError:
        raise MalformedError from None
    if len(packed) != size or int(port) > 65535:
        raise MalformedError
    return Address(unmap(packed), int(port))


def _v2(data: bytes) -> Header:
    reader = Reader(data, len(SIGNATURE))
    command, family = reader.uint(1), reader.uint(1) >> 4
    if command not in (LOCAL, PROXY):
        raise MalformedError
    inner = reader.inner(2)
    if command == LOCAL or family not in _FAMILIES:  # LOCAL is a health check of the load balancer's own
        if command == PROXY and family == _UNIX:
            inner.skip(_UNIX_SIZE)
        return Header({"proxy.version": "2"}, reader.at)
    size = _FAMILIES[family]
    source, destination = inner.take(size), inner.take(size)
    ends = Address(unmap(source), inner.uint(2)), Address(unmap(destination), inner.uint(2))
    return Header(_ends("2", *ends), reader.at)


def _ends(version: str, source: Address, destination: Address) -> dict[str, str]:
    return {"proxy.version": version, "proxy.source": str(source), "proxy.destination": str(destination)}
