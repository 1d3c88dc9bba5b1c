"""close(2) is not reported: which sockets are still there is asked of the kernel.

Of one of them at a time where a call depends on it, whatever the number of the others; of all of them from timers, some
at a time, so that no call waits for that, and so seldom that it takes a tenth of the time at most.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel.sockaddr import AF_INET, AF_INET6, AF_UNIX
from appswitch.switch import bind
from appswitch.switch.loop import Loop, Timer
from appswitch.switch.pace import Pace
from appswitch.switch.services import Service
from appswitch.switch.sockets import LISTENING, Socket

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

EVERY = 0.5  # seconds between looks for listening sockets that were closed
SLICE, APART = 256, 0.005  # how many are forgotten in one go; seconds until the next ones are
LISTENERS = 64  # that are looked at in one go: each is a system call
SOON = 0.05  # seconds after the end of an app in which others may end: one look will do for all
LATEST = 2.0  # seconds after which it begins however long the last one took: control waits for 5
ASKED = 5  # times as soon for who has asked
LOOKS = 3  # sock_diag may leave a socket out of a list while others come and go, but hardly three times
MIN_GROWTH = 2000  # sockets made since the last sweep before another one is worth its time
ALL_STATES, TIME_WAIT_STATE = 0xFFF, 1 << 6
FAMILIES = (AF_UNIX, AF_INET, AF_INET6)
_DGRAM, _NONBLOCK = 2, 0o4000
_GONE = (errno.ECONNREFUSED, errno.ENOENT)


class Sweep:
    """Forgets what has gone."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._probe = _kernel.socket(AF_UNIX, _DGRAM | _NONBLOCK, 0)
        self._at = MIN_GROWTH  # how many sockets there have to be until they are looked at
        self._pace = Pace(SOON)
        self._timer: Timer | None = None  # of the next look at all sockets
        self._look: _Look | None = None
        self._waiting: list[Callable[[], None]] = []
        self._passes = Pace(0.0)  # the timer's own pace is enough where there are few
        self._pass: Iterator[Service] | None = None

    # -- one at a time

    def alive(self, service: Service) -> bool:
        """Whether its socket is still there; a service without one is closed."""
        if service.id in self._switch.services.by_id and not self._listens(service):
            self._switch.close_service(service)
        return service.id in self._switch.services.by_id

    def _listens(self, service: Service) -> bool:
        """By a connect(2) that cannot succeed: a socket of another type is told whether there is one at the path.

        EPROTOTYPE says so, ECONNREFUSED that there is none: unix(7), unix_find_bsd(). It is found by its inode, and
        not in a list.
        """
        return _kernel.connect_unix(self._probe, b"", service.name) not in _GONE

    def holds(self, sock: Socket) -> bool:
        """Whether a socket that has bound a port still does; one that has gone is forgotten."""
        service = self._switch.services.by_id.get(sock.service) if sock.phase == LISTENING else None
        if service is not None:
            there = self.alive(service)
        elif sock.unix:
            there = _kernel.is_listed(sock.inode, sock.cookie)
        else:
            there = _kernel.is_connected(sock.cookie, sock.own, sock.actual)
        if not there:
            if sock.unix:  # TCP that is connected no longer may be open all the same
                self._switch.sockets.forget(sock.cookie)
            bind.release(sock)
        return there

    # -- all listeners

    def regularly(self) -> None:
        """From the loop's timer."""
        known = self._switch.sockets
        if len(known.by_cookie) > self._at:
            self.soon()
        if self._pass is None and self._passes.due():
            with self._passes.timed():
                self._pass = iter(list(self._switch.services.by_id.values()))
                self._look_at_some()

    def _look_at_some(self) -> None:
        """Some; the others in a moment, so that nobody waits for the end of a long list."""
        assert self._pass is not None
        some = list(islice(self._pass, LISTENERS))
        for service in some:
            self.alive(service)
        if len(some) < LISTENERS:
            self._pass = None
        else:
            self._switch.loop.after(APART, self._look_at_more)

    def _look_at_more(self) -> None:
        with self._passes.continued():
            self._look_at_some()

    # -- all sockets

    def soon(self) -> None:
        """Something has ended that may have had sockets."""
        self._within(max(SOON, min(self._pace.left(), LATEST)))

    def then(self, function: Callable[[], None]) -> None:
        """Call it when those that are gone now are forgotten."""
        self._waiting.append(function)
        self._within(min(self._pace.left() / ASKED, LATEST))

    def _within(self, seconds: float) -> None:
        if self._timer is not None:
            if self._timer.at <= time.monotonic() + seconds:
                return
            self._timer.cancel()
        self._timer = self._switch.loop.after(seconds, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._look is not None:  # that began before somebody asked for another one
            self._within(APART)
            return
        waiting, self._waiting = self._waiting, []
        known = self._switch.sockets
        with self._pace.timed():
            cookies = known.by_cookie.keys() | known.born.keys() | known.noted.keys()
            families = FAMILIES if any(not sock.unix for sock in known.by_cookie.values()) else FAMILIES[:1]
            self._look = _Look(self._switch.loop, self._pace, cookies, families)
            self._look.begin(lambda gone: self._forget_some(gone, waiting))

    def _forget_some(self, gone: list[int], waiting: list[Callable[[], None]]) -> None:
        known = self._switch.sockets
        with self._pace.continued():
            for cookie in gone[-SLICE:]:
                sock = known.forget(cookie)
                if sock is not None:
                    bind.release(sock)
        del gone[-SLICE:]
        if gone:
            self._switch.loop.after(APART, lambda: self._forget_some(gone, waiting))
            return
        self._look = None
        self._at = 2 * len(known.by_cookie) + MIN_GROWTH
        for service in list(self._switch.services.by_id.values()) if waiting else ():
            self.alive(service)
        for function in waiting:
            function()


class _Look:
    """Finds out which of some sockets the kernel lists no longer. Its list is read piece by piece."""

    def __init__(self, loop: Loop, pace: Pace, cookies: set[int], families: Sequence[int]) -> None:
        """``families``: that they may be of. For TCP the kernel goes through all of its table, which takes ms."""
        self._loop = loop
        self._pace = pace
        self._missing = cookies
        self._left = [family for _ in range(LOOKS) for family in families]
        self._list: Fd | None = None
        self._done: Callable[[list[int]], None] = lambda _gone: None

    def begin(self, done: Callable[[list[int]], None]) -> None:
        """``done`` gets those that have gone."""
        self._done = done
        self._next()

    def _next(self) -> None:
        if not self._left or not self._missing:
            self._done(list(self._missing))
            return
        states = ALL_STATES if self._left[0] == AF_UNIX else ALL_STATES & ~TIME_WAIT_STATE
        try:
            self._list = _kernel.list_begin(self._left[0], states)
        except OSError:  # no descriptors are left: nothing is known to have gone
            self._done([])
            return
        del self._left[0]
        self._loop.watch(self._list, select.EPOLLIN, lambda _events: self._more())

    def _more(self) -> None:
        assert self._list is not None
        with self._pace.continued():
            try:
                cookies = _kernel.list_more(self._list)
            except OSError:
                self._left, self._missing, cookies = [], set(), None
            if cookies is not None:
                self._missing.difference_update(cookies)
        if cookies is None or not self._missing:
            self._loop.unwatch(self._list)
            self._list.close()
            self._list = None
            self._next()
