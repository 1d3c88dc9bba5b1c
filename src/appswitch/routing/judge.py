"""From the policies that are about a connection to the decision. The rules are those of `resources.Policy`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from appswitch.routing.selectors import Rule

Attributes = dict[str, str] | None  # None: not known yet


class Decision(NamedTuple):
    """What policies say about a connection."""

    allowed: bool | None  # None: depends on attributes. Peek, and ask again with what was found
    # Who decided: the policies that allow, one of each direction that is closed, or the one that denies, or the first
    # `NAMED` of those that close; of those that wait for attributes the first. With commas between. "": none had to.
    rule: str = ""
    error: str = ""  # the errno of a denial
    dry_run: tuple[str, ...] = ()  # policies with ``dryRun`` that would have denied it
    # The decision, what is told of it included, may differ for other processes of the app. True where it cannot be told
    # without asking more, too.
    needs_process: bool = False
    dry_run_waits: tuple[str, ...] = ()  # would perhaps have denied it: depends on attributes. No reason to hold a call


NAMED = 3  # closing policies whose names are told
ALLOWED = Decision(True)


class Direction(NamedTuple):
    """The allow policies of one direction that are about a connection."""

    closing: tuple[Rule, ...] = ()  # the first `NAMED` that select the end that they close
    allowing: tuple[Rule, ...] = ()  # that match, as far as is known without attributes


class Layer(NamedTuple):
    """All that is about a connection: of policies that count, or of those with ``dryRun``."""

    denying: tuple[Rule, ...] = ()
    egress: Direction = Direction()
    ingress: Direction = Direction()


class Case(NamedTuple):
    """What has to be looked at for a connection, whatever its attributes are."""

    real: Layer
    dry: Layer
    needs_process: bool

    @property
    def waits(self) -> bool:
        """Whether attributes may matter."""
        layers = (self.real, self.dry)
        rules = (r for one in layers for r in (*one.denying, *one.egress.allowing, *one.ingress.allowing))
        return any(rule.l7 is not None for rule in rules)


def judge(case: Case, attributes: Attributes) -> Decision:
    """Decide. With attributes ``allowed`` is never None: those that are missing do not match."""
    allowed, rules = _verdict(case.real, attributes)
    denied, waits = _dry_run(case, attributes)
    return Decision(
        allowed,
        ",".join(rule.name for rule in rules),
        rules[0].policy.error if allowed is False else "",
        denied,
        case.needs_process,
        waits,
    )


def _verdict(layer: Layer, attributes: Attributes) -> tuple[bool | None, tuple[Rule, ...]]:
    """And who is behind it. What is denied for certain is not asked about."""
    sure, waiting = _first(layer.denying, attributes)
    if sure is not None:
        return False, (sure,)
    allowing: list[Rule] = []
    for closing, matching in (layer.egress, layer.ingress):
        if not closing:
            continue
        sure, maybe = _first(matching, attributes)
        if sure is not None:
            allowing.append(sure)
        elif maybe is None:
            return False, closing
        waiting = waiting or maybe
    return (True, tuple(allowing)) if waiting is None else (None, (waiting,))


def _first(rules: Iterable[Rule], attributes: Attributes) -> tuple[Rule | None, Rule | None]:
    """The first that matches; the first that may."""
    maybe = None
    for rule in rules:
        fits = rule.fits_attributes(attributes)
        if fits:
            return rule, None
        if fits is None and maybe is None:
            maybe = rule
    return None, maybe


def _dry_run(case: Case, attributes: Attributes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The policies that would have denied, and those that may: as if all that have ``dryRun`` counted, too."""
    if case.dry == NOTHING:
        return (), ()
    found: dict[bool | None, list[str]] = {True: [], None: [], False: []}
    for rule in case.dry.denying:
        found[rule.fits_attributes(attributes)].append(rule.name)
    for real, dry in ((case.real.egress, case.dry.egress), (case.real.ingress, case.dry.ingress)):
        sure, maybe = _first((*real.allowing, *dry.allowing), attributes)
        if sure is None:
            found[True if maybe is None else None] += [rule.name for rule in dry.closing]
    return tuple(found[True]), tuple(found[None])


NOTHING = Layer()
