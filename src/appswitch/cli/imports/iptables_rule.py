"""One ``-A`` line of iptables-save(8): its conditions and its target; options of iptables-extensions(8)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from appswitch.cli.imports import packetfilter, ranges
from appswitch.cli.imports.conditions import BROADCAST, MULTICAST, Conditions
from appswitch.cli.imports.packetfilter import (
    Accept,
    Action,
    Deny,
    Jump,
    Nat,
    Nothing,
    Other,
    Return,
    Rule,
    Split,
)
from appswitch.resources import ErrorName

MAX_TARGETS = 256  # addresses that one rule translates to


class RuleError(Exception):
    """The line is no rule."""


class Option(NamedTuple):
    """``! --dport 80``: a name, what stands behind it, and whether it is negated."""

    name: str
    values: tuple[str, ...]
    negated: bool

    @property
    def value(self) -> str:
        """The one that there must be."""
        if not self.values:
            raise RuleError(f"{self.name} has no value")
        return self.values[0]

    def __str__(self) -> str:
        return " ".join((*(["!"] if self.negated else []), self.name, *self.values))


def rule(words: list[str], where: str, text: str) -> Rule:
    """``words`` are those behind the chain's name. Raises RuleError, ValueError."""
    conditions, target = _options(words)
    found = _Reader()
    for option in conditions:
        found.read(option)
    action = _action(target)
    if found.share is not None:
        action = Split(((found.share, action),), found.in_turn)
    return found.conditions.rule(where, text, action)


def _options(words: list[str]) -> tuple[list[Option], list[Option]]:
    """Conditions, and the target with its own options."""
    found: list[Option] = []
    negated = False
    for word in words:
        if word == "!":
            negated = True
        elif word.startswith("-") and not _is_number(word):
            found.append(Option(word, (), negated))
            negated = False
        elif found:
            found[-1] = found[-1]._replace(values=(*found[-1].values, word))
        else:
            raise RuleError(f"{word!r} stands where an option should")
    at = next((place for place, option in enumerate(found) if option.name in ("-j", "-g")), len(found))
    return found[:at], found[at:]


def _is_number(word: str) -> bool:
    return word[1:].isdigit()


# -- conditions


class _Reader:
    """Conditions, by the tables below."""

    def __init__(self) -> None:
        self.conditions = Conditions()
        self.share: Fraction | None = None
        self.in_turn = False
        self._unknown_module = False

    def read(self, option: Option) -> None:
        if option.name == "-m":
            self._module(option.value)
        elif option.name in _CONDITIONS:
            _CONDITIONS[option.name](self, option)
        elif option.name not in _DETAILS and not self._unknown_module:
            self.conditions.unknown.append(f"{option} is not known here")

    def _module(self, name: str) -> None:
        self._unknown_module = name not in _MODULES
        if self._unknown_module:
            self.conditions.unknown.append(_REASONS.get(name, f"-m {name} is not known here"))

    def protocol(self, option: Option) -> None:
        known = {"tcp": ranges.TCP, "6": ranges.TCP, "udp": ranges.UDP, "17": ranges.UDP}
        if option.value in ("all", "0"):
            return
        if option.value in known:
            self.conditions.narrow("ports", known[option.value], negated=option.negated)
        elif not option.negated:
            self.conditions.unknown.append(f"{option.value}: {packetfilter.PROTOCOL}")

    def source(self, option: Option) -> None:
        self.conditions.narrow("source", ranges.network(option.value), negated=option.negated)

    def destination(self, option: Option) -> None:
        self.conditions.narrow("destination", ranges.network(option.value), negated=option.negated)

    def source_range(self, option: Option) -> None:
        self.conditions.narrow("source", _span(option.value), negated=option.negated)

    def destination_range(self, option: Option) -> None:
        self.conditions.narrow("destination", _span(option.value), negated=option.negated)

    def ports(self, option: Option) -> None:
        found = [_port_span(part) for part in option.value.split(",")]
        self.conditions.narrow(
            "ports", ranges.union(one for span in found for one in ranges.ports(*span)), negated=option.negated
        )

    def source_ports(self, option: Option) -> None:
        if _port_span(option.value.split(",")[0]) != (0, 65535):
            self.conditions.unknown.append(f"{option}: {packetfilter.SOURCE_PORT}")

    def interface(self, option: Option) -> None:
        self.conditions.interface(option.value, str(option), negated=option.negated)

    def states(self, option: Option) -> None:
        self.conditions.states(option.value.split(","), negated=option.negated)

    def syn(self, option: Option) -> None:
        self.conditions.tcp_flags(("fin", "syn", "rst", "ack"), ("syn",), negated=option.negated)

    def tcp_flags(self, option: Option) -> None:
        if len(option.values) != 2:
            raise RuleError("--tcp-flags has two values")
        mask, wanted = (_flags(value) for value in option.values)
        self.conditions.tcp_flags(mask, wanted, negated=option.negated)

    def uids(self, option: Option) -> None:
        low, dash, high = option.value.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            self.conditions.unknown.append(f"{option}: whose number that is is not in the rules")
            return
        found = ranges.intersect(((int(low), int(high or low)),), ranges.UIDS)
        self.conditions.narrow("uids", found, negated=option.negated)

    def destination_type(self, option: Option) -> None:
        found = {"MULTICAST": MULTICAST, "BROADCAST": BROADCAST, "UNICAST": None, "LOCAL": None}
        if option.value not in found or (option.value == "LOCAL" and option.negated):
            self.conditions.unknown.append(f"{option}: which addresses those are is not in the rules")
        elif option.value == "LOCAL":
            self.conditions.local = True
        elif option.value == "UNICAST":
            self.conditions.narrow("destination", ranges.union(MULTICAST + BROADCAST), negated=not option.negated)
        else:
            self.conditions.narrow("destination", found[option.value] or (), negated=option.negated)

    def probability(self, option: Option) -> None:
        self.share = Fraction(option.value).limit_denominator(10_000)
        if not 0 <= self.share <= 1:
            raise RuleError(f"{option}: that is no probability")
        self._not_negated(option)

    def every(self, option: Option) -> None:
        self.share, self.in_turn = Fraction(1, max(1, int(option.value))), True
        self._not_negated(option)

    def _not_negated(self, option: Option) -> None:
        if option.negated:
            self.conditions.unknown.append(f"{option}: a share is what it is, not what it is not")

    def recent(self, _: Option) -> None:
        """kube-proxy keeps the endpoint of a client that way; whoever else does it counts."""
        self.conditions.affinity = True

    def counted(self, option: Option) -> None:
        self.conditions.unknown.append(f"{option}: {packetfilter.LIMIT}")

    def comment(self, option: Option) -> None:
        self.conditions.comment = " ".join(option.values)

    def inexpressible(self, option: Option) -> None:
        self.conditions.unknown.append(f"{option}: {_INEXPRESSIBLE[option.name]}")


_INEXPRESSIBLE = {
    "--ports": packetfilter.SOURCE_PORT,
    "--gid-owner": "groups are not looked at",
    "--socket-exists": "that is always so",
    "--suppl-groups": "groups are not looked at",
    "--src-type": "which addresses those are is not in the rules",
    "--fragment": packetfilter.UNSEEN,
    "-f": packetfilter.UNSEEN,
    "--tcp-option": packetfilter.UNSEEN,
    "--ctorigdst": "addresses before translation are not known",
    "--ctorigdstport": "ports before translation are not known",
    "--ctorigsrc": "addresses before translation are not known",
    "--ctreplsrc": "addresses after translation are not known",
    "--ctrepldst": "addresses after translation are not known",
    "--ctstatus": "the state of connections is not looked at",
    "--ctdir": "the state of connections is not looked at",
    "--ctexpire": "the state of connections is not looked at",
    "--ctproto": "the state of connections is not looked at",
}
_CONDITIONS: dict[str, Callable[[_Reader, Option], None]] = {
    "-p": _Reader.protocol,
    "-s": _Reader.source,
    "-d": _Reader.destination,
    "-i": _Reader.interface,
    "-o": _Reader.interface,
    "--dport": _Reader.ports,
    "--dports": _Reader.ports,
    "--sport": _Reader.source_ports,
    "--sports": _Reader.source_ports,
    "--syn": _Reader.syn,
    "--tcp-flags": _Reader.tcp_flags,
    "--state": _Reader.states,
    "--ctstate": _Reader.states,
    "--uid-owner": _Reader.uids,
    "--src-range": _Reader.source_range,
    "--dst-range": _Reader.destination_range,
    "--dst-type": _Reader.destination_type,
    "--probability": _Reader.probability,
    "--every": _Reader.every,
    "--rcheck": _Reader.recent,
    "--update": _Reader.counted,
    "--remove": _Reader.counted,
    "--comment": _Reader.comment,
    **dict.fromkeys(_INEXPRESSIBLE, _Reader.inexpressible),
}
# They say more about an option beside them.
_DETAILS_WORDS = """
--icmp-type --icmpv6-type --hitcount --rttl
--mode --packet --name --seconds --reap --rsource --mask --set --limit-iface-in --limit-iface-out
"""
_DETAILS = frozenset(_DETAILS_WORDS.split())
_MODULES_WORDS = """
tcp udp icmp icmp6 icmpv6 multiport comment conntrack state owner iprange addrtype statistic recent
"""
_MODULES = frozenset(_MODULES_WORDS.split())
_REASONS = {
    "limit": packetfilter.LIMIT,
    "hashlimit": packetfilter.LIMIT,
    "connlimit": packetfilter.LIMIT,
    "connbytes": "bytes are not counted",
    "quota": "bytes are not counted",
    "mark": packetfilter.MARK,
    "connmark": packetfilter.MARK,
    "string": packetfilter.UNSEEN,
    "u32": packetfilter.UNSEEN,
    "bpf": packetfilter.UNSEEN,
    "length": packetfilter.UNSEEN,
    "ttl": packetfilter.UNSEEN,
    "hl": packetfilter.UNSEEN,
    "tos": packetfilter.UNSEEN,
    "dscp": packetfilter.UNSEEN,
    "ecn": packetfilter.UNSEEN,
    "mac": packetfilter.UNSEEN,
    "pkttype": packetfilter.UNSEEN,
    "rt": packetfilter.UNSEEN,
    "frag": packetfilter.UNSEEN,
    "tcpmss": packetfilter.UNSEEN,
    "set": "the members of the set are not in the output of iptables-save: write them as networks of a policy",
    "time": "a policy holds at all times",
    "physdev": packetfilter.INTERFACE,
    "rpfilter": packetfilter.INTERFACE,
    "policy": "IPsec is not looked at",
    "cgroup": "control groups are not looked at: select by labels, user or executable",
    "socket": "sockets are not looked at",
    "geoip": "where addresses are is not known",
}


def _span(text: str) -> ranges.Ranges:
    first, _, last = text.partition("-")
    return ranges.address_range(first, last or first)


def _port_span(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    low = int(first or 0)
    high = int(last or 65535) if colon else low
    if not 0 <= low <= high <= 65535:
        raise RuleError(f"{text!r} is no port or range of ports")
    return low, high


def _flags(text: str) -> tuple[str, ...]:
    every = ("fin", "syn", "rst", "psh", "ack", "urg")
    return every if text == "ALL" else () if text == "NONE" else tuple(text.lower().split(","))


# -- targets

# Linux: net/ipv4/icmp.c, icmp_err_convert; net/ipv6/icmp.c, icmpv6_err_convert.
REJECTIONS: dict[str, ErrorName] = {
    "icmp-net-unreachable": "ENETUNREACH",
    "icmp-host-unreachable": "EHOSTUNREACH",
    "icmp-proto-unreachable": "ECONNREFUSED",  # ENOPROTOOPT, which no policy gives
    "icmp-port-unreachable": "ECONNREFUSED",
    "icmp-net-prohibited": "ENETUNREACH",
    "icmp-host-prohibited": "EHOSTUNREACH",
    "icmp-admin-prohibited": "EHOSTUNREACH",
    "icmp6-no-route": "ENETUNREACH",
    "icmp6-adm-prohibited": "EACCES",
    "icmp6-addr-unreachable": "EHOSTUNREACH",
    "icmp6-port-unreachable": "ECONNREFUSED",
    "icmp6-policy-fail": "EACCES",
    "icmp6-reject-route": "EACCES",
    "tcp-reset": "ECONNREFUSED",
}
DROPPED: ErrorName = "ETIMEDOUT"  # nobody answers
_OTHERS = {
    **dict.fromkeys(("LOG", "NFLOG", "ULOG", "TRACE", "AUDIT"), packetfilter.LOGGED),
    **dict.fromkeys(("MARK", "CONNMARK", "CLASSIFY", "SECMARK", "CONNSECMARK"), packetfilter.MARK),
    **dict.fromkeys(("MASQUERADE", "SNAT"), packetfilter.MASQUERADE),
    **dict.fromkeys(("NFQUEUE", "QUEUE"), "a program that decides on packets has none to decide on"),
    **dict.fromkeys(
        ("TCPMSS", "TTL", "HL", "DSCP", "TOS", "ECN", "CHECKSUM", "TCPOPTSTRIP"), "packets are not changed"
    ),
    **dict.fromkeys(("CT", "NOTRACK", "HELPER", "SYNPROXY"), "there is no connection tracking to set up"),
    **dict.fromkeys(("SET", "RATEEST", "IDLETIMER", "LED"), "that is a note for other rules"),
    "NETMAP": "a network mapped onto another needs a vservice for each address",
    "TPROXY": "nothing is proxied: give the proxy an app's name or address",
    "TEE": "packets are not copied",
    "DNPT": "a network mapped onto another needs a vservice for each address",
    "SNPT": packetfilter.MASQUERADE,
}
_PLAIN: dict[str, Action] = {"ACCEPT": Accept(), "DROP": Deny(DROPPED), "RETURN": Return()}


def _action(target: list[Option]) -> Action:
    if not target:
        return Nothing()
    jump, options = target[0], {option.name: option for option in target[1:]}
    if jump.name == "-g":
        return Jump(jump.value, goto=True)
    name = jump.value
    if name in _PLAIN:
        return _PLAIN[name]
    if name == "REJECT":
        given = options["--reject-with"].value if "--reject-with" in options else "icmp-port-unreachable"
        return Deny(REJECTIONS.get(given, "ECONNREFUSED"))
    if name == "DNAT":
        return _dnat(options)
    if name == "REDIRECT":
        return _redirect(options)
    return Other(_OTHERS[name]) if name in _OTHERS else Jump(name)


_PORT_RANGE = "a backend has one port, not one of several"


def _dnat(options: dict[str, Option]) -> Action:
    if "--to-destination" not in options:
        raise RuleError("DNAT has no --to-destination")
    text = options["--to-destination"].value
    host, port = _host_and_port(text)
    if "-" in port:
        return Other(_PORT_RANGE)
    found = ranges.addresses(_span(host), MAX_TARGETS) if host else ("",)
    if found is None:
        return Other(f"a vservice with more than {MAX_TARGETS} backends")
    return Nat(tuple((address, int(port or 0)) for address in found), sticky="--persistent" in options)


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":")
    try:
        ipaddress.IPv6Address(text.partition("-")[0])
    except ValueError:
        host, _, port = text.partition(":")
        return host, port
    return text, ""


def _redirect(options: dict[str, Option]) -> Action:
    port = options["--to-ports"].value if "--to-ports" in options else "0"
    return Other(_PORT_RANGE) if "-" in port else Nat((("", int(port)),))
