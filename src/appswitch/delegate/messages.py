"""What the daemon, proxies and apps say to each other at ``$AX_RUN_DIR/delegate.sock``: docs/delegation-protocol.md.

Unix SOCK_SEQPACKET, one message a packet. `Ask` is nothing but a PROXY header; every other message begins with eight
bytes: "AXD", the version, a kind, three zeros. Numbers are in network order. Bytes in, values out: no I/O.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import NamedTuple

from appswitch.delegate.errors import MalformedError, Reason, VersionError
from appswitch.delegate.metadata import MAX_NAME, Metadata, name_bytes, text_of
from appswitch.delegate.metadata import decode as decode_metadata
from appswitch.delegate.metadata import encode as encode_metadata
from appswitch.delegate.proxyprotocol import MAX_SIZE, SIGNATURE

VERSION = 2
MAGIC = b"AXD"
MAX_DETAIL = 1024  # bytes
MAX_ERRNO = 4095  # the kernel's own bound: MAX_ERRNO in include/linux/err.h

_PREFIX = struct.Struct("!3sBB3s")
MAX_PACKET = _PREFIX.size + MAX_SIZE  # bytes; receive with room for one more, and a longer one is seen
MAX_DESCRIPTORS = 2  # with one packet


class Action(enum.IntEnum):
    """What a proxy says to a connection."""

    ACCEPT = 1  # it serves it
    PASS = 2  # the fast path: as if there were no proxy
    DROP = 3  # with an errno
    NEXT = 4  # another proxy is to have it
    FAIL = 5  # it cannot say: what is configured for its failures


class Hello(NamedTuple):
    """Proxy to daemon, first of all."""

    name: str
    capacity: int = 0  # connections that it has at a time, unanswered ones included; 0: no limit


class Welcome(NamedTuple):
    """Daemon to proxy: `Hello` counts."""

    capacity: int = 0  # the smaller one of the proxy's and what is configured


class Refused(NamedTuple):
    """Daemon to proxy or app: `Hello` or `Offer` does not count, and the daemon closes the connection."""

    reason: Reason
    detail: str = ""


class Ask(NamedTuple):
    """Daemon to proxy: what is known of a connection, to be answered by one `Verdict`. It comes without descriptors."""

    metadata: Metadata


class Verdict(NamedTuple):
    """Proxy to daemon: its one answer to an `Ask`."""

    connection: int
    action: Action
    errno: int = 0  # only with DROP, what the app's call fails with where it still can; 0: ECONNREFUSED
    next: str = ""  # only with NEXT: a proxy; "": the one that is configured


class Handover(NamedTuple):
    """Daemon to proxy: the connection that it has accepted, to be confirmed by `Received`.

    With one descriptor (direction client) a stream socket whose other end is the app; with two (direction server)
    that one first, then the connection to the remote client.
    """

    connection: int


class Received(NamedTuple):
    """Proxy to daemon: it has the descriptors, and nobody else is to have them. Before that it reads no byte."""

    connection: int


class Withdrawn(NamedTuple):
    """Daemon to proxy: what it was asked about is another's, or nobody's; what it answers has no effect any more."""

    connection: int
    reason: Reason


class Done(NamedTuple):
    """Proxy to daemon: a connection that it accepted has ended. Bytes of payload, as far as it counted."""

    connection: int
    from_app: int = 0
    to_app: int = 0


class Offer(NamedTuple):
    """App to daemon, the only message of its connection: sockets of its own for ``metadata.proxy``.

    Descriptors as with `Handover`; they stay the app's as well until `Taken`. The daemon says itself who the app is,
    and which number the connection has.
    """

    metadata: Metadata


class Taken(NamedTuple):
    """Daemon to app: the proxy has accepted what was offered."""

    connection: int


ToDaemon = Hello | Verdict | Received | Done | Offer
FromDaemon = Welcome | Refused | Ask | Handover | Withdrawn | Taken


def encode(message: ToDaemon | FromDaemon, version: int = VERSION) -> bytes:
    """One packet. Raises ValueError for numbers and names beyond their bounds.

    Another ``version`` is for `Refused` alone, which every version reads.
    """
    if isinstance(message, Ask):
        return encode_metadata(message.metadata)
    kind, to_bytes = _ENCODERS[type(message)]
    try:
        return _PREFIX.pack(MAGIC, version, kind, b"") + to_bytes(message)
    except struct.error as error:
        raise ValueError(f"{message}: {error}") from error


def decode_to_daemon(packet: bytes, descriptors: int = 0) -> ToDaemon:
    """What a proxy or an app sent, with so many descriptors. Raises MalformedError."""
    message = _decode(packet, _TO_DAEMON)
    _check_descriptors(message, descriptors)
    return message  # type: ignore[return-value] # by its table


def decode_from_daemon(packet: bytes, descriptors: int = 0) -> FromDaemon:
    """What the daemon sent, with so many descriptors. Raises MalformedError."""
    if packet.startswith(SIGNATURE):
        message: ToDaemon | FromDaemon = Ask(decode_metadata(packet, allow_checksum=False))
    else:
        message = _decode(packet, _FROM_DAEMON)
    _check_descriptors(message, descriptors)
    return message  # type: ignore[return-value] # by its table


_Message = ToDaemon | FromDaemon
_Decoder = Callable[[bytes], _Message]


def _decode(packet: bytes, decoders: dict[int, _Decoder]) -> _Message:
    if not packet.startswith(MAGIC) or len(packet) < _PREFIX.size:
        raise MalformedError("no message")
    _, version, kind, reserved = _PREFIX.unpack_from(packet)
    decoder = decoders.get(kind)
    if version != VERSION and decoder is not _to_refused:
        raise VersionError(f"a message of version {version}", version)
    if decoder is None or reserved != bytes(3):
        raise MalformedError(f"a message of kind {kind}")
    try:
        return decoder(packet[_PREFIX.size :])
    except struct.error as error:
        raise MalformedError(f"a message of kind {kind} with {len(packet)} bytes") from error


def _check_descriptors(message: _Message, count: int) -> None:
    wanted: tuple[int, ...] = (0,)
    if isinstance(message, Offer):
        wanted = (1,) if message.metadata.direction == "client" else (2,)
    elif isinstance(message, Handover):
        wanted = (1, 2)  # by the direction that it was asked about
    if count not in wanted:
        raise MalformedError(f"{type(message).__name__} with {count} descriptors instead of {max(wanted)}")


# The bodies, one after the other as in the specification.

_HELLO = struct.Struct("!IB")  # capacity, length of the name, and the name
_WELCOME = struct.Struct("!I")  # capacity
_REFUSED = struct.Struct("!H")  # reason, and the detail
_VERDICT = struct.Struct("!QBBH")  # connection, action, length of the name, errno, and the name
_DONE = struct.Struct("!QQQ")  # connection, bytes from the app, bytes to it
_CONNECTION = struct.Struct("!Q")  # all of TAKEN, HANDOVER, RECEIVED
_WITHDRAWN = struct.Struct("!QH")  # connection, reason


def _hello(message: Hello) -> bytes:
    name = name_bytes(message.name)
    return _HELLO.pack(message.capacity, len(name)) + name


def _to_hello(body: bytes) -> Hello:
    capacity, size = _HELLO.unpack_from(body)
    name = _name(body[_HELLO.size :], size)
    if not name:
        raise MalformedError("a proxy without a name")
    return Hello(name, capacity)


def _refused(message: Refused) -> bytes:
    detail = message.detail.encode("utf-8", "replace")[:MAX_DETAIL].decode("utf-8", "ignore")
    return _REFUSED.pack(message.reason) + detail.encode()


def _to_refused(body: bytes) -> Refused:
    (reason,) = _REFUSED.unpack_from(body)
    return Refused(Reason(reason), text_of(body[_REFUSED.size :], MAX_DETAIL))


def _to_withdrawn(body: bytes) -> Withdrawn:
    connection, reason = _WITHDRAWN.unpack(body)
    return Withdrawn(connection, Reason(reason))


def _verdict(message: Verdict) -> bytes:
    _check_verdict(message, ValueError)
    name = name_bytes(message.next)
    return _VERDICT.pack(message.connection, message.action, len(name), message.errno) + name


def _to_verdict(body: bytes) -> Verdict:
    connection, number, size, errno = _VERDICT.unpack_from(body)
    if number not in _ACTIONS:
        raise MalformedError(f"a verdict of kind {number}")
    verdict = Verdict(connection, _ACTIONS[number], errno, _name(body[_VERDICT.size :], size))
    _check_verdict(verdict, MalformedError)
    return verdict


def _check_verdict(verdict: Verdict, error: type[ValueError]) -> None:
    if verdict.errno and (verdict.action is not Action.DROP or not 0 < verdict.errno <= MAX_ERRNO):
        raise error(f"errno {verdict.errno} with {verdict.action.name}")
    if verdict.next and verdict.action is not Action.NEXT:
        raise error(f"a next proxy with {verdict.action.name}")


def _name(raw: bytes, size: int) -> str:
    if len(raw) != size:
        raise MalformedError(f"a name of {len(raw)} bytes instead of {size}")
    return text_of(raw, MAX_NAME)


_ACTIONS = {int(action): action for action in Action}

_ENCODERS: dict[type[_Message], tuple[int, Callable[..., bytes]]] = {
    Hello: (1, _hello),
    Welcome: (2, lambda message: _WELCOME.pack(*message)),
    Refused: (3, _refused),
    Verdict: (4, _verdict),
    Done: (5, lambda message: _DONE.pack(*message)),
    Offer: (6, lambda message: encode_metadata(message.metadata)),
    Taken: (7, lambda message: _CONNECTION.pack(*message)),
    Handover: (8, lambda message: _CONNECTION.pack(*message)),
    Received: (9, lambda message: _CONNECTION.pack(*message)),
    Withdrawn: (10, lambda message: _WITHDRAWN.pack(*message)),
}
_TO_DAEMON: dict[int, _Decoder] = {
    1: _to_hello,
    4: _to_verdict,
    5: lambda body: Done(*_DONE.unpack(body)),
    6: lambda body: Offer(decode_metadata(body, allow_checksum=False)),
    9: lambda body: Received(*_CONNECTION.unpack(body)),
}
_FROM_DAEMON: dict[int, _Decoder] = {
    2: lambda body: Welcome(*_WELCOME.unpack(body)),
    3: _to_refused,
    7: lambda body: Taken(*_CONNECTION.unpack(body)),
    8: lambda body: Handover(*_CONNECTION.unpack(body)),
    10: _to_withdrawn,
}
