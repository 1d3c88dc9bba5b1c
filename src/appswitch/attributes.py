"""What attributes of peeked data are called, for who writes rules on them. A leaf."""

from __future__ import annotations

import re

MAX_NAME = 128
_NAME = re.compile(r"[a-z][a-z0-9]*(\.[a-z0-9][-_a-z0-9]*)+")


def check(name: str) -> None:
    """Raises ValueError, with what helps, for what no attribute can be called."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not an attribute's name: give one such as http.path or tls.sni, in lower case")
