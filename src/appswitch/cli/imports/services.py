"""From address translation to vservices: who is meant by which destination, with which share of the connections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from appswitch.cli.imports import boxes, ranges
from appswitch.cli.imports.boxes import Box, Region
from appswitch.cli.imports.documents import Names, can_serve, with_port
from appswitch.cli.imports.flatten import MAX_WORK, check_path
from appswitch.cli.imports.packetfilter import (
    Accept,
    Base,
    Deny,
    Jump,
    Nat,
    Nothing,
    Other,
    Return,
    Rule,
    Split,
)
from appswitch.cli.imports.report import Report, TooComplexError
from appswitch.resources import BackendSpec, LbType, ServicePort, VService

MAX_ADDRESSES = 16  # that one rule makes vservices of
MAX_PORTS = 256
MAX_WEIGHT = 65535


class _Path(NamedTuple):
    """What the rules that led here said."""

    local: bool = False
    affinity: bool = False
    comment: str = ""
    in_turn: bool = False
    by: str = ""

    def through(self, rule: Rule, in_turn: bool, by: str) -> _Path:
        """The first comment on certain ports is the service's."""
        certain = any(box.ports not in (ranges.PORTS, ranges.TCP, ranges.UDP) for box in rule.match)
        comment = self.comment or (rule.comment if certain else "")
        return _Path(self.local or rule.local, self.affinity or rule.affinity, comment, in_turn, by)


class _Flow(NamedTuple):
    """Connections on their way, and which share of them."""

    region: Region
    share: Fraction


class _Found(NamedTuple):
    """Connections to these go to one target."""

    box: Box
    share: Fraction
    target: tuple[str, int]
    path: _Path
    rule: Rule
    ports: int  # how many the rule is about


_Ways = tuple[list[_Flow], list[_Flow]]  # on to the next rule, and back from the chain


class _Translation:
    """Walks a base chain of address translation."""

    def __init__(self, base: Base, report: Report) -> None:
        self._base = base
        self._report = report
        self._work = 0
        self.found: list[_Found] = []

    def walk(self) -> None:
        """Fills ``found``. Raises InputError for chains that are not there or lead back to themselves."""
        self._chain(self._base.chain, [_Flow(self._base.family, Fraction(1))], _Path(), ())

    def _chain(self, name: str, flows: list[_Flow], path: _Path, stack: tuple[str, ...]) -> list[_Flow]:
        """Returns what comes back."""
        stack = (*stack, name)
        check_path(self._base, stack)
        returned: list[_Flow] = []
        for rule in self._base.chains[name].rules:
            if rule.affinity:  # to where the client was before: that is one of those behind
                path = path._replace(affinity=True)
                continue
            rest: list[_Flow] = []
            for flow in flows:
                self._rule(rule, flow, path, stack, (rest, returned))
            flows = _merged(rest)
        return _merged(returned + flows)

    def _rule(self, rule: Rule, flow: _Flow, path: _Path, stack: tuple[str, ...], ways: _Ways) -> None:
        self._work += len(flow.region)
        if self._work > MAX_WORK:
            raise TooComplexError("its rules are too many, or jump too often")
        matched = boxes.intersect(flow.region, rule.match)
        if not self._usable(rule, matched):
            ways[0].append(flow)
            return
        # A condition that is not known takes nothing from the rules behind.
        partly = rule.local or bool(rule.interface)
        outside = flow.region if partly else boxes.subtract(flow.region, rule.match)
        parts = rule.action.parts if isinstance(rule.action, Split) else ((Fraction(1), rule.action),)
        in_turn, by = (
            (rule.action.in_turn, rule.action.by) if isinstance(rule.action, Split) else (path.in_turn, path.by)
        )
        left = 1 - sum(share for share, _ in parts)
        ways[0].append(_Flow(outside, flow.share))
        ways[0].append(_Flow(boxes.NOTHING if partly else matched, flow.share * left))
        for share, action in parts:
            one = rule._replace(action=action)
            self._act(one, _Flow(matched, flow.share * share), path.through(rule, in_turn, by), stack, ways)

    def _act(self, rule: Rule, flow: _Flow, path: _Path, stack: tuple[str, ...], ways: _Ways) -> None:
        rest, returned = ways
        if isinstance(rule.action, Return):
            returned.append(flow)
        elif isinstance(rule.action, Jump):
            back = self._chain(rule.action.chain, [flow], path, stack)
            (returned if rule.action.goto else rest).extend(back)
        elif isinstance(rule.action, Nat):
            sticky = path._replace(affinity=path.affinity or rule.action.sticky)
            share = flow.share / len(rule.action.targets)
            ports = ranges.size(ranges.union(one for box in flow.region for one in box.ports))
            for box in flow.region:
                self.found += [_Found(box, share, target, sticky, rule, ports) for target in rule.action.targets]
        elif isinstance(rule.action, Other):  # one of several parts: others are reported before
            self._report.leave_out(rule.where, rule.text, rule.action.why)

    def _usable(self, rule: Rule, matched: Region) -> bool:
        if not matched or isinstance(rule.action, Nothing):
            return False
        if isinstance(rule.action, Other | Deny):
            why = rule.action.why if isinstance(rule.action, Other) else "address translation denies nothing here"
            self._report.leave_out(rule.where, rule.text, why)
            return False
        if rule.unknown:
            self._report.leave_out(rule.where, rule.text, "; ".join(rule.unknown))
            return False
        if rule.interface and not isinstance(rule.action, Accept | Return):
            self._report.leave_out(rule.where, rule.interface, "of this rule; it holds whichever interface it is")
        return True


def _merged(flows: Iterable[_Flow]) -> list[_Flow]:
    """What was parted by a rule that did nothing to it comes together again."""
    shares: dict[Fraction, list[Box]] = {}
    for flow in flows:
        if flow.share and flow.region:
            shares.setdefault(flow.share, []).extend(flow.region)
    return [_Flow(boxes.merge(found), share) for share, found in shares.items()]


# -- vservices


class _Place(NamedTuple):
    """What is connected to."""

    address: str  # "": every address of the node
    node: bool  # it is one of the node's
    port: int
    udp: bool


class _Balanced(NamedTuple):
    """What a vservice is made of, but for address and port: equal ones are one vservice."""

    shares: tuple[tuple[str, Fraction], ...]  # "192.0.2.7:8080"
    sticky: bool
    in_turn: bool
    by: str


def services(bases: Sequence[Base], names: Names, report: Report) -> list[VService]:
    """The vservices of all base chains; what is in several of them is one."""
    found: dict[tuple[str, bool, _Balanced], dict[int, _Found]] = {}
    taken: dict[tuple[str, int], _Balanced] = {}
    for base in bases:
        walk = _Translation(base, report)
        walk.walk()
        for place, parts in _places(walk.found, base, report).items():
            first = parts[0]
            balanced = _balanced(parts, place)
            owner = taken.setdefault((place.address, place.port), balanced)
            if sum(share for _, share in balanced.shares) != 1:
                why = "only some of the connections are translated, and the others are not"
                report.leave_out(first.rule.where, first.rule.text, why)
            elif owner != balanced:
                why = "a port of a vservice is one for TCP and UDP, and for whoever connects"
                report.leave_out(first.rule.where, first.rule.text, why)
            else:
                found.setdefault((place.address, place.node, balanced), {}).setdefault(place.port, first)
    return [
        _service(address, node, balanced, some, names)
        for (address, node, balanced), ports in found.items()
        for some in _chunks(list(ports.items()))
    ]


def _chunks(ports: list[tuple[int, _Found]]) -> list[dict[int, _Found]]:
    return [dict(ports[at : at + MAX_PORTS]) for at in range(0, len(ports), MAX_PORTS)]


def _places(found: Iterable[_Found], base: Base, report: Report) -> dict[_Place, list[_Found]]:
    """By what is connected to; of what is there more than once, the first."""
    places: dict[_Place, list[_Found]] = {}
    for one in found:
        why = _obstacle(one, base)
        if why:
            report.leave_out(one.rule.where, one.rule.text, why)
            continue
        if _wide(one) and not one.path.local:
            report.leave_out(one.rule.where, one.rule.text, "only at addresses of this node: nothing is forwarded")
        for place in _places_of(one):
            parts = places.setdefault(place, [])
            if sum(part.share for part in parts) < 1:
                parts.append(one)
    return places


def _places_of(one: _Found) -> Iterable[_Place]:
    node = one.path.local or _wide(one)
    for address in [""] if _wide(one) else ranges.addresses(one.box.destination, MAX_ADDRESSES) or ():
        for low, high in one.box.ports:
            for number in range(low, high + 1):
                yield _Place(address, node, number % ranges.UDP_OFFSET, number >= ranges.UDP_OFFSET)


def _wide(one: _Found) -> bool:
    """Whether no certain addresses are meant: all there are, or all that the node has."""
    if one.box.destination in (ranges.V4, ranges.V6, ranges.ADDRESSES):
        return True
    return one.path.local and ranges.size(one.box.destination) > MAX_ADDRESSES


def _obstacle(one: _Found, base: Base) -> str:
    (family,) = {ranges.families(box.source) for box in base.family}
    if not ranges.within(ranges.intersect(family, ranges.families(one.box.destination)), one.box.source):
        return "a vservice is the same for every client"
    if one.box.uids != ranges.UIDS:
        return "a vservice is the same for every user"
    if _wide(one) and base.outgoing and not one.path.local:
        return "a vservice for every address there is: name the addresses"
    if one.ports > 2 * MAX_PORTS:
        return f"a vservice for more than {MAX_PORTS} ports"
    if _wide(one):
        return ""
    found = ranges.addresses(one.box.destination, MAX_ADDRESSES)
    if found is None:
        return f"a vservice for each of more than {MAX_ADDRESSES} addresses"
    return "" if all(map(can_serve, found)) else "no vservice can have this address"


def _balanced(parts: Sequence[_Found], place: _Place) -> _Balanced:
    shares: dict[str, Fraction] = {}
    for part in parts:
        address, port = part.target
        own = "127.0.0.1" if ranges.intersect(part.box.destination, ranges.V4) else "::1"
        backend = with_port(address or own, port or place.port)
        shares[backend] = shares.get(backend, Fraction(0)) + part.share
    path = parts[0].path
    return _Balanced(tuple(shares.items()), any(part.path.affinity for part in parts), path.in_turn, path.by)


def _service(address: str, node: bool, balanced: _Balanced, ports: dict[int, _Found], names: Names) -> VService:
    comment = next((one.path.comment for one in ports.values() if one.path.comment), "")
    name = names.give(comment.removesuffix(" cluster IP") or f"{address or 'node'}-{min(ports)}")
    backends, even = _weighted(balanced)
    by_client = balanced.by == "source"
    return VService(
        name=name,
        ips=(address,) if address else (),
        ports=tuple(ServicePort(port, port) for port in sorted(ports)),
        backends=backends,
        lbtype="RingHash" if by_client else _lbtype(balanced, even),
        external=node,
        source_ip=balanced.sticky and not by_client,
    )


def _lbtype(balanced: _Balanced, even: bool) -> LbType:
    if not even:
        return "Weighted"
    return "RoundRobin" if balanced.in_turn or len(balanced.shares) == 1 else "Random"


def _weighted(balanced: _Balanced) -> tuple[tuple[BackendSpec, ...], bool]:
    """Backends with the smallest whole weights, and whether all have the same."""
    scale = lcm(*(share.denominator for _, share in balanced.shares))
    weights = [int(share * scale) for _, share in balanced.shares]
    if len(set(weights)) == 1:
        return tuple(BackendSpec(external=address) for address, _ in balanced.shares), True
    over = max(1.0, max(weights) / MAX_WEIGHT)
    return tuple(
        BackendSpec(external=address, weight=max(1, round(weight / over)))
        for (address, _), weight in zip(balanced.shares, weights, strict=True)
    ), False
