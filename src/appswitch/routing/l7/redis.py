"""redis: the first command, as an array (RESP2 and RESP3) or as a line.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from appswitch.routing.l7.peeked import IncompleteError, MalformedError, Peeked
from appswitch.routing.l7.reading import MAX_TEXT, Reader, Words, after_empty_lines, text
from appswitch.routing.l7.rediscommands import CONTAINERS, KEYED, KEYLESS

MAX_DIGITS = 10  # of a length: 512 MB is the longest string
MAX_WORD = 64  # bytes of a command
MAX_HELLO = 8  # arguments of the longest HELLO

_COMMAND = re.compile(rb"[A-Za-z][A-Za-z0-9._|-]{0,63}")
_WORDS = Words(KEYED | KEYLESS | CONTAINERS)
_ARRAY = re.compile(rb"\*[1-9]")

Attributes = dict[str, str]


def sniff(data: bytes) -> bool | None:
    """An array that is not empty, or a word that is a command's, after empty lines."""
    if data[:1] == b"*":
        return bool(_ARRAY.match(data)) if len(data) > 1 else None
    return _WORDS.sniff(after_empty_lines(data)[:MAX_WORD].upper())


def parse(data: bytes, final: bool) -> Peeked:
    """The command and what is told of its arguments: as soon as they are there, however long its values are."""
    if data[0] == ord("*"):
        reader = Reader(data, 1)
        count = reader.decimal(MAX_DIGITS)
        return _peeked(count, _strings(reader, count), final)
    line, end, _ = after_empty_lines(data).partition(b"\n")
    if not end and not final:
        raise IncompleteError
    words = line.split(maxsplit=MAX_HELLO + 1) if end else line.split(maxsplit=1)[:1]
    return _peeked(len(words), iter(words), final)


def _strings(reader: Reader, count: int) -> Iterator[bytes]:
    """The array's elements, as they are asked for; of a long one the beginning, and then no more."""
    for _ in range(count):
        if reader.take(1) != b"$":
            raise MalformedError
        length = reader.decimal(MAX_DIGITS)
        yield reader.take(min(length, MAX_TEXT))
        if length > MAX_TEXT:
            raise MalformedError
        if reader.take(2) != b"\r\n":
            raise MalformedError


def _peeked(count: int, words: Iterator[bytes], final: bool) -> Peeked:
    """``count`` words, the command's name among them."""
    name = next(words)
    if not _COMMAND.fullmatch(name):
        raise MalformedError
    command = name.decode().upper()
    found = {"redis.command": command}
    try:
        found |= _arguments(command)(count - 1, words)
    except IncompleteError:
        if not final:
            raise
    return Peeked("redis", found)


def _arguments(command: str) -> Callable[[int, Iterator[bytes]], Attributes]:
    if command in _USERS:
        return _USERS[command]
    if command in CONTAINERS:
        return _subcommand
    return _nothing if command in KEYLESS else _key


def _nothing(count: int, words: Iterator[bytes]) -> Attributes:
    return {}


def _key(count: int, words: Iterator[bytes]) -> Attributes:
    return {"redis.key": text(next(words))} if count else {}


def _subcommand(count: int, words: Iterator[bytes]) -> Attributes:
    return {"redis.subcommand": text(next(words), MAX_WORD).upper()} if count else {}


def _auth(count: int, words: Iterator[bytes]) -> Attributes:
    """``AUTH [user] password``."""
    if count == 1:
        return {"redis.user": "default"}
    return {"redis.user": text(next(words))} if count else {}


def _hello(count: int, words: Iterator[bytes]) -> Attributes:
    """``HELLO [version [AUTH user password] [SETNAME name]]``, in either order."""
    for at in range(min(count, MAX_HELLO) - 1):  # one word at least is behind AUTH
        if next(words).upper() == b"AUTH" and at:
            return {"redis.user": text(next(words))}
    return {}


_USERS = {"AUTH": _auth, "HELLO": _hello}
