"""Tools that the protocols' modules share: a cursor, the words that a connection may begin with, text out of bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from appswitch.routing.l7.peeked import IncompleteError, MalformedError

MAX_TEXT = 4096  # bytes of one attribute's value that are kept: attributes travel with every flow


def text(raw: bytes, limit: int = MAX_TEXT) -> str:
    r"""Bytes of an app as text that can be matched, shown and logged: UTF-8, and ``\x1b`` for all that is none."""
    decoded = raw[:limit].decode("utf-8", "backslashreplace")
    if decoded.isprintable():
        return decoded
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)


def host(raw: bytes) -> str:
    """A host name in the form in which names are compared: lower case, without the root's dot."""
    return text(raw).lower().removesuffix(".")


def begins(data: bytes, with_: bytes) -> bool | None:
    """Whether ``data`` begins so; None if it is too short to tell."""
    if len(data) < len(with_):
        return None if with_.startswith(data) else False
    return data.startswith(with_)


def after_empty_lines(data: bytes) -> bytes:
    """What follows the empty lines at the beginning, which HTTP and redis servers skip."""
    return data.lstrip(b"\r\n") if data[:1] in (b"\r", b"\n") else data


def words(listed: str) -> frozenset[str]:
    """A table of words, as it is written in a source."""
    return frozenset(listed.split())


class Words:
    """What the first word may be, whichever comes: decided as soon as no word can match any more."""

    def __init__(self, words: Iterable[str], ends: bytes = b" \r\n") -> None:
        self._words = frozenset(word.encode() for word in words)
        self._starts = frozenset(word[:n] for word in self._words for n in range(len(word) + 1))
        self._token = re.compile(b"[^%b]{0,%d}" % (re.escape(ends), max(map(len, self._words)) + 1))

    def sniff(self, data: bytes) -> bool | None:
        """Whether ``data`` begins with a word and its end; None if it is too short to tell."""
        word = self._token.match(data)[0]  # type: ignore[index] # matches the empty string
        if len(word) == len(data):
            return None if word in self._starts else False
        return word in self._words


class Reader:
    """A cursor. IncompleteError: beyond the bytes that are there. MalformedError: beyond ``end``, the announced end."""

    __slots__ = ("_data", "_end", "at")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self._data = data
        self._end = end
        self.at = at

    def __bool__(self) -> bool:
        """Whether there is something left. Only for readers with an announced end."""
        assert self._end is not None
        return self.at < self._end

    def skip(self, count: int) -> int:
        """Step over ``count`` bytes; returns where they began."""
        start, stop = self.at, self.at + count
        if self._end is not None and stop > self._end:
            raise MalformedError
        if stop > len(self._data):
            raise IncompleteError
        self.at = stop
        return start

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        return self._data[self.skip(count) : self.at]

    def uint(self, size: int) -> int:
        """A number in network order."""
        start = self.skip(size)
        return int.from_bytes(self._data[start : self.at], "big")

    def vector(self, size: int) -> bytes:
        """Bytes with their length before them, a number of ``size`` bytes."""
        return self.take(self.uint(size))

    def inner(self, size: int) -> Reader:
        """A reader of the next vector, which is stepped over."""
        count = self.uint(size)
        start = self.skip(count)
        return Reader(self._data, start, start + count)

    def decimal(self, digits: int) -> int:
        """A number of at most that many digits, and the CRLF after it."""
        window = self._data[self.at : self.at + digits + 2]
        number, end, _ = window.partition(b"\r\n")
        if not end and len(window) < digits + 2 and (number.removesuffix(b"\r").isdigit() or not number):
            raise IncompleteError
        if not end or not number.isdigit():
            raise MalformedError
        self.at += len(number) + 2
        return int(number)
