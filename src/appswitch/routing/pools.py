"""Who of the candidates may be chosen at all: weight, limits, health, priority and locality; before any algorithm."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import NamedTuple

from appswitch.routing.health import Record


class Candidate(NamedTuple):
    """A backend that a connection may go to."""

    key: Hashable  # its identity: numbers, bytes, text and tuples of them; best one that survives a restart
    weight: int  # 0: gets nothing
    priority: int  # the lowest number is used first
    locality: str
    index: int  # type: ignore[assignment]  # the caller's; that it hides tuple.index harms nobody


class NoRoom(NamedTuple):
    """Every backend that is left is at its limits."""


NO_ROOM = NoRoom()


class Pool:
    """Backends as good as each other: of one priority and, where the client's has any, of one locality."""

    __slots__ = ("members", "memo", "once", "records", "usable")

    def __init__(self, members: tuple[Candidate, ...], usable: tuple[Candidate, ...], records: list[Record]) -> None:
        self.members = members  # whether they are usable or not: consistent hashing passes over the others
        self.usable = usable
        self.records = records  # of the usable ones, in their order
        self.memo: object = None  # what the algorithm makes of it
        self.once = False  # it is for one choice: nothing that takes long is made of it

    def without(self, exclude: Collection[Hashable]) -> Pool | None:
        """The pool but for these; None if nobody is left."""
        kept = [at for at, candidate in enumerate(self.usable) if candidate.key not in exclude]
        if not kept:
            return None
        return Pool(self.members, tuple(self.usable[at] for at in kept), [self.records[at] for at in kept])


def pool_of(
    candidates: tuple[Candidate, ...],
    records: Mapping[Hashable, Record],
    ejected: Collection[Hashable],
    full: Collection[Hashable],
    locality: str = "",
) -> Pool | NoRoom | None:
    """The best of them. None: there are none with a weight; `NO_ROOM`: all of those are full.

    Where all that have room are ejected, all are used (Envoy's panic mode): rather an attempt than a refusal.
    """
    weighty = [candidate for candidate in candidates if candidate.weight > 0]
    if not weighty:
        return None
    room = [candidate for candidate in weighty if candidate.key not in full] if full else weighty
    if not room:
        return NO_ROOM
    usable = ([candidate for candidate in room if candidate.key not in ejected] if ejected else room) or room
    level = min(candidate.priority for candidate in usable)
    usable = [candidate for candidate in usable if candidate.priority == level]
    members = [candidate for candidate in weighty if candidate.priority == level]
    if locality and any(candidate.locality == locality for candidate in usable):
        usable = [candidate for candidate in usable if candidate.locality == locality]
        members = [candidate for candidate in members if candidate.locality == locality]
    return Pool(tuple(members), tuple(usable), [records[candidate.key] for candidate in usable])
