"""TLS: the ClientHello that a client begins with, in as many records as it likes."""

from __future__ import annotations

from appswitch.routing.l7.hello import Hello, read_hello
from appswitch.routing.l7.ja4 import ja4
from appswitch.routing.l7.peeked import MalformedError, Peeked
from appswitch.routing.l7.reading import Reader, host, text

HANDSHAKE, CLIENT_HELLO = 22, 1  # RFC 8446 sections 5.1 and 4
MAX_RECORD = 1 << 14  # bytes, RFC 8446 section 5.1
MAX_RECORDS = 256  # that one hello may come in: some clients hide the name by splitting it
MAX_HELLO = 1 << 16  # bytes; a client with post-quantum key shares sends 2,000

_LENGTH = range((MAX_RECORD >> 8) + 1)
_BEGINS = (
    range(HANDSHAKE, HANDSHAKE + 1),
    range(3, 4),
    range(5),
    _LENGTH,
    range(256),
    range(CLIENT_HELLO, CLIENT_HELLO + 1),
)
_VERSIONS = {0x0300: "ssl3", 0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}


def sniff(data: bytes) -> bool | None:
    """A handshake record of SSL 3.0 or any TLS whose first message is a ClientHello."""
    if not all(byte in expected for byte, expected in zip(data, _BEGINS, strict=False)):
        return False
    return True if len(data) >= len(_BEGINS) else None


def parse(data: bytes, final: bool) -> Peeked:
    """The hello, when it is complete."""
    return Peeked("tls", _attributes(read_hello(_message(Reader(data)))))


def _message(reader: Reader) -> bytes:
    """The body of the first handshake message, put together from its records."""
    message = bytearray()
    for _ in range(MAX_RECORDS):
        if reader.uint(1) != HANDSHAKE or reader.uint(1) != 3:
            raise MalformedError
        reader.skip(1)
        length = reader.uint(2)
        if not 0 < length <= MAX_RECORD:
            raise MalformedError
        message += reader.take(length)
        if len(message) < 4:
            continue
        end = 4 + int.from_bytes(message[1:4], "big")
        if end > MAX_HELLO:
            raise MalformedError
        if len(message) >= end:
            return bytes(message[4:end])
    raise MalformedError


def _attributes(hello: Hello) -> dict[str, str]:
    found = {"tls.ja4": ja4(hello)}
    if hello.server_name:
        found["tls.sni"] = host(hello.server_name)
    if hello.alpn:
        found["tls.alpn"] = text(b",".join(hello.alpn))
    known = [version for version in hello.versions or (hello.legacy_version,) if version in _VERSIONS]
    if known:
        found["tls.version"] = _VERSIONS[max(known)]
    return found
