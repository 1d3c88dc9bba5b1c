"""Values of `appswitch.resources` as the documents that ``ax apply`` reads, and names that such documents may have."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from appswitch.resources import Policy, PortRange, Resource, ServicePort, kind_of

API_VERSION = "appswitch/v1"
MAX_NAME = 63  # a DNS label, RFC 1035 section 2.3.4

_OUTSIDE_SPEC = ("name", "uid", "order")
_SPELLED = {"lbtype": "lbType"}


def document(resource: Resource) -> dict[str, Any]:
    """With its envelope. What has its default is left away, but for what somebody who reads it looks for."""
    spec = _fields(resource, _OUTSIDE_SPEC)
    if isinstance(resource, Policy):
        spec = {"action": resource.action, "direction": resource.direction} | spec
    return {
        "apiVersion": API_VERSION,
        "kind": kind_of(resource),
        "metadata": {"name": resource.name},
        "spec": spec,
    }


def _fields(value: msgspec.Struct, without: tuple[str, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        one = getattr(value, field.name)
        if field.name not in without and one not in ((), _default(field)):
            found[_SPELLED.get(field.name) or _camel(field.encode_name)] = _plain(one)
    return found


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _camel(name: str) -> str:
    first, *more = name.split("_")
    return first + "".join(word.capitalize() for word in more)


def _plain(value: object) -> object:
    if isinstance(value, ServicePort | PortRange):
        return str(value)
    if isinstance(value, msgspec.Struct):
        return _fields(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def can_serve(address: str) -> bool:
    """Whether a vservice can have this address: not loopback, one link, or many. Raises ValueError."""
    ip = ipaddress.ip_address(address)
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved)


def with_port(address: str, port: int) -> str:
    """``192.0.2.7:80``, ``[2001:db8::7]:80``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Names:
    """Hands out names that are DNS labels, none of them twice."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._taken: set[str] = set()

    def give(self, *words: str) -> str:
        """One that is made of these words."""
        wanted = slug(self._prefix + "-".join(word for word in words if word)) or "imported"
        if wanted.isdigit():  # a program would take it for an address
            wanted = f"n{wanted}"
        name, number = wanted[:MAX_NAME].rstrip("-"), 1
        while name in self._taken or name == "localhost":
            number += 1
            name = f"{wanted[: MAX_NAME - len(str(number)) - 1].rstrip('-')}-{number}"
        self._taken.add(name)
        return name


def slug(text: str) -> str:
    """Letters, digits and hyphens, no hyphen at either end."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
