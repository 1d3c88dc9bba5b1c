"""Where nginx passes connections: upstreams, addresses, and variables that choose among them by map or share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple

import msgspec

from appswitch.cli.imports import proxy
from appswitch.cli.imports.nginx_file import Directive
from appswitch.cli.imports.proxy import HEADER, HOST, METHOD, PATH, SNI, Pool
from appswitch.cli.imports.report import Report
from appswitch.resources import BackendSpec, L7Match, LbType, Limits, Outlier

MAX_WEIGHT = 65535
_VARIABLES = {
    "$remote_addr": "source",
    "$binary_remote_addr": "source",
    "$ssl_preread_server_name": SNI,
    "$host": HOST,
    "$http_host": HOST,
    "$uri": PATH,
    "$document_uri": PATH,
    "$request_method": METHOD,
}
_TAKEN = ("server", "least_conn", "ip_hash", "hash", "random")
_NOTHING = "nothing corresponds to it"
_PARAMETERS = {
    "slow_start": "a backend that comes back gets its whole share at once",
    "resolve": proxy.NO_NAMES,
    "route": "no cookie is set or read",
    "service": proxy.NO_NAMES,
    "drain": "",
}


class PassError(Exception):
    """A destination that no backend can be. The text is the reason."""


class Choice(NamedTuple):
    """Backends for what matches; for everything else if ``match`` is empty."""

    match: L7Match
    pool: Pool
    name: str = ""


class Upstreams:
    """The upstreams, maps and split_clients of ``http`` or ``stream``."""

    def __init__(self, context: Directive, port: int, report: Report) -> None:
        """``port``: of servers that name none."""
        self._port = port
        self._report = report
        self._upstreams = {one.args[0]: one for one in context.all("upstream") if one.args}
        self._maps = {one.args[1]: one for one in context.all("map") if len(one.args) > 1}
        self._splits = {one.args[1]: one for one in context.all("split_clients") if len(one.args) > 1}
        self._pools: dict[str, Pool] = {}
        self.used: set[str] = set()

    def unused(self) -> list[Directive]:
        """Upstreams that nothing led to."""
        return [one for name, one in self._upstreams.items() if name not in self.used]

    def choices(self, target: str) -> list[Choice]:
        """Of ``proxy_pass``, without a scheme: an upstream, an address, a variable. Raises PassError."""
        if target in self._maps:
            return self._mapped(self._maps[target])
        if target in self._splits:
            return [Choice({}, self._split(self._splits[target]), target.removeprefix("$"))]
        if "$" in target:
            raise PassError("what is in the variable is known to nginx alone")
        return [Choice({}, self.pool(target), target)]

    def pool(self, target: str) -> Pool:
        """An upstream, or one address. Raises PassError."""
        if target in self._upstreams:
            self.used.add(target)
            if target not in self._pools:
                self._pools[target] = self._read(self._upstreams[target])
            return self._pools[target]
        try:
            return Pool((BackendSpec(external=_address(target, self._port)),))
        except ValueError as err:
            raise PassError(str(err)) from None

    # -- upstream

    def _read(self, upstream: Directive) -> Pool:
        backends: list[BackendSpec] = []
        for one in upstream.all("server"):
            try:
                backends.append(_server(one, self._port))
            except ValueError as err:
                self._report.leave_out(one.where, one.text, str(err))
            else:
                self._tell_parameters(one)
        for one in upstream.inside:
            if one.name not in _TAKEN:
                self._report.leave_out(one.where, one.text, _NOTHING)
        lbtype, hash_on = self._lbtype(upstream)
        found = proxy.unique(backends)
        if lbtype == "LeastConnections" and len({one.weight for one in found}) > 1:
            self._report.leave_out(upstream.where, upstream.text, "weights do not count with LeastConnections")
        return Pool(found, proxy.by_weight(lbtype, found), hash_on, self._outlier(upstream), self._limits(upstream))

    def _tell_parameters(self, server: Directive) -> None:
        for word in server.args[1:]:
            why = _PARAMETERS.get(word.partition("=")[0], "")
            if why:
                self._report.leave_out(server.where, word, why)

    def _lbtype(self, upstream: Directive) -> tuple[LbType, str]:
        line = upstream.first("least_conn", "ip_hash", "hash", "random")
        if line is None:
            return "RoundRobin", "source"
        if line.name == "hash":
            key = line.args[0] if line.args else ""
            attribute = PATH if key == "$request_uri" else attribute_of(key)  # the same but for its query
            if attribute:
                return ("RingHash" if "consistent" in line.args else "Maglev"), attribute
            self._report.leave_out(line.where, line.text, "what is hashed is not looked at: RoundRobin is taken")
            return "RoundRobin", "source"
        least = line.name == "least_conn" or line.args[:2] == ("two", "least_conn")
        return ("LeastConnections" if least else "RingHash" if line.name == "ip_hash" else "Random"), "source"

    def _outlier(self, upstream: Directive) -> Outlier:
        """nginx's max_fails within fail_timeout, and that long it is passed over. Only where they are written."""
        found = {(_value(one, "max_fails"), _value(one, "fail_timeout")) for one in upstream.all("server")}
        if found <= {("", "")}:
            return Outlier()
        fails, pause = next(iter(found))
        try:
            if len(found) > 1:
                raise ValueError("failures count the same for all backends")  # noqa: TRY301 - one way out
            rest = proxy.seconds(pause or "10s", "s")
            return Outlier(consecutive_failures=min(1000, int(fails or 1)), base_ejection=rest, max_ejection=rest)
        except ValueError as err:
            self._report.leave_out(upstream.where, f"max_fails and fail_timeout of {upstream.text}", str(err))
            return Outlier()

    def _limits(self, upstream: Directive) -> Limits:
        found = {_value(one, "max_conns") for one in upstream.all("server")}
        if found <= {""}:
            return Limits()
        first = next(iter(found))
        if len(found) == 1 and first.isdigit():
            return Limits(connections=min(int(first), (1 << 31) - 1))
        why = "limits are the same for all backends"
        self._report.leave_out(upstream.where, f"max_conns of {upstream.text}", why)
        return Limits()

    # -- variables

    def _mapped(self, mapping: Directive) -> list[Choice]:
        attribute = attribute_of(mapping.args[0])
        if attribute in ("", "source"):
            raise PassError(f"a route is not chosen by {mapping.args[0]}")
        hostnames = mapping.first("hostnames") is not None
        found: list[tuple[tuple[int, int], Choice]] = []
        for one in mapping.inside:
            if one.name in ("hostnames", "volatile") or not one.args or not one.args[0]:
                continue
            try:
                rank, match = (9, 0), {}
                if one.name != "default":
                    rank, patterns = (
                        host_patterns(one.name) if hostnames else ((0, 0), (proxy.pattern(_plain(one.name)),))
                    )
                    match = {attribute: patterns}
                found.append((rank, Choice(match, self.pool(one.args[0]), one.args[0])))
            except (ValueError, PassError) as err:
                self._report.leave_out(one.where, one.text, str(err))
        return [choice for _, choice in sorted(found, key=lambda pair: pair[0])]

    def _split(self, split: Directive) -> Pool:
        parts: list[tuple[Fraction, Pool]] = []
        left = Fraction(1)
        for one in split.inside:
            share = left if one.name == "*" else _percent(one.name)
            left -= share
            if share > 0 and one.args:
                parts.append((share, self.pool(one.args[0])))
        if not parts:
            raise PassError("it leads nowhere")
        by_client = set(re.findall(r"\$\w+", split.args[0])) <= {"$remote_addr", "$binary_remote_addr"}
        first = parts[0][1]
        backends = proxy.unique(shared(parts))
        if by_client:
            return first._replace(backends=backends, lbtype="RingHash", hash_on="source")
        return first._replace(backends=backends, lbtype="Weighted")


def shared(parts: Sequence[tuple[Fraction, Pool]]) -> list[BackendSpec]:
    """All backends, each with its share of its pool's share as a whole weight."""
    found: list[tuple[Fraction, BackendSpec]] = []
    for share, pool in parts:
        for one in pool.backends:
            total = sum(other.weight for other in pool.backends if other.priority == one.priority)
            found.append((share * Fraction(one.weight, total or 1), one))
    scale = lcm(*(weight.denominator for weight, _ in found)) if found else 1
    over = max([Fraction(1), *(weight * scale / MAX_WEIGHT for weight, _ in found)])
    return [
        msgspec.structs.replace(one, weight=max(round(weight * scale / over), int(weight > 0))) for weight, one in found
    ]


def attribute_of(variable: str) -> str:
    """``source``, the attribute that a variable is; nothing if it is none."""
    if variable in _VARIABLES:
        return _VARIABLES[variable]
    match = re.fullmatch(r"\$http_([a-z0-9_]+)", variable)
    return HEADER + match[1].replace("_", "-") if match else ""


def host_patterns(name: str) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Its place in nginx's order, and its patterns: of ``www.x``, ``*.x``, ``.x``, ``x.*``. Raises ValueError."""
    name = name.lower()
    if name.startswith("~"):
        raise ValueError("patterns are no regular expressions")
    if name.startswith("*."):
        return (1, -len(name)), (proxy.pattern(name[1:], "*{}"),)
    if name.startswith("."):
        return (1, -len(name)), (proxy.pattern(name[1:]), proxy.pattern(name, "*{}"))
    if name.endswith(".*"):
        return (2, -len(name)), (proxy.pattern(name[:-1], "{}*"),)
    return (0, 0), (proxy.pattern(name),)


def _plain(key: str) -> str:
    if key.startswith("~"):
        raise ValueError("patterns are no regular expressions")
    return key.removeprefix("\\")


def _percent(text: str) -> Fraction:
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,2})?)%", text)
    if match is None:
        raise PassError(f"{text!r} is no share")
    return Fraction(match[1]) / 100


def _server(line: Directive, port: int) -> BackendSpec:
    """Raises ValueError with the reason."""
    if not line.args:
        raise ValueError("a server has an address")
    weight = _value(line, "weight") or "1"
    if not weight.isdigit() or int(weight) > MAX_WEIGHT:
        raise ValueError(f"{weight} is no weight")
    return BackendSpec(
        external=_address(line.args[0], port),
        weight=int(weight),
        priority=1 if "backup" in line.args else 0,
        drain="down" in line.args or "drain" in line.args,
    )


def _address(text: str, port: int) -> str:
    if text.startswith("unix:"):
        raise ValueError(proxy.NO_SOCKETS)
    host, given = proxy.host_and_ports(text)
    if given and not given.isdigit():
        raise ValueError("a backend has one port")
    number = int(given) if given else port
    if not number:
        raise ValueError("a backend has a port")
    return proxy.external(host, number)


def _value(line: Directive, name: str) -> str:
    return next((word.partition("=")[2] for word in line.args if word.startswith(f"{name}=")), "")
