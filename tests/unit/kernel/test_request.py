"""An ordinary request is read alike by the native module and by `routing.l7`, which reads all the others alone."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appswitch import _kernel
from appswitch.routing import l7

ORDINARY = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    b"POST /a/b?c=d?e HTTP/1.1\r\nHost: Shop.Example.:8080\r\nContent-Length: 3\r\n\r\nabc",
    b"DELETE /x? HTTP/1.1\r\nHost:\r\nX-Canary:  yes  \r\nAccept: */*\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"PATCH /\\x HTTP/1.9\r\nHost: a:b:c\r\n:path: x\r\n".replace(b":path: x\r\n", b"") + b"\r\n",
    b"GET /%41?%00 HTTP/1.1\r\nhost: .\r\nCookie: a=b; c=d\r\n\r\n",
)
OTHERS = (
    b"",
    b"GET",
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"get / HTTP/1.1\r\n\r\n",
    b"PROPFIND / HTTP/1.1\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\n\r\n",
    b"GET http://a/ HTTP/1.1\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"GET / HTTP/1.\r\n\r\n",
    b"GET / HTTP/1.11\r\n\r\n",
    b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: user:password@a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: \tb\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A" * 129 + b": b\r\n\r\n",
    b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: " + b"a" * 5000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(300)) + b"\r\n",
)


def slowly(data: bytes) -> dict[str, str]:
    peeked = l7.peek(data, final=False)
    assert peeked is not None
    assert peeked.protocol == "http"
    return peeked.attributes


@pytest.mark.parametrize("data", ORDINARY)
def test_ordinary_requests(data: bytes) -> None:
    assert _kernel.http_request(data) == slowly(data)


@pytest.mark.parametrize("data", OTHERS)
def test_others_are_left_alone(data: bytes) -> None:
    assert _kernel.http_request(data) is None


PIECES = st.sampled_from(
    (
        b"GET",
        b"POST",
        b" ",
        b"/",
        b"/a?b",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\r",
        b"\n",
        b"Host",
        b"host",
        b":",
        b"a.b:80",
        b"@",
        b"[",
    )
)


@given(st.lists(PIECES | st.binary(max_size=3), max_size=24).map(b"".join))
@example(b"GET /a?b HTTP/1.1\r\nHost:a.b:80\r\n\r\n")
def test_whatever_is_read_is_read_alike(data: bytes) -> None:
    found = _kernel.http_request(data)
    assert found is None or found == slowly(data)


TOKEN = st.text("!#$%&'*+.^_`|~-abzABZ019", min_size=1, max_size=12)
LINE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(
    st.sampled_from(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
    st.lists(st.tuples(st.just("Host") | TOKEN, LINE), max_size=8),
)
def test_every_ordinary_request_is_read_alike(method: str, target: str, headers: list[tuple[str, str]]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    data = f"{method} /{target} HTTP/1.1\r\n{lines}\r\n".encode()
    found = _kernel.http_request(data)
    names = [name.lower() for name, _ in headers]
    hosts = [value.strip() for name, value in headers if name.lower() == "host"]
    if len(set(names)) == len(names) and not any("@" in host or host.startswith("[") for host in hosts):
        assert found is not None
    assert found is None or found == slowly(data)
