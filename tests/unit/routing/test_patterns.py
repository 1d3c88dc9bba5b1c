"""Compiled patterns answer as single ones do, and the worst that a document may hold is quick."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appswitch.control.resources import bounds
from appswitch.resources import L7Match, matches
from appswitch.routing.patterns import AnyOf, Tests, compiled, hold

WORDS = st.text("ab", max_size=4)
STARS = st.sampled_from(("", "*"))
PATTERNS = st.builds("{}{}{}".format, STARS, WORDS, STARS).filter(bool)


@given(st.lists(PATTERNS, max_size=6), WORDS)
def test_as_one_by_one(patterns: list[str], text: str) -> None:
    assert AnyOf(patterns).matches(text) == any(matches(pattern, text) for pattern in patterns)


def test_all_that_is_named_must_hold() -> None:
    tests = compiled({"http.path": ("/a*", "/b"), "http.method": ("GET",)})
    assert hold(tests, {"http.path": "/ax", "http.method": "GET", "more": "x"})
    assert not hold(tests, {"http.path": "/bx", "http.method": "GET"})
    assert not hold(tests, {"http.path": "/b"})
    assert hold(compiled({}), {})


def _names(count: int, before: str = "", after: str = "") -> tuple[str, ...]:
    return tuple(f"{before}{number:06d}{after}" for number in range(count))


FULL: dict[str, list[L7Match]] = {
    "searches": [{"http.path": _names(bounds.MAX_SEARCHES, "*", "*")}],
    "wildcards": [{"http.path": _names(256, "/", "*")} for _ in range(bounds.MAX_WILDCARDS // 256)],
    "tests": [{f"http.header.{n}": ("x",) for n in range(64)} for _ in range(bounds.MAX_TESTS // 64)],
    "exact": [{"http.path": _names(256)} for _ in range(256)],
}


@pytest.mark.parametrize("kind", FULL)
def test_the_worst_that_may_be_configured(kind: str) -> None:
    """Compared with a long text, in vain: as long as a few hundred searches for one word, not as 65,536 of them."""
    bounds.bounded(FULL[kind])
    attributes = {"http.path": ("ab" + string.digits) * 1365, **{f"http.header.{n}": "x" for n in range(63)}}

    def seconds(tests: list[Tests]) -> float:
        began = time.thread_time()
        assert not any(hold(one, attributes) for one in tests)
        return time.thread_time() - began

    one = min(seconds([compiled({"http.path": ("*no*",)})]) for _ in range(20))
    worst = [compiled(match) for match in FULL[kind]]
    assert min(seconds(worst) for _ in range(5)) < 1000 * one


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ([{"http.path": _names(129, "*", "*")}], r"129 patterns have a \* at both ends, and a document may have 128"),
        ([{"http.path": _names(17, "", "*")}] * 241, r"4097 patterns have a \*, and"),
        ([{f"http.header.{n}": ("x",) for n in range(64)}] * 33, "2112 attributes are named"),
    ],
)
def test_what_is_too_much(given_: list[L7Match], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bounds.bounded(given_)
