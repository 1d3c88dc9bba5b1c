"""The attributes of an HTTP request, whichever version brought it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from appswitch.routing.l7.reading import MAX_TEXT, host, text

MAX_HEADERS = 100  # names that become attributes, the first ones
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # a token of RFC 9110 section 5.6.2

Header = tuple[bytes, bytes]


class Request(NamedTuple):
    """A request as it came. ``path`` has the query; None where there is none: CONNECT."""

    version: str
    method: bytes
    path: bytes | None
    authority: bytes | None
    headers: list[Header]


def attributes(request: Request) -> dict[str, str]:
    """``http.*``, as docs/l7.md describes them."""
    found = {"http.method": text(request.method), "http.version": request.version}
    if request.path is not None:
        path, mark, query = request.path.partition(b"?")
        found["http.path"] = text(path)
        if mark:
            found["http.query"] = text(query)
    headers = _headers(request.headers)
    authority = request.authority if request.authority is not None else _host_of(headers)
    if authority:
        authority = authority.rpartition(b"@")[2]  # RFC 9110 section 4.2.4; what may stand there is a password
        found["http.authority"] = text(authority)
        found["http.host"] = host(_without_port(authority))
    for name, values in headers.items():
        joiner = b"; " if name == b"cookie" else b", "  # RFC 9113 section 8.2.3, RFC 9110 section 5.3
        found[f"http.header.{name.decode()}"] = text(joiner.join(values))
    return found


def _headers(lines: Iterable[Header]) -> dict[bytes, list[bytes]]:
    """By name in lower case. A line whose name is none is left out, as servers do that do not refuse it."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        lower = name.lower()
        if lower in found:
            found[lower].append(value[:MAX_TEXT])
        elif len(found) < MAX_HEADERS and _NAME.fullmatch(name):
            found[lower] = [value[:MAX_TEXT]]
    return found


def _host_of(headers: dict[bytes, list[bytes]]) -> bytes | None:
    """Of two that differ nobody knows which one the server goes by (RFC 9112 section 3.2: it refuses them)."""
    values = set(headers.get(b"host", ()))
    return values.pop() if len(values) == 1 else None


def _without_port(authority: bytes) -> bytes:
    if authority.startswith(b"["):
        return authority[1:].partition(b"]")[0]
    return authority.partition(b":")[0]
