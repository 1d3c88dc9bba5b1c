"""The PROXY protocol in front of others."""

from __future__ import annotations

import socket

import pytest
from tests.unit.routing.l7.messages import PROXIED, PROXY_V1, REQUEST, REQUESTED, WHOLE, proxy_v2

from appswitch.routing.l7 import UNKNOWN, Peeked, peek
from appswitch.routing.l7.proxy import MAX_V1

PORTS = b"\x12\x67\x00\x50"
V4 = bytes((192, 0, 2, 1, 198, 51, 100, 7)) + PORTS
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "2001:db8::2") + PORTS
ENDS_V6 = {"proxy.source": "[2001:db8::1]:4711", "proxy.destination": "[2001:db8::2]:80"}
TLV = b"\1\0\2h2"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (PROXY_V1, PROXIED),
        (b"PROXY TCP6 2001:DB8::1 2001:db8:0::2 4711 80\r\n", {"proxy.version": "1", **ENDS_V6}),
        (b"PROXY UNKNOWN\r\n", {"proxy.version": "1"}),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", {"proxy.version": "1"}),
        (proxy_v2(0x21, 0x11, V4), PROXIED | {"proxy.version": "2"}),
        (proxy_v2(0x21, 0x11, V4 + TLV), PROXIED | {"proxy.version": "2"}),
        (proxy_v2(0x21, 0x21, V6), {"proxy.version": "2", **ENDS_V6}),
        (proxy_v2(0x21, 0x31, bytes(216)), {"proxy.version": "2"}),
        (proxy_v2(0x21, 0x00, b""), {"proxy.version": "2"}),
        (proxy_v2(0x20, 0x00, b""), {"proxy.version": "2"}),
        (proxy_v2(0x20, 0x11, V4), {"proxy.version": "2"}),
    ],
)
def test_headers(header: bytes, expected: dict[str, str]) -> None:
    assert peek(header, final=False) is None
    assert peek(header, final=True) == Peeked("proxy", expected)
    assert peek(header + REQUEST, final=False) == Peeked("http", expected | REQUESTED)
    assert peek(header + b"\xff\xff", final=False) == Peeked("proxy", expected)


@pytest.mark.parametrize("name", [name for name in WHOLE if not name.startswith("proxy")])
def test_in_front_of_anything(name: str) -> None:
    message, behind = WHOLE[name]
    assert peek(PROXY_V1 + message, final=False) == Peeked(behind.protocol, PROXIED | behind.attributes)
    assert peek(PROXY_V1 + message[:-1], final=False) is None


def test_one_header_only() -> None:
    assert peek(PROXY_V1 + PROXY_V1 + REQUEST, final=False) == Peeked("proxy", PROXIED)


def test_half_a_header_is_one_in_the_end() -> None:
    assert peek(PROXY_V1[:-1], final=False) is None
    assert peek(PROXY_V1[:-1], final=True) == Peeked("proxy", {})
    assert peek(PROXY_V1[:5], final=True) is UNKNOWN


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4711\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 80\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 -1\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.7 4711 80\r\n",
        b"PROXY TCP4 ::1 ::2 4711 80\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.7 4711 80\r\n",
        b"PROXY TCP6 ::1%eth0 ::2 4711 80\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.7 4711 80\r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.7 4711 80\r\n",
        b"PROXY \xff\r\n",
        b"PROXY UNKNOWN " + b"x" * MAX_V1,
        proxy_v2(0x11, 0x11, V4),
        proxy_v2(0x22, 0x11, V4),
        proxy_v2(0x21, 0x11, V4[:-1]),
        proxy_v2(0x21, 0x21, V4),
        proxy_v2(0x21, 0x31, V6),
    ],
)
def test_malformed(header: bytes) -> None:
    assert peek(header, final=False) is UNKNOWN
    assert peek(header + REQUEST, final=True) is UNKNOWN
