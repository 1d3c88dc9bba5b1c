"""The kernel keeps our state: what is known of a connection is the name of its Unix socket.

A connecting socket is bound to an abstract name (unix(7)) that holds both virtual addresses and both apps. Its server
reads it as the peer's name, the client as its own, `ax get connections` in sock_diag's list, and a restarted switch
finds everything as it was. A listening socket is bound to a file, relative to the switch's working directory, whose
name says whose it is. Nobody but the switch can make such names where they are believed: the directory is its own
(mode 0700), and an app's own sockets live in its own network namespace.
"""

from __future__ import annotations

import binascii
import struct
from typing import NamedTuple

from appswitch import _kernel
from appswitch.address import Address, ip_bytes, ip_text

MAGIC = _kernel.NAME_MAGIC
# In hexadecimal behind the magic, so that /proc/net/unix and its readers see no strange bytes: exactly sun_path's 108.
_HEAD = struct.Struct(">2sIH")  # salt, serial, client port: what differs between two connections of a client
_TAIL = struct.Struct(">II16sB16sBH")  # client app, server app, client address, server address, server port
_CONNECTION = struct.Struct(_HEAD.format + _TAIL.format[1:])
_BELL, _TICKET = b"B", b"T"
LOBBY = b"lobby"  # the file of switch/lobby.py
_SIZES = (4, 16)
_BELL_SIZE, _NAME_SIZE = len(MAGIC) + 2 * _HEAD.size + 1, len(MAGIC) + 2 * _CONNECTION.size


class Connection(NamedTuple):
    """The two ends of a same-host connection, as apps see them."""

    client_app: int
    server_app: int
    client: Address
    server: Address


class Listener(NamedTuple):
    """A listening Unix socket.

    ``family`` is that of the socket the app believes to have, ``flags`` as of `Socket.flags`.
    """

    app_id: int
    family: int
    bound: Address
    flags: int
    serial: int


def head(client_port: int) -> bytes:
    """The first part of a fresh name, leading NUL included; no other live name has it."""
    return _kernel.name_head(client_port)


def tail(client_app: int, server_app: int, client_ip: bytes, server: Address) -> bytes:
    """The second part: the same for every connection of a client to a server."""
    ip, port = server
    return _TAIL.pack(client_app, server_app, client_ip, len(client_ip), ip, len(ip), port).hex().encode()


def connection(client_app: int, server_app: int, client: Address, server: Address) -> bytes:
    """A fresh abstract name of a connection."""
    return head(client.port) + tail(client_app, server_app, client.ip, server)


def bell() -> bytes:
    """The name of a socket that only wakes a server: its connection waits elsewhere."""
    return head(0) + _BELL


def is_ticket(name: bytes) -> bool:
    """Whether a name is that of a socket which stands in a queue for another: reflex_queue.c makes them."""
    return len(name) == _BELL_SIZE and name.startswith(MAGIC) and name.endswith(_TICKET)


def is_bell(name: bytes) -> bool:
    """Whether a name was made by `bell`."""
    return len(name) == _BELL_SIZE and name.startswith(MAGIC) and name.endswith(_BELL)


def parse_connection(name: bytes) -> Connection | None:
    """The reverse of `connection`; None for any other name."""
    if len(name) != _NAME_SIZE or not name.startswith(MAGIC):
        return None
    try:
        fields = _CONNECTION.unpack(binascii.a2b_hex(name[len(MAGIC) :]))
    except ValueError:
        return None
    _, _, cport, client_app, server_app, cip, clen, sip, slen, sport = fields
    if clen not in _SIZES or slen not in _SIZES:
        return None
    return Connection(client_app, server_app, Address(cip[:clen], cport), Address(sip[:slen], sport))


def listener(listener: Listener) -> bytes:
    """The file name of a listening socket."""
    app_id, family, (ip, port), flags, serial = listener
    return f"{app_id:08x},{family},{ip_text(ip)},{port},{flags},{serial:x}".encode()


def parse_listener(name: bytes) -> Listener | None:
    """The reverse of `listener`; None for any other name."""
    parts = name.split(b",")
    if len(parts) != 6:
        return None
    try:
        app_id, family, ip, port, flags, serial = (part.decode() for part in parts)
        return Listener(int(app_id, 16), int(family), Address(ip_bytes(ip), int(port)), int(flags), int(serial, 16))
    except ValueError:
        return None
