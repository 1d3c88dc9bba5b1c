"""Samples, pairs and verdicts: the arithmetic behind the table. Pure.

One sample is one turn: the median of what was timed in it, or its rate. A figure's samples are ratios (or differences)
of turns that followed each other. Their median is the figure; p10 and p90 say how far a turn may be from it.
"""

from __future__ import annotations

import enum
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Verdict(enum.Enum):
    """What is said of a target. ``unclear``: missed by the median, but within the spread of the turns."""

    MET = "met"
    UNCLEAR = "unclear"
    MISSED = "missed"
    REPORTED = "-"


class Target(msgspec.Struct, frozen=True):
    """A bound on the median. Exactly one of both."""

    at_most: float | None = None
    at_least: float | None = None

    def __str__(self) -> str:
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"


class Figure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the report."""

    name: str  # dotted: case, what, circumstances
    what: str  # one line for people
    unit: str  # of the samples; "x" is a ratio
    samples: tuple[float, ...]  # one a turn, in order
    target: Target | None = None
    lower_is_better: bool = True
    sides: dict[str, float] = {}  # medians of what was compared, in ``side_unit``
    side_unit: str = ""
    grain: float = 0.0  # two figures that are closer than this, in ``unit``, are the same
    yardstick: tuple[float, ...] = ()  # of an absolute figure: what took how long beside it, one a turn
    steady: bool = True  # not decided by where the scheduler happens to put the processes

    @property
    def median(self) -> float:
        """The figure itself."""
        return statistics.median(self.samples)

    @property
    def p10(self) -> float:
        """One turn in ten was below."""
        return percentile(self.samples, 10)

    @property
    def p90(self) -> float:
        """One turn in ten was above."""
        return percentile(self.samples, 90)

    @property
    def comparable(self) -> tuple[float, ...]:
        """The samples as they can be compared with another run's: a busy machine slows the yardstick as well."""
        return ratios(self.samples, self.yardstick) if self.yardstick else self.samples

    @property
    def verdict(self) -> Verdict:
        """Missed only when nine turns in ten missed: a noisy neighbour spoils some of them, not all."""
        if self.target is None:
            return Verdict.REPORTED
        if self.target.at_most is not None:
            median_ok, best_ok = self.median <= self.target.at_most, self.p10 <= self.target.at_most
        else:
            assert self.target.at_least is not None
            median_ok, best_ok = self.median >= self.target.at_least, self.p90 >= self.target.at_least
        return Verdict.MET if median_ok else Verdict.UNCLEAR if best_ok else Verdict.MISSED


def percentile(values: Sequence[float], percent: float) -> float:
    """Interpolated linearly between the closest ranks. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def take_turns(subjects: Mapping[str, Callable[[], T]], turns: int, warm_up: int = 1) -> dict[str, list[T]]:
    """Each subject once, then each again, and so on; what the first ``warm_up`` turns give is thrown away.

    Every other turn goes backwards (A B B A ...): what changes steadily favours nobody.
    """
    results: dict[str, list[T]] = {name: [] for name in subjects}
    for turn, order in enumerate(_orders(list(subjects), turns + warm_up)):
        for name in order:
            result = subjects[name]()
            if turn >= warm_up:
                results[name].append(result)
    return results


def _orders(names: list[str], turns: int) -> Iterator[list[str]]:
    for turn in range(turns):
        yield names if turn % 2 == 0 else names[::-1]


def ratios(ours: Sequence[float], baseline: Sequence[float]) -> tuple[float, ...]:
    """Turn by turn. Raises ValueError when there are not as many of the one as of the other."""
    return tuple(mine / base for mine, base in zip(ours, baseline, strict=True))


def differences(ours: Sequence[float], baseline: Sequence[float]) -> tuple[float, ...]:
    """Turn by turn. Raises ValueError as `ratios`."""
    return tuple(mine - base for mine, base in zip(ours, baseline, strict=True))


def trend(values: Sequence[float]) -> float:
    """How much the values grow from first to last when their largest step up is taken out: one step is no trend.

    Raises ValueError for fewer than three.
    """
    if len(values) < 3:
        raise ValueError("a trend needs three values")
    steps = [later - earlier for earlier, later in itertools.pairwise(values)]
    return (sum(steps) - max(steps)) * len(steps) / (len(steps) - 1)


def rank_sum(one: Sequence[float], other: Sequence[float]) -> float:
    """The probability of a difference like this between two samples of the same thing.

    Mann and Whitney's test, two-sided, by the normal approximation with the correction for ties: no distribution is
    assumed, which suits timings. 1.0 where there is too little to tell.
    """
    n, m = len(one), len(other)
    if n < 4 or m < 4:
        return 1.0
    ranked = _ranks([*one, *other])
    u = sum(ranked[:n]) - n * (n + 1) / 2
    ties = sum(count**3 - count for count in _tie_sizes(ranked))
    total = n + m
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance == 0:
        return 1.0
    z = (abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return min(1.0, math.erfc(max(z, 0.0) / math.sqrt(2)))


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            ranks[index] = (start + 1 + end) / 2
        start = end
    return ranks


def _tie_sizes(ranks: Sequence[float]) -> list[int]:
    counts: dict[float, int] = {}
    for rank in ranks:
        counts[rank] = counts.get(rank, 0) + 1
    return list(counts.values())
