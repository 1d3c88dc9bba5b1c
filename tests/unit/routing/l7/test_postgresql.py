"""PostgreSQL: who connects where, and the requests that come instead."""

from __future__ import annotations

import pytest
from tests.unit.routing.l7.messages import startup, vector_with_itself

from appswitch.routing.l7 import UNKNOWN, Peeked, peek
from appswitch.routing.l7.postgresql import CANCEL, GSSENC, SSL


def told(data: bytes) -> dict[str, str]:
    found = peek(data, final=False)
    assert found is not None
    assert found.protocol == "postgresql"
    return {name.removeprefix("postgresql."): value for name, value in found.attributes.items()}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"user": "joe", "database": "shop"}, {"user": "joe", "database": "shop"}),
        ({"database": "shop", "user": "joe"}, {"user": "joe", "database": "shop"}),
        ({"user": "joe"}, {"user": "joe", "database": "joe"}),
        ({"user": "joe", "database": ""}, {"user": "joe", "database": "joe"}),
        ({"user": "jürgen"}, {"user": "jürgen", "database": "jürgen"}),
        (
            {"user": "joe", "options": "", "application_name": "psql", "client_encoding": "UTF8"},
            {"user": "joe", "database": "joe", "application_name": "psql"},
        ),
        ({}, {}),
    ],
)
def test_startup(given: dict[str, str], expected: dict[str, str]) -> None:
    assert told(startup(**given)) == expected


def test_minor_versions_are_versions() -> None:
    assert told(startup(version=(3 << 16) + 2, user="joe"))["user"] == "joe"


@pytest.mark.parametrize(
    ("code", "more", "expected"),
    [
        (SSL, b"", {"ssl": "requested"}),
        (GSSENC, b"", {"ssl": "requested"}),
        (CANCEL, bytes(8), {"cancel": "requested"}),
        (CANCEL, bytes(36), {"cancel": "requested"}),  # the longer keys of version 3.2
    ],
)
def test_requests_are_known_at_once(code: int, more: bytes, expected: dict[str, str]) -> None:
    data = vector_with_itself(code.to_bytes(4, "big") + more)
    assert told(data[:8]) == told(data) == expected


def test_half_a_packet_is_postgresql_in_the_end() -> None:
    assert peek(startup(user="joe")[:-1], final=False) is None
    assert peek(startup(user="joe")[:-1], final=True) == Peeked("postgresql", {})


@pytest.mark.parametrize(
    "data",
    [
        vector_with_itself(b"\0\2\0\0" + b"user\0joe\0\0"),
        vector_with_itself(b"\0\3\0\0" + b"user\0joe\0"),
        vector_with_itself(b"\0\3\0\0" + b"user\0joe"),
        vector_with_itself(b"\0\3\0\0" + b"user\0\0"),
        vector_with_itself(b"\0\3\0\0"),
        vector_with_itself(b"\0\3\0\0" + bytes(10000)),
        vector_with_itself(b"\x04\xd2\x16\x31"),
        b"\0\0\0\7\0\3\0\0",
    ],
)
def test_malformed(data: bytes) -> None:
    assert peek(data, final=False) is UNKNOWN
