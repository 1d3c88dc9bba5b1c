"""TLS: the ClientHello, in any number of records; what is wrong with one; JA4 as FoxIO publishes it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.routing.l7 import messages
from tests.unit.routing.l7.messages import (
    alpn,
    client_hello,
    extension,
    numbers,
    python_hello,
    records,
    sni,
    vector,
    versions,
)

from appswitch.routing.l7 import UNKNOWN, Peeked, peek
from appswitch.routing.l7.hello import GREASE, Hello
from appswitch.routing.l7.ja4 import ja4

HELLO = client_hello([sni(b"web.example"), alpn(b"h2"), versions(0x0304, 0x0303)])


def tls(*extensions: bytes, **more: int) -> dict[str, str]:
    found = peek(records(client_hello(extensions, **more)), final=False)  # type: ignore[arg-type]
    assert found is not None
    assert found.protocol == "tls"
    return found.attributes


# --- records


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, len(HELLO) // 10 + 1, len(HELLO) - 1])
def test_a_hello_may_come_in_many_records(size: int) -> None:
    data = records(HELLO, size)
    whole = peek(records(HELLO), final=False)
    answers = [peek(data[:length], final=False) for length in range(len(data) + 1)]
    assert answers == [None] * len(data) + [whole]


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1))
def test_wherever_the_records_end(sizes: list[int]) -> None:
    data, rest = b"", HELLO
    for size in sizes:
        data, rest = data + records(rest[:size]), rest[size:]
    assert peek(data + records(rest), final=False) == peek(records(HELLO), final=False)


def test_half_a_hello_is_tls_in_the_end() -> None:
    data = records(HELLO)
    assert peek(data[:5], final=True) is UNKNOWN
    assert peek(data[:6], final=True) == peek(data[:-1], final=True) == Peeked("tls", {})


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\3\1\0\0" + records(HELLO),  # an empty record
        b"\x16\3\1\x40\1\1" + bytes(0x4000),
        records(b"\2" + HELLO[1:]),
        records(b"\1\xff\xff\xff" + HELLO[4:]),
        records(HELLO[:20]) + b"\x17" + records(HELLO[20:])[1:],
        records(HELLO[:20]) + b"\x16\2" + records(HELLO[20:])[2:],
        records(HELLO[:3], 1) + b"\x15\3\1\0\2\1\0",
        records(b"\1" + vector(3, bytes(40))),
        records(b"\1" + vector(3, HELLO[4:] + b"\0")),
        records(b"\1" + vector(3, HELLO[4:-1])),
        records(client_hello([b"\0"])),
        records(client_hello([b"\0\0\0\1"])),
        records(client_hello([sni(b"a"), sni(b"b")])),
        records(client_hello([extension(0, b"\0")])),
        records(client_hello([extension(0, b"\0\4\0\0\2a")])),
        records(client_hello([extension(16, b"\0\3\3h2")])),
        records(client_hello([extension(16, b"\0\3\5h2")])),
        records(client_hello([extension(43, b"\3\3\4\3")])),
        records(client_hello([extension(43, b"\2\3\4\3")])),
        records(client_hello([extension(13, b"\0\4\4\3")])),
        records(b"\1" + vector(3, b"\3\3" + bytes(32) + b"\0" + b"\0\3\x13\1\0" + b"\1\0")),
    ],
)
def test_a_malformed_hello_is_unknown(data: bytes) -> None:
    assert peek(data, final=False) is UNKNOWN


# --- attributes


def test_nothing_is_offered() -> None:
    assert peek(records(client_hello(None)), final=False) == Peeked(
        "tls", {"tls.version": "1.2", "tls.ja4": "t12i010000_0f2cb44170f4_000000000000"}
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [(b"Web.Example", "web.example"), (b"web.example.", "web.example"), (b"\xff\0", r"\xff\x00"), (b"", None)],
)
def test_server_names(name: bytes, expected: str | None) -> None:
    assert tls(sni(name)).get("tls.sni") == expected


def test_an_empty_list_of_names_names_nobody() -> None:
    assert "tls.sni" not in tls(extension(0, b""))
    assert "tls.sni" not in tls(extension(0, b"\0\0"))
    assert "tls.sni" not in tls(extension(0, b"\0\4\1\0\1a"))  # a kind of name that is not defined


@pytest.mark.parametrize(
    ("offered", "legacy", "expected"),
    [
        ((0x0304, 0x0303), 0x0303, "1.3"),
        ((0x0303, 0x0304), 0x0303, "1.3"),
        ((0x1A1A, 0x0303), 0x0303, "1.2"),
        ((), 0x0303, "1.2"),
        ((), 0x0302, "1.1"),
        ((), 0x0301, "1.0"),
        ((), 0x0300, "ssl3"),
        ((0x7F1C, 0x0304), 0x0303, "1.3"),  # a draft
        ((), 0x0399, None),
    ],
)
def test_versions(offered: tuple[int, ...], legacy: int, expected: str | None) -> None:
    assert tls(*([versions(*offered)] if offered else []), version=legacy).get("tls.version") == expected


def test_protocols_inside() -> None:
    assert tls(alpn(b"h2", b"http/1.1"))["tls.alpn"] == "h2,http/1.1"
    assert "tls.alpn" not in tls(alpn())


def test_python_says_what_it_was_told() -> None:
    data = python_hello("Web.Example", "postgresql")
    found = peek(data, final=False)
    assert found is not None
    assert found.attributes["tls.sni"] == "web.example"
    assert found.attributes["tls.alpn"] == "postgresql"
    assert found.attributes["tls.ja4"].startswith("t13d")


# --- JA4

# Published with FoxIO's captures (python/test/testdata, *.json) and in its technical_details/JA4.md: the raw form in
# the client's order ("JA4_ro"), and the fingerprint.
PUBLISHED = """
t13d1516h2_1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035\
_001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015\
_0403,0804,0401,0503,0805,0501,0806,0601 t13d1516h2_8daaf6152771_e5627efa2ab1
t13d1516h1_1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035\
_002d,0000,0023,000d,0017,0005,0010,0012,ff01,002b,001b,000b,000a,0033,4469,0015\
_0403,0804,0401,0503,0805,0501,0806,0601 t13d1516h1_8daaf6152771_e5627efa2ab1
t13d151400_1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035\
_0033,002b,001b,0000,0012,002d,000d,000a,0005,0023,0017,ff01,000b,0015\
_0403,0804,0401,0503,0805,0501,0806,0601 t13d151400_8daaf6152771_de4a06bb82e3
t13d1715h2_1301,1303,1302,c02b,c02f,cca9,cca8,c02c,c030,c00a,c009,c013,c014,009c,009d,002f,0035\
_0000,0017,ff01,000a,000b,0023,0010,0005,0022,0033,002b,000d,002d,001c,0015\
_0403,0503,0603,0804,0805,0806,0401,0501,0601,0203,0201 t13d1715h2_5b57614c22b0_3d5424432f57
t12d1909h2_c02c,c02b,c030,c02f,c024,c023,c028,c027,c00a,c009,c014,c013,009d,009c,003d,003c,0035,002f,000a\
_0000,0005,000a,000b,000d,0023,0010,0017,ff01\
_0804,0805,0806,0401,0501,0201,0403,0503,0203,0202,0601,0603 t12d1909h2_d83cc789557e_7af1ed941c26
t10d230100_0039,0038,0035,0016,0013,000a,0033,0032,002f,009a,0099,0096,0005,0004,0015,0012,0009,0014,0011,0008,0006,0003,00ff\
_0000 t10d230100_6a57a6f57151_000000000000
"""
KNOWN = [line.split() for line in PUBLISHED.split("\n") if line]
ALPN_OF = {"h2": [b"h2"], "h1": [b"http/1.1", b"h2"], "00": []}


def listed(text: str) -> list[int]:
    return [int(number, 16) for number in text.split(",")]


def sent(raw: str, grease: bool) -> bytes:
    """A hello as the raw form describes it, perhaps with GREASE between."""
    start, *lists = raw.split("_")
    ciphers, kinds = listed(lists[0]), listed(lists[1])
    odd = [0x0A0A] if grease else []
    content = {
        0: sni(b"web.example")[4:],
        13: vector(2, numbers(odd + listed(lists[2]))) if len(lists) > 2 else b"",
        16: alpn(*ALPN_OF[start[-2:]])[4:],
        43: vector(1, numbers([*odd, 0x0304, 0x0303])),
    }
    extensions = [extension(kind, content.get(kind, b"")) for kind in ([0xFAFA] if grease else []) + kinds + odd]
    legacy = {"10": 0x0301, "12": 0x0303, "13": 0x0303}[start[1:3]]
    return records(client_hello(extensions, odd + ciphers, legacy))


@pytest.mark.parametrize(("raw", "expected"), KNOWN)
@pytest.mark.parametrize("grease", [False, True])
def test_published_fingerprints(raw: str, expected: str, grease: bool) -> None:
    found = peek(sent(raw, grease), final=False)
    assert found is not None
    assert found.attributes["tls.ja4"] == expected


def test_without_signature_algorithms_nothing_follows_the_extensions() -> None:
    kinds = listed("0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01")
    assert ja4(Hello(0x0303, (), tuple(kinds))).endswith("_000000000000_6d807ffa2a79")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"h", "hh"),
        (b"", "00"),
        (b"\xab", "ab"),
        (b"\x20", "20"),
        (b"\xab\xcd", "ad"),
        (b"\x20\x61", "21"),
        (b"\x30\xab", "3b"),
        (b"\x61\x20", "60"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
    ],
)
def test_the_ends_of_the_first_protocol(first: bytes, expected: str) -> None:
    assert ja4(Hello(0x0303, (), (16,), alpn=(first, b"x")))[8:10] == expected


@pytest.mark.parametrize(
    ("hello", "start"),
    [
        (Hello(0x0303, (), ()), "t12i000000_000000000000_000000000000"),
        (Hello(0x0303, tuple(range(0x3000, 0x3064)), (0,)), "t12d990100_"),
        (Hello(0x0399, (), ()), "t00i000000_"),
        (Hello(0x0300, (), ()), "ts3i000000_"),
        (Hello(0x0303, (), (43,), versions=(0x0303, 0x0304)), "t13i000100_"),
    ],
)
def test_the_readable_part(hello: Hello, start: str) -> None:
    assert ja4(hello).startswith(start)


def test_grease_is_sixteen_values() -> None:
    assert sorted(GREASE) == [int(f"{digit}a{digit}a", 16) for digit in "0123456789abcdef"]


def test_it_does_not_depend_on_the_order() -> None:
    one = client_hello([versions(0x0304), sni(b"a")], [0x1301, 0x1302])
    other = client_hello([sni(b"b"), versions(0x0304)], [0x1302, 0x1301])
    assert (
        peek(records(one), final=False).attributes["tls.ja4"] == peek(records(other), final=False).attributes["tls.ja4"]
    )  # type: ignore[union-attr]
    assert messages.WRITTEN["python"] != messages.python_hello("web.example", "h2"), "each has its own random"
