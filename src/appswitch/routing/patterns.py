"""Patterns of first bytes, compiled: a connection costs few steps, however many patterns there are.

Exact ones are one look-up; those with a * at one end are compared by one call of the string; each with a * at both
ends is searched for, and control lets a document have few of these (`appswitch.control.resources.bounds`).
"""

from __future__ import annotations

from collections.abc import Iterable

from appswitch.resources import L7Match, Pattern


class AnyOf:
    """Some patterns, of which one has to match: the same answers as `appswitch.resources.matches`."""

    __slots__ = ("_all", "_ends", "_exact", "_inside", "_starts")

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        exact, starts, ends, inside = set[str](), list[str](), list[str](), list[str]()
        self._all = False
        for pattern in patterns:
            before, after = pattern.startswith("*"), pattern.endswith("*")
            if pattern == "*":
                self._all = True
            elif before and after:
                inside.append(pattern[1:-1])
            elif after:
                starts.append(pattern[:-1])
            elif before:
                ends.append(pattern[1:])
            else:
                exact.add(pattern)
        self._exact, self._starts, self._ends, self._inside = frozenset(exact), tuple(starts), tuple(ends), inside

    def matches(self, text: str) -> bool:
        """Whether one of them does."""
        return (
            self._all
            or text in self._exact
            or text.startswith(self._starts)
            or text.endswith(self._ends)
            or any(part in text for part in self._inside)
        )


Tests = tuple[tuple[str, AnyOf], ...]  # of attributes, by name: all must hold


def compiled(match: L7Match) -> Tests:
    """What a match asks for."""
    return tuple((name, AnyOf(patterns)) for name, patterns in match.items())


def hold(tests: Tests, attributes: dict[str, str]) -> bool:
    """Whether each attribute that is named matches one of its patterns. One that is missing does not."""
    for name, patterns in tests:
        value = attributes.get(name)
        if value is None or not patterns.matches(value):
            return False
    return True
