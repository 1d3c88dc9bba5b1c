"""HTTP/1.x, RFC 9112, and the simple request of HTTP/0.9, which servers still answer.

Written here rather than with h11 or httptools. Those are made for servers, which refuse a request as a whole: h11 says
nothing at all about one with two Host lines or a space in a header's name, and httptools (llhttp) stops at the first
line that it dislikes and drops the one before it, too. What stands behind us may be more lenient (nginx leaves such
lines out and serves the rest), and a request that could make itself unreadable would go past every rule. Here what can
be read is read, line by line; the tests compare it with h11.
"""

from __future__ import annotations

import re

from appswitch.routing.l7.peeked import IncompleteError, MalformedError, Peeked
from appswitch.routing.l7.reading import Words, after_empty_lines, text, words
from appswitch.routing.l7.request import Header, Request, attributes

# IANA's registry of methods; PRI is HTTP/2's, and what no server knows would only make other protocols wait.
METHODS = words(
    """
    ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK M-SEARCH MERGE MKACTIVITY
    MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE NOTIFY OPTIONS ORDERPATCH PATCH POST PROPFIND PROPPATCH PURGE PUT
    QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UNSUBSCRIBE UPDATE
    UPDATEREDIRECTREF VERSION-CONTROL
    """
)

MAX_LINES = 256  # of headers that are looked at

_METHODS = Words(METHODS, ends=b" ")
# With as many spaces as servers put up with (RFC 9112 section 3).
_REQUEST = re.compile(rb"([A-Z-]+) +([^\s]+) +HTTP/(1\.[0-9])[ \t]*\r?\n")
_SIMPLE = re.compile(rb"(GET) +(/[^\s]*)[ \t]*\r?\n")  # HTTP/0.9
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)(.*)", re.DOTALL)  # RFC 9112 section 3.2.2
_END = re.compile(rb"\n\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")  # RFC 9112 section 5.2


def sniff(data: bytes) -> bool | None:
    """A method and a space, after empty lines, which servers skip (RFC 9112 section 2.2)."""
    return _METHODS.sniff(after_empty_lines(data))


def parse(data: bytes, final: bool) -> Peeked:
    """The first request, when its head is complete; with ``final``, the lines of it that are."""
    data = after_empty_lines(data)
    if b"\n" not in data:
        if final:
            return Peeked("http", {"http.method": text(data.partition(b" ")[0])})
        raise IncompleteError
    if line := _REQUEST.match(data):
        return Peeked("http", attributes(_request(line, _head(data, line.end(), final))))
    if line := _SIMPLE.match(data):
        return Peeked("http", attributes(Request("0.9", line[1], line[2], None, [])))
    raise MalformedError


def _head(data: bytes, start: int, final: bool) -> bytes:
    """The header lines, each with its end. The search begins with the request line's: there may be no headers."""
    end = _END.search(data, start - 1)
    if end:
        return data[start : end.start() + 1]
    if not final:
        raise IncompleteError
    return data[start : data.rfind(b"\n") + 1]


def _request(line: re.Match[bytes], head: bytes) -> Request:
    method, target, version = line.groups()
    headers = _headers(head)
    if method == b"CONNECT":
        return Request(version.decode(), method, None, target, headers)
    if absolute := _ABSOLUTE.fullmatch(target):
        path = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        return Request(version.decode(), method, path, absolute[1], headers)
    return Request(version.decode(), method, target, None, headers)


def _headers(head: bytes) -> list[Header]:
    if b"\n " in head or b"\n\t" in head:
        head = _FOLD.sub(b" ", head)
    lines = (line.partition(b":") for line in head.split(b"\n", MAX_LINES)[:MAX_LINES])
    return [(name.strip(), value.strip()) for name, colon, value in lines if colon]
