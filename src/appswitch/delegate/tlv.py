"""Type, length, value: what the PROXY protocol's extensions, and ours within them, are made of (section 2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from appswitch.delegate.errors import MalformedError

HEAD = 3  # bytes: a type, two of length in network order
MAX_VALUE = 0xFFFF


class Tlv(NamedTuple):
    """``type`` is 0..255, ``value`` at most 65535 bytes."""

    type: int
    value: bytes


def pack(type: int, value: bytes) -> bytes:
    """Raises ValueError for a value that is too long."""
    if len(value) > MAX_VALUE:
        raise ValueError(f"{len(value)} bytes do not fit into one TLV")
    return bytes((type, len(value) >> 8, len(value) & 0xFF)) + value


def join(tlvs: Iterable[Tlv]) -> bytes:
    """One after the other. Raises ValueError for a value that is too long."""
    return b"".join(pack(*tlv) for tlv in tlvs)


def split(data: bytes, limit: int) -> Iterator[Tlv]:
    """The TLVs that fill ``data``. Raises MalformedError where one ends beyond it, or there are more than ``limit``."""
    at = 0
    while at < len(data):
        start = at + HEAD
        if start > len(data):
            raise MalformedError("a TLV is cut off in its length")
        stop = start + int.from_bytes(data[at + 1 : start], "big")
        if stop > len(data):
            raise MalformedError(f"a TLV of type {data[at]:#04x} goes on beyond its end")
        if not limit:
            raise MalformedError("too many TLVs")
        limit -= 1
        yield Tlv(data[at], data[start:stop])
        at = stop
