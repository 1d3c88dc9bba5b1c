"""What a connection is about, read from its first bytes. Sans-IO: bytes in, `Peeked` out; nothing is consumed."""

from __future__ import annotations

from typing import NamedTuple


class Peeked(NamedTuple):
    """``protocol`` is "unknown" where nothing was recognized. See docs/l7.md for the names of attributes."""

    protocol: str
    attributes: dict[str, str]


UNKNOWN = Peeked("unknown", {})
