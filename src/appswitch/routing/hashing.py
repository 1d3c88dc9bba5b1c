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
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Protocol

Members = tuple[tuple[Hashable, int], ...]  # identity and weight (> 0) of each backend, in any order

# Built in the switch's loop, so neither may be large: at most 16,384 points or slots, some milliseconds, where Envoy's
# default is 65,537. (How many backends, points of the heaviest.) From one step to the next most keys move.
RING_POINTS: tuple[tuple[int, int], ...] = ((128, 128), (1024, 16))
RING_POINTS_BEYOND = 4
# (How many backends, slots of the table), primes: at least 7 slots each. A table of another size is another table,
# hence few steps. Beyond 16,381 backends some get nothing.
MAGLEV_SLOTS: tuple[tuple[int, int], ...] = ((16, 2039), (1024, 8191))
MAGLEV_SLOTS_BEYOND = 16381

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
        most = _step(RING_POINTS, RING_POINTS_BEYOND, len(members))
        heaviest = max(weight for _, weight in members)
        owner: dict[int, Hashable] = {}
        for key, weight in members:
            # By the heaviest, not by the sum: the points of others stay where they are when one comes or goes.
            owner.update(dict.fromkeys(_points(key, max(1, round(most * weight / heaviest))), key))
        self._points = sorted(owner)
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
        size = _step(MAGLEV_SLOTS, MAGLEV_SLOTS_BEYOND, len(members))
        ordered = sorted(members, key=lambda member: identity(member[0]))
        at, skip = zip(*(_preference(key, size) for key, _ in ordered), strict=True)
        claimed = _claim(size, _turns(tuple(weight for _, weight in ordered), size), list(at), skip)
        self.owners: list[Hashable] = [ordered[index][0] for index in claimed]

    def slot(self, point: int) -> int:
        """Every slot is as likely as any."""
        return point % len(self.owners)


def rendezvous(point: int, keys: Sequence[Hashable]) -> Hashable:
    """Who of these wants the key most: as stable as the others, without a table, in time proportional to ``keys``."""
    prefix = point.to_bytes(8, "little")
    return max(keys, key=lambda key: digest(prefix + identity(key)))


def _step(steps: tuple[tuple[int, int], ...], beyond: int, count: int) -> int:
    return next((value for bound, value in steps if count <= bound), beyond)


def _points(key: Hashable, count: int) -> list[int]:
    name = identity(key)
    points: list[int] = []
    for number in range(-(-count // 8)):
        points += _EIGHT.unpack(blake2b(name, salt=number.to_bytes(16, "little")).digest())
    return points[:count]


def _preference(key: Hashable, size: int) -> tuple[int, int]:
    """Where a backend begins and how far it steps; every slot is met because ``size`` is prime."""
    offset, skip = _TWO.unpack(blake2b(identity(key), digest_size=16).digest())
    return offset % size, skip % (size - 1) + 1


def _turns(weights: tuple[int, ...], size: int) -> list[int]:
    """Who claims when: each as often as its share of ``size``, spread evenly; who has a share below one, once."""
    count = len(weights)
    if len(set(weights)) == 1:
        return [turn % count for turn in range(size)]
    total = sum(weights)
    shares = [max(1, round(weight * size / total)) for weight in weights]
    due = sorted(((2 * turn + 1) / share, index) for index, share in enumerate(shares) for turn in range(share))
    turns = [index for _, index in due]
    heaviest = max(range(count), key=weights.__getitem__)
    return (turns + [heaviest] * (size - len(turns)))[:size]


def _claim(size: int, turns: list[int], at: list[int], skip: tuple[int, ...]) -> list[int]:
    owners = [-1] * size
    for index in turns:
        place, step = at[index], skip[index]
        while owners[place] >= 0:
            place += step
            if place >= size:
                place -= size
        owners[place] = index
        at[index] = place
    return owners
