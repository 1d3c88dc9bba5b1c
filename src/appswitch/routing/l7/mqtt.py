"""MQTT: CONNECT, of versions 3.1, 3.1.1 and 5.0 (MQTT 5.0 section 3.1, 3.1.1 section 3.1)."""

from __future__ import annotations

from appswitch.routing.l7.peeked import MalformedError, Peeked
from appswitch.routing.l7.reading import Reader, text

CONNECT = 0x10
USER, WILL, RESERVED = 0x80, 0x04, 0x01  # of the connect flags
BRIDGE = 0x80  # of the level: Mosquitto says so that it is a broker itself
_LEVELS = {(b"MQIsdp", 3), (b"MQTT", 4), (b"MQTT", 5)}
_NAMES = (b"\0\4MQTT", b"\0\6MQIsdp")


def sniff(data: bytes) -> bool | None:
    """CONNECT, the length of the rest, and the protocol's name."""
    if data and data[0] != CONNECT:
        return False
    for at in range(1, 5):
        if at >= len(data):
            return None
        if data[at] < 0x80:
            name = data[at + 1 : at + 9]
            if name.startswith(_NAMES):
                return True
            return None if any(known.startswith(name) for known in _NAMES) else False
    return False


def parse(data: bytes, final: bool) -> Peeked:
    """The client and its user. The password comes after them and is not looked at."""
    reader = Reader(data, 1)
    length = _length(reader)
    reader = Reader(data, reader.at, reader.at + length)
    name, level, flags = reader.vector(2), reader.uint(1) & ~BRIDGE, reader.uint(1)
    if (name, level) not in _LEVELS or flags & RESERVED:
        raise MalformedError
    reader.skip(2)  # keep alive
    _properties(reader, level)
    client = reader.vector(2)
    if flags & WILL:
        _properties(reader, level)
        reader.vector(2)  # topic
        reader.vector(2)  # payload
    found = {"mqtt.client_id": text(client)} if client else {}
    if flags & USER:
        found["mqtt.user"] = text(reader.vector(2))
    return Peeked("mqtt", found)


def _properties(reader: Reader, level: int) -> None:
    if level >= 5:
        reader.skip(_length(reader))


def _length(reader: Reader) -> int:
    """A variable byte integer: section 1.5.5."""
    value = 0
    for shift in range(0, 28, 7):
        byte = reader.uint(1)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise MalformedError
