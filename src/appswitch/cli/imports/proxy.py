"""What configurations of proxies have in common: addresses, lists of who may come, balanced backends."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from appswitch.cli.imports import boxes, policies, ranges
from appswitch.cli.imports.boxes import Box, Region
from appswitch.cli.imports.documents import Names, can_serve, with_port
from appswitch.cli.imports.flatten import Entry
from appswitch.cli.imports.packetfilter import Accept, Deny, Rule
from appswitch.cli.imports.policies import Scope
from appswitch.cli.imports.ranges import Ranges
from appswitch.cli.imports.report import Report
from appswitch.resources import (
    BackendSpec,
    ErrorName,
    L7Match,
    L7Route,
    LbType,
    Limits,
    Outlier,
    Policy,
    Selector,
    ServicePort,
    VService,
)

# Attributes of peeked data.
PATH, METHOD, HOST, SNI = "http.path", "http.method", "http.host", "tls.sni"
HEADER = "http.header."  # and the header's name, in lower case

MAX_PORTS = 256
MAX_ROUTES = 256  # of a vservice
MAX_PRIORITY = 15
FIRST_REQUEST = "a connection is decided by its first request: those behind it on the same connection go the same way"
NO_NAMES = "a host's name is not looked up here: give its address"
NO_SOCKETS = "a backend has an address, and is no Unix socket"
NO_TLS = "TLS is not ended or begun: certificates and keys stay with the servers"
NO_CHECKS = "backends are not checked actively: those that fail are passed over (outlier)"

_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Listener(NamedTuple):
    """Where a proxy listens."""

    address: str  # "": everywhere
    ports: tuple[int, ...]


class Pool(NamedTuple):
    """Backends and how one is chosen."""

    backends: tuple[BackendSpec, ...] = ()
    lbtype: LbType = "RoundRobin"
    hash_on: str = "source"
    outlier: Outlier = Outlier()
    limits: Limits = Limits()

    def template(self, routes: Iterable[L7Route] = ()) -> VService:
        """What vservices that lead here have in common: they have no name or address yet."""
        return VService(name="", ips=(), ports=(), routes=tuple(routes), **self._asdict())


class AccessRule(NamedTuple):
    """Who may come; the first that matches decides."""

    where: str
    text: str
    verdict: Accept | Deny
    source: Ranges


def host_and_ports(text: str) -> tuple[str, str]:
    """``10.0.0.1:80``, ``[::1]:80``, ``*:80``, ``:::80``, ``10.0.0.1``: what is before the last colon, and behind."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    if text.count(":") > 1 and _is_ip(text):
        return text, ""
    host, colon, port = text.rpartition(":")
    return (host, port) if colon else (text, "")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def listener(host: str, ports: str) -> Listener:
    """Raises ValueError, whose text is a reason, for what no vservice can be."""
    address = "" if host in ("", "*", "0.0.0.0", "::") else host  # noqa: S104 - that is what they write
    if address and not _is_ip(address):
        raise ValueError(NO_NAMES)
    if address and not can_serve(address):
        raise ValueError("no vservice can have this address")
    match = _PORTS.fullmatch(ports)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high <= 65535:
        raise ValueError(f"{ports!r} is no port")
    if high - low >= MAX_PORTS:
        raise ValueError(f"a vservice for more than {MAX_PORTS} ports")
    return Listener(address, tuple(range(low, high + 1)))


def external(host: str, port: int) -> str:
    """A backend's address. Raises ValueError, whose text is a reason."""
    if not _is_ip(host):
        raise ValueError(NO_NAMES)
    ip = ipaddress.ip_address(host)
    if ip.is_unspecified or ip.is_multicast or not 1 <= port <= 65535:
        raise ValueError("nobody can be connected to there")
    return with_port(str(ip), port)


def seconds(text: str, unit: str) -> float:
    """``5s``, ``500ms``, ``5``: in ``unit``. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})(us|ms|s|m|h|d)?", text)
    if match is None:
        raise ValueError(f"{text!r} is no time")
    return int(match[1]) * _UNITS[match[2] or unit]


def connect_timeout(outlier: Outlier, text: str, unit: str) -> Outlier:
    """With this one. Raises ValueError for what cannot be."""
    found = seconds(text, unit)
    if not 0 < found <= 300:
        raise ValueError("a connection is tried for at most 300 seconds")
    return Outlier(
        consecutive_failures=outlier.consecutive_failures,
        base_ejection=outlier.base_ejection,
        max_ejection=outlier.max_ejection,
        max_ejected_percent=outlier.max_ejected_percent,
        connect_timeout=found,
    )


def by_weight(lbtype: LbType, backends: Iterable[BackendSpec]) -> LbType:
    """In turn by weight, where weights differ."""
    return "Weighted" if lbtype == "RoundRobin" and len({one.weight for one in backends}) > 1 else lbtype


def unique(backends: Iterable[BackendSpec]) -> tuple[BackendSpec, ...]:
    """None of them twice: control refuses that."""
    found: list[BackendSpec] = []
    for one in backends:
        if one not in found:
            found.append(one)
    return tuple(found)


def pattern(text: str, form: str = "{}") -> str:
    """A literal text as a pattern of L7. Raises ValueError, whose text is a reason."""
    if not text or "*" in text:
        raise ValueError("a pattern's text has no * in it, and is not empty")
    return form.format(text)


def differences(found: Pool, chosen: Pool) -> str:
    """What of a route's backends does not hold, because the vservice's others decide it; nothing if all does."""
    different = [
        what
        for what, mine, others in (
            ("the way to balance", (found.lbtype, found.hash_on), (chosen.lbtype, chosen.hash_on)),
            ("time-outs and failures", found.outlier, chosen.outlier),
            ("the limits", found.limits, chosen.limits),
        )
        if mine != others and chosen.backends and (mine != (found.lbtype, found.hash_on) or len(found.backends) > 1)
    ]
    return f"{' and '.join(different)} of a route are those of its vservice" if different else ""


def named(routes: Iterable[L7Route]) -> list[L7Route]:
    """With names that are DNS labels, none of them twice."""
    names = Names()
    return [L7Route(match=one.match, backends=one.backends, name=names.give(one.name)) for one in routes]


def vservices(
    listeners: Sequence[Listener], label: str, names: Names, template: VService
) -> tuple[list[VService], Selector]:
    """One for each address, and what selects all of them."""
    ports: dict[str, list[int]] = {}
    for one in listeners:
        ports.setdefault(one.address, []).extend(one.ports)
    found = [
        _vservice(template, names.give(label), address, tuple(dict.fromkeys(some))) for address, some in ports.items()
    ]
    return found, Selector(names=tuple(one.name for one in found))


def _vservice(template: VService, name: str, address: str, ports: tuple[int, ...]) -> VService:
    return VService(
        name=name,
        ips=(address,) if address else (),
        ports=tuple(ServicePort(port, port) for port in ports[:MAX_PORTS]),
        backends=template.backends,
        lbtype=template.lbtype,
        hash_on=template.hash_on,
        outlier=template.outlier,
        limits=template.limits,
        routes=template.routes,
        external=not address,
        source_ip=template.source_ip,
    )


_ALL: Region = (Box(),)


def access(
    rules: Sequence[AccessRule],
    to: Selector,
    label: str,
    names: Names,
    report: Report,
    l7: tuple[L7Match, ...] = (),
) -> list[Policy]:
    """Policies that decide as the list does: who is in none of the rules may come."""
    entries: list[Entry] = []
    rest: Region = _ALL
    for one in rules:
        match: Region = (Box(source=one.source),) if one.source else ()
        effective = boxes.intersect(rest, match)
        entries.append(Entry(Rule(one.where, one.text, one.verdict), match, effective, one.verdict))
        rest = boxes.subtract(rest, match)
    entries.append(Entry(Rule("", "", Accept()), _ALL, rest, Accept()))
    return policies.express(entries, Scope("ingress", label, _ALL, to, l7), names, report)


def denial(name: str, source: Ranges, to: Selector, l7: L7Match, error: ErrorName) -> Policy:
    """A deny policy for some clients and what they ask for."""
    return Policy(
        name=name,
        action="deny",
        from_=() if source == ranges.ADDRESSES else (Selector(networks=ranges.networks(source)),),
        to=(to,),
        l7=(l7,) if l7 else (),
        error=error,
    )
