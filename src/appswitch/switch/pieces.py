"""Work that is too long for one turn of the loop, done a piece at a time between other work."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

from appswitch.switch.loop import Loop

T = TypeVar("T")

PAUSE = 0.001  # seconds between two pieces: whatever happens meanwhile has its turn first


def in_pieces(
    loop: Loop, work: Generator[float | None, None, T], done: Callable[[T], None], failed: Callable[[Exception], None]
) -> None:
    """Go from one ``yield`` of ``work`` to the next, with pauses; then tell what it has returned, or raised.

    A number that is yielded is a longer pause, in seconds.

    One of ``done`` and ``failed`` is called, once; what those raise is the loop's to report.
    """

    def piece() -> None:
        try:
            pause = next(work)
        except StopIteration as end:
            result: T = end.value
        except Exception as problem:
            failed(problem)
            return
        else:
            loop.after(PAUSE if pause is None else pause, piece)
            return
        done(result)

    piece()


def every(count: int, steps: Iterable[T]) -> Iterator[list[T]]:
    """The steps in lists of ``count``; the last may have less."""
    rest = iter(steps)
    while batch := list(itertools.islice(rest, count)):
        yield batch
