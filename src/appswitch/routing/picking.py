"""The algorithms: one backend of a pool of equals. What they remember of backends is in the backends' records.

So nothing is lost or favoured when pools change; what is derived from a pool (an order, a table) is its memo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable
from typing import NamedTuple, Protocol

from appswitch.resources import LbType
from appswitch.routing.hashing import Maglev, Members, Ring, Table, digest, rendezvous
from appswitch.routing.health import Record
from appswitch.routing.pools import Candidate, Pool

Draw = Callable[[int], int]  # draw(n): one of 0..n-1, each as likely

ALL_LOOKED_AT = 32  # backends up to which LeastConnections looks at all; beyond, at two of them
TABLES = 32  # that a balancer keeps: of clients that see other backends, of priorities and localities
RECENT = 256  # choices in which each of them has been looked for: then no other takes its place, which takes long
STEPS = 256  # over unusable slots; who walks further has hardly anybody left to choose from


PERIOD = 256  # choices after which Weighted begins anew; one that takes longer is made each time


class Plan(NamedTuple):
    """Choices made in advance: as good as picking each time, as long as the pool and its backends stay as they are."""

    turns: tuple[Candidate, ...]
    drawn: bool = False  # each as likely as any; else one after the other, again and again
    took: Callable[[int], None] = lambda _number: None  # to be told how many connections went by it


class Picker(Protocol):
    """An algorithm, with its state for one balancer."""

    def plan(self, pool: Pool, key: bytes) -> Plan | None:
        """What it will pick; None where each choice depends on what became of those before."""

    def pick(self, pool: Pool, draw: Draw, key: bytes, exclude: Collection[Hashable]) -> Candidate | None:
        """One of the pool's usable backends; None if all are excluded."""


class Random:
    """Each as likely as any."""

    __slots__ = ()

    def plan(self, pool: Pool, key: bytes) -> Plan | None:
        """As `Picker`."""
        return Plan(pool.usable, drawn=True)

    def pick(self, pool: Pool, draw: Draw, key: bytes, exclude: Collection[Hashable]) -> Candidate | None:
        """As `Picker`."""
        usable = pool.usable
        if exclude:
            usable = tuple(candidate for candidate in usable if candidate.key not in exclude)
        return usable[draw(len(usable))] if usable else None


class RoundRobin:
    """Whose turn was longest ago. A newcomer is last in line, and who begins is drawn.

    Were a newcomer first, coming and going would be rewarded; were it always the first backend that begins, it would
    get the first connection of every node.
    """

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = 0

    def plan(self, pool: Pool, key: bytes) -> Plan | None:
        """As `Picker`."""
        line = pool.memo
        if not isinstance(line, _Line):
            return None

        def took(number: int) -> None:
            self._turn = line.skip(number, self._turn)

        return Plan(line.turns(), took=took)

    def pick(self, pool: Pool, draw: Draw, key: bytes, exclude: Collection[Hashable]) -> Candidate | None:
        """As `Picker`. Excluded ones lose their turn: another attempt of the same connection had it."""
        line = pool.memo
        if not isinstance(line, _Line):
            line = pool.memo = _Line(pool, 0 if self._turn else draw(len(pool.usable)), self._turn)
        for _ in pool.usable:
            candidate, record = line.next()
            if candidate.key not in exclude:
                self._turn += 1
                record.turn = self._turn
                return candidate
        return None


class _Line:
    __slots__ = ("_at", "_order")

    def __init__(self, pool: Pool, first: int, turn: int) -> None:
        for record in pool.records:
            if record.turn < 0:
                record.turn = turn
        pairs = zip(pool.usable, pool.records, strict=True)
        self._order: list[tuple[Candidate, Record]] = sorted(pairs, key=lambda pair: pair[1].turn)
        self._at = first

    def turns(self) -> tuple[Candidate, ...]:
        """All of them, whose turn it is first."""
        return tuple(candidate for candidate, _ in self._order[self._at :] + self._order[: self._at])

    def skip(self, number: int, turn: int) -> int:
        """So many have had their turn, after ``turn`` others. The last turn."""
        count = len(self._order)
        last = turn + number
        for back in range(min(number, count)):
            self._order[(self._at + number - 1 - back) % count][1].turn = last - back
        self._at = (self._at + number) % count
        return last

    def next(self) -> tuple[Candidate, Record]:
        at = self._at
        self._at = at + 1 if at + 1 < len(self._order) else 0
        return self._order[at]


class LeastConnections:
    """Who has the fewest, pending ones included; ties are drawn. Of very many, the better of two that are drawn.

    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS 12(10), 2001).
    """

    __slots__ = ()

    def plan(self, pool: Pool, key: bytes) -> Plan | None:
        """As `Picker`."""
        return None

    def pick(self, pool: Pool, draw: Draw, key: bytes, exclude: Collection[Hashable]) -> Candidate | None:
        """As `Picker`."""
        rest = pool.without(exclude) if exclude else pool
        if rest is None:
            return None
        records, count = rest.records, len(rest.records)
        if count > ALL_LOOKED_AT:
            one, other = draw(count), draw(count - 1)
            other += other >= one
            better = min(one, other, key=lambda at: records[at].active + records[at].pending)
            return rest.usable[better]
        loads = [record.active + record.pending for record in records]
        least = min(loads)
        tied = [at for at, load in enumerate(loads) if load == least]
        return rest.usable[tied[draw(len(tied))]]


class Weighted:
    """Smooth weighted round robin as nginx does it: weights 5, 1, 1 give a a b a c a a, not a a a a a b c.

    Everyone gets its weight in credit, who has most is chosen and pays the sum of weights. Takes time in proportion
    to the number of backends.
    """

    __slots__ = ()

    def plan(self, pool: Pool, key: bytes) -> Plan | None:
        """As `Picker`. After the sum of weights, by their common divisor, everybody has the credit that it had."""
        weights = [candidate.weight for candidate in pool.usable]
        period = sum(weights) // math.gcd(*weights)
        before = [record.credit for record in pool.records]
        if period > PERIOD or None in before:
            return None
        turns = tuple(self._pay(pool) for _ in range(period))
        for record, credit in zip(pool.records, before, strict=True):
            record.credit = credit

        def took(number: int) -> None:
            for _ in range(number % period):
                self._pay(pool)

        return Plan(turns, took=took)

    def pick(self, pool: Pool, draw: Draw, key: bytes, exclude: Collection[Hashable]) -> Candidate | None:
        """As `Picker`."""
        rest = pool.without(exclude) if exclude else pool
        if rest is None:
            return None
        return self._pay(rest)

    def _pay(self, pool: Pool) -> Candidate:
        total = pool.memo
        if not isinstance(total, int):
            total = pool.memo = sum(candidate.weight for candidate in pool.usable)
            _give_newcomers_the_mean(pool.records)
        chosen, payer, most = None, None, 0
        for candidate, record in zip(pool.usable, pool.records, strict=True):
            assert record.credit is not None
            record.credit = credit = record.credit + candidate.weight
            if payer is None or credit > most:
                chosen, payer, most = candidate, record, credit
        assert chosen is not None
        assert payer is not None
        payer.credit = most - total
        return chosen


def _give_newcomers_the_mean(records: list[Record]) -> None:
    """Only differences of credit matter, and the sum is zero only as long as nobody leaves."""
    known = [record.credit for record in records if record.credit is not None]
    mean = sum(known) // len(known) if known else 0
    for record in records:
        if record.credit is None:
            record.credit = mean


class Hashed:
    """Whoever owns the key in a table; where that one cannot be used, the owner of a slot behind. No key: drawn.

    Where clients take turns that see more different sets of backends than there are tables, those for whom there is
    none have another choice, as stable, that needs none.
    """

    __slots__ = ("_choices", "_make", "_tables")

    def __init__(self, make: Callable[[Members], Table]) -> None:
        self._make = make
        self._tables: dict[Members, tuple[Table, int]] = {}  # with the choice that has looked for it last
        self._choices = 0

    def plan(self, pool: Pool, key: bytes) -> Plan | None:
        """As `Picker`."""
        if not key:
            return Plan(pool.usable, drawn=True)
        found = pool.memo
        owner = found.owner(digest(key), ()) if isinstance(found, _Owned) else None
        return Plan((owner,)) if owner is not None else None

    def pick(self, pool: Pool, draw: Draw, key: bytes, exclude: Collection[Hashable]) -> Candidate | None:
        """As `Picker`."""
        if not key:
            return Random().pick(pool, draw, key, exclude)
        self._choices += 1
        found = pool.memo
        if not isinstance(found, _Owned):
            table = None if pool.once else self._table(pool)
            if table is None:
                return _without_table(pool, digest(key), exclude)
            found = pool.memo = _Owned(table, pool)
        return found.owner(digest(key), exclude)

    def _table(self, pool: Pool) -> Table | None:
        members = tuple((candidate.key, candidate.weight) for candidate in pool.members)
        found = self._tables.pop(members, None)
        if found is None and len(self._tables) >= TABLES:
            oldest = next(iter(self._tables))
            if self._choices - self._tables[oldest][1] < RECENT:
                return None
            del self._tables[oldest]
        table = self._make(members) if found is None else found[0]
        self._tables[members] = table, self._choices
        return table


def _without_table(pool: Pool, point: int, exclude: Collection[Hashable]) -> Candidate | None:
    usable = {candidate.key: candidate for candidate in pool.usable if candidate.key not in exclude}
    return usable[rendezvous(point, list(usable))] if usable else None


class _Owned:
    """A table, and who of its owners is usable."""

    __slots__ = ("_table", "_usable")

    def __init__(self, table: Table, pool: Pool) -> None:
        self._table = table
        self._usable: dict[Hashable, Candidate] = {candidate.key: candidate for candidate in pool.usable}

    def owner(self, point: int, exclude: Collection[Hashable]) -> Candidate | None:
        owners, at = self._table.owners, self._table.slot(point)
        for step in range(at, at + STEPS):
            key = owners[step % len(owners)]
            if key in self._usable and key not in exclude:
                return self._usable[key]
        rest = [key for key in self._usable if key not in exclude]
        return self._usable[rendezvous(point, rest)] if rest else None


PICKERS: dict[LbType, Callable[[], Picker]] = {
    "Random": Random,
    "RoundRobin": RoundRobin,
    "LeastConnections": LeastConnections,
    "Weighted": Weighted,
    "RingHash": lambda: Hashed(Ring),
    "Maglev": lambda: Hashed(Maglev),
}
