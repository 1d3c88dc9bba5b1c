"""memcached: text, meta and binary commands; what is redis instead."""

from __future__ import annotations

import pytest
from tests.unit.routing.l7.messages import memcached

from appswitch.routing.l7 import UNKNOWN, Peeked, peek


def told(data: bytes, final: bool = False) -> tuple[str, str | None]:
    """Command and key."""
    found = peek(data, final=final)
    assert found is not None
    assert found.protocol == "memcached"
    return found.attributes["memcached.command"], found.attributes.get("memcached.key")


@pytest.mark.parametrize(
    ("line", "command", "key"),
    [
        (b"get a", "get", "a"),
        (b"get a b c", "get", "a"),
        (b"gets a b", "gets", "a"),
        (b"gat 10 a b", "gat", "a"),
        (b"gats -1 a", "gats", "a"),
        (b"set a 0 0 5", "set", "a"),
        (b"set a 0 -1 5 noreply", "set", "a"),
        (b"add a 0 0 5", "add", "a"),
        (b"replace a 0 0 5", "replace", "a"),
        (b"append a 0 0 5", "append", "a"),
        (b"prepend a 0 0 5", "prepend", "a"),
        (b"cas a 0 0 5 123", "cas", "a"),
        (b"delete a", "delete", "a"),
        (b"delete a noreply", "delete", "a"),
        (b"delete a 0 noreply", "delete", "a"),
        (b"incr a 1", "incr", "a"),
        (b"decr a 1 noreply", "decr", "a"),
        (b"touch a 10", "touch", "a"),
        (b"mg a v t", "mg", "a"),
        (b"ms a 5 T0", "ms", "a"),
        (b"md a q", "md", "a"),
        (b"ma a", "ma", "a"),
        (b"me a", "me", "a"),
        (b"mn", "mn", None),
        (b"stats", "stats", None),
        (b"stats items", "stats", None),
        (b"version", "version", None),
        (b"flush_all", "flush_all", None),
        (b"flush_all 10 noreply", "flush_all", None),
        (b"verbosity 1", "verbosity", None),
        (b"quit", "quit", None),
        (b"get schl\xc3\xbcssel", "get", "schlüssel"),
        (b"get \xff", "get", r"\xff"),
    ],
)
def test_lines(line: bytes, command: str, key: str | None) -> None:
    assert told(line + b"\r\n") == told(line + b"\n") == (command, key)
    assert peek(line, final=False) is None


@pytest.mark.parametrize("line", [b"set a b", b"append a b", b"incr a", b"touch a", b"get", b"get " + b"k" * 251])
def test_what_memcached_has_otherwise_is_redis(line: bytes) -> None:
    found = peek(line + b"\r\n", final=False)
    assert found is not None
    assert found.protocol == "redis"


@pytest.mark.parametrize("line", [b"cas a", b"gets", b"mg", b"delete", b"GETS a", b"mg a\0", b"gets \x7f"])
def test_what_is_nobody_s(line: bytes) -> None:
    assert peek(line + b"\r\n", final=False) is UNKNOWN


def test_half_a_line_has_a_command() -> None:
    assert told(b"get some-ke", final=True) == ("get", None)
    assert peek(b"ge", final=True) is UNKNOWN


@pytest.mark.parametrize(
    ("data", "command", "key"),
    [
        (memcached(0x00, b"a"), "get", "a"),
        (memcached(0x0D, b"a"), "get", "a"),
        (memcached(0x01, b"a", bytes(8), b"value"), "set", "a"),
        (memcached(0x11, b"a", bytes(8), b"value"), "set", "a"),
        (memcached(0x05, b"a", bytes(20)), "incr", "a"),
        (memcached(0x08), "flush_all", None),
        (memcached(0x18, b"", bytes(4)), "flush_all", None),
        (memcached(0x0A), "noop", None),
        (memcached(0x1C, b"a", bytes(4)), "touch", "a"),
        (memcached(0x21, b"PLAIN", value=b"\0joe\0secret"), "sasl_auth", None),
        (memcached(0x10, b"items"), "stats", None),
    ],
)
def test_binary(data: bytes, command: str, key: str | None) -> None:
    assert told(data) == (command, key)


def test_the_value_is_not_waited_for() -> None:
    assert told(memcached(0x01, b"a", bytes(8), bytes(1000))[: 24 + 8 + 1]) == ("set", "a")


def test_half_a_header_is_memcached_in_the_end() -> None:
    assert peek(memcached(0x00, b"a")[:20], final=True) == Peeked("memcached", {})


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x99",
        b"\x80\x00\0\1\0\1",  # a data type that is not
        b"\x81\x00",  # a response
        memcached(0x00, b"k" * 251),
        b"\x80\x00\0\5\0\0\0\0\0\0\0\4" + bytes(40),
    ],
)
def test_malformed(data: bytes) -> None:
    assert peek(data, final=False) is UNKNOWN
