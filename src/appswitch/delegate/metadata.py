"""What the daemon tells of a connection that it hands over: a PROXY header with one TLV of ours, `Type.APPSWITCH`.

The header's addresses are the two that the app's program knows: where it is, and where it wanted to go. The TLV holds
the rest as sub-TLVs: docs/delegation-protocol.md has them byte for byte.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from appswitch.address import Address
from appswitch.delegate import tlv as tlvs_
from appswitch.delegate.errors import MalformedError, VersionError
from appswitch.delegate.proxyprotocol import Command, Header, Transport, Type
from appswitch.delegate.proxyprotocol import decode as decode_header
from appswitch.delegate.proxyprotocol import encode as encode_header
from appswitch.delegate.tlv import Tlv

Direction = Literal["client", "server"]

VERSION = 1
MAX_PEEKED = 16384  # bytes
MAX_NAME = 255  # bytes
MAX_CHAIN = 32  # proxies
MAX_ITEMS = 512  # sub-TLVs; the time that decoding takes is bounded by it
_MAGIC = b"AX"  # others use types of applications' range, too
_ROOM = 60000  # bytes of the TLV's value: what else is in the header fits beside it
_DIRECTIONS: dict[Direction, int] = {"client": 1, "server": 2}


class Sub(enum.IntEnum):
    """Types of sub-TLVs. A reader ignores those that it does not know."""

    CONNECTION = 0x01  # u64
    DIRECTION = 0x02  # u8: 1 client, 2 server
    CLIENT = 0x03  # u32 app id, name
    SERVER = 0x04
    CLIENT_LABEL = 0x05  # u16 length of the key, key, value; as often as there are labels
    SERVER_LABEL = 0x06
    VSERVICE = 0x07  # text, as the next three
    PROXY = 0x08
    CHAIN = 0x09  # as often as proxies had it, in their order
    RULE = 0x0A  # as often as there are rules, in their order
    ATTRIBUTE = 0x0B  # as a label
    PEEKED = 0x0C  # bytes
    TRUNCATED = 0x0D  # nothing


@dataclass(frozen=True, slots=True)
class App:
    """One end, when it is an app of this daemon."""

    id: int  # 1..2**32-1
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """One connection. Names and labels are the daemon's word; attributes and ``peeked`` are what the client sent."""

    connection: int  # 0..2**64-1: the daemon's name for it
    direction: Direction  # whose end is handed over: the connecting app's, or the accepting one's
    source: Address  # the client's, as the server sees it
    destination: Address  # where the client wanted to go: getsockopt(SO_ORIGINAL_DST)
    client: App | None = None  # None: not an app, or not known
    server: App | None = None
    vservice: str = ""  # by which it goes
    proxy: str = ""  # whom this is for
    chain: tuple[str, ...] = ()  # proxies that had it before, the first one first
    rules: tuple[str, ...] = ()  # policies, routes that decided so far
    attributes: dict[str, str] = field(default_factory=dict)  # of the first bytes: docs/l7.md
    peeked: bytes = b""  # the first bytes; they are still in the socket
    truncated: bool = False  # something had no room: attributes, labels, rules

    @property
    def protocol(self) -> str:
        """What the first bytes are: a name of docs/l7.md, or nothing where none were looked at."""
        return self.attributes.get("protocol", "")


def encode(metadata: Metadata) -> bytes:
    """A whole PROXY header: at most `proxyprotocol.MAX_SIZE` bytes, whatever clients send.

    Of ``peeked`` the first `MAX_PEEKED` bytes are taken. What has no room of rules, labels and attributes is left away,
    the longest first, and ``truncated`` set. Raises ValueError for numbers, names and chains beyond their bounds.
    """
    header = Header(Command.PROXY, Transport.STREAM, metadata.source, metadata.destination, tuple(_tlvs(metadata)))
    return encode_header(header)


def decode(data: bytes, *, allow_checksum: bool = True) -> Metadata:
    """What `encode` made. Raises MalformedError."""
    return from_header(decode_header(data, allow_checksum=allow_checksum))


def from_header(header: Header) -> Metadata:
    """What a PROXY header tells. Raises MalformedError, also for a header without our TLV."""
    value = header.value(Type.APPSWITCH)
    if value is None or not value.startswith(_MAGIC):
        raise MalformedError("a header without our TLV")
    if value[2:3] != bytes((VERSION,)):
        raise VersionError(f"metadata of version {value[2:3].hex()}")
    source, destination = header.source, header.destination
    if header.transport != Transport.STREAM or not isinstance(source, Address) or not isinstance(destination, Address):
        raise MalformedError("not the addresses of a TCP connection")
    return _Reader(source, destination).read(value[3:])


# To bytes


def _tlvs(metadata: Metadata) -> Iterator[Tlv]:
    yield Tlv(Type.UNIQUE_ID, _uint(metadata.connection, 8))
    authority = metadata.attributes.get("tls.sni") or metadata.attributes.get("http.host")
    if authority and len(authority) <= MAX_NAME and authority.isascii():
        yield Tlv(Type.AUTHORITY, authority.encode())
    yield Tlv(Type.APPSWITCH, _MAGIC + bytes((VERSION,)) + _value(metadata))


def _value(metadata: Metadata) -> bytes:
    needed = [tlvs_.pack(*tlv) for tlv in _needed(metadata)]
    optional = list(_optional(metadata))
    fitting = _fitting(optional, _ROOM - sum(map(len, needed)), MAX_ITEMS - len(needed) - 1)
    if metadata.truncated or len(fitting) < len(optional):
        needed.append(tlvs_.pack(Sub.TRUNCATED, b""))
    return b"".join((*needed, *fitting))


def _needed(metadata: Metadata) -> Iterator[Tlv]:
    if len(metadata.chain) > MAX_CHAIN:
        raise ValueError(f"a chain of {len(metadata.chain)} proxies")
    yield Tlv(Sub.CONNECTION, _uint(metadata.connection, 8))
    yield Tlv(Sub.DIRECTION, bytes((_DIRECTIONS[metadata.direction],)))
    for type, app in ((Sub.CLIENT, metadata.client), (Sub.SERVER, metadata.server)):
        if app is not None:
            yield Tlv(type, _uint(app.id, 4) + name_bytes(app.name))
    for type, name in ((Sub.VSERVICE, metadata.vservice), (Sub.PROXY, metadata.proxy)):
        if name:
            yield Tlv(type, name_bytes(name))
    yield from (Tlv(Sub.CHAIN, name_bytes(name)) for name in metadata.chain)
    if metadata.peeked:
        yield Tlv(Sub.PEEKED, metadata.peeked[:MAX_PEEKED])


def _optional(metadata: Metadata) -> Iterator[Tlv]:
    yield from (Tlv(Sub.RULE, _text(rule)) for rule in metadata.rules)
    if metadata.client:
        yield from _pairs(Sub.CLIENT_LABEL, metadata.client.labels)
    if metadata.server:
        yield from _pairs(Sub.SERVER_LABEL, metadata.server.labels)
    yield from _pairs(Sub.ATTRIBUTE, metadata.attributes)


def _fitting(tlvs: list[Tlv], room: int, count: int) -> list[bytes]:
    """As many as possible: what a client made long does not push out the rest."""
    sizes = [tlvs_.HEAD + len(tlv.value) for tlv in tlvs]
    kept: set[int] = set()
    for index in sorted(range(len(tlvs)), key=sizes.__getitem__)[:count]:
        room -= sizes[index]
        if room < 0:
            break
        kept.add(index)
    return [tlvs_.pack(*tlv) for index, tlv in enumerate(tlvs) if index in kept]


def _pairs(type: Sub, pairs: dict[str, str]) -> Iterator[Tlv]:
    for key, value in pairs.items():
        raw = _text(key)
        size = min(len(raw), tlvs_.MAX_VALUE)  # of a longer one nothing is sent: it does not fit
        yield Tlv(type, size.to_bytes(2, "big") + raw + _text(value))


def _uint(number: int, size: int) -> bytes:
    try:
        return number.to_bytes(size, "big")
    except OverflowError as error:
        raise ValueError(f"{number} does not fit into {size} bytes") from error


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # surrogates, which come from file names and the like, are no text


def name_bytes(name: str) -> bytes:
    """Raises ValueError for a name of more than `MAX_NAME` bytes."""
    raw = _text(name)
    if len(raw) > MAX_NAME:
        raise ValueError(f"a name of {len(raw)} bytes")
    return raw


# From bytes


def text_of(raw: bytes, limit: int = tlvs_.MAX_VALUE) -> str:
    """Raises MalformedError for what is too long or no UTF-8."""
    if len(raw) > limit:
        raise MalformedError(f"a text of {len(raw)} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("a text that is no UTF-8") from error


class _Reader:
    """Collects the sub-TLVs of one TLV, in whatever order they come."""

    def __init__(self, source: Address, destination: Address) -> None:
        self._ends = source, destination
        self._single: dict[int, bytes] = {}
        self._many: dict[int, list[str]] = {Sub.CHAIN: [], Sub.RULE: []}
        self._pairs: dict[int, dict[str, str]] = {Sub.CLIENT_LABEL: {}, Sub.SERVER_LABEL: {}, Sub.ATTRIBUTE: {}}

    def read(self, value: bytes) -> Metadata:
        for type, raw in tlvs_.split(value, MAX_ITEMS):
            if type in self._many:
                self._many[type].append(text_of(raw))
            elif type in self._pairs:
                self._pair(self._pairs[type], raw)
            elif type in self._single:
                raise MalformedError(f"the sub-TLV {type:#04x} is there twice")
            elif type in _KNOWN:
                self._single[type] = raw
        return self._metadata()

    @staticmethod
    def _pair(pairs: dict[str, str], raw: bytes) -> None:
        stop = 2 + int.from_bytes(raw[:2], "big")
        if len(raw) < 2 or stop > len(raw):
            raise MalformedError("a pair is cut off")
        key = text_of(raw[2:stop])
        if key in pairs:
            raise MalformedError("a key is there twice")
        pairs[key] = text_of(raw[stop:])

    def _metadata(self) -> Metadata:
        direction = _DIRECTION_OF.get(self._single.get(Sub.DIRECTION, b""))
        connection = self._single.get(Sub.CONNECTION, b"")
        chain, peeked = self._many[Sub.CHAIN], self._single.get(Sub.PEEKED, b"")
        if direction is None or len(connection) != 8 or len(peeked) > MAX_PEEKED or len(chain) > MAX_CHAIN:
            raise MalformedError("a connection id, a direction, a chain or first bytes that cannot be")
        if self._single.get(Sub.TRUNCATED):
            raise MalformedError("a mark with a value")
        return Metadata(
            connection=int.from_bytes(connection, "big"),
            direction=direction,
            source=self._ends[0],
            destination=self._ends[1],
            client=self._app(Sub.CLIENT, Sub.CLIENT_LABEL),
            server=self._app(Sub.SERVER, Sub.SERVER_LABEL),
            vservice=self._name(Sub.VSERVICE),
            proxy=self._name(Sub.PROXY),
            chain=tuple(chain),
            rules=tuple(self._many[Sub.RULE]),
            attributes=self._pairs[Sub.ATTRIBUTE],
            peeked=peeked,
            truncated=Sub.TRUNCATED in self._single,
        )

    def _name(self, type: Sub) -> str:
        return text_of(self._single.get(type, b""), MAX_NAME)

    def _app(self, type: Sub, label: Sub) -> App | None:
        raw, labels = self._single.get(type), self._pairs[label]
        if raw is None and not labels:
            return None
        if raw is None or len(raw) < 4:
            raise MalformedError("an app without its id")
        return App(int.from_bytes(raw[:4], "big"), text_of(raw[4:], MAX_NAME), labels)


_KNOWN = frozenset(int(sub) for sub in Sub)
_DIRECTION_OF: dict[bytes, Direction] = {bytes((number,)): name for name, number in _DIRECTIONS.items()}
