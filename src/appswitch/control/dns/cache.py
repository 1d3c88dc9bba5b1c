"""Answers of upstream servers, for as long as their TTLs say (RFC 1035 section 7.4, RFC 2308 section 5). Pure."""

from __future__ import annotations

from typing import NamedTuple

import dns.name
import dns.rdataclass
import dns.rdatatype

from appswitch.control.dns.answer import Answer

MAX_ENTRIES = 10_000


class Key(NamedTuple):
    """What makes two questions the same. Names compare without case."""

    name: dns.name.Name
    rdtype: dns.rdatatype.RdataType
    rdclass: dns.rdataclass.RdataClass
    dnssec: bool  # DO: signatures are in the answer
    unchecked: bool  # CD: it may be one that a validating server would have refused


class Entry(NamedTuple):
    """``born`` is when it came; TTLs are as they were then."""

    answer: Answer
    born: float


class Cache:
    """Bounded; what was not asked for the longest goes first."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._entries: dict[Key, Entry] = {}
        self._max = max_entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> Entry | None:
        """What is known and not too old."""
        entry = self._entries.pop(key, None)
        if entry is None or now >= entry.born + entry.answer.ttl:
            return None
        self._entries[key] = entry  # now the last one
        return entry

    def put(self, key: Key, answer: Answer, now: float) -> None:
        """Keep it, if it may be kept at all."""
        if answer.ttl <= 0:
            return
        self._entries.pop(key, None)
        if len(self._entries) >= self._max:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = Entry(answer, now)
