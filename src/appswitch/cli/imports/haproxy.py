"""An HAProxy configuration: its frontends as vservices, who may not come as policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from appswitch.cli.imports import packetfilter, proxy, ranges
from appswitch.cli.imports.documents import Names
from appswitch.cli.imports.haproxy_acl import Case, ConditionError, cases
from appswitch.cli.imports.haproxy_file import PROXIES, Line, Section, sections
from appswitch.cli.imports.haproxy_server import pool
from appswitch.cli.imports.packetfilter import Accept, Deny
from appswitch.cli.imports.proxy import MAX_ROUTES, AccessRule, Listener, Pool
from appswitch.cli.imports.report import Report
from appswitch.resources import L7Route, Policy, Resource, Selector

_ITSELF = "how HAProxy itself runs, which is not needed"
_NOTHING = "nothing corresponds to it"
# Lines that become something, or need not.
_TAKEN = {
    ("acl",),
    ("balance",),
    ("bind",),
    ("default-server",),
    ("default_backend",),
    ("hash-type",),
    ("mode",),
    ("option", "allbackups"),
    ("option", "redispatch"),
    ("retries",),
    ("server",),
    ("server-template",),
    ("timeout", "connect"),
    ("timeout", "queue"),
    ("use_backend",),
}
_REASONS: dict[tuple[str, ...], str] = {
    ("log",): packetfilter.LOGGED,
    ("option", "httplog"): packetfilter.LOGGED,
    ("option", "tcplog"): packetfilter.LOGGED,
    ("option", "dontlognull"): packetfilter.LOGGED,
    ("capture",): packetfilter.LOGGED,
    ("timeout",): "connections that stand are not timed",
    ("maxconn",): "limits are for each backend, not for all together",
    ("fullconn",): "limits are for each backend, not for all together",
    ("option", "httpchk"): proxy.NO_CHECKS,
    ("option", "tcp-check"): proxy.NO_CHECKS,
    ("http-check",): proxy.NO_CHECKS,
    ("tcp-check",): proxy.NO_CHECKS,
    ("option", "forwardfor"): "servers see the client's own address: no header tells it",
    ("http-request",): "requests are not read beyond the first, and not changed",
    ("http-response",): "answers are not read",
    ("http-after-response",): "answers are not read",
    ("tcp-response",): "answers are not read",
    ("tcp-request", "inspect-delay"): "",
    ("redirect",): "nobody answers in a server's place",
    ("errorfile",): "nobody answers in a server's place",
    ("stats",): "nobody answers in a server's place; `ax get connections` and /metrics have the figures",
    ("monitor-uri",): "nobody answers in a server's place",
    ("cookie",): "no cookie is set or read",
    ("stick",): "a client's connections stay with a backend by its address (sourceIp, RingHash) alone",
    ("stick-table",): "a client's connections stay with a backend by its address (sourceIp, RingHash) alone",
    ("compression",): "data is not changed",
    ("filter",): "data is not changed",
}
# What may not come: the words, what a rule that matches does, which error.
_REJECT: dict[tuple[str, ...], Accept | Deny] = {
    ("tcp-request", "connection", "reject"): Deny("ECONNREFUSED"),
    ("tcp-request", "connection", "silent-drop"): Deny("ETIMEDOUT"),
    ("tcp-request", "connection", "accept"): Accept(),
    ("tcp-request", "content", "reject"): Deny("ECONNREFUSED"),
    ("tcp-request", "content", "accept"): Accept(),
    ("http-request", "deny"): Deny("EACCES"),
    ("http-request", "reject"): Deny("ECONNREFUSED"),
    ("http-request", "silent-drop"): Deny("ETIMEDOUT"),
    ("http-request", "allow"): Accept(),
}


class _Rule(NamedTuple):
    """A line of `_REJECT`, read."""

    line: Line
    verdict: Accept | Deny
    cases: list[Case]


def resources(text: str, source: str, names: Names, report: Report) -> list[Resource]:
    """Raises InputError for what is no such configuration."""
    found = sections(text, source)
    backends = {section.name: section for section in found if section.kind in ("backend", "listen")}
    made: list[Resource] = []
    used: set[str] = set()
    for section in found:
        _tell(section, report)
        if section.kind in ("frontend", "listen"):
            made += _Frontend(section, backends, used, report).resources(names)
    for name, section in backends.items():
        if section.kind == "backend" and name not in used:
            report.leave_out(section.head.where, section.head.text, "no frontend that is imported uses it")
    return made


def _tell(section: Section, report: Report) -> None:
    """What becomes nothing."""
    if section.kind not in (*PROXIES, "defaults"):
        why = _ITSELF if section.kind == "global" else _NOTHING
        report.leave_out(section.head.where, section.head.text, why)
        return
    for line in section.lines:
        if section.kind == "backend" and any(line.words[: len(key)] == key for key in _REJECT):
            report.leave_out(line.where, line.text, "write it in the frontend: a policy is about a vservice")
        elif not any(line.words[: len(key)] == key for key in (*_TAKEN, *_REJECT)):
            lengths = (2, 1)
            why = next((_REASONS[line.words[:n]] for n in lengths if line.words[:n] in _REASONS), _NOTHING)
            if why:
                report.leave_out(line.where, line.text, why)


class _Frontend:
    """A frontend or listen, and the backends that it uses."""

    def __init__(self, section: Section, backends: dict[str, Section], used: set[str], report: Report) -> None:
        self._section = section
        self._backends = backends
        self._used = used
        self._report = report
        self._acls: dict[str, list[tuple[str, ...]]] = {}
        for line in section.lines:
            if line.keyword == "acl" and len(line.words) > 2:
                self._acls.setdefault(line.words[1], []).append(line.words[2:])

    def resources(self, names: Names) -> list[Resource]:
        listeners = self._listeners()
        if not listeners:
            why = "none of its addresses can be a vservice's"
            self._report.leave_out(self._section.head.where, self._section.head.text, why)
            return []
        ports = {port for one in listeners for port in one.ports}
        port = ports.pop() if len(ports) == 1 else 0
        chosen = self._default(port)
        routes = self._routes(chosen, port)
        if routes and self._section.value("mode") == "http":
            self._report.leave_out(self._section.head.where, "mode http", proxy.FIRST_REQUEST)
        if len(routes) > MAX_ROUTES:
            head = self._section.head
            self._report.leave_out(head.where, head.text, f"more than {MAX_ROUTES} routes of a vservice")
        template = chosen.template(routes[:MAX_ROUTES])
        label = self._section.name or "proxy"
        made, selector = proxy.vservices(listeners, label, names, template)
        return [*made, *self._policies(selector, label, names)]

    # -- where it listens

    def _listeners(self) -> list[Listener]:
        found: list[Listener] = []
        binds = [(line, line.words[1], line.words[2:]) for line in self._section.lines if _is_bind(line)]
        head = self._section.head
        if len(head.words) > 2 and head.words[2] != "from":
            binds.append((head, head.words[2], ()))
        for line, addresses, options in binds:
            for address in addresses.split(","):
                found += self._listener(line, address, options)
        return found

    def _listener(self, line: Line, text: str, options: Sequence[str]) -> list[Listener]:
        scheme, at, rest = text.rpartition("@")
        try:
            if text.startswith("/") or (at and scheme not in ("ipv4", "ipv6", "tcp", "tcp4", "tcp6")):
                raise ValueError("a vservice has an address, and is no Unix socket")  # noqa: TRY301 - one way out
            if {"ssl", "crt"} & set(options):
                raise ValueError(proxy.NO_TLS)  # noqa: TRY301
            found = proxy.listener(*proxy.host_and_ports(rest))
        except ValueError as err:
            self._report.leave_out(line.where, line.text, str(err))
            return []
        if options:
            self._report.leave_out(line.where, " ".join(options), "of this address: nothing corresponds to it")
        return [found]

    # -- where it leads

    def _default(self, port: int) -> Pool:
        if self._section.kind == "listen" and any(line.keyword == "server" for line in self._section.lines):
            return pool(self._section, port, self._report)
        line = self._section.find("default_backend")
        found = self._pool(line.words[1], port) if line and len(line.words) > 1 else None
        if found is None:
            why = "has no default_backend: connections that no route takes wait, and fail"
            self._report.leave_out(self._section.head.where, self._section.head.text, why)
        return found or Pool()

    def _pool(self, name: str, port: int) -> Pool | None:
        section = self._backends.get(name)
        if section is None:
            return None
        self._used.add(name)
        return pool(section, port, self._report)

    def _routes(self, chosen: Pool, port: int) -> list[L7Route]:
        found: list[L7Route] = []
        for line in self._section.lines:
            if line.keyword == "use_backend":
                try:
                    found += self._route(line, chosen, port)
                except ConditionError as err:
                    self._report.leave_out(line.where, line.text, str(err))
        return proxy.named(found)

    def _route(self, line: Line, chosen: Pool, port: int) -> list[L7Route]:
        if len(line.words) < 3:
            raise ConditionError(
                "without a condition, and with a name that is known, it is the default_backend: write that"
            )
        some = cases(line.words[2:], self._acls)
        if any(not case.l7 or case.source != ranges.ADDRESSES for case in some):
            raise ConditionError("a route is chosen by what is asked for, not by who asks")
        found = self._pool(line.words[1], port)
        if found is None:
            raise ConditionError(f"there is no backend {line.words[1]!r}")
        if not found.backends:
            raise ConditionError("none of its servers can be a backend")
        different = proxy.differences(found, chosen)
        if different:
            self._report.leave_out(line.where, line.text, different)
        return [L7Route(match=case.l7, backends=found.backends, name=line.words[1]) for case in some]

    # -- who may not come

    def _policies(self, to: Selector, label: str, names: Names) -> list[Policy]:
        found: list[Policy] = []
        for ruleset in (("tcp-request", "connection"), ("tcp-request", "content"), ("http-request",)):
            lines = [line for line in self._section.lines if line.words[: len(ruleset)] == ruleset]
            rules = self._sayable([rule for line in lines for rule in self._rule(line)])
            plain = [one for rule in rules for one in _plain(rule)]
            found += proxy.access(plain, to, label, names, self._report)
            found += self._l7_denials(rules, to, label, names)
        return found

    def _sayable(self, rules: Sequence[_Rule]) -> list[_Rule]:
        """Without denials behind what lets in by what is asked for: a deny policy would win over that."""
        found: list[_Rule] = []
        accepted = False
        for rule in rules:
            if accepted and isinstance(rule.verdict, Deny):
                why = "a denial wins, and a rule before lets in some of what this denies"
                self._report.leave_out(rule.line.where, rule.line.text, why)
            else:
                found.append(rule)
            accepted = accepted or (isinstance(rule.verdict, Accept) and any(case.l7 for case in rule.cases))
        return found

    def _rule(self, line: Line) -> list[_Rule]:
        verdict = next((verdict for key, verdict in _REJECT.items() if line.words[: len(key)] == key), None)
        if verdict is None:
            return []
        at = next((n for n, word in enumerate(line.words) if word in ("if", "unless")), len(line.words))
        try:
            return [_Rule(line, verdict, cases(line.words[at:], self._acls))]
        except ConditionError as err:
            self._report.leave_out(line.where, line.text, str(err))
            return []

    def _l7_denials(self, rules: Sequence[_Rule], to: Selector, label: str, names: Names) -> list[Policy]:
        """Each denies what matches; whom an earlier rule lets in by address is not denied."""
        found: list[Policy] = []
        left = ranges.ADDRESSES
        for rule in rules:
            for case in rule.cases:
                source = ranges.intersect(case.source, left)
                if not case.l7:
                    left = ranges.subtract(left, case.source)
                elif isinstance(rule.verdict, Deny) and source:
                    name = names.give(label, "deny")
                    found.append(proxy.denial(name, source, to, case.l7, rule.verdict.error))
        return found


def _is_bind(line: Line) -> bool:
    return line.keyword == "bind" and len(line.words) > 1


def _plain(rule: _Rule) -> list[AccessRule]:
    return [
        AccessRule(rule.line.where, rule.line.text, rule.verdict, case.source) for case in rule.cases if not case.l7
    ]
