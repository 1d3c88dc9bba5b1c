"""What one app has under way, whichever way it asked: bounded, and never the end of anything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import dns.rcode
import structlog

from appswitch.control.dns.asker import Asker
from appswitch.control.dns.query import failure
from appswitch.control.dns.resolver import Pending, Resolver

MAX_PENDING = 256  # questions of one app that wait for somebody
MAX_CONNECTIONS = 64  # of one app, RFC 7766 section 6.2.2

_log = structlog.get_logger(part="dns")


class Desk:
    """Takes an app's packets and hands answers back. `full`: it takes nothing more that has to wait."""

    def __init__(self, asker: Asker, resolver: Resolver) -> None:
        self.asker = asker
        self.connections = 0
        self._resolver = resolver
        self._tasks: set[asyncio.Task[None]] = set()
        self._when_free: list[Callable[[], None]] = []

    @property
    def full(self) -> bool:
        """As many questions wait as may."""
        return len(self._tasks) >= MAX_PENDING

    def take(self, wire: bytes, tcp: bool, reply: Callable[[bytes], None]) -> bool:
        """Answer at once or later, and return True; or not at all, and return False."""
        try:
            answer = self._resolver.answer(self.asker, wire, tcp)
        except Exception:
            # Whatever an app can send that was not thought of: it is this packet that fails.
            _log.exception("a query failed", appid=f"{self.asker.app_id:08x}")
            answer = failure(wire, dns.rcode.SERVFAIL)
        if isinstance(answer, bytes):
            reply(answer)
            return True
        if answer is None or self.full:
            return False
        task = asyncio.create_task(self._finish(answer, wire, reply))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return True

    def when_free(self, callback: Callable[[], None]) -> None:
        """Call it once, when an answer has gone out."""
        self._when_free.append(callback)

    def close(self) -> None:
        """The app has gone: nobody waits."""
        for task in self._tasks:
            task.cancel()
        self._when_free.clear()

    async def _finish(self, pending: Pending, wire: bytes, reply: Callable[[bytes], None]) -> None:
        try:
            answer = await self._resolver.finish(pending)
        except Exception:
            _log.exception("a query failed", appid=f"{self.asker.app_id:08x}")
            answer = failure(wire, dns.rcode.SERVFAIL)
        reply(answer)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        waiting, self._when_free = self._when_free, []
        for callback in waiting:
            callback()
