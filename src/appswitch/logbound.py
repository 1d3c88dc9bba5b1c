"""What bounds a log: how many lines of a kind are too many, and a reader who does not read.

A hostile program can provoke a line with each of its calls; it must neither fill the disk nor hide what others say. So
each kind of line has a budget, and all together have one; what is left out is counted, and the count is told.

Every process of the daemon has these bounds, the keeper too: next to nothing is imported here.
"""

from __future__ import annotations

import os
import select

BURST, EVERY = 20, 30.0  # lines of one kind at once, and then one in so many seconds
ALL_BURST, ALL_EVERY = 200, 0.2  # the same of all kinds together
KINDS = 512  # that are told apart; further ones share a budget
SUMMARY = 60.0  # seconds after which it is told how many lines were left out
_OTHERS = "others"


class _Bucket:
    """Tokens that come back one by one."""

    __slots__ = ("_at", "_burst", "_every", "_tokens", "since", "withheld")

    def __init__(self, burst: int, every: float, now: float) -> None:
        self._burst, self._every, self._tokens, self._at = burst, every, float(burst), now
        self.withheld = 0  # lines that nobody has been told of
        self.since = 0.0  # when the first of those was

    def take(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._at) / self._every)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def full(self, now: float) -> bool:
        """Nothing of it is remembered that a new one would not have."""
        return not self.withheld and self._tokens + (now - self._at) / self._every >= self._burst


class Budget:
    """Which lines may be written. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._all = _Bucket(ALL_BURST, ALL_EVERY, 0.0)
        self._kinds: dict[str, _Bucket] = {}

    def admit(self, kind: str, now: float) -> bool:
        """Whether another line of this kind may be written; if not, it is counted."""
        bucket = self._bucket(kind, now)
        if bucket.take(now) and self._all.take(now):
            return True
        if not bucket.withheld:
            bucket.since = now
        bucket.withheld += 1
        return False

    def withheld(self, now: float, after: float = SUMMARY) -> list[tuple[str, int]]:
        """Kinds of which lines were left out, the first of them ``after`` seconds ago, and how many. Told once."""
        found = [(kind, one.withheld) for kind, one in self._kinds.items() if one.withheld and now - one.since >= after]
        for kind, _ in found:
            self._kinds[kind].withheld = 0
        return found

    def due(self) -> float | None:
        """When `withheld` has something to tell, if it has."""
        waiting = [one.since for one in self._kinds.values() if one.withheld]
        return min(waiting) + SUMMARY if waiting else None

    def _bucket(self, kind: str, now: float) -> _Bucket:
        bucket = self._kinds.get(kind)
        if bucket is None:
            if len(self._kinds) >= KINDS:
                self._kinds = {name: one for name, one in self._kinds.items() if not one.full(now)}
            if len(self._kinds) >= KINDS:
                kind = _OTHERS
            bucket = self._kinds.setdefault(kind, _Bucket(BURST, EVERY, now))
        return bucket


def suppressed(kind: str, count: int) -> str:
    """What is said of lines that were left out."""
    return f"{count} more lines like {kind!r} were suppressed"


def write_at_once(fd: int, data: bytes) -> bool:
    """Write a line of at most PIPE_BUF bytes if that does not wait; False: nobody reads. Raises OSError.

    A pipe that says POLLOUT takes PIPE_BUF bytes at once, pipe(7).
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not any(events & select.POLLOUT for _, events in poll.poll(0)):
        return False
    os.write(fd, data)
    return True
