"""One epoll, some timers. Whoever has something to wait for gives the loop a descriptor and a function."""

from __future__ import annotations

import errno
import heapq
import itertools
import mmap
import os
import select
import time
from collections.abc import Callable

from appswitch import _kernel
from appswitch._kernel import Fd, Reflex

OnEvents = Callable[[int], None]
OnNotification = Callable[[tuple[int, ...]], None]
_ADD, _DEL, _MOD = 1, 2, 3  # EPOLL_CTL_*
_TAGS = 8 * _kernel.NOTIFIER  # data of files that are watched without a descriptor of ours
SHORT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))  # of accept(2): it stays in the queue
PAUSE = 0.1  # seconds
BATCH = 16  # timers that fire before somebody else has a turn
LONGEST = 1e6  # seconds to a timer: epoll_wait(2) counts milliseconds in an int. It comes early then
CROWDED = 1024  # timers, among them cancelled ones, before those are looked for


class Timer:
    """A function to be called at a time; ``cancel`` forgets it."""

    __slots__ = ("at", "function")

    def __init__(self, at: float, function: Callable[[], None]) -> None:
        self.at = at
        self.function: Callable[[], None] | None = function

    def cancel(self) -> None:
        """The function will not be called."""
        self.function = None


class Loop:
    """Level-triggered, single-threaded. A callback may watch, unwatch and stop as it likes."""

    def __init__(self, reflex: Reflex, journal: mmap.mmap) -> None:
        self._journal = journal
        self.reflex = reflex  # what is answered without a decision
        self._epoll = select.epoll()
        self._watched: dict[int, OnEvents] = {}
        self._notified: dict[int, OnNotification] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._crowded = CROWDED
        self._order = itertools.count()
        self._running = False
        self.on_fault: Callable[[Exception], None] = _raise

    def watch(self, fd: Fd | int, events: int, function: OnEvents) -> None:
        """Call ``function`` with the events of ``fd`` until `unwatch`. Raises OSError as epoll_ctl(2)."""
        self._control(_ADD, fd, events, _number(fd))
        self._watched[_number(fd)] = function

    def watch_notifier(self, fd: Fd, tcp_only: bool, function: OnNotification, on_hang_up: OnEvents) -> None:
        """The same for a seccomp notification descriptor: ``function`` gets (fd, id, tid, nr, six arguments)."""
        kind = _kernel.NOTIFIER + (_kernel.TCP_ONLY if tcp_only else 0)
        self._control(_ADD, fd, select.EPOLLIN, _number(fd) + kind)
        self._notified[_number(fd)] = function
        self._watched[_number(fd)] = on_hang_up

    def watch_file(self, fd: Fd, events: int, tag: int, function: OnEvents) -> None:
        """The same for a file that is not ours to keep: ``fd`` may be closed at once.

        An epoll forgets a file when its last descriptor, anybody's, is closed; until then its events come under
        ``tag``, a number of the caller's that nothing else has. `untag` forgets the function.
        """
        self._control(_ADD, fd, events | select.EPOLLET, tag + _TAGS)
        self._watched[tag + _TAGS] = function

    def untag(self, tag: int) -> None:
        """Events of that file, if it still lives, are ignored from now on."""
        self._watched.pop(tag + _TAGS, None)

    def rearm(self, fd: Fd | int, events: int) -> None:
        """Change what is waited for."""
        self._control(_MOD, fd, events, _number(fd))

    def pause(self, fd: Fd | int) -> None:
        """Leave a listener alone for a moment from which accept(2) failed (`SHORT`): it is ready all the time."""
        number = _number(fd)
        function = self._watched[number]

        def resume() -> None:
            if self._watched.get(number) is function:
                self.rearm(number, select.EPOLLIN)

        self.rearm(number, 0)
        self.after(PAUSE, resume)

    def unwatch(self, fd: Fd | int) -> None:
        """Forget ``fd``; to be called before it is closed. Unknown ones are ignored."""
        number = _number(fd)
        self._notified.pop(number, None)
        if self._watched.pop(number, None) is not None:
            self._control(_DEL, number, 0, 0)

    def after(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Call ``function`` once, ``seconds`` from now."""
        if len(self._timers) >= self._crowded:  # of calls whose waits ended long before their time
            self._timers[:] = [one for one in self._timers if one[2].function is not None]
            heapq.heapify(self._timers)
            self._crowded = 2 * len(self._timers) + CROWDED
        # What is no number, too: it would stand in the way of all others.
        timer = Timer(time.monotonic() + (seconds if seconds < LONGEST else LONGEST), function)
        heapq.heappush(self._timers, (timer.at, next(self._order), timer))
        return timer

    def every(self, seconds: float, function: Callable[[], None]) -> None:
        """Call ``function`` again and again."""

        def again() -> None:
            self.after(seconds, again)
            function()

        self.after(seconds, again)

    def let_go(self, number: int) -> None:
        """Forget a connection that `Reflex` holds, by its number: it waits for its first bytes no more."""
        self._control(_DEL, number, 0, 0)

    def look_no_more(self, number: int) -> None:
        """The same while it is still held: its time will come."""
        self._control(_MOD, number, 0, number + _kernel.HELD)

    def stop(self) -> None:
        """Return from `run` after this round."""
        self._running = False

    def run(self) -> None:
        """Until `stop`."""
        self._running = True
        wait, epoll, watched, notified = _kernel.wait, self._epoll.fileno(), self._watched, self._notified
        monotonic, heappop, timers = time.monotonic, heapq.heappop, self._timers
        journal, reflex = self._journal, self.reflex
        while self._running:
            try:
                patience = -1
                while timers and timers[0][2].function is None:  # cancelled: nothing to wake up for
                    heappop(timers)
                if timers:
                    left = timers[0][0] - monotonic()
                    # After it a look at events all the same: a timer may lead to another one that is due.
                    if left <= 0 and not self._fire():
                        break
                    patience = int(left * 1000) + 1 if left > 0 else 0
                event = wait(epoll, patience, journal, reflex)
                if event is None:
                    continue
                # Looked up each time: what an earlier event led to may have unwatched it.
                first = event[0]
                if first.__class__ is not int:
                    first(*event[1:])
                elif len(event) > 2:
                    notified[first](event)
                elif first in watched:
                    watched[first](event[1])
            except Exception as problem:
                self.on_fault(problem)

    def close(self) -> None:
        """Give the epoll back."""
        self._epoll.close()

    def _control(self, operation: int, fd: Fd | int, events: int, data: int) -> None:
        error = _kernel.epoll_watch(self._epoll.fileno(), operation, fd, events, data)
        if error:
            raise OSError(error, os.strerror(error))

    def _fire(self) -> bool:
        """Some of what is due. Whether to go on."""
        now = time.monotonic()
        for _ in range(BATCH):
            if not self._timers or self._timers[0][0] > now:
                break
            function = heapq.heappop(self._timers)[2].function
            if function is not None:
                function()
        return self._running


def _raise(problem: Exception) -> None:
    raise problem


def _number(fd: Fd | int) -> int:
    return fd if isinstance(fd, int) else fd.fileno()
