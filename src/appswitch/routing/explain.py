"""A decision about a connection, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from appswitch.address import ip_text
from appswitch.resources import Policy, Selector
from appswitch.routing.judge import Attributes, Case, Decision, Direction, judge
from appswitch.routing.patterns import hold
from appswitch.routing.selectors import Condition, Connection, End, Rule, lacking, said

SHOWN = 10  # policies of one direction of which is told why they do not match

Closing = Callable[[Connection, str, bool], Iterator[Rule]]


def sentences(connection: Connection, case: Case, closing: Closing, attributes: Attributes) -> tuple[str, ...]:
    """``closing``: the allow policies of a direction (and with ``dryRun`` or not) that close its end."""
    decision = judge(case, attributes)
    client, server, port, protocol = connection
    steps = [f"client: {_end(client)}", f"server: {_end(server)}, port {port}/{protocol}"]
    steps += _denies(case.real.denying, attributes)
    for word, direction in (("egress", case.real.egress), ("ingress", case.real.ingress)):
        steps += _direction(connection, word, direction, closing(connection, word, False), attributes)
    steps += _dry_run(decision)
    return (*steps, verdict(decision))


def verdict(decision: Decision) -> str:
    """In one sentence, whose first word is allowed, denied or undecided."""
    if decision.allowed:
        return f"allowed by policy {decision.rule}" if decision.rule else "allowed: no policy denies or closes anything"
    if decision.allowed is None:
        return f"undecided: policy {decision.rule} depends on what the first bytes are"
    return f"denied by policy {decision.rule}: {decision.error}"


def _end(end: End) -> str:
    """Who it is, as far as selectors see it."""
    parts = [f"{end.app_id:08x}" if end.app_id else "outside", end.name or "", ip_text(end.ip)]
    parts += [f"vservice {name}" for name in end.vservices]
    if end.labels:
        parts.append("labels " + " ".join(f"{key}={value}" for key, value in sorted(end.labels)))
    if end.uid is not None:
        parts.append(f"uid {end.uid}")
    if end.executable is not None:
        parts.append(end.executable)
    return ", ".join(filter(None, parts))


def _denies(rules: tuple[Rule, ...], attributes: Attributes) -> Iterator[str]:
    certain = [rule for rule in rules if rule.fits_attributes(attributes)]
    yield f"deny policies that match: {', '.join(rule.name for rule in certain) or 'none'}"
    yield from (f"policy {rule.name} (deny): {_l7(rule, attributes)}" for rule in rules if rule not in certain)


def _direction(
    connection: Connection, word: str, direction: Direction, closing: Iterator[Rule], attributes: Attributes
) -> Iterator[str]:
    end, side = ("client", "from") if word == "egress" else ("server", "to")
    shown = list(islice(closing, SHOWN + 1))
    if not shown:
        yield f"{word}: no allow policy selects the {end}, which is open"
        return
    more = len(shown) > SHOWN
    shown = list(dict.fromkeys([*shown[:SHOWN], *direction.allowing]))
    for rule in shown:
        how = f"selects the {end} by {_by(rule, side, connection)}"
        yield f"policy {rule.name} ({word}, allow) {how}: it is closed for all but its allow list"
        yield f"policy {rule.name}: {_why(rule, connection, attributes)}"
    if more:
        yield f"{word}: more allow policies select the {end}, which are not shown"


def _by(rule: Rule, side: str, connection: Connection) -> str:
    """The first selector that does."""
    selectors, conditions, end = _side(rule, side, connection)
    chosen = (said(one) for one, condition in zip(selectors, conditions, strict=True) if condition.selects(end))
    return next(chosen, f"an empty {side!r}, which is everybody")


def _side(rule: Rule, side: str, connection: Connection) -> tuple[tuple[Selector, ...], tuple[Condition, ...], End]:
    if side == "from":
        return rule.policy.from_, rule.from_, connection.client
    return rule.policy.to, rule.to, connection.server


def _why(rule: Rule, connection: Connection, attributes: Attributes) -> str:
    """What an allow policy lacks to match, or that it matches."""
    for side, word in (("from", "client"), ("to", "server")):
        selectors, conditions, end = _side(rule, side, connection)
        if conditions and not any(condition.selects(end) for condition in conditions):
            lacks = [lacking(condition, one, end) for one, condition in zip(selectors, conditions, strict=True)]
            return f"the {word} " + "; ".join(lacks[:SHOWN])
    if not rule.has_port(connection.port, connection.protocol):
        return f"port {connection.port}/{connection.protocol} is not in {_ports(rule.policy)}"
    return _l7(rule, attributes)


def _ports(policy: Policy) -> str:
    return ", ".join(map(str, policy.ports))


def _l7(rule: Rule, attributes: Attributes) -> str:
    """Of a rule all of which holds but perhaps what is asked of attributes."""
    if rule.l7 is None:
        return "matches"
    if not rule.l7:
        return "asks for an attribute without a pattern, which none has"
    asked = " or ".join(map(_match, rule.l7))
    if attributes is None:
        return f"matches if {asked}; that is not known yet"
    if rule.fits_attributes(attributes):
        return "matches: " + _match(
            next(m for m, tests in zip(rule.l7, rule.tests, strict=True) if hold(tests, attributes))
        )
    named = dict.fromkeys(name for match in rule.l7 for name in match)
    known = (f"{name} is {attributes[name]!r}" if name in attributes else f"there is no {name}" for name in named)
    return f"{', '.join(known)}; it asks for {asked}"


def _match(match: dict[str, tuple[str, ...]]) -> str:
    return " and ".join(f"{name} is {' or '.join(patterns)}" for name, patterns in match.items())


def _dry_run(decision: Decision) -> Iterator[str]:
    for name in decision.dry_run:
        yield f"policy {name} (dry run) would have denied it"
    for name in decision.dry_run_waits:
        yield f"policy {name} (dry run) may have denied it: that depends on what the first bytes are"
