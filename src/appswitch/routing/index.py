"""Finding the few among many policies that may be about a connection.

Each selector is filed under what it asks for: a label, names, networks, uids, programs, whichever few others ask for.
Who looks for an end looks under all that the end has. So the time depends on how many policies ask for the same, not
on how many there are.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

from appswitch.resources import Pattern
from appswitch.routing.selectors import Condition, Connection, Rank, Rule

Shape = tuple[str, int]  # what is looked at, and how much of it
Key = tuple[Shape, Hashable]
Bucket = list[Rule]  # in the order of their ranks

# For each selector of a side the choice: each of these lists of keys alone finds all that the selector selects.
Options = list[list[list[Key]]]

EVERYBODY: Options = [[[(("any", 0), None)]]]
FEW_PORTS = 64  # of one policy: more are not filed one by one

# What an end (or, for the last one, a port) has of each shape.
_LOOK: dict[str, Callable[[Any, int], Iterable[Hashable]]] = {
    "any": lambda _end, _size: (None,),
    "label": lambda end, _size: end.labels,
    "name": lambda end, _size: end.names,
    "prefix": lambda end, size: {name[:size] for name in end.names},
    "suffix": lambda end, size: {name[-size:] for name in end.names},
    "ipv4": lambda end, shift: (int.from_bytes(end.ip, "big") >> shift,) if len(end.ip) == 4 else (),
    "ipv6": lambda end, shift: (int.from_bytes(end.ip, "big") >> shift,) if len(end.ip) == 16 else (),
    "uid": lambda end, _size: (end.uid,),
    "executable": lambda end, _size: (end.executable,),
    "port": lambda port, _size: (port,),
}


class Index:
    """Rules, filed by one side of theirs."""

    def __init__(self) -> None:
        self._tables: dict[Shape, dict[Hashable, Bucket]] = {}
        self._places: dict[Rule, list[Key]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, rule: Rule, selectors: Options) -> None:
        """File it, for each selector under the keys that have the fewest so far."""
        chosen = [min(options, key=self._crowd) if len(options) > 1 else options[0] for options in selectors]
        keys = list(dict.fromkeys(key for option in chosen for key in option))
        self._places[rule] = keys
        for shape, value in keys:
            bucket = self._tables.setdefault(shape, {}).setdefault(value, [])
            bisect.insort(bucket, rule, key=rank)

    def remove(self, rule: Rule) -> None:
        """It was added before."""
        for shape, value in self._places.pop(rule):
            table = self._tables[shape]
            bucket = table[value]
            del bucket[bisect.bisect_left(bucket, rule.rank, key=rank)]
            if not bucket:
                del table[value]
                if not table:
                    del self._tables[shape]

    def find(self, subject: object) -> list[Bucket]:
        """Where all rules are whose side selects ``subject``; others are there, too."""
        found = []
        for (kind, size), table in self._tables.items():
            for value in _LOOK[kind](subject, size):
                bucket = table.get(value)
                if bucket is not None:
                    found.append(bucket)
        return found

    def _crowd(self, option: list[Key]) -> int:
        return max(len(self._tables.get(shape, {}).get(value, ())) for shape, value in option)


def rank(rule: Rule) -> Rank:
    """What rules are ordered by."""
    return rule.rank


# -- the keys of a side


def server_keys(rule: Rule) -> Options:
    """Of ``to``."""
    return _side_keys(rule.to, process=False)


def client_keys(rule: Rule) -> Options:
    """Of ``from``."""
    return _side_keys(rule.from_, process=True)


def identity_keys(rule: Rule) -> Options:
    """Of ``from``, when the process is not known or does not matter."""
    return _side_keys(rule.from_, process=False)


def port_keys(rule: Rule) -> Options:
    """Of ``ports``."""
    ranges = rule.policy.ports
    count = sum(1 + one.high - one.low for one in ranges)
    if not 1 <= count <= FEW_PORTS:
        return EVERYBODY
    return [[[(("port", 0), port) for one in ranges for port in range(one.low, one.high + 1)]]]


def _side_keys(conditions: tuple[Condition, ...], *, process: bool) -> Options:
    options = [list(_condition_keys(condition, process=process)) for condition in conditions]
    return options if options and all(options) else EVERYBODY


def _condition_keys(condition: Condition, *, process: bool) -> Iterator[list[Key]]:
    for pair in sorted(condition.labels):
        yield [(("label", 0), pair)]
    names = [_pattern_key(pattern) for pattern in condition.names]
    if names and None not in names:
        yield [key for key in names if key is not None]
    if condition.networks:
        yield [(("ipv4" if length == 4 else "ipv6", shift), value) for length, shift, value in condition.networks]
    if process and condition.uids:
        yield [(("uid", 0), uid) for uid in sorted(condition.uids)]
    if process and condition.executables and not any("*" in pattern for pattern in condition.executables):
        yield [(("executable", 0), path) for path in condition.executables]


def _pattern_key(pattern: Pattern) -> Key | None:
    """None: it may match whatever. See `resources.matches`."""
    before, after = pattern.startswith("*"), pattern.endswith("*")
    if pattern == "*":
        return ("prefix", 0), ""
    if before and after:
        return None
    if after:
        return ("prefix", len(pattern) - 1), pattern[:-1]
    if before:
        return ("suffix", len(pattern) - 1), pattern[1:]
    return ("name", 0), pattern


class Lookup:
    """The rules for which ``test`` holds of a connection. Those that ask for the same sides share indexes.

    A rule is filed by each side that it asks anything of, and looked for on the side where fewest are found.
    """

    def __init__(self, test: Callable[[Rule, Connection], bool], *, process: bool) -> None:
        self._test = test
        self._sides = (server_keys, client_keys if process else identity_keys, port_keys)
        self._groups: dict[tuple[int, ...], tuple[Index, ...]] = {}
        self._places: dict[Rule, tuple[int, ...]] = {}

    def add(self, rule: Rule) -> None:
        """File it under the sides of which it asks something; under the first side if there is none."""
        keys = [side(rule) for side in self._sides]
        group = tuple(side for side, options in enumerate(keys) if options is not EVERYBODY) or (0,)
        self._places[rule] = group
        if group not in self._groups:
            self._groups[group] = tuple(Index() for _ in group)
        for side, index in zip(group, self._groups[group], strict=True):
            index.add(rule, keys[side])

    def remove(self, rule: Rule) -> None:
        """It was added before."""
        for index in self._groups[self._places.pop(rule)]:
            index.remove(rule)

    def find(self, connection: Connection) -> Iterator[Rule]:
        """Each once; in no order."""
        subjects = (connection.server, connection.client, connection.port)
        seen: set[Rule] = set()
        for group, indexes in self._groups.items():
            found = [index.find(subjects[side]) for side, index in zip(group, indexes, strict=True)]
            for bucket in min(found, key=_size):
                for rule in bucket:
                    if self._test(rule, connection) and rule not in seen:
                        seen.add(rule)
                        yield rule


def _size(buckets: list[Bucket]) -> int:
    return sum(map(len, buckets))
