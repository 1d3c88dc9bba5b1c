"""Connections that are held until their first bytes have said what they are about. Nothing is consumed: MSG_PEEK."""

from __future__ import annotations

import errno
import select
from collections.abc import Callable

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.resources import Peek
from appswitch.routing import l7
from appswitch.routing.l7 import UNKNOWN, Peeked
from appswitch.switch.descriptors import share
from appswitch.switch.loop import Loop, Timer

LOOKS = 64  # at one connection: who sends byte by byte is decided when the time is over
LIMIT = 8192  # connections that are held at a time; more are decided by what is known without their first bytes
STRANGERS = LIMIT // 2  # of them, from outside: apps are not to be judged blindly because the world says nothing
_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLET

Done = Callable[[Fd, Peeked], None]


class Peeking:
    """All of them. Each ends with one call of its ``done``, which then owns the descriptor."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._held: dict[int, tuple[Fd, Timer]] = {}  # by descriptor number
        self._strangers = 0
        self._most = share(LIMIT, 4)  # where descriptors are few
        self.seen = 0  # connections that were held so far

    def __len__(self) -> int:
        return len(self._held) + len(self._loop.reflex.held)

    def held(self, taken: tuple[int, ...]) -> None:
        """So many more were held, by `_kernel.Reflex`."""
        self.seen += sum(taken)

    def start(self, fd: Fd, peek: Peek, done: Done, *, stranger: bool = False) -> None:
        """Hold a connected socket for at most ``peek.milliseconds``. ``stranger``: who connects is no app."""
        number = fd.fileno()
        if len(self) >= min(LIMIT, self._most) or (stranger and self._strangers >= min(STRANGERS, self._most // 2)):
            done(fd, UNKNOWN)
            return
        self.seen += 1
        self._strangers += stranger

        def end(peeked: Peeked) -> None:
            _, timer = self._held.pop(number)
            timer.cancel()
            self._strangers -= stranger
            self._loop.unwatch(number)
            done(fd, peeked)

        looks = 0

        def on_events(_events: int) -> None:
            nonlocal looks
            looks += 1
            peeked = look(fd, peek.bytes)
            if peeked is not None:
                end(peeked)
            elif looks == LOOKS:
                self._loop.rearm(number, 0)

        def give_up() -> None:
            if number in self._held and self._held[number][0] is fd:
                end(look(fd, peek.bytes, final=True) or UNKNOWN)

        timer = self._loop.after(peek.milliseconds / 1000, give_up)
        self._held[number] = fd, timer
        self._loop.watch(number, _EVENTS, on_events)  # what is there already is an event, too


def look(fd: Fd, limit: int, *, final: bool = False) -> Peeked | None:
    """None: more may come."""
    return examine(fd, _kernel.peek(fd, limit), limit, final=final)


def examine(fd: Fd, data: bytes | int, limit: int, *, final: bool = False) -> Peeked | None:
    """The same of what was peeked already: bytes, or a negative errno."""
    if isinstance(data, int):
        return UNKNOWN if data != -errno.EAGAIN else l7.peek(b"", final=True) if final else None
    request = _kernel.http_request(data)
    if request is not None:
        return Peeked("http", request)
    ended = not data or len(data) >= limit or _kernel.is_shut(fd)
    return l7.peek(data, final=final or ended)
