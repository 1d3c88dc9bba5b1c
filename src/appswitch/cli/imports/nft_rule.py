"""One rule of nftables' JSON: its statements in order, each of which may end it; libnftables-json(5)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

from appswitch.cli.imports import packetfilter, ranges
from appswitch.cli.imports.conditions import Conditions
from appswitch.cli.imports.iptables_rule import DROPPED, MAX_TARGETS
from appswitch.cli.imports.nft_match import Sets, UnknownError, bare, compare, values
from appswitch.cli.imports.packetfilter import Accept, Action, Deny, Jump, Nat, Nothing, Other, Return, Rule, Split
from appswitch.resources import ErrorName

_PORT_RANGE = "a backend has one port, not one of several"
# As in `iptables_rule.REJECTIONS`; icmpx stands for either protocol.
_REJECTIONS: dict[str, ErrorName] = {
    "net-unreachable": "ENETUNREACH",
    "host-unreachable": "EHOSTUNREACH",
    "prot-unreachable": "ECONNREFUSED",
    "port-unreachable": "ECONNREFUSED",
    "net-prohibited": "ENETUNREACH",
    "host-prohibited": "EHOSTUNREACH",
    "admin-prohibited": "EHOSTUNREACH",
    "no-route": "ENETUNREACH",
    "addr-unreachable": "EHOSTUNREACH",
    "policy-fail": "EACCES",
    "reject-route": "EACCES",
}
_VERDICTS: dict[str, Action] = {
    "accept": Accept(),
    "drop": Deny(DROPPED),
    "return": Return(),
    "continue": Nothing(),
}
_OTHERS = {
    "log": packetfilter.LOGGED,
    "mangle": packetfilter.MARK,
    "snat": packetfilter.MASQUERADE,
    "masquerade": packetfilter.MASQUERADE,
    "queue": "a program that decides on packets has none to decide on",
    "tproxy": "nothing is proxied: give the proxy an app's name or address",
    "synproxy": "there is no connection tracking to set up",
    "notrack": "there is no connection tracking to set up",
    "ct helper": "there is no connection tracking to set up",
    "ct timeout": "there is no connection tracking to set up",
    "ct expectation": "there is no connection tracking to set up",
    "dup": "packets are not copied",
    "fwd": packetfilter.FORWARDED,
    "flow": packetfilter.FORWARDED,
}
_SILENT = frozenset({"counter", "last"})
_CONDITIONS = {
    "limit": packetfilter.LIMIT,
    "ct count": packetfilter.LIMIT,
    "meter": packetfilter.LIMIT,
    "quota": "bytes are not counted",
    "xt": "written by iptables-nft, which alone can read it: give what iptables-save prints",
}


class _Chance(NamedTuple):
    """A number below ``mod``, drawn, counted, or made from the client's address."""

    mod: int
    in_turn: bool
    by: str


def rules(statements: list[Any], where: str, comment: str, sets: Sets) -> list[Rule]:
    """Most often one. Raises KeyError, TypeError, ValueError and the like for what nft does not print."""
    reader = _Reader(where, statements, comment, sets)
    for statement in statements:
        ((name, content),) = statement.items() if isinstance(statement, dict) else ((statement, None),)
        if reader.statement(name, content):
            break
    return reader.found


class _Reader:
    """Gathers conditions until a statement does something."""

    def __init__(self, where: str, statements: list[Any], comment: str, sets: Sets) -> None:
        self._where = where
        self._text = json.dumps(statements, ensure_ascii=False)
        self._sets = sets
        self._conditions = Conditions()
        self._conditions.comment = comment
        self._share: Fraction | None = None
        self.found: list[Rule] = []

    def statement(self, name: str, content: Any) -> bool:
        """Whether it was the last one that matters."""
        if name in _VERDICTS:
            return self._end(_VERDICTS[name])
        if name in _STATEMENTS:
            return _STATEMENTS[name](self, content)
        if name in _OTHERS:
            return self._emit(self._conditions, Other(_OTHERS[name]))
        if name in _CONDITIONS:
            self._conditions.unknown.append(_CONDITIONS[name])
        elif name not in _SILENT:
            self._conditions.unknown.append(f"{name} is not known here")
        return False

    def _emit(self, conditions: Conditions, action: Action) -> bool:
        if self._share is not None and not isinstance(action, Split):
            action = Split(((self._share, action),), in_turn=False)
        self.found.append(conditions.rule(self._where, self._text, action))
        return False

    def _end(self, action: Action) -> bool:
        self._emit(self._conditions, action)
        return True

    # -- statements

    def match(self, content: Any) -> bool:
        left, right = content["left"], content["right"]
        if isinstance(left, dict) and "numgen" in left and content["op"] in ("<", "=="):
            count = int(right) if content["op"] == "<" else 1
            self._share = Fraction(count, max(1, int(left["numgen"]["mod"])))
            return False
        self._compare(self._conditions, left, content["op"], right)
        return False

    def jump(self, content: Any) -> bool:
        return self._end(Jump(_text(content["target"])))

    def goto(self, content: Any) -> bool:
        return self._end(Jump(_text(content["target"]), goto=True))

    def reject(self, content: Any) -> bool:
        kind = (content or {}).get("expr", "port-unreachable")
        error = _REJECTIONS.get(kind, "ECONNREFUSED")
        # Of ICMPv6 it is another error: icmpv6_err_convert of net/ipv6/icmp.c.
        return self._end(Deny("EACCES" if kind == "admin-prohibited" and content.get("type") == "icmpv6" else error))

    def vmap(self, content: Any) -> bool:
        for conditions, action in self._choices(content["key"], content["data"], _verdict):
            self._emit(conditions, action)
        return False

    def redirect(self, content: Any) -> bool:
        port = (content or {}).get("port", 0)
        return self._end(Nat((("", port),)) if isinstance(port, int) else Other(_PORT_RANGE))

    def dnat(self, content: Any) -> bool:
        address, port = content.get("addr"), content.get("port", 0)
        sticky = "persistent" in (content.get("flags") or ())

        def action(found: Any) -> Action:
            return _target(found, port, sticky)

        if isinstance(address, dict) and "map" in address:
            for conditions, one in self._choices(address["map"]["key"], address["map"]["data"], action):
                self._emit(conditions, one)
            return False
        if isinstance(port, dict) and "map" in port:
            for conditions, one in self._choices(
                port["map"]["key"], port["map"]["data"], lambda found: _target(address, found, sticky)
            ):
                self._emit(conditions, one)
            return False
        return self._end(action(address))

    def set(self, content: Any) -> bool:
        """A note for other rules, or a limit for each member."""
        if content.get("stmt"):
            self._conditions.unknown.append(packetfilter.LIMIT)
        return False

    # -- maps

    def _choices(self, key: Any, data: Any, make: Callable[[Any], Action]) -> Iterable[tuple[Conditions, Action]]:
        """What is looked up, as a rule for each key, or as shares."""
        pairs = [(bare(value), make(found)) for value, found in values(data, self._sets)]
        chance = _chance(key)
        if chance is not None:
            parts = tuple((Fraction(_count(value), chance.mod), action) for value, action in pairs)
            yield self._conditions, Split(parts, chance.in_turn, chance.by)
            return
        for value, action in pairs:
            conditions = self._conditions.copy()
            if value == "*":
                self._compare(conditions, key, "!=", {"set": [one for one, _ in pairs if one != "*"]})
            else:
                self._compare(conditions, key, "==", value)
            yield conditions, action

    def _compare(self, conditions: Conditions, left: Any, operator: str, right: Any) -> None:
        try:
            compare(conditions, left, operator, right, self._sets)
        except UnknownError as err:
            conditions.unknown.append(str(err))


_STATEMENTS: dict[str, Callable[[_Reader, Any], bool]] = {
    "match": _Reader.match,
    "jump": _Reader.jump,
    "goto": _Reader.goto,
    "reject": _Reader.reject,
    "vmap": _Reader.vmap,
    "redirect": _Reader.redirect,
    "dnat": _Reader.dnat,
    "set": _Reader.set,
}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _verdict(found: Any) -> Action:
    ((name, content),) = found.items()
    if name in _VERDICTS:
        return _VERDICTS[name]
    return (
        Jump(_text(content["target"]), goto=name == "goto")
        if name in ("jump", "goto")
        else Other(f"{name} is not known here")
    )


def _target(address: Any, port: Any, sticky: bool) -> Action:
    if isinstance(address, dict) and "concat" in address:
        address, port = address["concat"]
    if not isinstance(port, int):
        return Other(_PORT_RANGE)
    if address is None:
        return Other("a vservice leads to certain backends, and here only the port changes")
    if isinstance(address, dict) and "prefix" in address:
        return Other("a network mapped onto another needs a vservice for each address")
    found = ranges.address_range(*address["range"]) if isinstance(address, dict) else ranges.network(_text(address))
    targets = ranges.addresses(found, MAX_TARGETS)
    if targets is None:
        return Other(f"a vservice with more than {MAX_TARGETS} backends")
    return Nat(tuple((one, port) for one in targets), sticky)


def _chance(key: Any) -> _Chance | None:
    if "numgen" in key:
        return _Chance(max(1, int(key["numgen"]["mod"])), key["numgen"]["mode"] == "inc", "")
    if "jhash" in key:
        source = key["jhash"]["expr"] in [{"payload": {"protocol": one, "field": "saddr"}} for one in ("ip", "ip6")]
        return _Chance(max(1, int(key["jhash"]["mod"])), False, "source" if source else "")
    return _Chance(max(1, int(key["symhash"]["mod"])), False, "") if "symhash" in key else None


def _count(value: Any) -> int:
    low, high = value["range"] if isinstance(value, dict) else (value, value)
    return max(0, int(high) - int(low) + 1)
