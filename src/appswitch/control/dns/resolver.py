"""From a packet to its answer. Most need nobody else and get it at once; the others say what they wait for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import dns.rcode

from appswitch.control.dns import permits
from appswitch.control.dns.answer import FAILED, Answer, addresses
from appswitch.control.dns.asker import Asker
from appswitch.control.dns.cache import Cache, Entry
from appswitch.control.dns.cache import Key as CacheKey
from appswitch.control.dns.forward import Forwarder
from appswitch.control.dns.query import Query, parse
from appswitch.control.dns.quick import Key, Quick, addressed, key_of
from appswitch.control.dns.render import render, turns
from appswitch.control.dns.zone import Zone


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that waits: for an upstream server (no entry yet), for the switch (rules), or for both."""

    asker: Asker
    query: Query
    key: Key
    version: int  # of what was written when it was asked
    rules: tuple[str, ...]
    entry: Entry | None


class Resolver:
    """All that answers. `changed` has to be called when the zone has changed."""

    def __init__(
        self, zone: Zone, cache: Cache, forwarder: Forwarder, permit: permits.Permit, clock: Callable[[], float]
    ) -> None:
        self._zone = zone
        self._cache = cache
        self._forwarder = forwarder
        self._permit = permit
        self._clock = clock
        self._quick = Quick()

    def changed(self) -> None:
        """Names or addresses of ours are others now. Services may be others without a word: nothing of them is kept."""
        self._quick.clear()

    def answer(self, asker: Asker, wire: bytes, tcp: bool) -> bytes | Pending | None:
        """The answer; or what `finish` makes it of; or None: silence."""
        key, end = key_of(asker.app_id, tcp, wire)
        body = self._quick.get(key, self._clock())
        if body is not None:
            return addressed(wire, end, body)
        query = parse(wire, tcp)
        if not isinstance(query, Query):
            return query
        if query.refused is not None:
            return self._write(query, Answer(query.refused))
        pending = Pending(
            asker, query, key, self._quick.version, asker.matching(query.labels), self._known(asker, query)
        )
        if pending.entry is None and not query.recursion:
            return self._write(query, Answer(dns.rcode.REFUSED))
        if pending.entry is None or pending.rules:
            return pending
        return self._keep(pending, pending.entry)

    async def finish(self, pending: Pending) -> bytes:
        """Ask whoever has to be asked. The app's permits come first, its answer second."""
        query = pending.query
        entry = pending.entry or await self._forwarder.ask(_cache_key(query))
        ips = addresses(query.name, query.rdtype, entry.answer.answer) if pending.rules else ()
        if not ips:
            return self._keep(pending, entry)
        ttl = entry.answer.ttl - (self._clock() - entry.born)
        granted = await permits.grant(self._permit, pending.asker.app_id, pending.rules, ips, ttl)
        return self._write(query, entry.answer if granted else FAILED, entry.born)

    def _known(self, asker: Asker, query: Query) -> Entry | None:
        now = self._clock()
        answer = self._zone.find(asker, query.name, query.rdtype)
        return Entry(answer, now) if answer is not None else self._cache.get(_cache_key(query), now)

    def _keep(self, pending: Pending, entry: Entry) -> bytes:
        """Write it, and remember that unless the next one has to ask again: for permits, or for something new."""
        query, answer = pending.query, entry.answer
        service = answer.authoritative and query.labels[0].startswith(b"_")  # listeners come and go at every moment
        if pending.rules or service or pending.version != self._quick.version or answer.ttl <= 0:
            return self._write(query, answer, entry.born)
        written, expires = turns(query, answer), entry.born + answer.ttl
        if answer.authoritative:  # what is ours does not grow old: it is true until it changes
            written, expires = tuple(one._replace(ttls=()) for one in written), math.inf
        self._quick.put(pending.key, written, entry.born, expires)
        return query.id + written[0].aged(int(self._clock() - entry.born))

    def _write(self, query: Query, answer: Answer, born: float | None = None) -> bytes:
        age = 0 if born is None else int(self._clock() - born)
        return query.id + render(query, answer).aged(age)


def _cache_key(query: Query) -> CacheKey:
    return CacheKey(query.name, query.rdtype, query.rdclass, query.dnssec, query.unchecked)
