"""The PROXY protocol: version 2 both ways, version 1 read.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt

Strict where the specification leaves a choice: what is unassigned, cut off, too long, or there twice is no header.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from appswitch.address import MAPPED, Address, ip_bytes, unmap
from appswitch.delegate import tlv as tlvs_
from appswitch.delegate.crc32c import crc32c
from appswitch.delegate.errors import IncompleteError, MalformedError
from appswitch.delegate.tlv import Tlv

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # section 2.2
FIXED = 16  # bytes: signature, version and command, family and transport, length of the rest
MAX_SIZE = FIXED + 0xFFFF
MAX_V1 = 107  # bytes with CRLF: section 2.1
MAX_TLVS = 64  # in one header; the time that decoding takes is bounded by it
MAX_UNIQUE_ID = 128  # bytes: section 2.2.5
_UNIX_PATH = 108  # bytes of an AF_UNIX address


class Command(enum.IntEnum):
    """``LOCAL``: the sender's own connection, such as a health check; it has no addresses then, and no TLVs."""

    LOCAL = 0
    PROXY = 1


class Transport(enum.IntEnum):
    """``UNSPEC``: the addresses are not known."""

    UNSPEC = 0
    STREAM = 1
    DGRAM = 2


class Type(enum.IntEnum):
    """Of TLVs: section 2.2.1 and following. 0xE0 to 0xEF are applications' own."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SSL_SIG_ALG = 0x24
    SSL_KEY_ALG = 0x25
    NETNS = 0x30
    APPSWITCH = 0xE5  # `metadata`


_ONCE = frozenset(Type) - {Type.NOOP}

# Where a connection comes from or goes to: of AF_UNIX a path, without the NULs after it.
End = Address | bytes


class Header(NamedTuple):
    """Both ends are of one kind; a mixed pair of IPv4 and IPv6 goes as IPv6, with the IPv4 address mapped."""

    command: Command = Command.PROXY
    transport: Transport = Transport.UNSPEC
    source: End | None = None  # None, as the other: with LOCAL and UNSPEC
    destination: End | None = None
    tlvs: tuple[Tlv, ...] = ()

    def value(self, type: int) -> bytes | None:
        """The value of the first TLV of a type."""
        return next((one.value for one in self.tlvs if one.type == type), None)


class Ssl(NamedTuple):
    """The value of ``Type.SSL``: section 2.2.6."""

    client: int  # 1: by TLS, 2: with a certificate on this connection, 4: in this session
    verify: int  # 0: the certificate was verified
    version: str = ""
    common_name: str = ""
    cipher: str = ""
    signature: str = ""  # algorithm of the server's certificate
    key: str = ""


_SSL_TEXTS = (Type.SSL_VERSION, Type.SSL_CN, Type.SSL_CIPHER, Type.SSL_SIG_ALG, Type.SSL_KEY_ALG)


def encode(header: Header, *, checksum: bool = False) -> bytes:
    """Version 2; with ``checksum`` a CRC32C goes last. Raises ValueError for what has no such form."""
    if header.command is Command.LOCAL:
        if header != Header(Command.LOCAL):
            raise ValueError("LOCAL has no addresses and no TLVs")
        return _fixed(header.command, 0, b"")
    family, block = _block(header)
    body = block + tlvs_.join(header.tlvs)
    if not checksum:
        return _fixed(header.command, family, body)
    data = _fixed(header.command, family, body + tlvs_.pack(Type.CRC32C, bytes(4)))
    return data[:-4] + crc32c(data).to_bytes(4, "big")


def decode(data: bytes, *, allow_checksum: bool = True) -> Header:
    """Exactly one header, of version 2 or 1. Raises MalformedError, and IncompleteError where bytes are missing.

    A CRC32C is verified, which takes milliseconds for a long header: who cannot spend them does not allow it.
    """
    header, size = decode_prefix(data, allow_checksum=allow_checksum)
    if size != len(data):
        raise MalformedError(f"{len(data) - size} bytes after the header")
    return header


def decode_prefix(data: bytes, *, allow_checksum: bool = True) -> tuple[Header, int]:
    """The header at the beginning of a stream, and its length in bytes. Raises as `decode` does."""
    if data.startswith(b"PROXY"):
        return _v1(data)
    size = needed(data)
    if len(data) < size:
        raise IncompleteError(f"{len(data)} of {size} bytes")
    command, family = data[12] & 0xF, data[13]
    if command == Command.LOCAL:  # whatever is in it is to be discarded
        return Header(Command.LOCAL), size
    if command != Command.PROXY or family not in _FAMILIES:
        raise MalformedError(f"command {command}, family and transport {family:#04x}")
    return _proxied(data[:size], family, allow_checksum), size


def needed(data: bytes) -> int:
    """The bytes of the whole header of version 2, or `FIXED` as long as that is not known. Raises MalformedError."""
    if not data.startswith(SIGNATURE[: len(data)]):
        raise MalformedError("no signature")
    if len(data) > 12 and data[12] >> 4 != 2:
        raise MalformedError(f"version {data[12] >> 4}")
    return FIXED + int.from_bytes(data[14:FIXED], "big") if len(data) >= FIXED else FIXED


def encode_ssl(ssl: Ssl) -> Tlv:
    """Raises ValueError for texts that do not fit."""
    texts = (Tlv(type, text.encode()) for type, text in zip(_SSL_TEXTS, ssl[2:], strict=True) if text)
    return Tlv(Type.SSL, bytes((ssl.client,)) + ssl.verify.to_bytes(4, "big") + tlvs_.join(texts))


def decode_ssl(value: bytes) -> Ssl:
    """What does not belong there is ignored. Raises MalformedError."""
    if len(value) < 5:
        raise MalformedError("the TLV of SSL is cut off")
    texts: dict[int, str] = {}
    for type, text in tlvs_.split(value[5:], MAX_TLVS):
        if type in texts:
            raise MalformedError(f"the sub-TLV {type:#04x} of SSL is there twice")
        texts[type] = text.decode("utf-8", "backslashreplace")
    return Ssl(value[0], int.from_bytes(value[1:5], "big"), *(texts.get(type, "") for type in _SSL_TEXTS))


# Family and transport: bytes of one address.
_FAMILIES = {0x00: 0, 0x11: 4, 0x12: 4, 0x21: 16, 0x22: 16, 0x31: _UNIX_PATH, 0x32: _UNIX_PATH}


def _fixed(command: Command, family: int, body: bytes) -> bytes:
    if len(body) > MAX_SIZE - FIXED:
        raise ValueError(f"{len(body)} bytes do not fit into one header")
    return SIGNATURE + bytes((0x20 | command, family)) + len(body).to_bytes(2, "big") + body


def _block(header: Header) -> tuple[int, bytes]:
    source, destination = header.source, header.destination
    if header.transport is Transport.UNSPEC and source is destination is None:
        return 0, b""
    if header.transport is Transport.UNSPEC or source is None or destination is None:
        raise ValueError("a transport has both addresses, UNSPEC has none")
    if isinstance(source, Address) and isinstance(destination, Address):
        size = 4 if len(source.ip) == len(destination.ip) == 4 else 16
        ips = b"".join(ip if len(ip) == size else MAPPED + ip for ip in (source.ip, destination.ip))
        ports = source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")
        return (0x10 if size == 4 else 0x20) | header.transport, ips + ports
    if isinstance(source, Address) or isinstance(destination, Address):
        raise ValueError("one end is a path, the other an IP address")  # noqa: TRY004 - each alone is fine
    return 0x30 | header.transport, _path(source) + _path(destination)


def _path(path: bytes) -> bytes:
    if len(path) > _UNIX_PATH:
        raise ValueError(f"a path of {len(path)} bytes")
    return path.ljust(_UNIX_PATH, b"\0")


def _proxied(data: bytes, family: int, allow_checksum: bool) -> Header:
    size = _FAMILIES[family]
    ip = 4 <= size <= 16
    start = FIXED + 2 * size + 4 * ip
    if start > len(data):
        raise MalformedError("the addresses are cut off")
    found = _tlvs(data, start, allow_checksum)
    if not size:
        return Header(Command.PROXY, Transport.UNSPEC, None, None, found)
    first, second = data[FIXED : FIXED + size], data[FIXED + size : FIXED + 2 * size]
    transport = Transport(family & 0xF)
    if not ip:
        return Header(Command.PROXY, transport, first.rstrip(b"\0"), second.rstrip(b"\0"), found)
    ports = int.from_bytes(data[start - 4 : start - 2], "big"), int.from_bytes(data[start - 2 : start], "big")
    source, destination = Address(unmap(first), ports[0]), Address(unmap(second), ports[1])
    return Header(Command.PROXY, transport, source, destination, found)


def _tlvs(data: bytes, start: int, allow_checksum: bool) -> tuple[Tlv, ...]:
    found, seen, at = [], set(), start
    for tlv in tlvs_.split(data[start:], MAX_TLVS):
        if tlv.type in seen and tlv.type in _ONCE:
            raise MalformedError(f"the TLV {tlv.type:#04x} is there twice")
        if tlv.type == Type.UNIQUE_ID and len(tlv.value) > MAX_UNIQUE_ID:
            raise MalformedError(f"a unique id of {len(tlv.value)} bytes")
        at += tlvs_.HEAD + len(tlv.value)
        if tlv.type == Type.CRC32C:
            _verify(data, at - 4, tlv.value, allow_checksum)
        seen.add(tlv.type)
        found.append(tlv)
    return tuple(found)


def _verify(data: bytes, at: int, value: bytes, allow: bool) -> None:
    if not allow:
        raise MalformedError("a checksum where there must be none")
    if len(value) != 4 or crc32c(data[:at] + bytes(4) + data[at + 4 :]) != int.from_bytes(value, "big"):
        raise MalformedError("the checksum is wrong")


_V1 = re.compile(
    rb"PROXY (?:TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]{1,5}) ([0-9]{1,5})|UNKNOWN(?: [^\r\n]*)?)\r\n"
)


def _v1(data: bytes) -> tuple[Header, int]:
    line, end, _ = data[:MAX_V1].partition(b"\n")
    if not end and len(data) < MAX_V1:
        raise IncompleteError("a line without its end")
    found = _V1.fullmatch(line + end)
    if found is None:
        raise MalformedError("no header of version 1")
    if found[1] is None:
        return Header(), found.end()
    size = 4 if found[1] == b"4" else 16
    ends = _written(found[2], found[4], size), _written(found[3], found[5], size)
    return Header(Command.PROXY, Transport.STREAM, *ends), found.end()


def _written(ip: bytes, port: bytes, size: int) -> Address:
    try:
        packed = ip_bytes(ip.decode())
    except ValueError:
        packed = b""
    if len(packed) != size or int(port) > 65535:
        raise MalformedError("no address")
    return Address(unmap(packed), int(port))
