"""From "the first rule that matches" to "a deny wins, an allow list closes": the policies that decide the same.

Where the last word is a denial, what is accepted becomes an allow list (`_closed`), and a denial before it a deny
policy; where the last word is ACCEPT, only denials become policies (`_open`). Either way a policy has a rule's own
addresses and ports as long as that decides the same; what an earlier rule took is cut out of it only where it must be.
Where a denial is for all users but some, which a selector cannot say, the allow list of what is left (`_exact`) can.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple, TypeVar

from appswitch.cli.imports import boxes, ranges
from appswitch.cli.imports.boxes import NOTHING, Box, Region
from appswitch.cli.imports.documents import Names
from appswitch.cli.imports.flatten import Entry
from appswitch.cli.imports.packetfilter import Accept, Deny, Rule
from appswitch.cli.imports.ranges import Ranges
from appswitch.cli.imports.report import Report
from appswitch.resources import ErrorName, L7Match, Policy, PortRange, Selector

T = TypeVar("T")
Direction = Literal["ingress", "egress"]
Verb = Literal["allow", "deny"]

MAX_UIDS = 256  # of a selector, and so below
MAX_NETWORKS = 4096
MAX_PORTS = 256
# Who calls from here, or is called here? Nobody: RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.2.
NOBODY = {4: "0.0.0.0/32", 6: "::/128"}
UIDS = "a policy lists users, and has no list of all but some of them"


class Scope(NamedTuple):
    """What all policies of a list of rules have in common."""

    direction: Direction
    label: str  # the beginning of their names
    full: Region  # every connection that the rules are about, one box
    to: Selector | None = None  # instead of addresses
    l7: tuple[L7Match, ...] = ()


class Piece(NamedTuple):
    """What becomes a policy: some boxes of one rule."""

    verb: Verb
    region: Region
    error: ErrorName
    rule: Rule


def express(entries: Sequence[Entry], scope: Scope, names: Names, report: Report) -> list[Policy]:
    """The policies of a list that is evaluated first match first."""
    natural = _pieces(entries, scope)
    failed = [piece for piece in natural if not _sayable(piece.region)]
    if failed:
        exact = _exact(entries, scope)
        if all(_sayable(piece.region) for piece in exact):
            natural, failed = exact, []
    for piece in failed:
        report.leave_out(piece.rule.where, piece.rule.text, UIDS)
    made = [piece for piece in natural if piece not in failed]
    return [policy for piece in _together(made) for policy in _policies(piece, scope, names)]


# -- which connections which policies are about


class _Regions:
    """Of a list: what is accepted, and what is denied with which error."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.accepted = boxes.merge(box for one in entries if one.verdict == Accept() for box in one.effective)
        errors = {entry.verdict.error for entry in entries if isinstance(entry.verdict, Deny)}
        self.denied: dict[ErrorName, Region] = {
            error: boxes.merge(box for one in entries if one.verdict == Deny(error) for box in one.effective)
            for error in errors
        }


def _pieces(entries: Sequence[Entry], scope: Scope) -> list[Piece]:
    if scope.l7:  # an allow list closes for everything, not just for what matches
        return _open(entries)
    last = next((one for one in entries if boxes.within(scope.full, one.match)), None)
    if last is not None and isinstance(last.verdict, Deny):
        return _closed(entries, last, last.verdict.error, scope)
    return _open(entries)


def _open(entries: Sequence[Entry]) -> list[Piece]:
    regions = _Regions(entries)
    found: list[Piece] = []
    for entry in entries:
        if isinstance(entry.verdict, Deny) and entry.effective:
            found.append(_denial(entry, entry.verdict.error, regions, found))
    return found


def _closed(entries: Sequence[Entry], last: Entry, error: ErrorName, scope: Scope) -> list[Piece]:
    regions = _Regions(entries)
    accepts = [entry for entry in entries if isinstance(entry.verdict, Accept) and entry.effective]
    wanted = boxes.merge(box for entry in accepts for box in entry.match)
    found: list[Piece] = []
    silent: list[Box] = list(last.effective)  # denied because nothing allows it
    for entry in entries:
        if not isinstance(entry.verdict, Deny) or not entry.effective or entry is last:
            continue
        if entry.verdict.error == error and not boxes.intersect(entry.effective, wanted):
            silent += entry.effective
        else:
            found.append(_denial(entry, entry.verdict.error, regions, found))
    closed = boxes.merge(silent)
    for entry in accepts:
        region = entry.effective if boxes.intersect(entry.match, closed) else entry.match
        found.append(Piece("allow", _widened(region, regions.accepted), error, entry.rule))
    return found + _closing(found, scope, error, last.rule)


def _exact(entries: Sequence[Entry], scope: Scope) -> list[Piece]:
    """An allow list of what is accepted, and nothing else."""
    regions = _Regions(entries)
    denials = [entry for entry in entries if isinstance(entry.verdict, Deny) and entry.effective]
    if not denials:
        return []
    error = denials[-1].verdict.error if isinstance(denials[-1].verdict, Deny) else "EACCES"
    found = [
        Piece("allow", _widened(entry.effective, regions.accepted), error, entry.rule)
        for entry in entries
        if isinstance(entry.verdict, Accept) and entry.effective
    ]
    return found + _closing(found, scope, error, denials[-1].rule)


def _denial(entry: Entry, error: ErrorName, regions: _Regions, before: Sequence[Piece]) -> Piece:
    """With the rule's own words, if all of that is denied with this error, or by a policy before: its error is told."""
    rest = boxes.subtract(entry.match, regions.denied[error])
    whole = not rest or boxes.within(rest, tuple(box for piece in before for box in piece.region))
    region = entry.match if whole else _widened(entry.effective, regions.denied[error])
    return Piece("deny", region, error, entry.rule)


def _widened(region: Region, allowed: Region) -> Region:
    """Of all users where a selector could not list them, if ``allowed`` has that."""
    return boxes.merge(_wide(box, allowed) for box in region)


def _wide(box: Box, allowed: Region) -> Box:
    wide = box._replace(uids=ranges.UIDS)
    return wide if not _sayable((box,)) and boxes.within((wide,), allowed) else box


def _closing(found: Sequence[Piece], scope: Scope, error: ErrorName, rule: Rule) -> list[Piece]:
    """An allow policy that allows nothing, unless some other one closes everybody."""
    for piece in found:
        if piece.verb == "allow" and any(_closes(box, scope) for box in piece.region):
            return []
    return [Piece("allow", NOTHING, error, rule)]


def _closes(box: Box, scope: Scope) -> bool:
    if scope.to is not None:
        return True
    (full,) = scope.full
    if scope.direction == "ingress":
        return box.destination == full.destination
    return (box.source, box.uids) == (full.source, full.uids)


def _sayable(region: Region) -> bool:
    return all(box.uids == ranges.UIDS or ranges.size(box.uids) <= MAX_UIDS for box in region)


# -- their words


def _together(pieces: Iterable[Piece]) -> Iterable[Piece]:
    """A rule for each of many networks, one after the other, is one policy with all of them."""
    for side in ("source", "destination"):
        runs = [list(run) for _, run in groupby(pieces, lambda piece, side=side: _but(piece, side))]  # type: ignore[misc]
        pieces = [run[0]._replace(region=boxes.merge(box for one in run for box in one.region)) for run in runs]
    return pieces


def _but(piece: Piece, side: str) -> object:
    """What two have in common that differ in networks of one side; of others nobody has the same."""
    if len(piece.region) != 1:
        return id(piece)
    return piece.verb, piece.error, piece.rule.comment, piece.region[0]._replace(**{side: ()})


def _policies(piece: Piece, scope: Scope, names: Names) -> Iterable[Policy]:
    what = piece.rule.comment or (piece.verb if piece.region else "closed")
    if not piece.region:
        yield _closed_policy(piece, scope, names.give(scope.label, what))
    for box in piece.region:
        from_, to = _ends(box, piece.verb, scope)
        for some in _chunks(ranges.port_ranges(box.ports), MAX_PORTS):
            yield _policy(piece, scope, names.give(scope.label, what), from_, to, some)


def _policy(
    piece: Piece,
    scope: Scope,
    name: str,
    from_: tuple[Selector, ...],
    to: tuple[Selector, ...],
    ports: tuple[PortRange, ...] = (),
) -> Policy:
    return Policy(
        name=name,
        action=piece.verb,
        direction=scope.direction,
        from_=from_,
        to=to,
        ports=ports,
        l7=scope.l7,
        error=piece.error,
    )


def _closed_policy(piece: Piece, scope: Scope, name: str) -> Policy:
    (full,) = scope.full
    peers = full.destination if scope.direction == "egress" else full.source
    nobody = (Selector(networks=tuple(NOBODY[4 if family == ranges.V4 else 6] for family in _families(peers))),)
    everybody = _side(full.source if scope.direction == "egress" else full.destination)
    if scope.direction == "egress":
        return _policy(piece, scope, name, everybody, nobody)
    return _policy(piece, scope, name, nobody, (scope.to,) if scope.to else everybody)


def _families(side: Ranges) -> list[Ranges]:
    return [family for family in (ranges.V4, ranges.V6) if ranges.intersect(side, family)]


def _ends(box: Box, verb: Verb, scope: Scope) -> tuple[tuple[Selector, ...], tuple[Selector, ...]]:
    """``from`` and ``to``. One that says no more than that both ends are of one family is left away.

    Not the end that an allow policy closes: there the family matters.
    """
    source, destination = box.source, box.destination
    if scope.to is None:
        spare_to = verb == "deny" or scope.direction == "egress"
        if spare_to and ranges.within(ranges.families(source), destination):
            destination = ranges.ADDRESSES
        elif ranges.within(ranges.families(destination), source) and (verb == "deny" or scope.direction == "ingress"):
            source = ranges.ADDRESSES
    users = () if box.uids == ranges.UIDS else tuple(n for low, high in box.uids for n in range(low, high + 1))
    return _side(source, users), (scope.to,) if scope.to else _side(destination)


def _side(addresses: Ranges, uids: tuple[int, ...] = ()) -> tuple[Selector, ...]:
    if addresses == ranges.ADDRESSES:
        return (Selector(uids=uids),) if uids else ()
    found = ranges.networks(addresses)
    return tuple(Selector(networks=some, uids=uids) for some in _chunks(found, MAX_NETWORKS))


def _chunks(values: tuple[T, ...], most: int) -> list[tuple[T, ...]]:
    return [values[at : at + most] for at in range(0, len(values), most)] or [()]
