"""What an app may reach, as users write it: egress rules and host ports. Pure; raises ValueError with what helps."""

from __future__ import annotations

import re
from collections.abc import Sequence

from appswitch.model import Egress, EgressRule, HostPort
from appswitch.networks import parse_network

MAX_RULES = 256
MAX_HOST_PORTS = 256

# RFC 1035 section 2.3.4: 63 bytes a label, 253 characters a name. With underscores, which names in use have (RFC 8552).
_LABEL = re.compile(r"[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?")
_MAX_NAME = 253
_HOST_PORT = re.compile(r"(?:([0-9]{1,5}):)?([0-9]{1,5})")

_FORMS = "give a network such as 10.0.0.0/8, an address, or a DNS name such as example.com or *.example.com"


def target(text: str) -> str:
    """A network in canonical form, or a DNS name in lower case, perhaps with ``*.`` before it."""
    if "/" in text or ":" in text or re.fullmatch(r"[0-9.]+", text):
        return str(parse_network(text))
    name = text.lower().removesuffix(".")
    labels = name.removeprefix("*.").split(".")
    if name == "*":
        raise ValueError("'*' is everything: that is the default of egress, allow or deny")
    if not text.isascii():
        raise ValueError(f"{text!r}: give the name as DNS has it, in ASCII (xn--...)")
    # A name whose last part is a number is an address that was mistyped: no top-level domain is, RFC 3696 section 2.
    if len(name) > _MAX_NAME or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise ValueError(f"{text!r} is neither a network nor a DNS name: {_FORMS}")
    return name


def rule(text: str, *, allow: bool) -> EgressRule:
    """One `target` that may, or may not, be reached."""
    found = target(text)
    return EgressRule(allow=allow, network=found) if "/" in found else EgressRule(allow=allow, name=found)


def egress(default: str, allow: Sequence[str], deny: Sequence[str], error: str) -> Egress:
    """Both lists together may have `MAX_RULES` rules. The same in both is a mistake."""
    rules = tuple(dict.fromkeys([rule(one, allow=False) for one in deny] + [rule(one, allow=True) for one in allow]))
    if len(rules) > MAX_RULES:
        raise ValueError(f"{len(rules)} egress rules are too many: at most {MAX_RULES}")
    seen: set[str] = set()
    for one in rules:
        if str(one) in seen:
            raise ValueError(f"{one} is both allowed and denied")
        seen.add(str(one))
    return Egress(
        default="deny" if default == "deny" else "allow",
        rules=rules,
        error="ECONNREFUSED" if error == "ECONNREFUSED" else "EACCES",
    )


def host_port(text: str) -> HostPort:
    """``PORT`` for the same on both sides, or ``INTERNAL:HOSTPORT``."""
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} does not name a port of the host: give PORT or INTERNAL:HOSTPORT, such as 5432:15432"
        )
    host = int(match[2])
    internal = int(match[1] or host)
    for one in (internal, host):
        if not 1 <= one <= 65535:
            raise ValueError(f"{text!r}: {one} is not a port, which is 1 to 65535")
    return HostPort(internal=internal, host_port=host)


def host_ports(texts: Sequence[str]) -> tuple[HostPort, ...]:
    """Several: none of the app's ports may lead to two of the host's."""
    if len(texts) > MAX_HOST_PORTS:
        raise ValueError(f"{len(texts)} host ports are too many: at most {MAX_HOST_PORTS}")
    found: dict[int, HostPort] = {}
    for one in map(host_port, texts):
        other = found.setdefault(one.internal, one)
        if other != one:
            raise ValueError(f"the app's port {one.internal} leads to {other.host_port} and to {one.host_port}")
    return tuple(found.values())
