"""The networks that this host has addresses in or routes to: a pool of virtual addresses must keep clear of them."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

from appswitch.networks import Network

# netlink(7), rtnetlink(7)
_GETROUTE, _DONE, _ERROR = 26, 3, 2
_REQUEST, _DUMP = 1, 0x300
_MESSAGE = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, destination's length, ..., table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_DST = 1  # RTA_DST
_TYPES = (1, 2, 6, 7, 8)  # RTN_UNICAST, LOCAL, BLACKHOLE, UNREACHABLE, PROHIBIT: somebody has a use for it
_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}
# A default route is no network, nor are its halves, by which VPNs put theirs before it; nor 2000::/3.
_SHORTEST = 4


def networks() -> list[Network]:
    """Of every routing table; the host's own addresses are in the one named local. Empty if the kernel does not say."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
            return sorted({found for body in _dump(netlink) if (found := _network(body))}, key=_order)
    except OSError:
        return []


def versions() -> tuple[int, ...]:
    """The IP versions that the kernel has."""
    return (4, 6) if os.path.exists("/proc/net/if_inet6") else (4,)


def _order(network: Network) -> tuple[int, Network]:
    return network.version, network


def _dump(netlink: socket.socket) -> Iterator[bytes]:
    netlink.send(_MESSAGE.pack(_MESSAGE.size + _ROUTE.size, _GETROUTE, _REQUEST | _DUMP, 1, 0) + bytes(_ROUTE.size))
    while True:
        data = netlink.recv(1 << 18)
        at = 0
        while at + _MESSAGE.size <= len(data):
            length, kind, _, _, _ = _MESSAGE.unpack_from(data, at)
            if kind in (_DONE, _ERROR) or length < _MESSAGE.size:
                return
            yield data[at + _MESSAGE.size : at + length]
            at += _align(length)


def _network(body: bytes) -> Network | None:
    """The destination of a route; None if it is no network of the host's."""
    family, bits, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(body)
    if family not in _FAMILIES or kind not in _TYPES or bits < _SHORTEST:
        return None
    at = _ROUTE.size
    while at + _ATTRIBUTE.size <= len(body):
        length, attribute = _ATTRIBUTE.unpack_from(body, at)
        if attribute == _DST:
            return ipaddress.ip_network((body[at + _ATTRIBUTE.size : at + length], bits), strict=False)
        at += _align(max(length, _ATTRIBUTE.size))
    return None


def _align(length: int) -> int:
    return length + 3 & ~3
