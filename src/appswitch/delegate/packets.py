"""Packets with sockets: SCM_RIGHTS on a Unix SOCK_SEQPACKET socket, unix(7). What is received is owned at once."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Sequence

from appswitch.address import Address, unmap
from appswitch.delegate.errors import MalformedError
from appswitch.delegate.messages import MAX_DESCRIPTORS, MAX_PACKET

_INT = array.array("i").itemsize
_SPACE = socket.CMSG_SPACE(_INT * (MAX_DESCRIPTORS + 1))  # one too many is seen, the kernel closes more


def send(sock: socket.socket, packet: bytes, sockets: Sequence[socket.socket] = ()) -> None:
    """The receiver gets copies of the descriptors. Raises OSError: sendmsg(2)."""
    numbers = array.array("i", [one.fileno() for one in sockets])
    sock.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else [])


def receive(sock: socket.socket) -> tuple[bytes, list[socket.socket]]:
    """One packet and the sockets with it; nothing at all is the end.

    Raises OSError (recvmsg(2)), and MalformedError for what is too long, or with descriptors that are no sockets.
    """
    packet, ancillary, flags, _ = sock.recvmsg(MAX_PACKET, _SPACE, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, type, data in ancillary:
        if (level, type) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % _INT])
    sockets = _sockets(descriptors)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(sockets) != len(descriptors):
        close(sockets)
        raise MalformedError("a packet that is too long, or whose descriptors are")
    return packet, sockets


def _sockets(descriptors: Sequence[int]) -> list[socket.socket]:
    found = []
    for descriptor in descriptors:
        try:
            found.append(socket.socket(fileno=descriptor))
        except OSError:
            os.close(descriptor)
    return found


def close(sockets: Sequence[socket.socket | None]) -> None:
    """Those that there are."""
    for sock in sockets:
        if sock is not None:
            with contextlib.suppress(OSError):  # ECONNRESET of a peer that went: it is closed nevertheless
                sock.close()


def address(name: object) -> Address:
    """What getsockname(2) or getpeername(2) said; 0.0.0.0:0 for a name that is no IP address."""
    if not isinstance(name, tuple):
        return Address(bytes(4), 0)
    host = name[0].partition("%")[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return Address(unmap(socket.inet_pton(family, host)), name[1])
