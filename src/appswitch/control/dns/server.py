"""The sockets of one name server of one app: UDP without a task for each packet, TCP with RFC 7766's courtesies."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, cast

import structlog

from appswitch.control.dns.desk import MAX_CONNECTIONS, Desk
from appswitch.control.dns.query import MAX_QUERY

BATCH = 64  # packets that are read before others have their turn
IDLE = 10.0  # seconds that a connection may say nothing complete, RFC 7766 section 6.2.3
BACKLOG = 64

_log = structlog.get_logger(part="dns")


class Port:
    """Serves both sockets from `start` to `close`, and owns them from the beginning."""

    def __init__(self, udp: socket.socket, tcp: socket.socket) -> None:
        self._udp = udp
        self._tcp = tcp
        self._desk: Desk | None = None
        self._starting: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    def start(self, desk: Desk) -> None:
        """Answer as ``desk`` says."""
        self._desk = desk
        loop = asyncio.get_running_loop()
        self._udp.setblocking(False)
        self._tcp.setblocking(False)
        loop.add_reader(self._udp, self._readable)
        self._starting = loop.create_task(self._listen(desk))

    def close(self) -> None:
        """Hang up, and give the sockets back to the kernel."""
        if self._desk is not None:
            asyncio.get_running_loop().remove_reader(self._udp)
        if self._starting is not None:
            self._starting.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        self._udp.close()
        self._tcp.close()

    # UDP

    def _readable(self) -> None:
        assert self._desk is not None
        for _ in range(BATCH):
            try:
                # One byte more than a query may have: what is cut off there is too long anyway.
                wire, peer = self._udp.recvfrom(MAX_QUERY + 1)
            except OSError:  # BlockingIOError: that was all
                return
            self._desk.take(wire, False, lambda answer, peer=peer: self._send(answer, peer))  # type: ignore[misc] # mypy #4226
            if self._udp.fileno() < 0:
                return

    def _send(self, answer: bytes, peer: Any) -> None:
        with contextlib.suppress(OSError):  # UDP promises nothing, and who asked may have gone
            self._udp.sendto(answer, peer)

    # TCP

    async def _listen(self, desk: Desk) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(desk, self._connections), sock=self._tcp, backlog=BACKLOG, start_serving=False
            )
            await self._server.start_serving()  # only now: `close` must have somebody to stop
        except OSError as err:
            _log.warning("no DNS over TCP", appid=f"{desk.asker.app_id:08x}", error=str(err))


class Connection(asyncio.Protocol):
    """Questions one behind the other, each with its length in front; answers as they come (RFC 7766 section 7).

    Nothing more is read while answers are not taken, or while the app has too many questions under way.
    """

    def __init__(self, desk: Desk, connections: set[Connection]) -> None:
        self._desk = desk
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._pending = 0
        self._stuck = False  # the peer does not read
        self._waits = False  # for the desk
        self._ended = False  # the peer has said all it had to say
        self._idle: asyncio.TimerHandle | None = None

    def abort(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One more, if the app may have one more."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._desk.connections += 1
        if self._desk.connections > MAX_CONNECTIONS:
            self._transport.abort()
            return
        self._rest()

    def connection_lost(self, _: Exception | None) -> None:
        """Answers that are under way find nobody."""
        self._transport = None
        self._buffer.clear()
        self._connections.discard(self)
        self._desk.connections -= 1
        if self._idle is not None:
            self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        """Perhaps a question, perhaps several and a half."""
        self._buffer += data
        self._serve()

    def eof_received(self) -> bool:
        """Who closes its side after the last question still gets every answer."""
        self._ended = True
        self._close_if_done()
        return True

    def pause_writing(self) -> None:
        """Too many answers wait to be taken."""
        self._stuck = True

    def resume_writing(self) -> None:
        """They have been taken."""
        self._stuck = False
        self._serve()

    # Ours

    def _serve(self) -> None:
        taken = 0
        while not self._stuck and not self._waits and (wire := self._next()) is not None:
            if self._desk.full:
                self._wait(self._desk.when_free)
            elif taken == BATCH:
                self._wait(asyncio.get_running_loop().call_soon)
            else:
                del self._buffer[: 2 + len(wire)]
                taken += 1
                self._pending += 1
                if not self._desk.take(wire, True, self._reply):
                    self._pending -= 1
        if taken:
            self._rest()
        self._hold_back()
        self._close_if_done()

    def _next(self) -> bytes | None:
        """A whole question of the buffer, which keeps it. A length that none has ends the connection."""
        if self._transport is None or len(self._buffer) < 2:
            return None
        length = int.from_bytes(self._buffer[:2], "big")
        if not 0 < length <= MAX_QUERY:
            self._buffer.clear()
            self.abort()
            return None
        return bytes(self._buffer[2 : 2 + length]) if len(self._buffer) >= 2 + length else None

    def _wait(self, until: Callable[[Callable[[], None]], object]) -> None:
        self._waits = True
        until(self._go_on)

    def _go_on(self) -> None:
        self._waits = False
        self._serve()

    def _hold_back(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._stuck or self._waits:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _reply(self, answer: bytes) -> None:
        self._pending -= 1
        if self._transport is not None:
            self._transport.write(len(answer).to_bytes(2, "big") + answer)
            if self._ended:
                asyncio.get_running_loop().call_soon(self._close_if_done)

    def _close_if_done(self) -> None:
        if self._transport is not None and self._ended and not self._pending and not self._waits and not self._stuck:
            self._transport.close()

    def _rest(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._transport is None:
            return
        self._idle = asyncio.get_running_loop().call_later(IDLE, self._tired)

    def _tired(self) -> None:
        if self._pending and not self._stuck:
            self._rest()
        else:
            self.abort()
