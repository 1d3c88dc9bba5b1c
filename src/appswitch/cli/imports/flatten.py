"""Which connections meet which rule of a filter: chains are followed, and a rule gets what those before it left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from appswitch.cli.imports import boxes
from appswitch.cli.imports.boxes import Region
from appswitch.cli.imports.packetfilter import (
    INTERFACE,
    MAX_DEPTH,
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
from appswitch.cli.imports.report import InputError, Report, TooComplexError

MAX_WORK = 400_000  # boxes looked at: some seconds


class Entry(NamedTuple):
    """A verdict, and what gets it."""

    rule: Rule
    match: Region  # what the rule asks for, and those that jump to it
    effective: Region  # what of it no earlier rule took
    verdict: Accept | Deny


class Filter:
    """Walks a base chain. Raises InputError for chains that are not there or lead back to themselves."""

    def __init__(self, base: Base, report: Report) -> None:
        self._base = base
        self._report = report
        self._work = 0
        self._entries: list[Entry] = []

    def entries(self, region: Region) -> list[Entry]:
        """In order, the chain's policy last; of ``region`` only."""
        rest = self._chain(self._base.chain, region, self._base.family, ())
        rule = Rule(self._base.where, f"the policy of {self._base.name}", self._base.policy)
        self._entries.append(Entry(rule, self._base.family, rest, self._base.policy))
        return self._entries

    def _chain(self, name: str, region: Region, scope: Region, stack: tuple[str, ...]) -> Region:
        """Returns what comes back. ``scope`` is what jumped here, whatever earlier rules took of it."""
        chain = self._base.chains.get(name)
        path = (*stack, name)
        check_path(self._base, path)
        assert chain is not None
        returned: list[boxes.Box] = []
        for rule in chain.rules:
            if not region:
                break
            self._count(region)
            matched = boxes.intersect(region, rule.match)
            if not self._usable(rule, matched):
                continue
            region = boxes.subtract(region, rule.match)
            wanted = boxes.intersect(scope, rule.match)
            if isinstance(rule.action, Accept | Deny):
                self._entries.append(Entry(rule, wanted, matched, rule.action))
            elif isinstance(rule.action, Return):
                returned += matched
            elif isinstance(rule.action, Jump):
                back = self._chain(rule.action.chain, matched, wanted, path)
                if rule.action.goto:
                    returned += back
                else:
                    region = boxes.merge((*region, *back))
        return boxes.merge((*region, *returned))

    def _usable(self, rule: Rule, matched: Region) -> bool:
        """Whether the rule takes part; if it does not and should, it is reported."""
        if not matched:
            if rule.implied:
                self._report.imply(rule.where, rule.implied)
            return False
        why = self._obstacle(rule)
        if why:
            self._report.leave_out(rule.where, rule.text, why)
        return not why and not isinstance(rule.action, Nothing)

    def _obstacle(self, rule: Rule) -> str:
        if isinstance(rule.action, Nothing):
            return ""
        if isinstance(rule.action, Other):
            return rule.action.why
        if isinstance(rule.action, Split) or rule.affinity:
            return "a policy decides the same for everybody, not by chance or by what was before"
        if isinstance(rule.action, Nat):
            return "addresses are translated here, where only verdicts are expected"
        reasons = [*rule.unknown, *([f"{rule.interface}: {INTERFACE}"] if rule.interface else [])]
        if rule.local and self._base.role != "ingress":
            reasons.append("which addresses are local is not in the rules")
        return "; ".join(dict.fromkeys(reasons))

    def _count(self, region: Region) -> None:
        self._work += len(region)
        if self._work > MAX_WORK:
            raise TooComplexError("its rules are too many, or jump too often")


def check_path(base: Base, path: Sequence[str]) -> None:
    """Raises InputError if the last of these chains is missing, or was there before."""
    *before, name = path
    if name not in base.chains:
        raise InputError(f"{base.name}: a rule jumps to the chain {name!r}, which is not there; give the whole output")
    if name in before:
        raise InputError(f"{base.name}: the chains {' -> '.join(path)} lead back to themselves")
    if len(path) > MAX_DEPTH:
        raise InputError(f"{base.name}: chains jump into each other more than {MAX_DEPTH} deep")


def filters(bases: Sequence[Base], report: Report) -> list[Entry]:
    """All chains that a connection has to pass, one after the other: what one accepts goes to the next that sees it."""
    found: list[Entry] = []
    ordered = sorted(bases, key=lambda base: base.priority)
    region = _seen(ordered)
    for number, base in enumerate(ordered):
        later = _seen(ordered[number + 1 :])
        passed = list(boxes.subtract(region, base.family))
        for entry in Filter(base, report).entries(boxes.intersect(region, base.family)):
            if isinstance(entry.verdict, Accept):
                passed += entry.effective
                match, effective = (boxes.subtract(one, later) for one in (entry.match, entry.effective))
                entry = entry._replace(match=match, effective=effective)  # noqa: PLW2901 - the part that is final
            found.append(entry)
        region = boxes.merge(passed)
    return found


def _seen(bases: Sequence[Base]) -> Region:
    return boxes.merge(box for base in bases for box in base.family)


def groups(bases: Sequence[Base]) -> list[list[Base]]:
    """Those that see the same family together: IPv4 and IPv6 apart, unless some chain sees both."""
    found: list[list[Base]] = []
    for base in bases:
        related = [group for group in found if any(boxes.intersect(base.family, one.family) for one in group)]
        found = [group for group in found if group not in related]
        found.append([one for group in related for one in group] + [base])
    return found
