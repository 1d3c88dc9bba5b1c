"""From a notification to its handler, and the one reply."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from appswitch.switch import accept, bind, connect, names, options, send
from appswitch.switch.apps import App
from appswitch.switch.call import CONTINUE, LATER, Call, Failed, Outcome, Vanished
from appswitch.switch.syscalls import TABLE

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

Handler = Callable[["Switch", Call], Outcome]

HANDLERS: dict[str, Handler] = {
    "socket": names.socket,
    "bind": bind.bind,
    "listen": bind.listen,
    "connect": connect.connect,
    "accept": accept.accept,
    "accept4": accept.accept4,
    "getsockname": names.getsockname,
    "getpeername": names.getpeername,
    "getsockopt": options.getsockopt,
    "setsockopt": options.setsockopt,
    "ioctl": options.ioctl,
    "sendto": send.sendto,
    "sendmsg": send.sendmsg,
    "sendmmsg": send.sendmmsg,
    "epoll_create": send.epoll_create,
}


# What connect(2) says of a socket that an earlier switch has connected, or begun to connect, for the same call.
_AGAIN: dict[Outcome, Outcome] = {-errno.EISCONN: 0, -errno.EALREADY: -errno.EINPROGRESS}


class Dispatch:
    """Receives notifications. ``counts`` and ``nanoseconds`` are by system call name, for `bench/` and metrics."""

    def __init__(self, switch: Switch, arch: str, timing: bool) -> None:
        self._switch = switch
        self.timing = timing
        self._by_number = {
            number: (row.name, HANDLERS[row.handler])
            for row in TABLE
            if row.handler and (number := row.number(arch)) is not None
        }
        self.counts: dict[str, int] = {row.name: 0 for row in TABLE if row.handler}
        self.nanoseconds: dict[str, int] = dict(self.counts)

    def server_for(self, app: App, again: bool = False) -> Callable[[tuple[int, ...]], None]:
        """What the loop calls with each notification of an app: one call, one reply.

        ``again``: an earlier switch may have carried the call out, and died before it could say so.
        """
        switch, by_number, counts, pidfds, parking = (
            self._switch, self._by_number, self.counts, self._switch.pidfds, self._switch.parking,
        )  # fmt: skip

        def serve(notification: tuple[int, ...]) -> None:
            call = Call(app, pidfds, notification)
            call.again = again
            if call.tid in parking.by_tid:
                parking.leave(call.tid)
            row = by_number.get(notification[3])
            if row is None:  # a filter that is not ours: nothing that we decide
                call.answer(CONTINUE)
                return
            name, handler = row
            counts[name] += 1
            try:
                outcome = handler(switch, call)
            except Failed as failed:
                outcome = -failed.error
            except Vanished:
                return
            except Exception as problem:
                outcome = switch.fault(name, app, problem)
            if again:
                outcome = _AGAIN.get(outcome, outcome)
            if outcome != LATER:
                call.answer(outcome)

        return self._timed(serve) if self.timing else serve

    def _timed(self, serve: Callable[[tuple[int, ...]], None]) -> Callable[[tuple[int, ...]], None]:
        """The same with a look at the clock.

        Only where somebody asked for it (AX_TIMING=1), it costs as much as it tells.
        """
        clock = time.thread_time_ns

        def timed(notification: tuple[int, ...]) -> None:
            began = clock()
            serve(notification)
            row = self._by_number.get(notification[3])
            if row is not None:
                self.nanoseconds[row[0]] += clock() - began

        return timed
