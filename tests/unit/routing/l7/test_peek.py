"""What holds for every protocol: no bytes raise, an answer stays, nothing is waited for in vain, work is bounded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.routing.l7 import messages
from tests.unit.routing.l7.messages import PROXY_V1, WHOLE, WRITTEN, client_hello, h2_frame, records, spoiled, valid

from appswitch.attributes import PROTOCOLS, check
from appswitch.routing.l7 import RECOGNIZERS, UNKNOWN, Peeked, as_attributes, peek

KIB = 1024
anything = st.one_of(st.binary(max_size=300), spoiled(), valid)


@pytest.mark.parametrize("name", WHOLE)
def test_it_is_known_with_the_last_byte_that_is_needed_and_not_before(name: str) -> None:
    message, expected = WHOLE[name]
    answers = [peek(message[:length], final=False) for length in range(len(message) + 1)]
    assert answers == [None] * len(message) + [expected]


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_of_what_libraries_write(name: str) -> None:
    message = WRITTEN[name]
    assert [peek(message[:length], final=False) for length in range(len(message))] == [None] * len(message)
    assert peek(message, final=False) == peek(message, final=True)


@pytest.mark.parametrize("name", WHOLE)
def test_what_follows_does_not_matter(name: str) -> None:
    message, expected = WHOLE[name]
    assert peek(message + b"\r\n\0anything" + message, final=False) == expected


@st.composite
def growing(draw: st.DrawFn) -> list[bytes]:
    """Some bytes as they arrive: each of the list begins with the one before it."""
    data = draw(st.booleans()) * PROXY_V1 + draw(anything)
    lengths = draw(st.sets(st.integers(0, len(data)), max_size=8)) | {len(data)}
    return [data[:length] for length in sorted(lengths)]


@settings(deadline=None, max_examples=500)
@given(growing())
def test_an_answer_stays_with_more_bytes(arriving: list[bytes]) -> None:
    answers = [peek(data, final=False) for data in arriving]
    known = [answer for answer in answers if answer is not None]
    assert answers[: len(answers) - len(known)] == [None] * (len(answers) - len(known)), "an answer was taken back"
    assert all(answer == known[0] for answer in known)
    if known:
        assert peek(arriving[-1], final=True) == known[0]


@settings(deadline=None, max_examples=500)
@given(growing())
def test_no_bytes_raise_and_every_attribute_is_in_the_table(arriving: list[bytes]) -> None:
    for data in arriving:
        found = peek(data, final=True)
        assert found is not None
        assert found.protocol in PROTOCOLS
        for name, value in as_attributes(found).items():
            check(name)
            assert value.isprintable()
            value.encode()  # no surrogates


def test_every_protocol_has_a_message_here() -> None:
    assert {peeked.protocol for _, peeked in WHOLE.values()} | {"http2"} == {entry.protocol for entry in RECOGNIZERS}
    assert {peek(message, final=True).protocol for message in WRITTEN.values()} == {"tls", "http2", "grpc"}  # type: ignore[union-attr]


def test_as_attributes_has_the_protocol_as_well() -> None:
    assert as_attributes(Peeked("ssh", {"ssh.software": "x"})) == {"protocol": "ssh", "ssh.software": "x"}


# --- nothing, or nothing known


def test_who_says_nothing_is_unknown_in_the_end() -> None:
    """So are the clients of MySQL, SMTP, FTP: their servers speak first."""
    assert peek(b"", final=False) is None
    assert peek(b"", final=True) is UNKNOWN


@pytest.mark.parametrize(
    ("data", "needed"),
    [
        (b"\xff\xfe\xfd", 1),
        (b"\x00\x00\x40\x00more", 3),  # no startup packet is that long
        (b"\x00\x00\x00\x10\x00\x02\x00\x00", 6),  # PostgreSQL before 7.4
        (b"help me", 4),  # HELLO is a command of redis
        (b"NICK joe\r\n", 2),
        (b"EHLO client.example\r\n", 2),
        (b"USER anonymous\r\n", 2),
        (b"GETX /", 4),
        (b"<?xml version='1.0'?>", 1),
        (b"{}", 1),
        (b"SSL-2.0", 3),
        (b"\x16\x03\x01\x02\x00\x02", 6),  # TLS, but a ServerHello
        (b"\x16\x02\x00", 2),
        (b"\x10\x0c\x00\x04MQTX", 8),
        (b"\x80\x99", 2),
        (b"*x", 2),
        (b"*-1\r\n", 2),
        (b"PROXI", 5),
        (b"\r\n\r\n?", 5),
    ],
)
def test_unknown_is_known_early(data: bytes, needed: int) -> None:
    answers = [peek(data[:length], final=False) for length in range(len(data) + 1)]
    assert answers == [None] * needed + [UNKNOWN] * (len(data) + 1 - needed)


# --- work, counted in calls: 64 KiB of whatever costs most


def calls(function: Callable[[], object]) -> int:
    count = 0

    def counter(_frame: object, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counter)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def h2_frames(*frames: bytes) -> bytes:
    return messages.SETTINGS_FRAME + b"".join(frames)


def h2_headers(block: bytes) -> bytes:
    """In as many frames as it takes."""
    parts = [block[at : at + (1 << 14)] for at in range(0, len(block), 1 << 14)]
    kinds = [messages.HEADERS] + [messages.CONTINUATION] * (len(parts) - 1)
    flags = [0] * (len(parts) - 1) + [4]
    return h2_frames(*(h2_frame(kind, part, flag, 1) for kind, part, flag in zip(kinds, parts, flags, strict=True)))


LONG = 64 * KIB
BOMBS = {
    "spaces in a request": b"GET" + b" " * LONG,
    "spaces behind a request": b"GET / HTTP/1.1" + b" " * LONG,
    "a target without an end": b"GET /" + b"a" * LONG,
    "a target with nothing behind": b"GET /" + b"a" * LONG + b"\r\n",
    "empty lines": b"\r\n" * (LONG // 2),
    "one header without an end": b"GET / HTTP/1.1\r\nA: " + b"b" * LONG,
    "thousands of headers": b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(6000)) + b"\r\n",
    "one header thousands of times": b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 12000 + b"\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nA: b\r\n" + b" c\r\n" * 15000 + b"\r\n",
    "bytes that are no text": b"GET /" + b"\xff" * LONG + b" HTTP/1.1\r\n\r\n",
    "redis announces a billion": b"*1000000000\r\n" + b"$1\r\na\r\n" * 9000,
    "redis announces a long key": b"*2\r\n$3\r\nGET\r\n$536870912\r\n" + b"k" * LONG,
    "a redis line": b"hello " + b"a " * (LONG // 2) + b"\r\n",
    "redis digits": b"*" + b"1" * LONG,
    "memcached keys": b"get" + b" k" * (LONG // 2) + b"\r\n",
    "memcached flags": b"mg k" + b" v" * (LONG // 2),
    "memcached flags and a NUL": b"ms k" + b" v" * (LONG // 2) + b"\0\r\n",
    "tls, byte by byte": records(b"\1" + (60000).to_bytes(3, "big") + bytes(60000), 1)[:LONG],
    "tls extensions": records(client_hello([bytes((n >> 8, n & 255, 0, 0)) for n in range(15000)])),
    "tls ciphers": records(client_hello(ciphers=range(30000))),
    "tls protocols": records(client_hello([messages.alpn(*[b"x"] * 30000)])),
    "tls names": records(client_hello([messages.extension(0, messages.vector(2, b"\1\0\0" * 20000))])),
    "http2, empty frames": h2_frames(*[h2_frame(messages.SETTINGS)] * 7000),
    "http2, empty continuations": h2_frames(
        h2_frame(messages.HEADERS, stream=1), *[h2_frame(messages.CONTINUATION, stream=1)] * 7000
    ),
    # One header of 4,000 bytes goes into the table, and is named again by each of the bytes behind it.
    "hpack, one header many times": h2_headers(b"\x40\1a\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 12000),
    "hpack, short literals": h2_headers(b"\1\0" * 8000),
    "hpack, table sizes": h2_headers(b"\x20" * 16000),
    "hpack, a number without an end": h2_headers(b"\xff" * 16000),
    "hpack, a long block": h2_headers(b"\x82" * 60000),
    "huffman": h2_headers(b"\0\1a\xff\x80\x7c" + b"\x1f" * 16000),
    "mqtt, a long length": b"\x10\xff\xff\xff\x7f\0\4MQTT\4\2\0\0\xff\xff" + b"a" * LONG,
    "postgresql parameters": messages.vector_with_itself(b"\0\3\0\0" + b"a\0b\0" * 2400 + b"\0"),
    "proxy fields": messages.proxy_v2(0x20, 0, bytes(60000)),
    "proxies": PROXY_V1 * 1500,
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("final", [False, True])
def test_work_is_bounded(name: str, final: bool) -> None:
    data = BOMBS[name]
    found: list[Peeked | None] = []
    assert calls(lambda: found.append(peek(data, final=final))) < 70_000
    kept = found[0].attributes if found[0] else {}
    assert sum(len(name) + len(value) for name, value in kept.items()) <= 4 * len(data)
    assert max(map(len, kept.values()), default=0) <= 4 * 4096


@pytest.mark.parametrize("name", BOMBS)
def test_holding_on_costs_little(name: str) -> None:
    """A client that sends byte by byte has the same bytes looked at again and again."""
    data = BOMBS[name]
    for length in (KIB, 16 * KIB, 64 * KIB):
        if peek(data[:length], final=False) is None:
            assert calls(lambda: peek(data[:length], final=False)) < 10_000  # noqa: B023
