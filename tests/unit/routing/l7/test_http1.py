"""HTTP/1.x: what is read of a request, of half of one, and of one that no server should accept."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.routing.l7.messages import REQUEST, REQUESTED

from appswitch.routing.l7 import UNKNOWN, Peeked, peek
from appswitch.routing.l7.http1 import MAX_LINES, METHODS
from appswitch.routing.l7.reading import MAX_TEXT
from appswitch.routing.l7.request import MAX_HEADERS

REST = b" HTTP/1.1\r\nHost: web\r\n\r\n"


def http(data: bytes, final: bool = False) -> dict[str, str]:
    found = peek(data, final=final)
    assert found is not None
    assert found.protocol == "http"
    return found.attributes


def headers(data: bytes) -> dict[str, str]:
    found = http(b"GET / HTTP/1.1\r\n" + data + b"\r\n")
    return {
        name.removeprefix("http.header."): value for name, value in found.items() if name.startswith("http.header.")
    }


@pytest.mark.parametrize("method", sorted(METHODS))
def test_methods(method: str) -> None:
    assert http(method.encode() + b" /" + REST)["http.method"] == method


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", None),
        (b"/a/b", "/a/b", None),
        (b"/a?", "/a", ""),
        (b"/a?b=c?d", "/a", "b=c?d"),
        (b"/%2e%2E/a%20b", "/%2e%2E/a%20b", None),
        (b"/../a//b/./c", "/../a//b/./c", None),
        (b"/caf\xc3\xa9", "/café", None),
        (b"/caf\xe9", r"/caf\xe9", None),
        (b"/\x1b[2J", r"/\x1b[2J", None),
        (b"*", "*", None),
        (b"http://web/a?b", "/a", "b"),
        (b"http://web", "/", None),
        (b"http://web?b", "/", "b"),
        (b"HTTPS://web:443/", "/", None),
    ],
)
def test_targets(target: bytes, path: str, query: str | None) -> None:
    found = http(b"GET " + target + REST)
    assert (found["http.path"], found.get("http.query")) == (path, query)


@pytest.mark.parametrize(
    ("written", "authority", "host"),
    [
        (b"web", "web", "web"),
        (b"Web.Example:8080", "Web.Example:8080", "web.example"),
        (b"web.example.", "web.example.", "web.example"),
        (b"192.0.2.1:80", "192.0.2.1:80", "192.0.2.1"),
        (b"[2001:DB8::1]:80", "[2001:DB8::1]:80", "2001:db8::1"),
        (b"[2001:db8::1", "[2001:db8::1", "2001:db8::1"),
        (b"joe:secret@web:80", "web:80", "web"),
        (b"caf\xe9", r"caf\xe9", r"caf\xe9"),
    ],
)
def test_hosts(written: bytes, authority: str, host: str) -> None:
    by_header = http(b"GET / HTTP/1.1\r\nHost: " + written + b"\r\n\r\n")
    assert (by_header["http.authority"], by_header["http.host"]) == (authority, host)
    by_target = http(b"GET http://" + written + b"/a HTTP/1.1\r\nHost: other\r\n\r\n")
    assert (by_target["http.authority"], by_target["http.host"]) == (authority, host)


def test_connect_names_an_authority_and_no_path() -> None:
    found = http(b"CONNECT Web.Example:443 HTTP/1.1\r\nHost: other\r\n\r\n")
    assert found == {
        "http.method": "CONNECT",
        "http.version": "1.1",
        "http.authority": "Web.Example:443",
        "http.host": "web.example",
        "http.header.host": "other",
    }


@pytest.mark.parametrize(
    ("lines", "host"),
    [
        (b"", None),
        (b"Host:\r\n", None),
        (b"Host: a\r\nHost: b\r\n", None),
        (b"Host: a\r\nhost: a\r\n", "a"),
        (b"Host : a\r\n", "a"),
        (b"Host: a\r\nBad Name: x\r\n", "a"),
    ],
)
def test_which_host(lines: bytes, host: str | None) -> None:
    assert http(b"GET / HTTP/1.1\r\n" + lines + b"\r\n").get("http.host") == host


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"A: b\r\na:  c \r\n", {"a": "b, c"}),
        (b"Cookie: a=b\r\nCookie: c=d\r\n", {"cookie": "a=b; c=d"}),
        (b"A:\r\n", {"a": ""}),
        (b"A: b:c\r\n", {"a": "b:c"}),
        (b"A: b\r\n c\r\n\td\r\nE: f\r\n", {"a": "b c d", "e": "f"}),
        (b"no colon\r\nA: b\r\n", {"a": "b"}),
        (b": no name\r\nA: b\r\n", {"a": "b"}),
        (b"\xff: no name\r\nA: b\r\n", {"a": "b"}),
        (b"A: \xff\x00\r\n", {"a": r"\xff\x00"}),
        (b"A" * 129 + b": too long a name\r\n", {}),
        (b"Content-Length: x\r\nContent-Length: y\r\n", {"content-length": "x, y"}),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", {"connection": "Upgrade", "upgrade": "h2c"}),
    ],
)
def test_headers(lines: bytes, expected: dict[str, str]) -> None:
    assert headers(lines) == expected


def test_headers_are_bounded() -> None:
    assert len(headers(b"".join(b"h%d: v\r\n" % n for n in range(MAX_HEADERS + 1)))) == MAX_HEADERS
    assert headers(b"a: b\r\n" * MAX_LINES + b"c: d\r\n").keys() == {"a"}
    assert headers(b"a: " + b"b" * 2 * MAX_TEXT + b"\r\n") == {"a": "b" * MAX_TEXT}


@pytest.mark.parametrize(
    ("line", "version"),
    [(b"GET / HTTP/1.0", "1.0"), (b"GET / HTTP/1.9", "1.9"), (b"GET  /  HTTP/1.1 ", "1.1"), (b"GET / ", "0.9")],
)
def test_versions_and_lenient_servers(line: bytes, version: str) -> None:
    assert http(line + b"\r\n\r\n")["http.version"] == version


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/2.0\r\n\r\n", b"GET / http/1.1\r\n\r\n", b"GET a b HTTP/1.1\r\n\r\n", b"POST /a\r\n\r\n"]
)
def test_what_is_no_request(data: bytes) -> None:
    found = peek(data, final=False)
    assert found is not None
    assert found.protocol in ("unknown", "redis")  # GET is a command of redis as well


def test_lower_case_is_no_method() -> None:
    assert peek(b"head / HTTP/1.1\r\n\r\n", final=False) is UNKNOWN


# --- more than one, less than one


def test_of_pipelined_requests_the_first_counts() -> None:
    assert http(REQUEST + b"DELETE /b HTTP/1.1\r\nHost: other\r\n\r\n") == REQUESTED


def test_the_body_is_not_waited_for() -> None:
    assert http(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")["http.method"] == "POST"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GE", UNKNOWN),
        (b"GET ", Peeked("http", {"http.method": "GET"})),
        (b"GET /a HTTP/1.1", Peeked("http", {"http.method": "GET"})),
        (REQUEST[:-2], Peeked("http", REQUESTED)),
        (
            b"GET /a HTTP/1.1\r\n",
            Peeked("http", {"http.method": "GET", "http.path": "/a", "http.version": "1.1"}),
        ),
        (
            b"GET /a HTTP/1.1\r\nHost: web\r\nCookie: " + b"c" * 65536,
            Peeked(
                "http",
                {
                    "http.method": "GET",
                    "http.path": "/a",
                    "http.version": "1.1",
                    "http.authority": "web",
                    "http.host": "web",
                    "http.header.host": "web",
                },
            ),
        ),
    ],
)
def test_of_half_a_request_whole_lines_count(data: bytes, expected: Peeked) -> None:
    assert peek(data, final=False) is None
    assert peek(data, final=True) == expected


# --- beside h11, which servers use

token = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_!#", min_size=1, max_size=12)
value = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(METHODS - {"CONNECT"})),
    st.text("abc/%?&=.~", max_size=20),
    st.lists(
        st.tuples(token.filter(lambda name: name.lower() not in ("host", "content-length", "transfer-encoding")), value)
    ),
)
def test_what_h11_understands_is_understood_as_h11_does(method: str, path: str, given: list[tuple[str, str]]) -> None:
    data = (
        f"{method} /{path} HTTP/1.1\r\nHost: web\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in given)
        + "\r\n"
    )
    server = h11.Connection(h11.SERVER)
    server.receive_data(data.encode())
    request = server.next_event()
    assert isinstance(request, h11.Request)
    found = http(data.encode())
    assert found["http.method"].encode() == request.method
    query = [found["http.query"]] if "http.query" in found else []
    assert "?".join([found["http.path"], *query]).encode() == request.target
    names = [name for name, _ in request.headers]
    for name, value in request.headers:
        if names.count(name) == 1:
            assert found[f"http.header.{name.decode()}"].encode() == value
