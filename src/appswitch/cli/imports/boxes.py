"""Sets of connections: products of ports, addresses of both ends and users, and unions of such products."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from appswitch.cli.imports import ranges
from appswitch.cli.imports.ranges import Ranges
from appswitch.cli.imports.report import TooComplexError

MAX_BOXES = 2000  # of one region: beyond that nobody would read the policies


class Box(NamedTuple):
    """All connections with one of these in each place."""

    ports: Ranges = ranges.PORTS  # of the destination
    source: Ranges = ranges.ADDRESSES
    destination: Ranges = ranges.ADDRESSES
    uids: Ranges = ranges.UIDS  # of the process that connects


Region = tuple[Box, ...]  # a union
EVERYTHING: Region = (Box(),)
NOTHING: Region = ()


def intersect(one: Region, other: Region) -> Region:
    """What is in both."""
    found = (_both(a, b) for a in one for b in other)
    return _bounded([box for box in found if box is not None])


def _both(one: Box, other: Box) -> Box | None:
    sides = []
    for mine, others in zip(one, other, strict=True):
        side = ranges.intersect(mine, others)
        if not side:
            return None
        sides.append(side)
    return Box._make(sides)


def subtract(one: Region, other: Region) -> Region:
    """What is in the first and not in the second; in as few boxes as is easy."""
    rest = list(one)
    for box in other:
        if not rest:
            break
        rest = [piece for mine in rest for piece in _without(mine, box)]
        _bounded(rest)
    return merge(rest) if len(rest) > len(one) else tuple(rest)


def _without(one: Box, other: Box) -> list[Box]:
    if _both(one, other) is None:
        return [one]
    found: list[Box] = []
    inside = list(one)
    for place, (mine, others) in enumerate(zip(one, other, strict=True)):
        outside = ranges.subtract(mine, others)
        if outside:
            found.append(Box._make([*inside[:place], outside, *inside[place + 1 :]]))
        inside[place] = ranges.intersect(mine, others)
    return found


def merge(boxes: Iterable[Box]) -> Region:
    """The same set in fewer boxes: those that differ in one place only become one."""
    found = [box for box in boxes if all(box)]
    for place in range(len(Box._fields)):
        groups = _groups(found, place)
        if len(groups) < len(found):
            found = [
                Box._make([*rest[:place], ranges.union(part for side in sides for part in side), *rest[place:]])
                for rest, sides in groups
            ]
    return _bounded(found)


def _groups(boxes: list[Box], place: int) -> list[tuple[tuple[Ranges, ...], list[Ranges]]]:
    """Boxes that are equal but for one place; by their ends first, for hashing all of a long side takes long."""
    buckets: dict[tuple[object, ...], list[tuple[tuple[Ranges, ...], list[Ranges]]]] = {}
    for box in boxes:
        rest = box[:place] + box[place + 1 :]
        bucket = buckets.setdefault(tuple((len(side), side[0], side[-1]) for side in rest), [])
        for other, sides in bucket:
            if other == rest:
                sides.append(box[place])
                break
        else:
            bucket.append((rest, [box[place]]))
    return [group for bucket in buckets.values() for group in bucket]


def within(one: Region, other: Region) -> bool:
    """Whether the second has all of the first."""
    return not subtract(one, other)


def _bounded(boxes: list[Box]) -> Region:
    if len(boxes) > MAX_BOXES:
        raise TooComplexError(f"its rules cut each other into more than {MAX_BOXES} pieces")
    return tuple(boxes)
