"""IP addresses with ports, as small and fast values. A leaf: imports nothing of ours, touches nothing.

An IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) is the IPv4 address it holds: it is unmapped where it comes in,
and mapped again only when an IPv6 socket's caller is told of it. So routing knows one form of each address.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, NewType

MAPPED = bytes(10) + b"\xff\xff"
ANY4, ANY6 = bytes(4), bytes(16)
LOOPBACK4, LOOPBACK6 = b"\x7f\x00\x00\x01", bytes(15) + b"\x01"


class Address(NamedTuple):
    """``ip`` is 4 or 16 bytes in network order, ``port`` 0..65535."""

    ip: bytes
    port: int

    def __str__(self) -> str:
        return f"[{ip_text(self.ip)}]:{self.port}" if len(self.ip) == 16 else f"{ip_text(self.ip)}:{self.port}"


Virtual = NewType("Virtual", Address)  # what apps see
Actual = NewType("Actual", Address)  # what the host's network sees


def ip_text(ip: bytes) -> str:
    """The canonical text form (RFC 5952 for IPv6)."""
    if len(ip) == 4:
        return "%d.%d.%d.%d" % tuple(ip)  # noqa: UP031 - three times faster than ipaddress
    return str(ipaddress.IPv6Address(ip))


def ip_bytes(text: str) -> bytes:
    """Raises ValueError for anything that is not an address."""
    return ipaddress.ip_address(text).packed


def unmap(ip: bytes) -> bytes:
    """The IPv4 address inside a mapped one; any other as it is."""
    return ip[12:] if len(ip) == 16 and ip.startswith(MAPPED) else ip


def is_any(ip: bytes) -> bool:
    """0.0.0.0 or ::."""
    return ip in (ANY4, ANY6)


def is_loopback(ip: bytes) -> bool:
    """127.0.0.0/8 or ::1."""
    return ip[0] == 127 if len(ip) == 4 else ip == LOOPBACK6


def is_multicast(ip: bytes) -> bool:
    """Multicast of either family, or the limited broadcast address."""
    return ip[0] == 255 if len(ip) == 16 else 224 <= ip[0] <= 239 or ip == b"\xff\xff\xff\xff"


def is_link_local(ip: bytes) -> bool:
    """fe80::/10, which means nothing without a scope: RFC 4007."""
    return len(ip) == 16 and ip[0] == 0xFE and ip[1] & 0xC0 == 0x80


def loopback_like(ip: bytes) -> bytes:
    """The loopback address of the same family."""
    return LOOPBACK4 if len(ip) == 4 else LOOPBACK6


# What may stand between two dots of a host name: RFC 1123 section 2.1.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_WITH_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<v4>[^\[\]:]*)):(?P<port>[0-9]{1,5})")
# In front of it stand a name (63), two labels of a service (16 each), and dots: 255 bytes in all, RFC 1035 2.3.4.
MAX_DOMAIN = 150
DNS_PORT = 53


def parse_dns_domain(text: str) -> str:
    """The domain that names of apps are in, in lower case without a last dot. Raises ValueError."""
    name = text.lower().removesuffix(".")
    if not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{text!r} is not a DNS name: give letters, digits and hyphens with dots between them")
    if len(name) > MAX_DOMAIN:
        raise ValueError(f"{text!r} has {len(name)} characters, and a domain for names may have {MAX_DOMAIN}")
    if name.rpartition(".")[2] in ("arpa", "localhost"):
        raise ValueError(f"{text!r} has a meaning of its own and cannot hold names of apps")
    return name


def parse_ports(text: str) -> list[range]:
    """Ranges and single ports, such as ``40000-60000,7000``. Raises ValueError."""
    ranges = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        ranges.append(range(int(low), int(high or low) + 1))
    return ranges


def parse_dns_servers(text: str) -> tuple[Address, ...]:
    """``10.0.0.2,10.0.0.3:5353,fd00::2,[fd00::3]:5353``; nothing is no server. Raises ValueError."""
    return tuple(_dns_server(part.strip()) for part in text.split(",")) if text.strip() else ()


def _dns_server(text: str) -> Address:
    match = _WITH_PORT.fullmatch(text)
    host, port = (match["v6"] or match["v4"] or "", int(match["port"])) if match else (text, DNS_PORT)
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = None
    if ip is None or "%" in host or (match and (ip.version == 6) != (match["v6"] is not None)):
        raise ValueError(f"{text!r} is not a name server: give IP, IPV4:PORT or [IPV6]:PORT")
    if not 1 <= port <= 65535 or ip.is_unspecified or ip.is_multicast:
        raise ValueError(f"{text!r}: nobody can be asked there")
    return Address(ip.packed, port)
