"""Addresses, held against the standard library's."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appswitch.address import (
    ANY4,
    ANY6,
    LOOPBACK4,
    LOOPBACK6,
    MAPPED,
    Address,
    ip_bytes,
    ip_text,
    is_any,
    is_loopback,
    is_multicast,
    loopback_like,
    unmap,
)

v4 = st.binary(min_size=4, max_size=4)
v6 = st.binary(min_size=16, max_size=16)
some = st.sampled_from(
    [
        ANY4,
        ANY6,
        LOOPBACK4,
        LOOPBACK6,
        b"\x7f\x00\x00\x02",
        b"\xe0\x00\x00\x01",
        b"\xef\xff\xff\xff",
        b"\xff" + bytes(15),
    ]
)
ips = v4 | v6 | some
ports = st.integers(0, 65535)


def library(ip: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv4Address(ip) if len(ip) == 4 else ipaddress.IPv6Address(ip)


@settings(max_examples=40)
@given(ips)
def test_text_is_canonical_and_read_back(ip: bytes) -> None:
    assert ip_text(ip) == str(library(ip))
    assert ip_bytes(ip_text(ip)) == ip


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.4.5", "256.0.0.1", "::g", "1.2.3.4:80", "[::1]", "localhost"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        ip_bytes(text)


@settings(max_examples=40)
@given(ips, ports)
def test_an_address_is_written_as_in_a_url(ip: bytes, port: int) -> None:
    host = f"[{library(ip)}]" if len(ip) == 16 else str(library(ip))
    assert str(Address(ip, port)) == f"{host}:{port}"


@settings(max_examples=40)
@given(v4)
def test_a_mapped_address_is_the_one_it_holds(ip: bytes) -> None:
    assert unmap(MAPPED + ip) == ip
    assert unmap(ip) == ip
    assert ipaddress.IPv6Address(MAPPED + ip).ipv4_mapped == ipaddress.IPv4Address(ip)


@settings(max_examples=40)
@given(v6 | st.just(bytes(12) + b"\1\2\3\4"))
def test_any_other_ipv6_address_stays(ip: bytes) -> None:
    mapped = ipaddress.IPv6Address(ip).ipv4_mapped
    assert unmap(ip) == (ip if mapped is None else mapped.packed)


@settings(max_examples=40)
@given(ips)
def test_kinds(ip: bytes) -> None:
    assert is_any(ip) == library(ip).is_unspecified
    # The library of 3.13 sees through mapped addresses; here they are unmapped where they come in.
    assert is_loopback(ip) == (library(ip).is_loopback and not ip.startswith(MAPPED))


@settings(max_examples=40)
@given(ips)
def test_multicast_counts_the_limited_broadcast_address_in(ip: bytes) -> None:
    expected = library(ip).is_multicast and not ip.startswith(MAPPED)
    assert is_multicast(ip) == (expected or ip == b"\xff" * 4)


def test_limited_broadcast() -> None:
    assert is_multicast(b"\xff\xff\xff\xff")
    assert not is_multicast(b"\xff\xff\xff\xfe")


@settings(max_examples=40)
@given(ips)
def test_loopback_of_the_same_family(ip: bytes) -> None:
    assert is_loopback(loopback_like(ip))
    assert len(loopback_like(ip)) == len(ip)
