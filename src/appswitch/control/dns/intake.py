"""Where the switch hands over the sockets of an app's name servers: ``dns.sock``, `wire.NameServer`."""

from __future__ import annotations

import array
import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from appswitch.wire import NameServer

MAX_MESSAGE = 4096  # bytes
MAX_FDS = 8  # two are expected; the others are closed
BATCH = 64  # messages that are read before others have their turn

_log = structlog.get_logger(part="dns")
_decoder = msgspec.msgpack.Decoder(NameServer)

Take = Callable[[NameServer, socket.socket, socket.socket], None]


class IntakeError(Exception):
    """A message, or what came with it, is not what it has to be."""


class Intake:
    """Binds ``path`` at once, and reads between `start` and `close`. ``take`` owns the sockets that it is given."""

    def __init__(self, path: Path, take: Take) -> None:
        """Raises OSError."""
        self._path = path
        self._take = take
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)
            mask = os.umask(0o177)  # never, not for a moment, anybody else's to write to
            try:
                self._sock.bind(str(path))
            finally:
                os.umask(mask)
        except BaseException:
            self._sock.close()
            raise

    def start(self) -> None:
        """From now on messages are read. Those that have come before are there."""
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def close(self) -> None:
        """Nothing is taken any more."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        self._path.unlink(missing_ok=True)

    def _readable(self) -> None:
        for _ in range(BATCH):
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    MAX_MESSAGE, socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
                )
            except OSError:  # BlockingIOError: that was all
                return
            found = _owned(ancillary)
            try:
                self._take(*_checked(data, flags, found))
            except IntakeError as err:
                _log.warning("sockets that cannot be used", error=str(err))
                for one in found:
                    one.close()


def _owned(ancillary: list[tuple[int, int, bytes]]) -> list[socket.socket]:
    """Every descriptor that came, as a socket that closes itself; what is none is closed at once."""
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    found = []
    for number in numbers:
        try:
            found.append(socket.socket(fileno=number))
        except OSError:
            os.close(number)
    return found


def _checked(data: bytes, flags: int, found: list[socket.socket]) -> tuple[NameServer, socket.socket, socket.socket]:
    """Raises IntakeError."""
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise IntakeError("the message is too long")
    try:
        message = _decoder.decode(data)
        address = _ip(message.address)
    except (msgspec.MsgspecError, ValueError) as err:
        raise IntakeError(f"the message cannot be read: {err}") from None
    if len(found) != 2:
        raise IntakeError(f"{len(found)} sockets came, not two")
    udp, tcp = found
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # Numbers: any of them may be one that Python has no name for.
    is_udp, is_tcp = (int(udp.family), int(udp.type), udp.proto), (int(tcp.type), tcp.proto)
    if is_udp != (family, socket.SOCK_DGRAM, socket.IPPROTO_UDP):
        raise IntakeError(f"a socket of family, type, protocol {is_udp} is no UDP socket of {message.address}")
    if is_tcp != (socket.SOCK_STREAM, socket.IPPROTO_TCP):
        raise IntakeError(f"a socket of type, protocol {is_tcp} is no TCP socket")
    bound = _ip(udp.getsockname()[0])
    if bound != address:
        raise IntakeError(f"the UDP socket is bound to {bound}, not to {message.address}")
    if not tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise IntakeError("the TCP socket does not listen")
    return message, udp, tcp


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Without its scope: in an app's namespace an address is there once. Raises ValueError."""
    return ipaddress.ip_address(text.partition("%")[0])
