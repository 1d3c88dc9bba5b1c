"""From what users write to values of the model: pure functions that raise ValueError with a sentence that helps."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import cast

from appswitch.model import Expose, Protocol

MAX_LABELS = 64
MAX_EXPOSE = 256

# RFC 1123 section 2.1, RFC 1035 section 2.3.1: what may stand between two dots of a host name.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # inet_aton(3) reads these as addresses, and so does getaddrinfo(3)
# As Kubernetes has them, so that labels can be taken over from there: [prefix/]name, and a value that may be empty.
_LABEL_KEY = re.compile(r"([A-Za-z0-9][-A-Za-z0-9.]{0,252}/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?", re.ASCII)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_EXPOSE = re.compile(
    r"(?P<internal>[0-9]+)(:((\[(?P<v6>[^]]*)]|(?P<ip>[^:\[\]]*)):)?(?P<port>[0-9]+))?(/(?P<protocol>tcp|udp))?"
)

_IP_FORMS = "give an IPv4 address such as 10.1.2.3 or an IPv6 address such as fd00::1"
_EXPOSE_FORMS = (
    "give INTERNAL:HOSTPORT, INTERNAL:NODE-IP:HOSTPORT or INTERNAL:[NODE-IPV6]:HOSTPORT, such as 80:8080, "
    "with /tcp or /udp behind it for one of them only; INTERNAL alone, or with HOSTPORT 0, gets a port of the host"
)


def ip(text: str) -> str:
    """A virtual address in its canonical form. Raises ValueError."""
    if "/" in text:
        raise ValueError(f"{text!r} has a prefix length, and an app has one address: {_IP_FORMS}")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address: {_IP_FORMS}") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            raise ValueError(f"{text!r} is an IPv4 address written as IPv6: give {address.ipv4_mapped}")
        if address.is_link_local or address.scope_id:
            raise ValueError(f"{text!r} is valid on one link only: {_IP_FORMS}")
    for bad, what in (
        (address.is_unspecified, "no address at all"),
        (address.is_loopback, "a loopback address, which means the app itself"),
        (address.is_multicast or str(address) == "255.255.255.255", "an address of many"),
    ):
        if bad:
            raise ValueError(f"{text!r} is {what}: {_IP_FORMS}")
    return str(address)


def ips(texts: Sequence[str], whose: str = "an app") -> tuple[str, ...]:
    """At most one address of each family, IPv4 first. Raises ValueError."""
    found: dict[int, str] = {}
    for text in texts:
        address = ip(text)
        version = ipaddress.ip_address(address).version
        if found.setdefault(version, address) != address:
            raise ValueError(f"{whose} has at most one IPv{version} address: {found[version]} and {address} are two")
    return tuple(found[version] for version in sorted(found))


def name(text: str) -> str:
    """A host name's label, in lower case. Raises ValueError."""
    if not _NAME.fullmatch(text.lower()) or not text.isascii():
        raise ValueError(f"{text!r} is not a name: give 1 to 63 letters, digits and hyphens, no hyphen at either end")
    if _NUMBER.fullmatch(text.lower()):
        raise ValueError(f"{text!r} is a number, which programs take for an address: give a name with a letter")
    if text.lower() == "localhost":
        raise ValueError("'localhost' is every app itself (RFC 6761): give another name")
    return text.lower()


def interface(text: str) -> str:
    """What an interface may be called: dev_valid_name() of net/core/dev.c, without the patterns. Raises ValueError."""
    if not 0 < len(text.encode()) < 16 or text in (".", "..", "lo") or not set(text).isdisjoint("/:% \t\n\v\f\r\0"):
        raise ValueError(f"{text!r} is no name for an interface: 1 to 15 bytes without / : % and spaces, and not lo")
    return text


def nameserver(text: str) -> str:
    """An address that a program sends queries to, in its canonical form: loopback ones, too. Raises ValueError."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a name server: {_IP_FORMS}") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            raise ValueError(f"{text!r}: leave %{address.scope_id} away")
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
    if address.is_multicast or str(address) == "255.255.255.255":
        raise ValueError(f"{text!r} is an address of many, and no name server's")
    return "127.0.0.1" if str(address) == "0.0.0.0" else "::1" if address.is_unspecified else str(address)  # noqa: S104


def labels(given: Mapping[str, str]) -> dict[str, str]:
    """Keys and values as Kubernetes allows them. Raises ValueError."""
    if len(given) > MAX_LABELS:
        raise ValueError(f"{len(given)} labels are too many: at most {MAX_LABELS}")
    for key, value in given.items():
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not a label's key: letters, digits and -_. between them, at most 63")
        if not _LABEL_VALUE.fullmatch(value):
            raise ValueError(f"{value!r} is not a label's value: letters, digits and -_. between them, at most 63")
    return dict(given)


def expose(text: str) -> Expose:
    """``INTERNAL:HOSTPORT``, ``INTERNAL:IP:HOSTPORT`` or ``INTERNAL:[IPV6]:HOSTPORT``, perhaps ``/tcp`` or ``/udp``.

    Without HOSTPORT, or where it is 0, one has to be drawn. Raises ValueError.
    """
    match = _EXPOSE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} does not say what to expose where: {_EXPOSE_FORMS}")
    host = match["v6"] if match["v6"] is not None else match["ip"]
    return Expose(
        internal=_port(match["internal"], text),
        host_port=_port(match["port"], text) if (match["port"] or "0").strip("0") else 0,
        host_ip="" if host is None else _node_ip(host, text, 6 if match["v6"] is not None else 4),
        protocol=cast("Protocol | None", match["protocol"]),
    )


def exposes(texts: Sequence[str]) -> tuple[Expose, ...]:
    """Several. One port of the host leads to one of the app's; what another covers is left out. Raises ValueError."""
    if len(texts) > MAX_EXPOSE:
        raise ValueError(f"{len(texts)} exposed ports are too many: at most {MAX_EXPOSE}")
    found: list[Expose] = []
    for text in texts:
        one = expose(text)
        for other in [other for other in found if _overlap(one, other)]:
            if one.internal != other.internal:
                raise ValueError(f"{text!r}: the host's port {one.host_port} cannot lead to two ports: {other} has it")
            if not _covers(one, other) and not _covers(other, one):
                raise ValueError(f"{text!r} and {other} share one of TCP and UDP: name each address and protocol once")
            if _covers(one, other):
                found.remove(other)
        if not any(_covers(other, one) for other in found):
            found.append(one)
    return tuple(found)


def _overlap(one: Expose, other: Expose) -> bool:
    """Whether some address, port and protocol of the host is in both."""
    at = one.host_ip == other.host_ip or _is_wildcard_of(one, other) or _is_wildcard_of(other, one)
    of = None in (one.protocol, other.protocol) or one.protocol == other.protocol
    port = one.host_port == other.host_port and (one.host_port != 0 or one.internal == other.internal)
    return port and at and of


def _covers(one: Expose, other: Expose) -> bool:
    """Whether ``one`` says all that ``other`` says."""
    at = one.host_ip == other.host_ip or _is_wildcard_of(one, other)
    same = (one.internal, one.host_port) == (other.internal, other.host_port)
    return same and at and one.protocol in (None, other.protocol)


def _is_wildcard_of(one: Expose, other: Expose) -> bool:
    """Sockets on :: are for IPv6 only (`switch.doors`); no address is both."""
    return not one.host_ip or (
        bool(other.host_ip) and one.host_ip == ("::" if ":" in other.host_ip else "0.0.0.0")  # noqa: S104
    )


def _port(text: str, whole: str) -> int:
    if len(text) > 5 or not 1 <= int(text) <= 65535:
        raise ValueError(f"{whole!r}: {text} is not a port, which is 1 to 65535")
    return int(text)


def _node_ip(text: str, whole: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{whole!r}: {text!r} is not an address of this node: {_EXPOSE_FORMS}") from None
    if address.version != version or address.is_multicast:
        raise ValueError(f"{whole!r}: {text!r} cannot be listened on so: {_EXPOSE_FORMS}")
    return str(address)
