"""Sets of whole numbers as sorted, disjoint, non-adjacent intervals; and ports, addresses and users as numbers.

A list that blocks 10,000 networks is 10,000 intervals, of which each rule adds one: operations with a short second
operand copy, they do not walk.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from math import inf

from appswitch.model import Protocol
from appswitch.resources import PortRange

Interval = tuple[int, int]  # both ends included
Ranges = tuple[Interval, ...]

# Ports of TCP are themselves, those of UDP come behind; port 0 is none.
UDP_OFFSET = 1 << 16
TCP: Ranges = ((1, 65535),)
UDP: Ranges = ((UDP_OFFSET + 1, UDP_OFFSET + 65535),)
PORTS: Ranges = TCP + UDP
# Addresses of IPv4 are themselves, those of IPv6 come behind.
V6_OFFSET = 1 << 32
V4: Ranges = ((0, V6_OFFSET - 1),)
V6: Ranges = ((V6_OFFSET, V6_OFFSET + (1 << 128) - 1),)
ADDRESSES: Ranges = ((0, V6_OFFSET + (1 << 128) - 1),)
UIDS: Ranges = ((0, (1 << 32) - 2),)  # the last one is nobody's, setreuid(2)
MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def union(intervals: Iterable[Interval]) -> Ranges:
    """Any intervals, as a set."""
    found: list[Interval] = []
    for low, high in sorted(one for one in intervals if one[0] <= one[1]):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def _place(ranges: Ranges, number: int) -> int:
    """Of the first interval that ends at ``number`` or later."""
    at = bisect_right(ranges, (number, inf))
    return at - 1 if at and ranges[at - 1][1] >= number else at


def intersect(one: Ranges, other: Ranges) -> Ranges:
    """What is in both."""
    if len(other) > len(one):
        one, other = other, one
    found: list[Interval] = []
    for low, high in other:
        first, last = _place(one, low), bisect_right(one, (high, inf))
        found.extend((max(low, a), min(high, b)) for a, b in one[first:last])
    return tuple(found)


def subtract(one: Ranges, other: Ranges) -> Ranges:
    """What is in the first and not in the second."""
    if len(one) <= len(other):
        return tuple(piece for interval in one for piece in _cut(interval, other))
    for low, high in other:
        first, last = _place(one, low), bisect_right(one, (high, inf))
        if first < last:
            before, after = (one[first][0], low - 1), (high + 1, one[last - 1][1])
            rest = tuple(piece for piece in (before, after) if piece[0] <= piece[1])
            one = one[:first] + rest + one[last:]
    return one


def _cut(interval: Interval, other: Ranges) -> Iterator[Interval]:
    """What of one interval lies between those of ``other``."""
    low, high = interval
    for a, b in other[_place(other, low) : bisect_right(other, (high, inf))]:
        if low < a:
            yield low, a - 1
        low = b + 1
    if low <= high:
        yield low, high


def within(one: Ranges, other: Ranges) -> bool:
    """Whether the second has all of the first."""
    return not subtract(one, other)


def size(ranges: Ranges) -> int:
    """How many numbers."""
    return sum(high - low + 1 for low, high in ranges)


# -- addresses


def network(text: str) -> Ranges:
    """``10.0.0.0/8``, ``10.0.0.0/255.0.0.0``, an address alone. Raises ValueError."""
    found = ipaddress.ip_network(text, strict=False)
    low = _number(found.network_address)
    return ((low, low + found.num_addresses - 1),)


def address_range(first: str, last: str) -> Ranges:
    """Both included. Raises ValueError."""
    low, high = (ipaddress.ip_address(text) for text in (first, last))
    if low.version != high.version or _number(low) > _number(high):
        raise ValueError(f"{first}-{last} is not a range of addresses")
    return ((_number(low), _number(high)),)


def _number(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    return int(ip) if ip.version == 4 else V6_OFFSET + int(ip)


def address(number: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that a number stands for."""
    return ipaddress.IPv4Address(number) if number < V6_OFFSET else ipaddress.IPv6Address(number - V6_OFFSET)


def networks(ranges: Ranges) -> tuple[str, ...]:
    """As CIDRs, as few as there can be."""
    found: list[str] = []
    for family in (V4, V6):
        for low, high in intersect(ranges, family):
            found += [str(one) for one in _summary(low, high)]
    return tuple(found)


def _summary(low: int, high: int) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for one in ipaddress.summarize_address_range(address(low), address(high)):
        # What is IPv4 is IPv4 for AppSwitch (`appswitch.address`): nobody has such an address.
        if one.version == 4 or not one.subnet_of(MAPPED):
            yield one


def addresses(ranges: Ranges, most: int) -> tuple[str, ...] | None:
    """One by one; None if there are more than ``most``."""
    if size(ranges) > most:
        return None
    return tuple(str(address(number)) for low, high in ranges for number in range(low, high + 1))


def families(ranges: Ranges) -> Ranges:
    """Everything of IPv4 if something of it is there, and so of IPv6."""
    return union(interval for family in (V4, V6) if intersect(ranges, family) for interval in family)


# -- ports


def ports(low: int, high: int, protocols: Ranges = PORTS) -> Ranges:
    """Of TCP and UDP, or of one of them."""
    return intersect(((low, high), (UDP_OFFSET + low, UDP_OFFSET + high)), protocols) if low <= high else ()


def port_ranges(found: Ranges) -> tuple[PortRange, ...]:
    """Nothing if it is all ports; without a protocol where it is both."""
    if found == PORTS:
        return ()
    tcp = intersect(found, TCP)
    udp = tuple((low - UDP_OFFSET, high - UDP_OFFSET) for low, high in intersect(found, UDP))
    if tcp == udp:
        return _named(tcp, None)
    return _named(tcp, "tcp") + _named(udp, "udp")


def _named(found: Ranges, protocol: Protocol | None) -> tuple[PortRange, ...]:
    return tuple(PortRange(low=low, high=high, protocol=protocol) for low, high in found)
