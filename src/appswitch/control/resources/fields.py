"""The words within documents: from text to values. Pure functions that raise ValueError with a sentence that helps."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from appswitch import attributes
from appswitch.address import Address
from appswitch.control import validate
from appswitch.model import Protocol
from appswitch.networks import parse_network
from appswitch.resources import PortRange, ServicePort

MAX_PATTERN = 1024  # characters
ANY_BACKEND = (
    "give an address (10.1.0.1), a name (web-1), labels (app=web, several joined by +), or an address outside with its "
    "port (192.0.2.7:8080, [2001:db8::7]:8080)"
)

_SERVICE_PORT = re.compile(r"([0-9]{1,5})(?::([0-9]{1,5}))?")
_PORT_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp))?")
_EXTERNAL = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<v4>[^\[\]:]*)):(?P<port>[0-9]{1,5})")
_LISTENER = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^\[\]:]*)):(?P<port>[0-9]{1,5})")
_NAME_PATTERN = re.compile(r"\*?[-a-z0-9]{0,63}\*?")


def service_port(text: str) -> ServicePort:
    """``V``, or ``V:P``."""
    match = _SERVICE_PORT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a service's port: give V, or V:P where backends listen on another, P")
    return ServicePort(port=_port(match[1], text), target=_port(match[2] or match[1], text))


def service_ports(texts: Sequence[str]) -> tuple[ServicePort, ...]:
    """Several, none of them twice."""
    found: dict[int, ServicePort] = {}
    for one in map(service_port, texts):
        if one.port in found:
            raise ValueError(f"the port {one.port} is there twice, as {found[one.port]} and {one}")
        found[one.port] = one
    return tuple(found.values())


def port_range(text: str) -> PortRange:
    """``80``, ``8000-8999``, either with ``/tcp`` or ``/udp`` behind it."""
    match = _PORT_RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} does not name ports: give 80, 8000-8999, 53/udp or 8000-8999/tcp")
    low, high = _port(match[1], text), _port(match[2] or match[1], text)
    if low > high:
        raise ValueError(f"{text!r}: the range ends before it begins")
    return PortRange(low=low, high=high, protocol=cast("Protocol | None", match[3]))


def _port(text: str, whole: str) -> int:
    if not 1 <= int(text) <= 65535:
        raise ValueError(f"{whole!r}: {text} is not a port, which is 1 to 65535")
    return int(text)


def pattern(text: str) -> str:
    """See `appswitch.resources.Pattern`."""
    if not text or len(text) > MAX_PATTERN:
        raise ValueError(f"a pattern has 1 to {MAX_PATTERN} characters")
    if "*" in text[1:-1] or text == "**":
        raise ValueError(f"{text!r}: a * stands at the beginning, at the end or both: text, text*, *text, *text*, or *")
    return text


def name_pattern(text: str) -> str:
    """A pattern on the name of an app or a vservice."""
    lower = pattern(text).lower()
    if not _NAME_PATTERN.fullmatch(lower) or not text.isascii():
        raise ValueError(f"{text!r} can be no app's name: give letters, digits and hyphens, and * at either end")
    return lower


def executable(text: str) -> str:
    """A pattern on the absolute path of a program."""
    if not pattern(text).startswith(("/", "*")):
        raise ValueError(f"{text!r} is not the absolute path of a program: give /usr/bin/curl, /usr/bin/* or */curl")
    return text


def network(text: str) -> str:
    """A CIDR in canonical form; an address alone is a network of one."""
    return str(parse_network(text))


def attribute(name: str) -> str:
    """The name of an attribute of peeked data."""
    attributes.check(name)
    return name


def hash_on(text: str) -> str:
    """``source``, or an attribute."""
    return text if text == "source" else attribute(text)


def external(text: str) -> str:
    """``IPV4:PORT`` or ``[IPV6]:PORT``, in canonical form."""
    match = _EXTERNAL.fullmatch(text)
    host = (match["v6"] or match["v4"] or "") if match else ""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = None
    if match is None or ip is None or "%" in host or (ip.version == 6) != (match["v6"] is not None):
        raise ValueError(f"{text!r} is not an address with a port: give 192.0.2.7:8080 or [2001:db8::7]:8080")
    if ip.is_unspecified or ip.is_multicast or host == "255.255.255.255":
        raise ValueError(f"{text!r}: nobody can be connected to there")
    return str(Address(ip.packed, _port(match["port"], text)))


def listener(text: str) -> str:
    """``IPV4:PORT``, ``[IPV6]:PORT`` or ``NAME:PORT``, in canonical form."""
    match = _LISTENER.fullmatch(text)
    if match is None or (match["v6"] is not None and ":" not in match["v6"]):
        raise ValueError(f"{text!r} is no listener: give 10.1.0.50:15001, [fd00::50]:15001, or NAME:15001 of an app")
    port = _port(match["port"], text)
    if match["v6"] is not None:
        return f"[{validate.ip(match['v6'])}]:{port}"
    check = validate.ip if re.fullmatch("[0-9.]+", match["host"]) else validate.name
    return f"{check(match['host'])}:{port}"


def backend(text: str) -> dict[str, Any]:
    """A backend that is written as one word, as the fields of the object that it stands for."""
    if "=" in text:
        return {"labels": labels(text)}
    if _EXTERNAL.fullmatch(text) and not _is_ip(text):
        return {"external": text}
    if _is_ip(text):
        return {"ip": text}
    if ":" in text or "/" in text or re.fullmatch("[0-9.]+", text):
        raise ValueError(f"{text!r} is not a backend: {ANY_BACKEND}")
    return {"name": text}


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def labels(text: str) -> dict[str, str]:
    """``app=web+zone=a``: all of them."""
    found: dict[str, str] = {}
    for part in text.split("+"):
        key, equals, value = part.partition("=")
        if not equals or key in found:
            raise ValueError(f"{text!r} does not select by labels: give k=v, several as k=v+k2=v2, each key once")
        found[key] = value
    return some_labels(found)


def some_labels(given: Mapping[str, str]) -> dict[str, str]:
    """At least one: none would select every app there is."""
    if not given:
        raise ValueError("no label at all would be every app: give one at least")
    return validate.labels(given)
