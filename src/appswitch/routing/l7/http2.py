"""HTTP/2 with prior knowledge, RFC 9113, and gRPC, which is a content type of it.

Only what the client sends unprompted: the preface, SETTINGS, and the HEADERS of its first request. Frames are read by
hyperframe, header blocks by hpack. Both are bounded here: one block may name one long header thousands of times.
"""

from __future__ import annotations

from hpack import Decoder
from hpack.exceptions import HPACKError
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import ContinuationFrame, Frame, HeadersFrame

from appswitch.routing.l7.peeked import Peeked
from appswitch.routing.l7.reading import Reader, begins, text
from appswitch.routing.l7.request import Header, Request, attributes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
MAX_FRAME = 1 << 14  # bytes: SETTINGS_MAX_FRAME_SIZE before the server has said anything else
MAX_FRAMES = 64  # before the end of the first request's headers; clients send two or three
MAX_BLOCK = 1 << 14  # bytes of a compressed header block
MAX_LIST = 1 << 14  # bytes of the headers in it, as RFC 9113 section 6.5.2 counts
MAX_RESIZES = 8  # bytes: RFC 7541 section 4.2 allows two changes of the table's size, at the beginning

_RESIZES = bytes(range(0x20, 0x40))  # RFC 7541 section 6.3
_GRPC = b"application/grpc"


class _BrokenError(Exception):
    """It is HTTP/2, and the request cannot be read."""


def sniff(data: bytes) -> bool | None:
    """The preface, which is made not to be anything else."""
    return begins(data, PREFACE)


def parse(data: bytes, final: bool) -> Peeked:
    """The first request's headers. HTTP/2 without attributes where the frames are broken, or beyond the bounds."""
    try:
        headers = _decode(_block(Reader(data, len(PREFACE))))
    except (_BrokenError, HyperframeError, HPACKError):
        return Peeked("http2", {})
    return _peeked(headers)


def _block(reader: Reader) -> bytes:
    """The header block of the first request: of HEADERS and the CONTINUATIONs that follow it (section 6.10)."""
    block, stream = b"", 0
    for _ in range(MAX_FRAMES):
        frame = _frame(reader)
        if isinstance(frame, HeadersFrame | ContinuationFrame):
            if isinstance(frame, ContinuationFrame) is not bool(stream) or stream not in (0, frame.stream_id):
                raise _BrokenError
            block, stream = block + frame.data, frame.stream_id
            if "END_HEADERS" in frame.flags:
                return block
        elif stream:
            raise _BrokenError
    raise _BrokenError


def _frame(reader: Reader) -> Frame:
    """The next one; its body is read only where headers are in it."""
    frame, length = Frame.parse_frame_header(memoryview(reader.take(9)))
    if length > MAX_FRAME:
        raise _BrokenError
    body = reader.take(length)
    if isinstance(frame, HeadersFrame | ContinuationFrame):
        frame.parse_body(memoryview(body))
    return frame


def _decode(block: bytes) -> list[Header]:
    if len(block) > MAX_BLOCK or len(block) - len(block.lstrip(_RESIZES)) > MAX_RESIZES:
        raise _BrokenError
    return [(name, value) for name, value in Decoder(MAX_LIST).decode(block, raw=True)]


def _peeked(headers: list[Header]) -> Peeked:
    pseudo = {name: value for name, value in headers if name.startswith(b":")}
    ordinary = [header for header in headers if not header[0].startswith(b":")]
    if b":method" not in pseudo:
        return Peeked("http2", {})
    path = pseudo.get(b":path")
    found = attributes(Request("2", pseudo[b":method"], path, pseudo.get(b":authority"), ordinary))
    if path is None or not _is_grpc(dict(ordinary).get(b"content-type", b"")):
        return Peeked("http2", found)
    service, _, method = path.partition(b"?")[0].lstrip(b"/").rpartition(b"/")
    return Peeked("grpc", found | {"grpc.service": text(service), "grpc.method": text(method)})


def _is_grpc(content_type: bytes) -> bool:
    """As gRPC over HTTP/2 has it; application/grpc-web is another protocol."""
    return content_type.startswith(_GRPC) and content_type[len(_GRPC) :][:1] in (b"", b"+", b";")
