"""What every protocol's module is made of: what it answers, and how it says "not yet" and "not mine"."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Peeked(NamedTuple):
    """``protocol`` is "unknown" where nothing was recognized. See docs/l7.md for the names of attributes."""

    protocol: str
    attributes: dict[str, str]


UNKNOWN = Peeked("unknown", {})


class IncompleteError(Exception):
    """The bytes so far fit, and end too early to tell."""


class MalformedError(Exception):
    """These bytes are not this protocol's, whatever comes after them."""


class Recognizer(NamedTuple):
    """One protocol.

    What ``sniff`` and ``parse`` say about some bytes holds for them with more bytes behind, but for "not yet": the
    first recognizer that does not say no decides, and what it says is never taken back.
    """

    protocol: str
    sniff: Callable[[bytes], bool | None]  # from the first few bytes: None is "with more of them, perhaps"
    parse: Callable[
        [bytes, bool], Peeked
    ]  # where sniff says True; the bool is `peek`'s ``final``; IncompleteError, MalformedError
