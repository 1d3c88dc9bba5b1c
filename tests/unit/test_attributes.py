"""The table of attributes, and what is said of names that are not in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appswitch.attributes import ATTRIBUTES, HEADER, MATCHABLE, PROTOCOLS, check, shown

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "l7.md").read_text()


@pytest.mark.parametrize("name", [*sorted(MATCHABLE), "http.header.x-canary", "http.header.x_1!"])
def test_names(name: str) -> None:
    check(name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("http.pth", "'http.pth' is not an attribute: did you mean http.path?"),
        ("HTTP.Path", "'HTTP.Path' is not an attribute: did you mean http.path?"),
        ("http.headers.x-canary", "'http.headers.x-canary' is not an attribute: did you mean http.header.x-canary?"),
        ("sni", "'sni' is not an attribute: did you mean tls.sni?"),
        (
            "redis.which-of-the-databases",
            "'redis.which-of-the-databases' is not an attribute: there are redis.command, redis.key,",
        ),
        ("", "'' is not an attribute: docs/l7.md lists them"),
        ("kafka.topic", "'kafka.topic' is not an attribute: docs/l7.md lists them"),
        ("http.header.X-Canary", "'http.header.X-Canary': headers are named in lower case: http.header.x-canary"),
        ("http.header.", "'http.header.' does not end in a header's name"),
        ("http.header.a b", "'http.header.a b' does not end in a header's name"),
        (
            "mysql.user",
            "'mysql.user': the server speaks first in MySQL, so nothing can be read before a backend is chosen",
        ),
        (
            "SMTP.from",
            "'SMTP.from': the server speaks first in SMTP, so nothing can be read before a backend is chosen",
        ),
        ("ftp", "'ftp': the server speaks first in FTP"),
    ],
)
def test_other_names(name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check(name)


def test_secrets_are_not_shown() -> None:
    given = {
        "http.path": "/",
        "http.header.authorization": "Bearer x",
        "http.header.a": "b",
        "http.query": "token=x",
    }
    assert shown(given) == {"http.path": "/"}


def test_the_family_is_no_name() -> None:
    assert not [name for name in MATCHABLE if name.startswith(HEADER)]
    assert {protocol for attribute in ATTRIBUTES for protocol in attribute.protocols} <= PROTOCOLS.keys()


def test_the_document_has_the_tables() -> None:
    for protocol, meaning in PROTOCOLS.items():
        assert f"| `{protocol}` | {meaning} |" in DOCUMENT
    for attribute in ATTRIBUTES:
        assert f"| `{attribute.name}` | {attribute.meaning} |" in DOCUMENT
