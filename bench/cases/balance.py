"""One choice of a backend, by algorithm and number of backends, beside Random of three; and what a change costs.

In this process alone: the balancer is pure.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import get_args

from appswitch.resources import LbType, Limits, Outlier
from appswitch.routing.balance import Balancer, Candidate
from appswitch.routing.hashing import Maglev, Members, Ring, digest
from bench.cases import Run
from bench.pairing import Figure, Target, ratios, take_turns

SIZES = (3, 100, 1000)
CHANGED: tuple[LbType, ...] = ("RoundRobin", "RingHash", "Maglev")  # no table, and each kind of table
CHOICES = 1000  # a turn
KEYS = tuple(f"10.0.{number // 250}.{number % 250}".encode() for number in range(CHOICES))
BASELINE = "Random.3"
FLAT = Target(at_most=2.0)  # of what takes as long for a thousand as for three
MOVED_KEYS = tuple(digest(f"key {number}".encode()) for number in range(20_000))


def measure(run: Run) -> Iterator[Figure]:
    """Choices, first choices after a change, keys that move."""
    algorithms: tuple[LbType, ...] = get_args(LbType)
    turns = take_turns({f"{name}.{size}": _choices(name, size) for name in algorithms for size in SIZES}, run.turns)
    for subject, took in turns.items():
        name, _, size = subject.partition(".")
        if subject != BASELINE:
            target = FLAT if name in ("Random", "RoundRobin") else None
            yield _figure(f"choose.{subject}", f"a choice of {name}, {size} backends", took, turns[BASELINE], target)
    changes = take_turns({f"{name}.{size}": _change(name, size) for name in CHANGED for size in SIZES}, run.turns)
    for subject, took in changes.items():
        name, _, size = subject.partition(".")
        yield _figure(f"change.{subject}", f"the first choice of {name}, {size} new backends", took, turns[BASELINE])
    for table in (Ring, Maglev):
        for size in (10, 100):
            yield _moved(table, size)


def _figure(name: str, what: str, took: list[float], base: list[float], target: Target | None = None) -> Figure:
    return Figure(
        name=f"balance.{name}",
        what=f"{what}; beside a choice of {BASELINE}",
        unit="x",
        samples=ratios(took, base),
        target=target,
        sides={"ours": statistics.median(took), "random": statistics.median(base)},
        side_unit="us",
    )


def _candidates(size: int) -> tuple[Candidate, ...]:
    return tuple(Candidate(("10.1.0.1", number), 1, 0, "", number) for number in range(size))


def _choices(name: LbType, size: int) -> Callable[[], float]:
    balancer, candidates, draw = Balancer(name, Outlier(), Limits()), _candidates(size), _dice()

    def turn() -> float:
        began = time.perf_counter()
        for key in KEYS:
            balancer.choose(candidates, now=0.0, draw=draw, key=key)
        return (time.perf_counter() - began) / CHOICES * 1e6

    return turn


def _change(name: LbType, size: int) -> Callable[[], float]:
    def turn() -> float:
        balancer, candidates, draw = Balancer(name, Outlier(), Limits()), _candidates(size), _dice()
        began = time.perf_counter()
        balancer.choose(candidates, now=0.0, draw=draw, key=KEYS[0])
        return (time.perf_counter() - began) * 1e6

    return turn


def _dice() -> Callable[[int], int]:
    chance = random.Random(1).random
    return lambda n: int(chance() * n)  # as fast as it gets: what is measured is not the dice


def _moved(table: type[Ring | Maglev], size: int) -> Figure:
    """How many keys change hands when one backend of so many goes; 1 is as few as can be."""
    members: Members = tuple((candidate.key, 1) for candidate in _candidates(size))
    before = _owners(table(members))
    samples = []
    for gone in range(0, size, size // 10):
        after = _owners(table(members[:gone] + members[gone + 1 :]))
        different = sum(one != other for one, other in zip(before, after, strict=True))
        samples.append(different / len(MOVED_KEYS) * size)
    return Figure(
        name=f"balance.moved.{table.__name__}.{size}",
        what=f"keys that move when one of {size} backends goes; 1 is 1/{size} of them",
        unit="x",
        samples=tuple(samples),
    )


def _owners(table: Ring | Maglev) -> list[object]:
    return [table.owners[table.slot(key)] for key in MOVED_KEYS]
