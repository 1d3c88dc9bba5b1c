"""memcached: the text protocol with its meta commands (its doc/protocol.txt), and the binary one."""

from __future__ import annotations

import re

from appswitch.routing.l7.peeked import IncompleteError, MalformedError, Peeked
from appswitch.routing.l7.reading import Reader, Words, text

_KEY = rb" +(?P<key>[^\x00-\x20\x7f]{1,250})"
_NUMBER = rb" +-?[0-9]{1,20}"
_QUIET = rb"(?: +noreply)?"
_FLAGS = rb"(?: +[^\s]+)*"

# What follows each command, to the end of its line. Words that redis has as well are told apart by this: nobody
# writes redis commands without RESP but a person, who writes ``set key value``.
_SHAPES = {
    "get gets": _KEY + rb"(?: .*)?",
    "gat gats": _NUMBER + _KEY + rb"(?: .*)?",
    "set add replace append prepend": _KEY + _NUMBER * 3 + _QUIET,
    "cas": _KEY + _NUMBER * 4 + _QUIET,
    "delete": _KEY + rb"(?: +0)?" + _QUIET,
    "incr decr touch": _KEY + _NUMBER + _QUIET,
    "mg ms md ma me": _KEY + _FLAGS,
    "mn version quit": b"",
    "stats": _FLAGS,
    "flush_all verbosity": rb"(?:" + _NUMBER + rb")?" + _QUIET,
}
_LINES = {
    command: re.compile(shape + rb" *\r?\n", re.DOTALL) for words, shape in _SHAPES.items() for command in words.split()
}
_WORDS = Words(_LINES)

MAX_KEY = 250  # bytes
MAGIC, HEADER_SIZE = 0x80, 24
# https://github.com/memcached/memcached/blob/master/protocol_binary.h; the quiet ones and those that answer with the
# key are the same commands.
_OPCODES = {
    "get": (0x00, 0x09, 0x0C, 0x0D),
    "set": (0x01, 0x11),
    "add": (0x02, 0x12),
    "replace": (0x03, 0x13),
    "delete": (0x04, 0x14),
    "incr": (0x05, 0x15),
    "decr": (0x06, 0x16),
    "quit": (0x07, 0x17),
    "flush_all": (0x08, 0x18),
    "noop": (0x0A,),
    "version": (0x0B,),
    "append": (0x0E, 0x19),
    "prepend": (0x0F, 0x1A),
    "stats": (0x10,),
    "verbosity": (0x1B,),
    "touch": (0x1C,),
    "gat": (0x1D, 0x1E, 0x23, 0x24),
    "sasl_list": (0x20,),
    "sasl_auth": (0x21,),
    "sasl_step": (0x22,),
}
_COMMANDS = {opcode: command for command, opcodes in _OPCODES.items() for opcode in opcodes}
_WITHOUT_KEY = {"stats", "sasl_auth", "sasl_step"}  # theirs is the name of something else


def sniff(data: bytes) -> bool | None:
    """A command's word, or a request's magic and opcode."""
    if data[:1] != bytes((MAGIC,)):
        return _WORDS.sniff(data)
    if len(data) > 5 and data[5] != 0:  # data type
        return False
    return data[1] in _COMMANDS if len(data) > 1 else None


def parse(data: bytes, final: bool) -> Peeked:
    """The first command, and the first key that it is about."""
    return _binary(Reader(data)) if data[0] == MAGIC else _text(data, final)


def _text(data: bytes, final: bool) -> Peeked:
    line, end, _ = data.partition(b"\n")
    command = re.split(rb"[ \r\n]", line, maxsplit=1)[0].decode()
    if not end:
        if final:
            return Peeked("memcached", {"memcached.command": command})
        raise IncompleteError
    found = _LINES[command].fullmatch(line + end, len(command))
    if found is None:
        raise MalformedError
    return _peeked(command, found.groupdict().get("key") or b"")


def _binary(reader: Reader) -> Peeked:
    reader.skip(1)
    command = _COMMANDS[reader.uint(1)]
    key_size, extras = reader.uint(2), reader.uint(1)
    reader.skip(3)  # data type, vbucket
    body = reader.uint(4)
    if key_size > MAX_KEY or key_size + extras > body:
        raise MalformedError
    reader.skip(HEADER_SIZE - 12 + extras)
    key = reader.take(key_size)
    return _peeked(command, b"" if command in _WITHOUT_KEY else key)


def _peeked(command: str, key: bytes) -> Peeked:
    found = {"memcached.command": command}
    if key:
        found["memcached.key"] = text(key)
    return Peeked("memcached", found)
