"""Two reports: what has changed, and what is noise. Pure."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.pairing import Figure, Verdict, percentile, rank_sum

# A change counts when all three hold: it is larger than what differs between two runs of the same code, chance hardly
# explains it, and the turns of both runs hardly overlap. The turns of one run are more alike than two runs are (memory
# is laid out once, neighbours come and go), so the test alone would see changes everywhere.
SMALLEST = 0.1  # of the older median
SMALLEST_WHEN_BUSY = 0.25  # what two runs of the same code differed by beside other people's test suites
CHANCE = 0.001
FEW = 8  # samples; with fewer no test comes below that chance: all turns of one must then be beyond all of the other
SMALLEST_OF_FEW = 0.15


class Change(enum.Enum):
    """What became of a figure."""

    SAME = "same"
    WORSE = "WORSE"
    BETTER = "better"
    LUCK = "differs"  # the scheduler's doing as likely as ours
    ADDED = "new"
    REMOVED = "gone"


class Line(NamedTuple):
    """One figure in both reports. ``change`` is what is said of it; numbers are None where it is missing."""

    name: str
    unit: str
    old: float | None
    new: float | None
    chance: float
    change: Change
    missed: bool  # the target, now and not before


def compare(old: Iterable[Figure], new: Iterable[Figure], smallest: float = SMALLEST) -> list[Line]:
    """Every figure of either report, in the order of the newer one. ``smallest``: what a change must exceed."""
    before: Mapping[str, Figure] = {figure.name: figure for figure in old}
    after: Mapping[str, Figure] = {figure.name: figure for figure in new}
    lines = [_line(before.get(name), figure, smallest) for name, figure in after.items()]
    gone = [figure for name, figure in before.items() if name not in after]
    return lines + [Line(f.name, f.unit, f.median, None, 1.0, Change.REMOVED, missed=False) for f in gone]


def _line(old: Figure | None, new: Figure, smallest: float) -> Line:
    missed = new.verdict is Verdict.MISSED and (old is None or old.verdict is not Verdict.MISSED)
    if old is None:
        return Line(new.name, new.unit, None, new.median, 1.0, Change.ADDED, missed)
    chance = rank_sum(old.comparable, new.comparable)
    return Line(new.name, new.unit, old.median, new.median, chance, _change(old, new, smallest), missed)


def _change(old: Figure, new: Figure, smallest: float) -> Change:
    """Where there is a yardstick, the figure as it was measured and the figure by the yardstick must agree."""
    if abs(new.median - old.median) <= max(old.grain, new.grain):
        return Change.SAME
    direction = _direction(old.samples, new.samples, smallest)
    if old.yardstick and new.yardstick and direction != _direction(old.comparable, new.comparable, smallest):
        return Change.SAME
    if not direction:
        return Change.SAME
    if not (old.steady and new.steady):
        return Change.LUCK
    return Change.WORSE if (direction > 0) is new.lower_is_better else Change.BETTER


def _direction(old: Sequence[float], new: Sequence[float], smallest: float) -> int:
    """1 for more, -1 for less, 0 where it cannot be told."""
    few = min(len(old), len(new)) < FEW
    difference = statistics.median(new) - statistics.median(old)
    if abs(difference) <= (max(smallest, SMALLEST_OF_FEW) if few else smallest) * abs(statistics.median(old)):
        return 0
    if few and min(max(old), max(new)) >= max(min(old), min(new)):
        return 0
    if not few and (rank_sum(old, new) >= CHANCE or not _apart(old, new)):
        return 0
    return 1 if difference > 0 else -1


def _apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """The middle of either is beyond nearly all of the other."""
    low, high = sorted((one, other), key=statistics.median)
    return percentile(low, 90) < statistics.median(high) and statistics.median(low) < percentile(high, 10)
