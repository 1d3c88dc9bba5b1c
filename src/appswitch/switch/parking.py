"""Calls that wait: in the loop, not in a thread."""

from __future__ import annotations

import errno
import itertools
import select
from collections.abc import Callable

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.switch.apps import App
from appswitch.switch.call import LATER, Call, Failed, Outcome, Vanished
from appswitch.switch.descriptors import Reserve, share
from appswitch.switch.journal import Journal
from appswitch.switch.loop import Loop, Timer

PER_APP = 4096  # calls of one app; more fail with ENOBUFS, as where memory is short: accept(2), connect(2)
SWEPT = 64  # calls a look
SWEEP = 0.25  # seconds between looks for callers that a signal took away
Attempt = Callable[[], Outcome | None]  # None: not yet


class Parked(_kernel.Parked):
    """One waiting call. It leaves its ``queue`` when its wait ends, however it ends.

    What `_kernel.wait` works with, too, is in `_kernel.Parked`. ``done``: it was answered there, and waits no longer;
    the entry stays for the next call of its thread, which will mostly be the same.
    """

    __slots__ = ("attempt", "queue", "timer", "watched")

    call: Call

    def __init__(self, call: Call, fd: Fd, service: object = None, flags: int = 0) -> None:
        super().__init__(call, fd, service, flags)
        self.attempt: Attempt = _nothing
        self.timer: Timer | None = None
        self.watched = False
        self.queue: Queue | None = None


Queue = dict[Parked, None]  # calls that wait for the same thing, the longest waiting first


class Parking:
    """All waiting calls, by the thread that makes them.

    A thread makes one at a time, so a new call ends the old one's wait.
    """

    def __init__(self, loop: Loop, journal: Journal) -> None:
        self._loop = loop
        self.journal = journal
        self.by_tid: dict[int, Parked] = loop.reflex.parked
        self._by_app: dict[int, dict[int, Parked]] = {}  # by app id and tid
        self.on_fault: Callable[[Call, Exception], Outcome] = _raise
        self._reserve = Reserve()
        self._per_app = share(PER_APP, 4)
        loop.every(SWEEP, self._sweep)

    def __len__(self) -> int:
        return sum(not parked.done for parked in self.by_tid.values())

    def park(
        self,
        call: Call,
        fd: Fd,
        events: int,
        attempt: Attempt,
        timeout: float | None,
        on_timeout: Outcome | Callable[[], Outcome],
    ) -> Parked:
        """Try ``attempt`` whenever ``fd`` has one of ``events``; answer ``on_timeout`` after ``timeout`` seconds.

        Without ``events`` somebody else calls `retry`; ``fd`` is then only held. Raises Failed(ENOBUFS): too many wait.
        """
        parked = Parked(call, fd)
        parked.attempt = attempt
        self._add(parked)
        if events:
            parked.watched = True
            self._loop.watch(fd, events | select.EPOLLHUP | select.EPOLLERR, lambda _events: self.retry(parked))
        if timeout is not None:
            parked.timer = self._loop.after(timeout, lambda: self._time_out(parked, on_timeout))
        return parked

    def park_for(
        self, service: object, call: Call, fd: Fd, flags: int, take: Callable[[Parked], Outcome | None]
    ) -> Parked:
        """The same for a connection of a service, without an end: ``take`` is asked for it. Raises Failed(ENOBUFS)."""
        parked = Parked(call, fd, service, flags)
        parked.attempt = lambda: take(parked)
        self._add(parked)
        return parked

    def _add(self, parked: Parked) -> None:
        call = parked.call
        self.leave(call.tid)
        if self._reserve.touched(parked.fd) or len(self._by_app.get(call.app.id, ())) >= self._per_app:
            raise Failed(errno.ENOBUFS)
        self.by_tid[call.tid] = parked
        self._by_app.setdefault(call.app.id, {})[call.tid] = parked
        parked.slot = self.journal.enter(call.notification)

    def then(self, call: Call, more: Callable[[], Outcome]) -> None:
        """When the parked call's wait ends well (with 0), its reply is what ``more`` returns."""
        parked = self.by_tid[call.tid]
        first = parked.attempt

        def attempt() -> Outcome | None:
            outcome = first()
            return more() if outcome == 0 else outcome

        parked.attempt = attempt

    def retry(self, parked: Parked) -> None:
        """Something happened that may let it go on."""
        if not self.holds(parked):
            return
        try:
            outcome = parked.attempt()
        except Failed as failed:
            outcome = -failed.error
        except Vanished:
            self.drop(parked)
            return
        except Exception as problem:  # as for a call that does not wait: it fails, and everything else goes on
            outcome = self.on_fault(parked.call, problem)
        if outcome is not None:
            self._finish(parked, outcome)

    def holds(self, parked: Parked) -> bool:
        """Whether the call is still parked, as far as is known here."""
        return self.by_tid.get(parked.call.tid) is parked and not parked.done

    def waits(self, parked: Parked) -> bool:
        """Whether the call is still parked and its caller still there; one that isn't is dropped."""
        if self.by_tid.get(parked.call.tid) is not parked:
            return False
        if not parked.done and parked.call.valid():
            return True
        self.drop(parked)
        return False

    def enqueue(self, parked: Parked, queue: Queue) -> None:
        """It waits for the same thing as others."""
        parked.queue = queue
        queue[parked] = None

    def drop(self, parked: Parked) -> None:
        """Forget it without an answer. Its duplicate is closed."""
        if self.by_tid.get(parked.call.tid) is parked:
            del self.by_tid[parked.call.tid]
            mine = self._by_app[parked.call.app.id]
            del mine[parked.call.tid]
            if not mine:
                del self._by_app[parked.call.app.id]
            self.journal.leave(parked.slot)
            if parked.queue is not None:
                parked.queue.pop(parked, None)
            if parked.watched:
                self._loop.unwatch(parked.fd)
            parked.fd.close()
            if parked.timer is not None:
                parked.timer.cancel()

    def leave(self, tid: int) -> None:
        """The thread ended, or makes another call: whatever it waited for, it does no longer."""
        parked = self.by_tid.get(tid)
        if parked is not None:
            self.drop(parked)

    def forget(self, app: App) -> None:
        """The app ended."""
        for parked in list(self._by_app.get(app.id, {}).values()):
            self.drop(parked)

    def _time_out(self, parked: Parked, outcome: Outcome | Callable[[], Outcome]) -> None:
        if self.holds(parked):
            self._finish(parked, outcome() if callable(outcome) else outcome)

    def _finish(self, parked: Parked, outcome: Outcome) -> None:
        if self.by_tid.get(parked.call.tid) is parked:
            self.drop(parked)
            if outcome != LATER:
                parked.call.answer(outcome)

    def _sweep(self) -> None:
        """Some at a time, those that were looked at longest ago: each look costs, and there may be thousands."""
        for tid, parked in list(itertools.islice(self.by_tid.items(), SWEPT)):
            if self.waits(parked):
                self.by_tid[tid] = self.by_tid.pop(tid)


def _nothing() -> Outcome | None:
    return None


def _raise(_call: Call, problem: Exception) -> Outcome:
    raise problem
