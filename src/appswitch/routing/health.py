"""Which backends are up, as far as connections tell: what each has open, what failed, which are left alone for a while.

Passive health is Envoy's outlier detection (its consecutive gateway failures), for connections instead of responses
and without an interval: every rule is applied when something happens.

1. ``consecutive_failures`` connections in a row that were refused or timed out eject a backend. Zero never ejects.
2. It stays ejected for ``base_ejection`` times the number of its ejections so far, at most for ``max_ejection``. That
   number falls by one for each ``base_ejection`` that has passed since its latest ejection ended, or would have ended.
3. Not more than ``max_ejected_percent`` of the backends that it was last offered with are ejected at a time, but one
   always may be.
4. When its time is over it is used again, on probation: the first failure ejects it again, the first success makes it
   as good as any. So what is dead costs one attempt a period, not ``consecutive_failures``.
5. Failures of an ejected backend (attempts that were under way, or panic) change nothing. A success ends its ejection:
   it was seen to work.

Circuit breaking: a backend is full when its connections, established and pending, have reached ``connections``, or its
pending ones ``pending``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Hashable, Iterable
from typing import Literal, NamedTuple

from appswitch.resources import Limits, Outlier

SPARE = 1024  # records of backends that are candidates no longer: who comes back within that many is known


class Row(NamedTuple):
    """One backend, for display."""

    key: Hashable
    state: Literal["healthy", "ejected"]
    active: int  # established
    pending: int  # started and not yet established
    total: int  # started so far
    failures: int  # so far
    ejected_for: float  # seconds left; 0.0: it is not


class Record:
    """What is known of one backend. Counts are never negative."""

    __slots__ = ("active", "credit", "ejections", "failures", "peers", "pending", "streak", "total", "turn", "until")

    def __init__(self) -> None:
        self.active = 0
        self.pending = 0
        self.total = 0
        self.failures = 0
        self.streak = 0  # failures in a row
        self.ejections = 0
        self.until = -math.inf  # when its latest ejection ends, or has ended
        self.peers: Collection[Hashable] = ()  # that it was last offered with
        self.turn = -1  # of RoundRobin: when it was last chosen; -1: not seen yet
        self.credit: int | None = None  # of Weighted; None: not seen yet


class Health:
    """The records of all backends of one balancer. ``version`` changes when other backends are usable than before."""

    __slots__ = ("_largest", "_limits", "_outlier", "ejected", "full", "limited", "next_return", "records", "version")

    def __init__(self, outlier: Outlier, limits: Limits) -> None:
        self._outlier = outlier
        self._limits = limits
        self.limited = bool(limits.connections or limits.pending)
        self._largest = 0  # set that was offered, lately: clients with other labels are offered others
        self.records: dict[Hashable, Record] = {}  # those that were offered last come last
        self.ejected: dict[Hashable, float] = {}  # until when
        self.full: set[Hashable] = set()
        self.next_return = math.inf  # no ejection ends before
        self.version = 0

    def reconfigure(self, outlier: Outlier, limits: Limits) -> None:
        """Judge by these from now on. Who is ejected stays so for its time."""
        self._outlier = outlier
        self._limits = limits
        self.limited = bool(limits.connections or limits.pending)
        for key, record in self.records.items():
            self._weigh(key, record)
        self.version += 1

    def offer(self, keys: Collection[Hashable]) -> list[Record]:
        """These are candidates together now; their records, in order. Those that were offered long ago are dropped."""
        peers = frozenset(keys)
        records = []
        for key in keys:
            record = self.records.pop(key, None) or Record()
            record.peers = peers
            self.records[key] = record
            records.append(record)
        self._largest = max(len(peers), self._largest - 1)
        self._trim()
        return records

    def expire(self, now: float) -> None:
        """Who has been ejected long enough is used again."""
        if now < self.next_return:
            return
        for key in [key for key, until in self.ejected.items() if until <= now]:
            del self.ejected[key]
        self._ejections_changed()

    def started(self, key: Hashable) -> None:
        """A connection is being made."""
        record = self._record(key)
        record.pending += 1
        record.total += 1
        if self.limited:
            self._weigh(key, record)

    def established(self, key: Hashable) -> None:
        """It has been; a success."""
        record = self._record(key)
        record.pending = max(0, record.pending - 1)
        record.active += 1
        if self.limited:
            self._weigh(key, record)
        self.succeeded(key)

    def made(self, key: Hashable, number: int) -> None:
        """So many have been."""
        record = self._record(key)
        record.total += number
        record.active += number
        if self.limited:
            self._weigh(key, record)
        self.succeeded(key)

    def cancelled(self, key: Hashable) -> None:
        """It was given up by the client: nobody's failure."""
        self._less(key, pending=1)

    def ended(self, key: Hashable) -> None:
        """An established connection has ended."""
        self._less(key, active=1)

    def failed(self, key: Hashable, now: float) -> bool:
        """It was refused or timed out. Whether the backend has been ejected just now."""
        self.expire(now)
        record = self._record(key)
        record.pending = max(0, record.pending - 1)
        record.failures += 1
        self._weigh(key, record)
        wanted = self._outlier.consecutive_failures
        if not wanted or key in self.ejected:
            return False
        record.streak += 1
        return record.streak >= wanted and self._may_eject(record) and self._eject(key, record, now)

    def succeeded(self, key: Hashable) -> None:
        """The backend has proved to work."""
        record = self.records.get(key)
        if record is not None:
            record.streak = 0
        if self.ejected.pop(key, None) is not None:
            self._ejections_changed()

    def set_counts(self, key: Hashable, active: int, pending: int | None = None) -> None:
        """As they really are. ``pending`` None: as it was."""
        record = self._record(key)
        record.active = max(0, active)
        if pending is not None:
            record.pending = max(0, pending)
        self._weigh(key, record)

    def rows(self, now: float) -> list[Row]:
        """All that is known, the last offered last."""
        return [self._row(key, record, now) for key, record in self.records.items()]

    def forget(self, keys: Iterable[Hashable]) -> None:
        """These will not come back."""
        for key in keys:
            self._drop(key)

    def _row(self, key: Hashable, record: Record, now: float) -> Row:
        left = max(0.0, self.ejected.get(key, now) - now)
        state: Literal["healthy", "ejected"] = "ejected" if left else "healthy"
        return Row(key, state, record.active, record.pending, record.total, record.failures, left)

    def _record(self, key: Hashable) -> Record:
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = Record()
            self._trim()
        return record

    def _less(self, key: Hashable, *, active: int = 0, pending: int = 0) -> None:
        record = self.records.get(key)
        if record is not None:
            record.active = max(0, record.active - active)
            record.pending = max(0, record.pending - pending)
            self._weigh(key, record)

    def _trim(self) -> None:
        surplus = len(self.records) - 2 * self._largest - SPARE
        if surplus > 0:
            self.forget(list(itertools.islice(self.records, surplus)))

    def _drop(self, key: Hashable) -> None:
        if self.records.pop(key, None) is None:
            return
        self.full.discard(key)
        self.ejected.pop(key, None)
        self._ejections_changed()  # also because pools hold the record

    def _weigh(self, key: Hashable, record: Record) -> None:
        connections, pending = self._limits.connections, self._limits.pending
        full = bool(
            (connections and record.active + record.pending >= connections) or (pending and record.pending >= pending)
        )
        if full != (key in self.full):
            (self.full.add if full else self.full.discard)(key)
            self.version += 1

    def _may_eject(self, record: Record) -> bool:
        allowed = max(1, len(record.peers) * self._outlier.max_ejected_percent // 100)
        return sum(key in record.peers for key in self.ejected) < allowed

    def _eject(self, key: Hashable, record: Record, now: float) -> bool:
        base, longest = self._outlier.base_ejection, self._outlier.max_ejection
        if min(base, longest) <= 0:
            return False
        if record.ejections:
            record.ejections = max(0, record.ejections - int(max(0.0, now - record.until) // base))
        if base * record.ejections < longest:  # Envoy's: it would take ever longer to be forgiven
            record.ejections += 1
        record.until = self.ejected[key] = now + min(base * record.ejections, longest)
        record.streak = self._outlier.consecutive_failures - 1  # probation
        self._ejections_changed()
        return True

    def _ejections_changed(self) -> None:
        self.next_return = min(self.ejected.values(), default=math.inf)
        self.version += 1
