"""Consistent hashing: who gets a key, so that few keys move when backends come or go.

`Ring` is libketama's, `Maglev` that of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer"
(NSDI 2016, section 3.4), with weights. Both are made from the backends' identities alone, not from their order: every
switch that knows the same backends makes the same choice, and so does the next process.

The hash is BLAKE2b cut to 8 bytes: Python's own is another one in each process; CRC-32 and Adler-32 are linear, so
addresses that follow each other fall together, and 32 bits are few for a ring; and of what hashlib has, this is the
fastest on short input (below a microsecond). It is not keyed, for the sake of the above: whoever can choose the key
can choose the backend, as with any consistent hash.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Protocol

Members = tuple[tuple[Hashable, int], ...]  # identity and weight (> 0) of each backend, in any order

# Built in the switch's loop when backends change, hence small: some milliseconds. Envoy's default for Maglev is 65,537.
RING_POINTS = 16384  # of all together, where there are more than 128 of them
POINTS = 128  # of the heaviest, at most
# A prime. One for however many: a table of another size is another table, and all keys would move. Some hundred
# backends are served well (20 slots each of 400); of more than it has slots, the first in order.
SLOTS = 8191

_EIGHT = struct.Struct("<8Q")
_TWO = struct.Struct("<2Q")


def digest(data: bytes) -> int:
    """64 bits; the same in every process, on every machine."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def identity(key: Hashable) -> bytes:
    """What is hashed of a backend: its repr, so it has to consist of numbers, bytes, text and tuples of them."""
    return repr(key).encode()


class Table(Protocol):
    """Slots, each with its owner. Who is not to be had is passed over: its keys go to owners of the slots behind."""

    owners: list[Hashable]

    def slot(self, point: int) -> int:
        """Where a key with this digest belongs."""


class Ring:
    """A backend has points on a circle in proportion to its weight, and gets the keys before each of them."""

    __slots__ = ("_points", "owners")

    def __init__(self, members: Members) -> None:
        most = max(1, min(POINTS, RING_POINTS // len(members)))
        heaviest = max(weight for _, weight in members)
        owner: dict[int, Hashable] = {}
        for key, weight in members:
            # By the heaviest, not by the sum: the points of others stay where they are when one comes or goes. Where
            # there are so many that each has to give one up, it is its last.
            owner.update(dict.fromkeys(_points(key, max(1, round(most * weight / heaviest))), key))
        self._points = array("Q", sorted(owner))
        self.owners: list[Hashable] = [owner[point] for point in self._points]

    def slot(self, point: int) -> int:
        """The first point from here on, clockwise."""
        at = bisect_left(self._points, point)
        return at if at < len(self._points) else 0


class Maglev:
    """Each backend has a preference among all slots; they take turns in claiming one, as often as their weight says.

    Shares are exact to one slot, which a ring's are not; a few more keys move when backends change.
    """

    __slots__ = ("owners",)

    def __init__(self, members: Members) -> None:
        ordered = sorted(members, key=lambda member: identity(member[0]))
        at, skip = zip(*(_preference(key) for key, _ in ordered), strict=True)
        claimed = _claim(_turns(tuple(weight for _, weight in ordered)), list(at), skip)
        self.owners: list[Hashable] = [ordered[index][0] for index in claimed]

    def slot(self, point: int) -> int:
        """Every slot is as likely as any."""
        return point % len(self.owners)


def rendezvous(point: int, keys: Sequence[Hashable]) -> Hashable:
    """Who of these wants the key most: as stable as the others, without a table, in time proportional to ``keys``."""
    prefix = point.to_bytes(8, "little")
    return max(keys, key=lambda key: digest(prefix + identity(key)))


def _points(key: Hashable, count: int) -> list[int]:
    name = identity(key)
    points: list[int] = []
    for number in range(-(-count // 8)):
        points += _EIGHT.unpack(blake2b(name, salt=number.to_bytes(16, "little")).digest())
    return points[:count]


def _preference(key: Hashable) -> tuple[int, int]:
    """Where a backend begins and how far it steps; every slot is met because their number is prime."""
    offset, skip = _TWO.unpack(blake2b(identity(key), digest_size=16).digest())
    return offset % SLOTS, skip % (SLOTS - 1) + 1


def _turns(weights: tuple[int, ...]) -> list[int]:
    """Who claims when: as often as its share of the slots, spread evenly; who has a share below one, once."""
    count = len(weights)
    if len(set(weights)) == 1:
        return [turn % count for turn in range(SLOTS)]
    total = sum(weights)
    shares = [max(1, round(weight * SLOTS / total)) for weight in weights]
    due = sorted(((2 * turn + 1) / share, index) for index, share in enumerate(shares) for turn in range(share))
    turns = [index for _, index in due]
    heaviest = max(range(count), key=weights.__getitem__)
    return (turns + [heaviest] * (SLOTS - len(turns)))[:SLOTS]


def _claim(turns: list[int], at: list[int], skip: tuple[int, ...]) -> list[int]:
    owners = [-1] * SLOTS
    for index in turns:
        place, step = at[index], skip[index]
        while owners[place] >= 0:
            place += step
            if place >= SLOTS:
                place -= SLOTS
        owners[place] = index
        at[index] = place
    return owners
