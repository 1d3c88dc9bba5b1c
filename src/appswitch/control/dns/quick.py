"""Answers as they were written, for who asks the same again. Pure: the time is told.

The key is everything of the packet but its id and the case of its name: whatever else makes an answer different is in
there. Resolvers that mix upper and lower case to recognize their answers (draft-vixie-dnsext-dns0x20) find theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from appswitch.control.dns.render import Rendered

Key = tuple[int, bool, bytes]  # app id, whether over TCP, the packet behind its id with its name in lower case

_HEADER = 12

MAX_ENTRIES = 8192
MAX_BYTES = 4096  # of one entry, key and all orders of its addresses: what is longer is asked for rarely


def key_of(app_id: int, tcp: bool, wire: bytes) -> tuple[Key, int]:
    """The key of a packet, and where its name ends: at the first zero after the header.

    No length of a label is a letter (RFC 1035 section 2.3.4), so nothing but letters changes in front of that; a zero
    within a label only makes two keys out of one.
    """
    end = wire.find(0, _HEADER)
    return (app_id, tcp, wire[2:_HEADER] + wire[_HEADER:end].lower() + wire[end:]), end


def addressed(wire: bytes, end: int, body: bytes) -> bytes:
    """A body of `Quick`, as the answer to ``wire``, whose name ends at ``end``: with its id, and its letters."""
    return wire[:2] + body[: _HEADER - 2] + wire[_HEADER:end] + body[end - 2 :]


class _Entry:
    __slots__ = ("age", "bodies", "born", "expires", "turn", "written")

    def __init__(self, written: Sequence[Rendered], born: float, expires: float) -> None:
        self.written = written
        self.born = born
        self.expires = expires
        self.age = 0
        self.turn = 0
        self.bodies = [one.body for one in written]

    def body(self, now: float) -> bytes:
        age = int(now - self.born)
        if age != self.age:
            self.age = age
            self.bodies = [one.aged(age) for one in self.written]
        bodies = self.bodies
        self.turn = turn = self.turn + 1
        return bodies[turn % len(bodies)] if len(bodies) > 1 else bodies[0]


class Quick:
    """Bounded; the oldest goes first. `version` changes when everything is forgotten."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self.version = 0
        self._entries: dict[Key, _Entry] = {}
        self._max = max_entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> bytes | None:
        """An answer without its id, as old as it is by now."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires:
            del self._entries[key]
            return None
        return entry.body(now)

    def put(self, key: Key, written: Sequence[Rendered], born: float, expires: float) -> None:
        """Keep what was written with TTLs as they were at ``born``.

        The question that is repeated in it has to be in the key as it is: a name can also be asked for by a pointer to
        zeros in the header.
        """
        question = written[0].body[_HEADER - 2 :].partition(b"\0")[0].lower()
        if not key[2].startswith(question + b"\0", _HEADER - 2):
            return
        if len(key[2]) + sum(len(one.body) for one in written) > MAX_BYTES:
            return
        if len(self._entries) >= self._max:
            self._entries.pop(next(iter(self._entries)))
        self._entries[key] = _Entry(written, born, expires)

    def clear(self) -> None:
        """Something has changed: nothing that was written may be said again."""
        self.version += 1
        self._entries.clear()
