"""From values back to documents: what `documents` would make the same values of. What is default is left away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from appswitch.resources import Policy, Proxy, Reference, Resource, VService

Form = Callable[[Any], Any]
Fields = Sequence[tuple[str, str, Form]]  # of the document, of the value, how it is written


def _words(values: Sequence[object]) -> list[str]:
    return [str(one) for one in values]


def _same(value: Any) -> Any:
    return value


def _match(match: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {name: list(patterns) for name, patterns in match.items()}


def _each(form: Form) -> Form:
    return lambda values: [form(one) for one in values]


def _of(fields: Fields) -> Form:
    return lambda value: _rendered(value, fields)


def _rendered(value: msgspec.Struct, fields: Fields) -> dict[str, Any]:
    defaults = _defaults(type(value))
    found: dict[str, Any] = {}
    for name, attribute, form in fields:
        given = getattr(value, attribute)
        if attribute not in defaults or given != defaults[attribute]:
            found[name] = form(given)
    return found


_known: dict[type[msgspec.Struct], dict[str, Any]] = {}


def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    if kind not in _known:
        _known[kind] = {
            one.name: one.default_factory() if one.default is msgspec.NODEFAULT else one.default
            for one in msgspec.structs.fields(kind)
            if not one.required
        }
    return _known[kind]


def _plain(*names: str) -> Fields:
    return tuple((name, name, _same) for name in names)


BACKEND: Fields = _plain("ip", "name", "labels", "external", "port", "weight", "priority", "locality", "drain")
OUTLIER: Fields = (
    ("consecutiveFailures", "consecutive_failures", _same),
    ("baseEjection", "base_ejection", _same),
    ("maxEjection", "max_ejection", _same),
    ("maxEjectedPercent", "max_ejected_percent", _same),
    ("connectTimeout", "connect_timeout", _same),
)
PEEK: Fields = _plain("bytes", "milliseconds", "otherwise")
ROUTE: Fields = (("name", "name", _same), ("match", "match", _match), ("backends", "backends", _each(_of(BACKEND))))
SELECTOR: Fields = (
    ("labels", "labels", _same),
    ("names", "names", list),
    ("networks", "networks", list),
    ("uids", "uids", list),
    ("executables", "executables", list),
)
VSERVICE: Fields = (
    ("ips", "ips", list),
    ("ports", "ports", _words),
    ("backends", "backends", _each(_of(BACKEND))),
    ("lbType", "lbtype", _same),
    ("hashOn", "hash_on", _same),
    ("outlier", "outlier", _of(OUTLIER)),
    ("limits", "limits", _of(_plain("connections", "pending", "error"))),
    ("routes", "routes", _each(_of(ROUTE))),
    ("peek", "peek", _of(PEEK)),
    ("external", "external", _same),
    ("proxy", "proxy", _same),
    ("sourceIp", "source_ip", _same),
    ("wait", "wait", _same),
)
POLICY: Fields = (
    ("action", "action", _same),
    ("direction", "direction", _same),
    ("from", "from_", _each(_of(SELECTOR))),
    ("to", "to", _each(_of(SELECTOR))),
    ("ports", "ports", _words),
    ("l7", "l7", _each(_match)),
    ("error", "error", _same),
    ("dryRun", "dry_run", _same),
    ("proxy", "proxy", _same),
)
REFERENCE: Fields = (
    ("network", "network", _same),
    ("ports", "ports", _words),
    ("to", "to", _each(_of(BACKEND))),
    ("wait", "wait", _same),
    ("lbType", "lbtype", _same),
)
PROXY: Fields = (
    ("listener", "listener", _same),
    ("header", "header", _same),
    ("wants", "wants", _each(_match)),
    ("capacity", "capacity", _same),
    ("timeout", "timeout", _same),
    ("onFailure", "on_failure", _same),
    ("next", "next", _same),
    ("peek", "peek", _of(PEEK)),
)
_KINDS: dict[type[Resource], Fields] = {VService: VSERVICE, Policy: POLICY, Reference: REFERENCE, Proxy: PROXY}


def spec(resource: Resource, *, drawn: bool = False) -> dict[str, Any]:
    """The ``spec`` of a document. ``drawn``: its addresses are the daemon's choice, and not part of it."""
    found = _rendered(resource, _KINDS[type(resource)])
    if drawn:
        found.pop("ips", None)
    return found
