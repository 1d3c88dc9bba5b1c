"""How often what takes long may be done in a loop that serves everybody."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

SHARE = 10  # times as long as it has taken, until it may be done again


class Pace:
    """Looks at the clock when it is done: `due` once more after ``least`` seconds, or `SHARE` times what it took.

    That is processor time: what others of the host take of it is not what apps wait for because of us.
    """

    def __init__(self, least: float) -> None:
        self.pause = least  # seconds
        self._least = least
        self.at = -math.inf  # when it began last

    def due(self, now: float | None = None) -> bool:
        """Whether enough time has gone by since the last one began. ``now``: monotonic seconds."""
        return (time.monotonic() if now is None else now) - self.at >= self.pause

    def left(self) -> float:
        """Seconds until it is due, or 0."""
        return max(0.0, self.at + self.pause - time.monotonic())

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Around doing it."""
        self.at, began = time.monotonic(), time.thread_time()
        self.pause = self._least
        try:
            yield
        finally:
            self.pause = max(self._least, SHARE * (time.thread_time() - began))

    @contextlib.contextmanager
    def continued(self) -> Iterator[None]:
        """Around the rest of it, if it is not done in one go."""
        began = time.thread_time()
        try:
            yield
        finally:
            self.pause += SHARE * (time.thread_time() - began)
