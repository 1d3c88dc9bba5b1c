"""What the matches of one document may cost a connection: the switch has one thread, and everybody's calls wait for it.

The numbers are chosen so that the worst document takes about a millisecond (`appswitch.routing.patterns`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

MAX_TESTS = 2048  # attributes that are named, in all matches together
MAX_WILDCARDS = 4096  # patterns with a *
MAX_SEARCHES = 128  # those with a * at both ends: each is looked for in the whole text


def bounded(matches: Iterable[Mapping[str, Sequence[str]]]) -> None:
    """Raises ValueError for matches that would take too long."""
    tests = [patterns for match in matches for patterns in match.values()]
    wild = [pattern for patterns in tests for pattern in patterns if "*" in pattern]
    searches = sum(len(pattern) > 1 and pattern[0] == pattern[-1] == "*" for pattern in wild)
    for count, most, what in (
        (len(tests), MAX_TESTS, "attributes are named"),
        (searches, MAX_SEARCHES, "patterns have a * at both ends"),
        (len(wild), MAX_WILDCARDS, "patterns have a *"),
    ):
        if count > most:
            raise ValueError(
                f"{count} {what}, and a document may have {most}: every connection is compared with them. Use exact "
                "values or a * at one end only, or split it"
            )
