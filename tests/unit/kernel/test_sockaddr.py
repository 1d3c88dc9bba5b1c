"""Socket addresses as bytes, against those that the kernel itself shows."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appswitch import _kernel
from appswitch.address import ANY4, ANY6, MAPPED, Address, unmap
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6, AF_UNIX

v4 = st.binary(min_size=4, max_size=4)
v6 = st.binary(min_size=16, max_size=16)
ports = st.integers(0, 65535)


@settings(max_examples=40)
@given(v4, ports)
def test_ipv4_comes_back_from_both_families(ip: bytes, port: int) -> None:
    address = Address(ip, port)
    plain, mapped = sockaddr.encode(AF_INET, address), sockaddr.encode(AF_INET6, address)
    assert (len(plain), len(mapped)) == (sockaddr.LEN4, sockaddr.LEN6)
    assert (sockaddr.family_of(plain), sockaddr.family_of(mapped)) == (AF_INET, AF_INET6)
    assert sockaddr.decode(plain) == sockaddr.decode(mapped) == address
    assert mapped[8:24] == MAPPED + ip


@settings(max_examples=40)
@given(v6 | v4.map(lambda ip: MAPPED + ip), ports)
def test_ipv6_comes_back_unmapped(ip: bytes, port: int) -> None:
    assert sockaddr.decode(sockaddr.encode(AF_INET6, Address(ip, port))) == Address(unmap(ip), port)


@settings(max_examples=40)
@given(v4, ports)
def test_a_mapped_address_is_plain_for_an_ipv4_socket(ip: bytes, port: int) -> None:
    assert sockaddr.encode(AF_INET, Address(MAPPED + ip, port)) == sockaddr.encode(AF_INET, Address(ip, port))


@settings(max_examples=40)
@given(v4, v6, ports, st.binary(max_size=20))
def test_what_follows_an_address_does_not_matter(ip4: bytes, ip6: bytes, port: int, rest: bytes) -> None:
    assert sockaddr.decode(sockaddr.encode(AF_INET, Address(ip4, port)) + rest) == Address(ip4, port)
    short = sockaddr.encode(AF_INET6, Address(ip6, port))[: sockaddr.LEN6_MIN]
    assert sockaddr.decode(short + rest) == Address(unmap(ip6), port)


@pytest.mark.parametrize(
    ("family", "host", "ip"),
    [
        (AF_INET, "127.0.0.1", b"\x7f\0\0\1"),
        (AF_INET, "0.0.0.0", ANY4),
        (AF_INET6, "::", ANY6),
        (AF_INET6, "::ffff:127.0.0.1", b"\x7f\0\0\1"),
    ],
)
def test_the_kernel_shows_the_same_bytes(family: int, host: str, ip: bytes) -> None:
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        port = sock.getsockname()[1]
        raw = _kernel.getsockname(sock.fileno())
    assert raw == sockaddr.encode(family, Address(ip, port))


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_any_of_is_what_a_fresh_socket_shows(family: int) -> None:
    with socket.socket(family) as sock:
        assert sockaddr.any_of(family) == _kernel.getsockname(sock.fileno())


def unix(path: bytes) -> bytes:
    return AF_UNIX.to_bytes(2, "little") + path


@pytest.mark.parametrize(
    ("path", "name"),
    [(b"", b""), (b"a.sock\0", b"a.sock"), (b"a.sock", b"a.sock"), (b"\0abc", b"\0abc"), (b"\0abc\0\0", b"\0abc\0\0")],
)
def test_unix_names(path: bytes, name: bytes) -> None:
    assert sockaddr.unix_name(unix(path)) == name
