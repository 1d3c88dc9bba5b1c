"""redis: the first command, what is told of its arguments, and what is never told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.routing.l7.messages import resp

from appswitch.routing.l7 import UNKNOWN, Peeked, peek
from appswitch.routing.l7.reading import MAX_TEXT
from appswitch.routing.l7.rediscommands import CONTAINERS, KEYED, KEYLESS


def redis(data: bytes, final: bool = False) -> dict[str, str]:
    """The attributes, without "redis."."""
    found = peek(data, final=final)
    assert found is not None
    assert found.protocol == "redis"
    return {name.removeprefix("redis."): value for name, value in found.attributes.items()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("GET key", {"command": "GET", "key": "key"}),
        ("strlen key", {"command": "STRLEN", "key": "key"}),
        ("SET key value", {"command": "SET", "key": "key"}),
        ("MGET a b c", {"command": "MGET", "key": "a"}),
        ("FLUSHALL", {"command": "FLUSHALL"}),
        ("FLUSHALL ASYNC", {"command": "FLUSHALL"}),
        ("PUBLISH channel message", {"command": "PUBLISH"}),
        ("EVAL script 1 key", {"command": "EVAL"}),
        ("SCAN 0 MATCH x", {"command": "SCAN"}),
        ("SELECT 1", {"command": "SELECT"}),
        ("DEL", {"command": "DEL"}),
        ("CONFIG SET requirepass secret", {"command": "CONFIG", "subcommand": "SET"}),
        ("client setinfo lib-name redis-py", {"command": "CLIENT", "subcommand": "SETINFO"}),
        ("ACL SETUSER joe >secret", {"command": "ACL", "subcommand": "SETUSER"}),
        ("XGROUP CREATE key group $", {"command": "XGROUP", "subcommand": "CREATE"}),
        ("COMMAND", {"command": "COMMAND"}),
        ("AUTH secret", {"command": "AUTH", "user": "default"}),
        ("AUTH joe secret", {"command": "AUTH", "user": "joe"}),
        ("AUTH", {"command": "AUTH"}),
        ("HELLO", {"command": "HELLO"}),
        ("HELLO 3", {"command": "HELLO"}),
        ("HELLO 3 AUTH joe secret", {"command": "HELLO", "user": "joe"}),
        ("HELLO 3 auth joe secret SETNAME x", {"command": "HELLO", "user": "joe"}),
        ("HELLO 3 SETNAME x AUTH joe secret", {"command": "HELLO", "user": "joe"}),
        ("HELLO 3 AUTH", {"command": "HELLO"}),
        ("HELLO AUTH joe", {"command": "HELLO"}),
    ],
)
def test_commands(words: str, expected: dict[str, str]) -> None:
    assert redis(resp(*words.encode().split())) == expected
    assert redis(words.encode() + b"\r\n") == expected


def test_commands_of_modules_are_taken_for_those_that_have_a_key() -> None:
    assert redis(resp(b"JSON.SET", b"doc", b"$", b"1")) == {"command": "JSON.SET", "key": "doc"}


def test_no_word_is_in_two_tables() -> None:
    assert not KEYED & KEYLESS
    assert not KEYED & CONTAINERS
    assert not KEYLESS & CONTAINERS


def test_values_are_not_waited_for() -> None:
    assert redis(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$500000000\r\n") == {"command": "SET", "key": "key"}
    assert redis(b"*1000000000\r\n$4\r\nMGET\r\n$1\r\na") == {"command": "MGET", "key": "a"}


def test_keys_are_bytes() -> None:
    assert redis(resp(b"GET", b"\xff\r\n\x00"))["key"] == r"\xff\r\n\x00"
    assert redis(resp(b"GET", "schlüssel".encode()))["key"] == "schlüssel"
    assert redis(resp(b"GET", b""))["key"] == ""


def test_of_a_long_key_the_beginning_is_known() -> None:
    data = b"*2\r\n$3\r\nGET\r\n$536870912\r\n" + b"k" * MAX_TEXT
    assert peek(data[:-1], final=False) is None
    assert redis(data) == {"command": "GET", "key": "k" * MAX_TEXT}


def test_of_pipelined_commands_the_first_counts() -> None:
    assert redis(resp(b"PING") + resp(b"FLUSHALL")) == {"command": "PING"}


def test_half_a_command_is_what_is_known_of_it() -> None:
    assert peek(b"*2\r\n$3\r\nGE", final=True) == Peeked("redis", {})
    assert redis(b"*2\r\n$3\r\nGET\r\n$5\r\nke", final=True) == {"command": "GET"}
    assert redis(b"FLUSHALL ASY", final=True) == {"command": "FLUSHALL"}


@pytest.mark.parametrize(
    "data",
    [
        b"*0\r\n",
        b"*-1\r\n",
        b"*1\n$4\r\nPING\r\n",
        b"*1x\r\n",
        b"*" + b"1" * 12,
        b"*1\r\n:4\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$0\r\n\r\n",
        b"*1\r\n$5\r\nP\xffNG \r\n",
        b"*1\r\n$100\r\n" + b"P" * 100,
        b"*2\r\n$3\r\nGETxx$1\r\na\r\n",
        b"*2\r\n$3\r\nGET\r\n$\xb2\r\n",  # a digit elsewhere
        b"NOSUCH key\r\n",
        b"PINGPING\r\n",
    ],
)
def test_what_is_no_command(data: bytes) -> None:
    assert peek(data, final=False) is UNKNOWN


def test_lines_may_be_empty_and_end_as_they_like() -> None:
    assert redis(b"\r\n\r\nping\r\n") == redis(b"PING\n") == {"command": "PING"}


@settings(deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=9),
    st.sampled_from(["AUTH", "HELLO", "GET", "CONFIG", "PING"]),
)
def test_arguments_are_any_bytes(arguments: list[bytes], command: str) -> None:
    assert redis(resp(command.encode(), *arguments))["command"] == command


@settings(deadline=None)
@given(
    st.text("abcdefgh", min_size=1),
    st.sampled_from(["AUTH {}", "AUTH joe {}", "HELLO 3 AUTH joe {}", "CONFIG SET requirepass {}"]),
)
def test_a_password_is_never_told(password: str, command: str) -> None:
    secret = f"secret-{password}"
    for final in (False, True):
        for data in (resp(*command.format(secret).encode().split()), command.format(secret).encode() + b"\r\n"):
            for length in range(len(data) + 1):
                found = peek(data[:length], final=final)
                assert not found or "secret" not in str(found)
