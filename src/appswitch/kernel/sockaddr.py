"""struct sockaddr of ip(7) and ipv6(7), to and from bytes."""

from __future__ import annotations

import socket
import struct
import sys

from appswitch.address import ANY4, ANY6, MAPPED, Address, unmap

AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC = (
    int(f) for f in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_UNSPEC)
)
LEN4, LEN6, LEN6_MIN = 16, 28, 24  # sockaddr_in, sockaddr_in6, and that of RFC 2133 without the scope
MAX_LEN = 128  # sizeof(struct sockaddr_storage); longer ones are EINVAL (net/socket.c, move_addr_to_kernel)

_in = struct.Struct("=H2s4s8x")
_in6 = struct.Struct("=H2s4s16s4s")


def family_of(raw: bytes) -> int:
    """The sa_family of a sockaddr of at least two bytes."""
    return int.from_bytes(raw[:2], sys.byteorder)


def encode(family: int, address: Address) -> bytes:
    """As a socket of ``family`` shows it: an IPv4 address is mapped for AF_INET6, an IPv6 one is 0.0.0.0 to AF_INET."""
    ip, port = address
    if family == AF_INET:
        ip = unmap(ip)
        return _in.pack(AF_INET, port.to_bytes(2, "big"), ip if len(ip) == 4 else ANY4)
    return _in6.pack(AF_INET6, port.to_bytes(2, "big"), bytes(4), ip if len(ip) == 16 else MAPPED + ip, bytes(4))


def any_of(family: int) -> bytes:
    """The unspecified address with port 0."""
    return encode(family, Address(ANY6[:4] if family == AF_INET else ANY6, 0))


def decode(raw: bytes) -> Address:
    """The address of a sockaddr_in (16 bytes or more) or sockaddr_in6 (24 or more), unmapped."""
    port = int.from_bytes(raw[2:4], "big")
    if family_of(raw) == AF_INET:
        return Address(raw[4:8], port)
    return Address(unmap(raw[8:24]), port)


def unix_name(raw: bytes) -> bytes:
    """The sun_path of a sockaddr_un: abstract names keep their leading NUL, paths lose their trailing one."""
    path = raw[2:]
    return path if path[:1] == b"\0" else path.rstrip(b"\0")
