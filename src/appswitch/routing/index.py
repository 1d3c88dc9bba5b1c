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

    def choose(self, selectors: Options) -> tuple[int, list[Key]]:
        """For each selector the keys that have the fewest rules so far; and how many those have."""
        crowd, keys = 0, []
        for options in selectors:
            fewest, chosen = min(((self._crowd(option), option) for option in options), key=_first)
            crowd += fewest
            keys += chosen
        return crowd, keys

    def add(self, rule: Rule, keys: Iterable[Key]) -> None:
        """File it under these."""
        self._places[rule] = places = list(dict.fromkeys(keys))
        for shape, value in places:
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
        return max(len(self._tables[shape].get(value, ())) if shape in self._tables else 0 for shape, value in option)


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
    """The rules for which ``test`` holds of a connection, each filed by the side by which the fewest others are."""

    def __init__(self, test: Callable[[Rule, Connection], bool], *, process: bool) -> None:
        self._test = test
        self._keys = (server_keys, client_keys if process else identity_keys, port_keys)
        self._sides = (Index(), Index(), Index())
        self._places: dict[Rule, Index] = {}

    def add(self, rule: Rule) -> None:
        """File it. If it is for everybody on each side it is by the first."""
        options = [keys(rule) for keys in self._keys]
        asked = [side for side, one in enumerate(options) if one is not EVERYBODY] or [0]
        choices = [(*self._sides[side].choose(options[side]), side) for side in asked]
        _, chosen, side = min(choices, key=lambda choice: choice[0])
        index = self._places[rule] = self._sides[side]
        index.add(rule, chosen)

    def remove(self, rule: Rule) -> None:
        """It was added before."""
        self._places.pop(rule).remove(rule)

    def find(self, connection: Connection) -> Iterator[Rule]:
        """Each once; in no order."""
        subjects = (connection.server, connection.client, connection.port)
        seen: set[Rule] = set()
        for index, subject in zip(self._sides, subjects, strict=True):
            for bucket in index.find(subject):
                for rule in bucket:
                    if rule not in seen and self._test(rule, connection):
                        seen.add(rule)
                        yield rule


def _first(choice: tuple[int, object]) -> int:
    return choice[0]
