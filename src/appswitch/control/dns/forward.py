"""Names that are not ours: which server is asked, how often, and once for all who want to know the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import dns.exception
import dns.rcode
import structlog

from appswitch.control.dns.answer import FAILED, Answer, from_upstream
from appswitch.control.dns.cache import Cache, Entry, Key
from appswitch.control.dns.upstream import Server, Servers, exchange

TIMEOUT = 1.5  # seconds that one server has
ROUNDS = 2  # over all servers; a client that waits for 5 s, as resolv.conf(5) has it, gets its answer
DOWN = 30.0  # seconds that a server that has not answered is asked last
MAX_QUESTIONS = 1024  # at a time

_FAILURES = (OSError, EOFError, ValueError, dns.exception.DNSException)
_USELESS = frozenset({dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR})

_log = structlog.get_logger(part="dns")


class Forwarder:
    """Asks ``servers``, and keeps what they say in ``cache``."""

    def __init__(
        self, servers: Servers, cache: Cache, clock: Callable[[], float], timeout: float = TIMEOUT, rounds: int = ROUNDS
    ) -> None:
        self._servers = servers
        self._cache = cache
        self._clock = clock
        self._timeout = timeout
        self._rounds = rounds
        self._asking: dict[Key, asyncio.Task[Entry]] = {}
        self._down: dict[Server, float] = {}  # until when

    async def ask(self, key: Key) -> Entry:
        """An answer, SERVFAIL if need be. Who asks while others wait for the same waits with them."""
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= MAX_QUESTIONS:
                return Entry(FAILED, self._clock())
            task = self._asking[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda _: self._asking.pop(key))
        return await asyncio.shield(task)  # who goes away does not take it from the others

    async def close(self) -> None:
        """Wait for no more answers."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, key: Key) -> Entry:
        refusal = FAILED
        for server in self._in_order() * self._rounds:
            try:
                async with asyncio.timeout(self._timeout):
                    answer = from_upstream(await exchange(server, key), key.dnssec)
            except _FAILURES as err:
                _log.debug("an upstream server failed", server=server[0], error=str(err) or type(err).__name__)
                self._down[server] = self._clock() + DOWN
                continue
            self._down.pop(server, None)
            if answer.rcode in _USELESS:
                refusal = Answer(answer.rcode)
                continue
            now = self._clock()
            self._cache.put(key, answer, now)
            return Entry(answer, now)
        return Entry(refusal, self._clock())

    def _in_order(self) -> tuple[Server, ...]:
        """As configured, but first those that were not found silent just now."""
        now, servers = self._clock(), self._servers()
        self._down = {server: until for server, until in self._down.items() if until > now and server in servers}
        return tuple(sorted(servers, key=lambda server: server in self._down))
