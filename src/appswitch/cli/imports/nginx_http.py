"""Servers and locations of nginx's http, in the order in which nginx compares them; ngx_http_core_module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from appswitch.cli.imports import nginx_reasons, proxy
from appswitch.cli.imports.nginx_file import Directive
from appswitch.cli.imports.nginx_upstream import Choice, PassError, Upstreams
from appswitch.cli.imports.proxy import HOST, PATH, Pool
from appswitch.cli.imports.report import Report
from appswitch.resources import L7Match

_SCHEMES = {"http": "", "grpc": "", "https": proxy.NO_TLS, "grpcs": proxy.NO_TLS}


class Location(NamedTuple):
    """Requests by path, and where they go."""

    directive: Directive
    path: str
    exact: bool
    regex: bool
    choices: tuple[Choice, ...] = ()

    @property
    def match(self) -> L7Match:
        """Nothing for the prefix that all paths have."""
        if self.path == "/" and not self.exact:
            return {}
        return {PATH: (self.path if self.exact else f"{self.path}*",)}


@dataclass
class Site:
    """One server: the names that lead to it, with nginx's order, and what it passes on."""

    server: Directive
    hosts: list[tuple[tuple[int, int], tuple[str, ...]]]
    every: list[Location] = field(default_factory=list)

    @property
    def locations(self) -> list[Location]:
        """Those that pass on."""
        return [one for one in self.every if one.choices]

    @property
    def passes(self) -> bool:
        """Whether anything is passed on."""
        return bool(self.locations)

    @property
    def host(self) -> L7Match:
        """What matches all of its names; nothing if it has none."""
        patterns = tuple(pattern for _, some in self.hosts for pattern in some)
        return {HOST: patterns} if patterns else {}

    def covered(self, location: Location) -> str:
        """Why a denial for a location would be one for others as well; nothing if it would not."""
        if location.regex:
            return "patterns are no regular expressions"
        within = any(one.path.startswith(location.path) for one in self.every if one is not location)
        return (
            "other locations are within it, and a denial here would win over them"
            if within and not location.exact
            else ""
        )

    def fallback(self) -> Pool | None:
        """Where requests go that nothing else is said of."""
        for location in self.locations:
            if not location.match:
                return next((one.pool for one in location.choices if not one.match), None)
        return None


def locations(server: Directive, upstreams: Upstreams, report: Report) -> list[Location]:
    """Exact ones first, then the longest prefix. Those that pass to nobody have no choices, and are reported."""
    found = [_location(one, upstreams, report) for one in _nested(server)]
    known = [one for one in found if one is not None]
    if not any(one.path == "/" and not one.exact and not one.regex for one in known):
        report.leave_out(server.where, server.text, f"what no location takes: {nginx_reasons.ANSWERS}")
    return sorted(known, key=lambda one: (not one.exact, -len(one.path)))


def _nested(context: Directive) -> Iterator[Directive]:
    for one in context.all("location"):
        yield one
        yield from _nested(one)


def _location(line: Directive, upstreams: Upstreams, report: Report) -> Location | None:
    words = line.args if len(line.args) != 1 else ("", line.args[0])
    modifier, path = (words[0], words[1]) if len(words) == 2 else ("@", "")
    if modifier not in ("", "=", "^~", "~", "~*") or path.startswith("@"):
        report.leave_out(line.where, line.text, nginx_reasons.NOTHING)
        return None
    nginx_reasons.tell(line, "location", report)
    one = Location(line, path, modifier == "=", modifier in ("~", "~*"))
    try:
        if one.regex:
            raise PassError("patterns are no regular expressions")  # noqa: TRY301 - one way out
        if "*" in path or not path:
            raise PassError("a pattern's text has no * in it, and is not empty")  # noqa: TRY301
        return one._replace(choices=tuple(_choices(line, path, upstreams)))
    except PassError as err:
        report.leave_out(line.where, line.text, f"{err}; requests for it go where the others go")
        return one


def _choices(line: Directive, path: str, upstreams: Upstreams) -> Sequence[Choice]:
    target = line.first("proxy_pass", "grpc_pass")
    if target is None or not target.args:
        raise PassError(nginx_reasons.ANSWERS)
    scheme, colon, rest = target.args[0].partition("://")
    if not colon:
        scheme, rest = "grpc", target.args[0]
    if scheme not in _SCHEMES:
        raise PassError(f"there is no {scheme} between clients and servers")
    if _SCHEMES[scheme]:
        raise PassError(_SCHEMES[scheme])
    if rest.startswith("unix:"):
        raise PassError(proxy.NO_SOCKETS)
    host, slash, uri = rest.partition("/")
    if slash and slash + uri != path:
        raise PassError("paths are not changed")
    return upstreams.choices(host)
