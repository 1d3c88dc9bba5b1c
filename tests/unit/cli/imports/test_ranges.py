"""Sets of numbers and of connections are the sets that they should be."""

from __future__ import annotations

import ipaddress
from itertools import pairwise, product

from hypothesis import given
from hypothesis import strategies as st

from appswitch.cli.imports import boxes, ranges
from appswitch.cli.imports.boxes import Box
from appswitch.cli.imports.ranges import Ranges

NUMBERS = st.frozensets(st.integers(0, 30), max_size=20)


def made(numbers: frozenset[int]) -> Ranges:
    return ranges.union((number, number) for number in numbers)


def members(found: Ranges) -> frozenset[int]:
    return frozenset(number for low, high in found for number in range(low, high + 1))


@given(NUMBERS, NUMBERS)
def test_sets_of_numbers(one: frozenset[int], other: frozenset[int]) -> None:
    a, b = made(one), made(other)
    assert members(a) == one
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(a))
    assert ranges.intersect(a, b) == made(one & other)
    assert ranges.subtract(a, b) == made(one - other)
    assert ranges.union(a + b) == made(one | other)
    assert ranges.within(a, b) == (one <= other)
    assert ranges.size(a) == len(one)


SIDES = st.frozensets(st.integers(1, 4), min_size=1).map(made)
REGIONS = st.lists(st.builds(Box, SIDES, SIDES, SIDES, SIDES), max_size=4).map(tuple)


def points(region: boxes.Region) -> set[tuple[int, ...]]:
    return {point for box in region for point in product(*map(members, box))}


@given(REGIONS, REGIONS)
def test_sets_of_connections(one: boxes.Region, other: boxes.Region) -> None:
    assert points(boxes.merge(one)) == points(one)
    assert points(boxes.intersect(one, other)) == points(one) & points(other)
    assert points(boxes.subtract(one, other)) == points(one) - points(other)
    assert boxes.within(one, other) == (points(one) <= points(other))


@given(
    st.lists(
        st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)) | st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
        max_size=4,
    )
)
def test_networks_are_the_addresses(spans: list[tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]]) -> None:
    found = ranges.union(one for low, high in map(sorted, spans) for one in ranges.address_range(str(low), str(high)))
    texts = ranges.networks(found)
    mapped = ranges.network("::ffff:0:0/96")  # is IPv4: no such address is ever seen
    again = ranges.union(one for text in texts for one in ranges.network(text))
    assert ranges.subtract(again, mapped) == ranges.subtract(found, mapped)


def test_everything_is_short() -> None:
    assert ranges.networks(ranges.ADDRESSES) == ("0.0.0.0/0", "::/0")
    assert ranges.port_ranges(ranges.PORTS) == ()
    assert [str(one) for one in ranges.port_ranges(ranges.ports(53, 53))] == ["53"]
    both = ranges.ports(80, 81, ranges.TCP) + ranges.ports(53, 53, ranges.UDP)
    assert [str(one) for one in ranges.port_ranges(both)] == ["80-81/tcp", "53/udp"]
    assert ranges.networks(ranges.address_range("10.0.0.1", "10.0.0.4")) == (
        "10.0.0.1/32",
        "10.0.0.2/31",
        "10.0.0.4/32",
    )
