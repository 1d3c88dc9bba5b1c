"""PostgreSQL's frontend protocol: what a client begins with.

https://www.postgresql.org/docs/current/protocol-message-formats.html: StartupMessage, SSLRequest, GSSENCRequest,
CancelRequest. A client that asks for encryption waits for the server's answer: nothing more can be read.
"""

from __future__ import annotations

from appswitch.routing.l7.peeked import MalformedError, Peeked
from appswitch.routing.l7.reading import Reader, text

MIN_PACKET = 8  # bytes: the length and the code
MAX_PACKET = 10000  # bytes: MAX_STARTUP_PACKET_LENGTH of its libpq/pqcomm.h
CANCEL, SSL, GSSENC = ((1234 << 16) + code for code in (5678, 5679, 5680))
_REQUESTS = {
    SSL: {"postgresql.ssl": "requested"},
    GSSENC: {"postgresql.ssl": "requested"},
    CANCEL: {"postgresql.cancel": "requested"},
}
_CODES = (b"\x00\x03", b"\x04\xd2\x16\x2e", b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30")


def sniff(data: bytes) -> bool | None:
    """A length of at most 10,000, then version 3 or a request's code."""
    length = int.from_bytes(data[:4].ljust(4, b"\0"), "big")
    if length > MAX_PACKET or (length < MIN_PACKET and len(data) >= 4):
        return False
    code = data[4:8]
    if code.startswith(_CODES):
        return True
    return None if any(known.startswith(code) for known in _CODES) else False


def parse(data: bytes, final: bool) -> Peeked:
    """Who connects to which database, or what else is wanted."""
    reader = Reader(data)
    length, code = reader.uint(4), reader.uint(4)
    if code in _REQUESTS:
        return Peeked("postgresql", dict(_REQUESTS[code]))
    given = _parameters(reader.take(length - MIN_PACKET))
    user = given.get(b"user", b"")
    found = {
        "user": user,
        "database": given.get(b"database") or user,
        "application_name": given.get(b"application_name"),
    }
    return Peeked("postgresql", {f"postgresql.{name}": text(value) for name, value in found.items() if value})


def _parameters(packet: bytes) -> dict[bytes, bytes]:
    """Names and values, each ended by a NUL, and one NUL after the last."""
    *words, last = packet[:-1].split(b"\0")
    if packet[-1:] != b"\0" or last or len(words) % 2:
        raise MalformedError
    return dict(zip(words[::2], words[1::2], strict=True))
