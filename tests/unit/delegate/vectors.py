"""Test vectors of the delegation protocol. ``python -m tests.unit.delegate.vectors`` writes them again, after a change.

They stand in vectors/*.json for programs, and in docs/delegation-protocol.md for people.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from appswitch.address import Address, ip_bytes
from appswitch.delegate import messages, metadata, proxyprotocol
from appswitch.delegate.errors import Reason
from appswitch.delegate.metadata import App, Metadata
from appswitch.delegate.proxyprotocol import Command, Header, Ssl, Transport, Type
from appswitch.delegate.tlv import Tlv

HERE = Path(__file__).parent / "vectors"
PAGE = Path(__file__).parents[3] / "docs" / "delegation-protocol.md"
MARK = "<!-- vectors -->\n"


def at(ip: str, port: int) -> Address:
    return Address(ip_bytes(ip), port)


SMALL = Metadata(
    connection=7, direction="client", source=at("10.1.0.5", 40000), destination=at("10.1.0.1", 80), proxy="adder"
)
FULL = Metadata(
    connection=0x0102030405060708,
    direction="server",
    source=at("fd00::5", 40000),
    destination=at("fd00::1", 8080),
    client=App(5, "shop", {"zone": "a"}),
    server=App(6, "web"),
    vservice="front",
    proxy="audit",
    chain=("waf",),
    rules=("shop-may", "api"),
    attributes={"protocol": "http", "http.host": "web.test", "http.path": "/x"},
    peeked=b"GET /x HTTP/1.1\r\nHost: web.test\r\n\r\n",
)

HEADERS = {
    "local": Header(Command.LOCAL),
    "unspec": Header(),
    "tcp4": Header(Command.PROXY, Transport.STREAM, at("192.0.2.1", 4711), at("192.0.2.2", 443)),
    "tcp6": Header(Command.PROXY, Transport.STREAM, at("2001:db8::1", 4711), at("2001:db8::2", 443)),
    "udp4": Header(Command.PROXY, Transport.DGRAM, at("192.0.2.1", 4711), at("192.0.2.2", 53)),
    "unix": Header(Command.PROXY, Transport.STREAM, b"/run/a", b"\0abstract"),
    "tlvs": Header(
        Command.PROXY,
        Transport.STREAM,
        at("192.0.2.1", 4711),
        at("192.0.2.2", 443),
        (
            Tlv(Type.ALPN, b"h2"),
            Tlv(Type.AUTHORITY, b"example.com"),
            Tlv(Type.NOOP, bytes(2)),
            Tlv(Type.UNIQUE_ID, b"\1\2\3\4"),
            proxyprotocol.encode_ssl(Ssl(7, 0, "TLSv1.3", "client", "TLS_AES_128_GCM_SHA256")),
            Tlv(Type.NETNS, b"blue"),
            Tlv(0xE0, b"another's"),
        ),
    ),
}
METADATA = {"smallest": SMALL, "everything": FULL}
MESSAGES: dict[str, messages.ToDaemon | messages.FromDaemon] = {
    "hello": messages.Hello("adder", 100),
    "welcome": messages.Welcome(50),
    "refused": messages.Refused(Reason.UNKNOWN, "no proxy adder"),
    "ask": messages.Ask(SMALL),
    "accept": messages.Verdict(7, messages.Action.ACCEPT),
    "pass": messages.Verdict(7, messages.Action.PASS),
    "drop": messages.Verdict(7, messages.Action.DROP, errno.EACCES),
    "next": messages.Verdict(7, messages.Action.NEXT, 0, "envoy"),
    "fail": messages.Verdict(7, messages.Action.FAIL),
    "handover": messages.Handover(7),
    "received": messages.Received(7),
    "withdrawn": messages.Withdrawn(7, Reason.TIMEOUT),
    "done": messages.Done(7, 1234, 56789),
    "offer": messages.Offer(SMALL),
    "taken": messages.Taken(7),
}


class Vector(NamedTuple):
    family: str  # of the file
    name: str
    value: Any
    encoded: bytes


def all_vectors() -> Iterator[Vector]:
    for name, header in HEADERS.items():
        yield Vector("headers", name, header, proxyprotocol.encode(header))
    checked = HEADERS["tcp4"]
    yield Vector("headers", "checksum", checked, proxyprotocol.encode(checked, checksum=True))
    for name, known in METADATA.items():
        yield Vector("metadata", name, known, metadata.encode(known))
    for name, message in MESSAGES.items():
        yield Vector("messages", name, message, messages.encode(message))


def plain(value: Any) -> Any:
    """As JSON has it: addresses as text, bytes in hex."""
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, Tlv):
        return {"type": int(value.type), "value": value.value.hex()}
    if dataclasses.is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        kind = {} if isinstance(value, Header) else {"message": type(value).__name__.lower()}
        return kind | {name: plain(one) for name, one in value._asdict().items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Command | Transport | Reason | messages.Action):
        return value.name.lower()
    return [plain(one) for one in value] if isinstance(value, tuple) else value


def files() -> dict[str, str]:
    """What each file in vectors/ holds."""
    rows: dict[str, list[Any]] = {}
    for one in all_vectors():
        rows.setdefault(one.family, []).append({"name": one.name, "value": plain(one.value), "hex": one.encoded.hex()})
    return {f"{family}.json": json.dumps(listed, indent=2) + "\n" for family, listed in rows.items()}


def section() -> str:
    """What the page holds between its marks."""
    parts = []
    for one in all_vectors():
        value = json.dumps(plain(one.value))
        lines = "\n".join(textwrap.wrap(one.encoded.hex(" "), 96))
        parts.append(
            f"**{one.family}: {one.name}**, {len(one.encoded)} bytes\n\n```json\n{value}\n```\n\n```\n{lines}\n```\n"
        )
    return "\n" + "\n".join(parts) + "\n"


def page_section() -> str:
    return PAGE.read_text().split(MARK)[1]


if __name__ == "__main__":
    for file, text in files().items():
        (HERE / file).write_text(text)
    before, _, after = PAGE.read_text().split(MARK)
    PAGE.write_text(before + MARK + section() + MARK + after)
