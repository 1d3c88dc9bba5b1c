"""HTTP/2 with prior knowledge and gRPC: what the first HEADERS say, in whatever frames they come."""

from __future__ import annotations

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.routing.l7.messages import (
    CONTINUATION,
    DATA,
    GRPC,
    H2_GET,
    HEADERS,
    SETTINGS,
    SETTINGS_FRAME,
    h2_client,
    h2_frame,
)

from appswitch.routing.l7 import UNKNOWN, Peeked, peek
from appswitch.routing.l7.http2 import MAX_BLOCK, MAX_FRAMES, PREFACE

END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
BLOCK = Encoder().encode(H2_GET)
ANSWER = Peeked(
    "http2",
    {
        "http.method": "GET",
        "http.version": "2",
        "http.path": "/a",
        "http.query": "b=c",
        "http.authority": "web:80",
        "http.host": "web",
        "http.header.x-canary": "1",
    },
)
NOTHING = Peeked("http2", {})


def headers(*given: tuple[str, str]) -> dict[str, str]:
    found = peek(h2_client(given), final=False)
    assert found is not None
    return found.attributes


@pytest.mark.parametrize(
    "frames",
    [
        [h2_frame(HEADERS, BLOCK, END_HEADERS, 1)],
        [h2_frame(HEADERS, b"\4" + BLOCK + bytes(4), END_HEADERS | PADDED, 1)],
        [h2_frame(HEADERS, b"\0\0\0\3\x0f" + BLOCK, END_HEADERS | PRIORITY, 1)],
        [h2_frame(HEADERS, b"\2\x80\0\0\3\x0f" + BLOCK + bytes(2), END_HEADERS | PADDED | PRIORITY, 1)],
        [h2_frame(HEADERS, BLOCK[:3], 0, 1), h2_frame(CONTINUATION, BLOCK[3:], END_HEADERS, 1)],
        [
            h2_frame(HEADERS, b"", 0, 1),
            *(h2_frame(CONTINUATION, BLOCK[at : at + 1], 0, 1) for at in range(len(BLOCK))),
            h2_frame(CONTINUATION, b"", END_HEADERS, 1),
        ],
        [h2_frame(8, b"\0\0\xff\xff"), h2_frame(2, bytes(5), 0, 3), h2_frame(HEADERS, BLOCK, END_HEADERS, 1)],
        [h2_frame(0xBE, b"an extension"), h2_frame(HEADERS, BLOCK, END_HEADERS, 13)],
    ],
)
def test_frames(frames: list[bytes]) -> None:
    data = SETTINGS_FRAME + b"".join(frames)
    assert [peek(data[:length], final=False) for length in range(len(data) + 1)] == [None] * len(data) + [ANSWER]


def test_without_headers_it_is_http2_in_the_end() -> None:
    """gRPC clients wait for the server's SETTINGS before they send a request."""
    assert peek(SETTINGS_FRAME, final=False) is None
    assert peek(SETTINGS_FRAME, final=True) == NOTHING
    assert peek(SETTINGS_FRAME + h2_frame(HEADERS, BLOCK, 0, 1), final=True) == NOTHING


def test_half_a_preface_is_nothing() -> None:
    assert peek(PREFACE[:-1], final=False) is None
    assert peek(PREFACE[:-1], final=True) is UNKNOWN
    assert peek(PREFACE[:-1] + b"x", final=False) is UNKNOWN


@pytest.mark.parametrize(
    "frames",
    [
        [h2_frame(CONTINUATION, BLOCK, END_HEADERS, 1)],
        [h2_frame(HEADERS, BLOCK[:3], 0, 1), h2_frame(CONTINUATION, BLOCK[3:], END_HEADERS, 3)],
        [h2_frame(HEADERS, BLOCK[:3], 0, 1), h2_frame(SETTINGS)],
        [h2_frame(HEADERS, BLOCK[:3], 0, 1), h2_frame(HEADERS, BLOCK[3:], END_HEADERS, 1)],
        [h2_frame(HEADERS, BLOCK, END_HEADERS, 0)],
        [h2_frame(HEADERS, b"\xff" + BLOCK, END_HEADERS | PADDED, 1)],
        [h2_frame(HEADERS, b"", END_HEADERS | PADDED | PRIORITY, 1)],
        [h2_frame(HEADERS, b"\xff\xff\xff", END_HEADERS, 1)],
        [h2_frame(HEADERS, BLOCK[:-1], END_HEADERS, 1)],
        [h2_frame(HEADERS, b"", END_HEADERS, 1)],
        [h2_frame(HEADERS, b"\x3f\xe2\x1f" + BLOCK, END_HEADERS, 1)],  # a table larger than was offered
        [h2_frame(HEADERS, BLOCK + b"\x82" * MAX_BLOCK, END_HEADERS, 1)],
        [h2_frame(DATA, b"", 0, 0)],
        [h2_frame(SETTINGS)] * MAX_FRAMES,
        [b"\x00\x40\x01\x04\0\0\0\0\0" + bytes(0x4001)],
    ],
)
def test_what_is_broken_is_http2_without_attributes(frames: list[bytes]) -> None:
    assert peek(SETTINGS_FRAME + b"".join(frames), final=False) == NOTHING


def test_host_stands_in_for_the_authority() -> None:
    assert headers((":method", "GET"), (":path", "/"), (":scheme", "http"), ("host", "Web:80"))["http.host"] == "web"


def test_cookies_come_in_crumbs() -> None:
    assert headers(*H2_GET, ("cookie", "a=b"), ("cookie", "c=d"))["http.header.cookie"] == "a=b; c=d"


def test_connect_has_no_path() -> None:
    found = headers((":method", "CONNECT"), (":authority", "web:443"))
    assert found == {
        "http.method": "CONNECT",
        "http.version": "2",
        "http.authority": "web:443",
        "http.host": "web",
    }


@pytest.mark.parametrize(
    ("content_type", "protocol"),
    [
        ("application/grpc", "grpc"),
        ("application/grpc+proto", "grpc"),
        ("application/grpc; charset=utf-8", "grpc"),
        ("application/grpc-web+proto", "http2"),
        ("application/json", "http2"),
    ],
)
def test_grpc_is_a_content_type(content_type: str, protocol: str) -> None:
    found = peek(h2_client([*GRPC[:4], ("content-type", content_type)]), final=False)
    assert found is not None
    assert found.protocol == protocol
    assert ("grpc.service" in found.attributes) is (protocol == "grpc")


@pytest.mark.parametrize(
    ("path", "service", "method"),
    [
        ("/helloworld.Greeter/SayHello", "helloworld.Greeter", "SayHello"),
        ("/Greeter/SayHello?x", "Greeter", "SayHello"),
        ("/a/b/c", "a/b", "c"),
        ("/SayHello", "", "SayHello"),
    ],
)
def test_grpc_names_service_and_method(path: str, service: str, method: str) -> None:
    found = headers(GRPC[0], (":path", path), *GRPC[2:])
    assert (found["grpc.service"], found["grpc.method"]) == (service, method)


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_header_blocks_do_no_harm(block: bytes, behind_a_good_one: bool) -> None:
    data = SETTINGS_FRAME + h2_frame(HEADERS, BLOCK * behind_a_good_one + block, END_HEADERS, 1)
    found = peek(data, final=False)
    assert found is not None
    assert found.protocol in ("http2", "grpc")
