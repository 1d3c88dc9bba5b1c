"""From the base chains of a packet filter to resources."""

from __future__ import annotations

from collections.abc import Sequence

from appswitch.cli.imports import boxes, flatten, policies, services
from appswitch.cli.imports.documents import Names
from appswitch.cli.imports.packetfilter import Accept, Base, Deny, Jump, Nat, Other, Rule, Split
from appswitch.cli.imports.policies import Direction, Scope
from appswitch.cli.imports.report import Report, TooComplexError
from appswitch.resources import Policy, Resource

_LABELS: dict[Direction, str] = {"ingress": "input", "egress": "output"}


def resources(bases: Sequence[Base], names: Names, report: Report) -> list[Resource]:
    """Vservices first. Raises InputError for chains that are not there or lead back to themselves."""
    found: list[Resource] = []
    translations = [base for base in bases if base.role == "nat"]
    try:
        found += services.services(translations, names, report)
    except TooComplexError as err:
        _give_up(translations, err, report)
    for direction in _LABELS:
        for group in flatten.groups([base for base in bases if base.role == direction]):
            found += _policies(group, direction, names, report)
    for base in bases:
        if base.role == "other":
            _leave_out(base, report)
    return found


def _policies(group: list[Base], direction: Direction, names: Names, report: Report) -> list[Policy]:
    full = boxes.merge(box for base in group for box in base.family)
    try:
        entries = flatten.filters(group, report)
        return policies.express(entries, Scope(direction, _LABELS[direction], full), names, report)
    except TooComplexError as err:
        _give_up(group, err, report)
    return []


def _give_up(group: Sequence[Base], err: TooComplexError, report: Report) -> None:
    for base in group:
        report.leave_out(base.where, f"the chain {base.name}", str(err))


def _leave_out(base: Base, report: Report) -> None:
    """Every rule of a chain that nothing here corresponds to, and of those that it jumps to."""
    if isinstance(base.policy, Deny):
        report.leave_out(base.where, f"the policy of {base.name}", base.why)
    seen, todo = {base.chain}, [base.chain]
    while todo:
        chain = base.chains.get(todo.pop())
        for rule in chain.rules if chain else ():
            _leave_rule_out(rule, base, report)
            onward = {action.chain for action in _actions(rule) if isinstance(action, Jump)} - seen
            seen |= onward
            todo += onward


def _leave_rule_out(rule: Rule, base: Base, report: Report) -> None:
    if not rule.match and rule.implied:
        report.imply(rule.where, rule.implied)
    elif isinstance(rule.action, Other):
        report.leave_out(rule.where, rule.text, rule.action.why)
    elif any(isinstance(action, Accept | Deny | Nat) for action in _actions(rule)):
        report.leave_out(rule.where, rule.text, base.why)


def _actions(rule: Rule) -> list[object]:
    return [action for _, action in rule.action.parts] if isinstance(rule.action, Split) else [rule.action]
