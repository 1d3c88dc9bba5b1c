"""``server`` lines and how one of them is chosen; HAProxy's configuration manual, chapters 4.2 and 5.2."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from appswitch.cli.imports import proxy
from appswitch.cli.imports.haproxy_file import Line, Section
from appswitch.cli.imports.proxy import HEADER, HOST, PATH, Pool
from appswitch.cli.imports.report import Report
from appswitch.resources import BackendSpec, LbType, Limits, Outlier

_BALANCE: dict[str, tuple[LbType, str]] = {
    "roundrobin": ("RoundRobin", "source"),
    "static-rr": ("RoundRobin", "source"),
    "leastconn": ("LeastConnections", "source"),
    "random": ("Random", "source"),
    "source": ("Maglev", "source"),
    "uri": ("Maglev", PATH),
}
# Words of a server line with a value behind them.
_VALUED_WORDS = """
weight maxconn minconn maxqueue inter fastinter downinter rise fall port addr cookie id init-addr resolvers
resolve-prefer resolve-net slowstart source track observe error-limit on-error on-marked-down on-marked-up
agent-port agent-addr agent-inter agent-send ca-file crt crl-file sni verify verifyhost alpn check-alpn check-
sni check-proto proto pool-max-conn pool-purge-delay pool-low-conn max-reuse redir tcp-ut namespace set-
proxy-v2-tlv ssl-min-ver ssl-max-ver ciphers ciphersuites ws shard log-proto log-bufsize guid
"""
_VALUED = frozenset(_VALUED_WORDS.split())
_NO_HEADER = "the server waits for a PROXY header, and nobody sends one: accept(2) tells the client's address"
_REFUSED = {
    "ssl": proxy.NO_TLS,
    "send-proxy": _NO_HEADER,
    "send-proxy-v2": _NO_HEADER,
    "proto": "protocols are not converted",
}
_CHECKS_WORDS = """
check inter fastinter downinter rise fall port addr agent-check agent-port agent-addr agent-inter track check-
ssl check-send-proxy check-alpn check-sni check-proto on-marked-down on-marked-up slowstart
"""
_CHECKS = frozenset(_CHECKS_WORDS.split())
_TAKEN = frozenset(["weight", "maxconn", "backup", "disabled", "enabled", "observe", "error-limit", "on-error"])


class Server(NamedTuple):
    """One line."""

    line: Line
    backend: BackendSpec
    words: dict[str, str]


def pool(section: Section, port: int, report: Report) -> Pool:
    """The servers of a backend or listen. ``port`` is for those that name none; 0: they need one."""
    default = section.find("default-server")
    common = _options(default.words[1:]) if default else {}
    servers: list[Server] = []
    for line in section.lines:
        if line.keyword == "server":
            one = _server(line, common, port, report)
            servers += [one] if one else []
        elif line.keyword == "server-template":
            report.leave_out(line.where, line.text, proxy.NO_NAMES)
    backends = proxy.unique(_with_priorities(servers, section))
    lbtype, hash_on = _lbtype(section, report)
    if lbtype == "LeastConnections" and len({one.weight for one in backends}) > 1:
        report.leave_out(section.head.where, "balance leastconn", "weights do not count with LeastConnections")
    limits = _limits(servers, section, report)
    return Pool(backends, proxy.by_weight(lbtype, backends), hash_on, _outlier(servers, section, report), limits)


def _server(line: Line, common: dict[str, str], port: int, report: Report) -> Server | None:
    if len(line.words) < 3:
        report.leave_out(line.where, line.text, "a server has a name and an address")
        return None
    words = common | _options(line.words[3:])
    try:
        address = _address(line.words[2], port)
        refused = next((why for word, why in _REFUSED.items() if word in words), "")
        if refused:
            raise ValueError(refused)  # noqa: TRY301 - one way out for all reasons
        weight = int(words.get("weight", "1"))
        if not 0 <= weight <= 65535:
            raise ValueError(f"{weight} is no weight")  # noqa: TRY301
    except ValueError as err:
        report.leave_out(line.where, line.text, str(err))
        return None
    _tell(line, _options(line.words[3:]), report)
    return Server(line, BackendSpec(external=address, weight=weight, drain="disabled" in words), words)


def _address(text: str, port: int) -> str:
    """Raises ValueError with the reason."""
    scheme, at, rest = text.rpartition("@")
    if text.startswith("/") or (at and scheme not in ("ipv4", "ipv6", "tcp", "tcp4", "tcp6")):
        raise ValueError(proxy.NO_SOCKETS)
    host, given = proxy.host_and_ports(rest)
    if given.startswith(("+", "-")):
        raise ValueError("a backend's port does not depend on the one that was connected to")
    number = int(given) if given.isdigit() else port
    if not number:
        raise ValueError("which port that is depends on the one that was connected to: give one")
    return proxy.external(host, number)


def _options(words: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(words):
        valued = words[at] in _VALUED and at + 1 < len(words)
        found[words[at]] = words[at + 1] if valued else ""
        at += 2 if valued else 1
    return found


def _tell(line: Line, words: dict[str, str], report: Report) -> None:
    checks = [f"{word} {value}".strip() for word, value in words.items() if word in _CHECKS]
    if checks:
        report.leave_out(line.where, " ".join(checks), proxy.NO_CHECKS)
    for word, value in words.items():
        if word not in _CHECKS and word not in _TAKEN:
            report.leave_out(line.where, f"{word} {value}", "nothing corresponds to it")


def _with_priorities(servers: list[Server], section: Section) -> list[BackendSpec]:
    """Only the first backup that is up is used, unless ``option allbackups`` says otherwise."""
    every = section.find("option", "allbackups") is not None
    found, behind = [], 0
    for one in servers:
        if "backup" in one.words:
            behind = 1 if every else min(behind + 1, proxy.MAX_PRIORITY)
            found.append(msgspec.structs.replace(one.backend, priority=behind))
        else:
            found.append(one.backend)
    return found


def _lbtype(section: Section, report: Report) -> tuple[LbType, str]:
    line = section.find("balance")
    if line is None or len(line.words) < 2:
        return "RoundRobin", "source"
    algorithm, _, argument = line.words[1].partition("(")
    found = _BALANCE.get(algorithm)
    if algorithm == "hdr":
        header = (argument.rstrip(")") or "").lower()
        found = ("Maglev", HOST if header == "host" else HEADER + header)
    if found is None:
        report.leave_out(line.where, line.text, "no lbType does that: RoundRobin is taken")
        return "RoundRobin", "source"
    lbtype, hash_on = found
    if lbtype == "Maglev" and section.value("hash-type") == "consistent":
        lbtype = "RingHash"
    return lbtype, hash_on


def _outlier(servers: list[Server], section: Section, report: Report) -> Outlier:
    found = Outlier()
    limits = {one.words.get("error-limit", "10") for one in servers if one.words.get("observe") == "layer4"}
    if len(limits) == 1 and next(iter(limits)).isdigit():
        found = Outlier(consecutive_failures=min(1000, int(next(iter(limits)))))
    line = section.find("timeout", "connect")
    if line is not None and len(line.words) > 2:
        try:
            return proxy.connect_timeout(found, line.words[2], "ms")
        except ValueError as err:
            report.leave_out(line.where, line.text, str(err))
    return found


def _limits(servers: list[Server], section: Section, report: Report) -> Limits:
    found = {one.words.get("maxconn", "0") for one in servers}
    if len(found) == 1 and next(iter(found)).isdigit():
        return Limits(connections=min(int(next(iter(found))), (1 << 31) - 1))
    for one in servers:
        if "maxconn" in one.words:
            why = f"limits are the same for all backends, and those of {section.name} differ"
            report.leave_out(one.line.where, f"maxconn {one.words['maxconn']}", why)
    return Limits()
