"""Which backend gets a connection: the state of one service port or L7 route. See docs/balancing.md.

Pure: the time and the dice are arguments. A choice goes down a ladder: priority, then the client's locality, then the
algorithm, among backends that have a weight, have room and are not ejected. What the ladder gives is kept for each
tuple of candidates until somebody's health or room changes, so the usual choice costs the algorithm alone.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable

from appswitch.resources import LbType, Limits, Outlier
from appswitch.routing.health import Health, Row
from appswitch.routing.picking import PICKERS, Draw, Plan
from appswitch.routing.pools import NO_ROOM, Candidate, NoRoom, Pool, pool_of

__all__ = ["NO_ROOM", "Balancer", "Candidate", "Draw", "NoRoom", "Plan", "Row"]

VIEWS = 32  # tuples of candidates that are kept: clients with other labels see other backends


class _View:
    """A tuple of candidates, by identity, and what the ladder made of it for each locality."""

    __slots__ = ("candidates", "localities", "pools")

    def __init__(self, candidates: tuple[Candidate, ...]) -> None:
        self.candidates = candidates  # held, so that its id() is nobody else's
        self.localities = frozenset(candidate.locality for candidate in candidates)
        self.pools: dict[str, Pool | NoRoom | None] = {}


class Balancer:
    """Chooses, and is told what became of it. Everything it keeps is bounded, whatever comes and goes.

    For each connection: `choose`, `started`, then one of `established`, `failed`, `cancelled`; after `established`,
    `ended`. After `failed`, choose again with that backend excluded.
    """

    __slots__ = ("_health", "_lbtype", "_picker", "_seen", "_views")

    def __init__(self, lbtype: LbType, outlier: Outlier, limits: Limits) -> None:
        self._health = Health(outlier, limits)
        self._lbtype: LbType = lbtype
        self._picker = PICKERS[lbtype]()
        self._views: dict[int, _View] = {}
        self._seen = 0  # version of the health that the views are of

    def reconfigure(self, lbtype: LbType, outlier: Outlier, limits: Limits) -> None:
        """From now on; counts, ejections and whose turn it is are kept."""
        if lbtype != self._lbtype:
            self._lbtype = lbtype
            self._picker = PICKERS[lbtype]()
        self._health.reconfigure(outlier, limits)

    def choose(
        self,
        candidates: tuple[Candidate, ...],
        *,
        now: float,
        draw: Draw,
        key: bytes = b"",
        locality: str = "",
        exclude: Collection[Hashable] = (),
    ) -> Candidate | NoRoom | None:
        """One of ``candidates``; pass the same tuple as long as they are the same.

        ``draw(n)`` gives one of 0..n-1. ``key`` is what RingHash and Maglev hash; without it they draw. ``exclude``:
        backends on which this very connection has failed already. None: there is no backend, or none that was not
        excluded; `NO_ROOM`: all that are left are at their limits.
        """
        if now >= self._health.next_return:
            self._health.expire(now)
        pool = self._pool(candidates, locality)
        if not isinstance(pool, Pool):
            return pool if not exclude else self._last_resort(candidates, draw, key, locality, exclude)
        chosen = self._picker.pick(pool, draw, key, exclude)
        if chosen is None:
            return self._last_resort(candidates, draw, key, locality, exclude)
        return chosen

    def plan(
        self, candidates: tuple[Candidate, ...], *, now: float, key: bytes = b"", locality: str = ""
    ) -> Plan | None:
        """What `choose` will say of the same tuple until a backend fails; None: it has to be asked each time."""
        if now >= self._health.next_return:
            self._health.expire(now)
        pool = self._pool(candidates, locality)
        if self._health.ejected or self._health.limited or not isinstance(pool, Pool):
            return None
        return Plan(pool.usable) if len(pool.usable) == 1 else self._picker.plan(pool, key)

    def started(self, key: Hashable) -> None:
        """A connection to this backend is being made: it is pending."""
        self._health.started(key)

    def established(self, key: Hashable) -> None:
        """It was accepted: it is active, and a success."""
        self._health.established(key)

    def made(self, key: Hashable, number: int) -> None:
        """So many connections to this backend were made, one as good as the other."""
        self._health.made(key, number)

    def failed(self, key: Hashable, now: float) -> bool:
        """It was refused or timed out. Whether the backend has been ejected just now."""
        return self._health.failed(key, now)

    def cancelled(self, key: Hashable) -> None:
        """The client gave it up while it was pending; says nothing of the backend."""
        self._health.cancelled(key)

    def succeeded(self, key: Hashable) -> None:
        """The backend works, whatever the counts: failures in a row begin anew, an ejection ends."""
        self._health.succeeded(key)

    def ended(self, key: Hashable) -> None:
        """An established connection is over."""
        self._health.ended(key)

    def set_active(self, key: Hashable, count: int, pending: int | None = None) -> None:
        """The counts as the kernel has them; ``pending`` None: as it was."""
        self._health.set_counts(key, count, pending)

    def active(self, key: Hashable) -> int:
        """Established connections of this backend."""
        record = self._health.records.get(key)
        return record.active if record else 0

    def pending(self, key: Hashable) -> int:
        """Connections of this backend that are being made."""
        record = self._health.records.get(key)
        return record.pending if record else 0

    def rows(self, now: float) -> list[Row]:
        """Every backend that is known, for display; also some that are candidates no longer."""
        return self._health.rows(now)

    def forget(self, keys: Iterable[Hashable]) -> None:
        """These will not come back. Who merely is no candidate any more need not be told: the oldest are dropped."""
        self._health.forget(keys)

    def _pool(self, candidates: tuple[Candidate, ...], locality: str) -> Pool | NoRoom | None:
        if self._seen != self._health.version:
            self._seen = self._health.version
            self._views.clear()
        view = self._views.get(id(candidates))
        if view is None:
            view = self._view(candidates)
        if locality and locality not in view.localities:
            locality = ""
        if locality not in view.pools:
            view.pools[locality] = self._ladder(candidates, locality)
        return view.pools[locality]

    def _view(self, candidates: tuple[Candidate, ...]) -> _View:
        self._health.offer([candidate.key for candidate in candidates])
        if len(self._views) >= VIEWS:
            del self._views[next(iter(self._views))]
        view = self._views[id(candidates)] = _View(candidates)
        return view

    def _ladder(self, candidates: tuple[Candidate, ...], locality: str) -> Pool | NoRoom | None:
        health = self._health
        return pool_of(candidates, health.records, health.ejected, health.full, locality)

    def _last_resort(
        self,
        candidates: tuple[Candidate, ...],
        draw: Draw,
        key: bytes,
        locality: str,
        exclude: Collection[Hashable],
    ) -> Candidate | NoRoom | None:
        """The ladder once more without the excluded: another locality, another priority, at last who is ejected."""
        rest = tuple(candidate for candidate in candidates if candidate.key not in exclude)
        pool = self._ladder(rest, locality)
        if not isinstance(pool, Pool):
            return pool
        pool.once = True  # a table for each of many that fail, one after the other, would be seconds
        return self._picker.pick(pool, draw, key, ())
