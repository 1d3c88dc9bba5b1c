"""One connection that was handed over, as a proxy sees it."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from appswitch.address import ip_text
from appswitch.delegate import packets
from appswitch.delegate.errors import MalformedError, Reason
from appswitch.delegate.link import Link
from appswitch.delegate.messages import Action, Done, Received, Verdict, encode
from appswitch.delegate.metadata import Metadata

_LINGER = 5.0  # seconds that the end of what was written has, once a connection is closed


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Phase(enum.Enum):
    ASKED = "not answered"
    ACCEPTING = "accepted, and not here yet"
    ACCEPTED = "accepted"
    CLOSED = "closed"


class Connection:
    """To be answered once: `accept`, `pass_`, `drop` or `hand_on`, by what ``metadata`` says.

    The sockets come with `accept`: until then the connection is the daemon's. All that a method of answers raises:
    RuntimeError if it was answered before, ConnectionAbortedError if the daemon asks no more, because the time for it
    is over or the app has gone, and another ConnectionError if the daemon itself went.
    """

    def __init__(self, metadata: Metadata, link: Link, gone: Callable[[Connection], None]) -> None:
        self.metadata = metadata
        self.from_app = 0  # bytes, for the daemon's statistics: counted by `streams`, or by you
        self.to_app = 0
        self._link = link
        self._gone = gone
        self._phase = _Phase.ASKED
        self._ours: Sequence[socket.socket] = ()
        self._arrived: asyncio.Future[Sequence[socket.socket]] | None = None  # while `accept` waits
        self._lost: ConnectionError | None = None
        self._writers: list[asyncio.StreamWriter] = []

    def __repr__(self) -> str:
        known = self.metadata
        return f"<Connection {known.connection} {known.source} to {known.destination}, {self._phase.value}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def app(self) -> socket.socket:
        """Connected to the app; it does not block. Raises RuntimeError before `accept`."""
        return self._sockets()[0]

    @property
    def remote(self) -> socket.socket | None:
        """Of direction server the same, connected to the remote client; of direction client None, after `accept`."""
        _, *remote = self._sockets()
        return remote[0] if remote else None

    @property
    def accepted(self) -> bool:
        """And not yet closed."""
        return self._phase is _Phase.ACCEPTED

    @property
    def closed(self) -> bool:
        """By an answer that was no acceptance, by `close`, or because the daemon went or asks no more."""
        return self._phase is _Phase.CLOSED

    async def accept(self) -> None:
        """Serve it. Waits for the sockets, which are yours until `close`."""
        self._answering()
        self._phase = _Phase.ACCEPTING
        number = self.metadata.connection
        self._arrived = asyncio.get_running_loop().create_future()
        try:
            await self._link.send(Verdict(number, Action.ACCEPT))
            self._ours = await self._arrived
            await self._link.send(Received(number))  # who cannot say so does not have it: the daemon gave it elsewhere
            self._phase = _Phase.ACCEPTED
        except BaseException as problem:
            self._end()
            if not isinstance(problem, ConnectionError):  # else the daemon knows
                with contextlib.suppress(OSError):
                    await self._link.send(Verdict(number, Action.FAIL))
            raise

    def hand_over(self, sockets: Sequence[socket.socket]) -> None:
        """For `Delegation`: what `accept` waits for. Raises MalformedError for what was not asked for."""
        wanted = 1 if self.metadata.direction == "client" else 2
        if self._arrived is None or self._arrived.done() or len(sockets) != wanted:
            raise MalformedError(f"{self!r}: {len(sockets)} sockets that nobody asked for")
        for sock in sockets:
            sock.setblocking(False)
        self._arrived.set_result(sockets)

    async def pass_(self) -> None:
        """As if there were no proxy."""
        await self._refuse(Verdict(self.metadata.connection, Action.PASS))

    async def drop(self, errno: int = 0) -> None:
        """The app's call fails with ``errno`` where it still can (0: ECONNREFUSED), else its connection is cut.

        Raises ValueError for what is no errno.
        """
        await self._refuse(Verdict(self.metadata.connection, Action.DROP, errno))

    async def hand_on(self, name: str = "") -> None:
        """Another proxy is to have it, by default the one that is configured to come next."""
        await self._refuse(Verdict(self.metadata.connection, Action.NEXT, 0, name))

    async def streams(self, end: Literal["app", "remote"] = "app") -> Stream:
        """One socket as streams of asyncio; only after `accept`, once for each end. `close` closes them, too."""
        if not self.accepted:
            raise RuntimeError(f"{self!r}: its bytes are yours after accept()")
        sock = self.app if end == "app" else self.remote
        if sock is None:
            raise ValueError("only connections of direction server have a remote end")
        reader = _Reader(self if end == "app" else None)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        writer = _Writer(self if end == "app" else None, transport, protocol, reader, loop)
        self._writers.append(writer)
        return reader, writer

    async def ends(self) -> tuple[Stream, Stream]:
        """Accept it; streams towards the client, and towards the server.

        Of direction client the server is connected to from here, at ``metadata.destination``. Raises OSError.
        """
        await self.accept()
        if self.remote is not None:
            return await self.streams("remote"), await self.streams("app")
        known = self.metadata.destination
        server = await asyncio.open_connection(ip_text(known.ip), known.port)
        self._writers.append(server[1])
        return await self.streams(), server

    async def close(self) -> None:
        """Close the sockets and tell the daemon. One that was not answered is a failure of the proxy then."""
        if self.closed:
            return
        number, accepted = self.metadata.connection, self.accepted
        try:
            await self._flushed()
        finally:
            first = self._end()
        if not first:  # closed from two sides
            return
        with contextlib.suppress(OSError):
            if accepted:
                await self._link.send(Done(number, self.from_app, self.to_app))
            else:
                await self._link.send(Verdict(number, Action.FAIL))

    def lost(self, link: Link) -> None:
        """For `Delegation`: the daemon went, and what it was not told about, it will not hear any more."""
        if self._link is link:
            self._lose(ConnectionResetError(f"{self!r}: the daemon went"))

    def withdrawn(self, reason: Reason) -> None:
        """For `Delegation`: the daemon gives it to nobody, or to somebody else."""
        self._lose(ConnectionAbortedError(f"{self!r}: withdrawn ({reason.name.lower()})"))

    def _lose(self, error: ConnectionError) -> None:
        if self._phase is _Phase.ASKED:
            self._lost = error
            self._end()
        elif self._arrived is not None and not self._arrived.done():
            self._arrived.set_exception(error)

    def _answering(self) -> None:
        if self._lost is not None:
            raise self._lost
        if self._phase is not _Phase.ASKED:
            raise RuntimeError(f"{self!r}: it was answered")

    async def _refuse(self, verdict: Verdict) -> None:
        self._answering()
        encode(verdict)  # raises here what it has to raise, while the connection can still be answered
        self._end()
        await self._link.send(verdict)

    async def _flushed(self) -> None:
        """What was written goes out before the sockets are closed, unless nobody takes it."""
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), _LINGER)

    def _end(self) -> bool:
        """Whether it had not ended."""
        if self._phase is _Phase.CLOSED:
            return False
        self._phase = _Phase.CLOSED
        for writer in self._writers:
            writer.transport.abort()
        self._give_back()
        self._gone(self)
        return True

    def _sockets(self) -> Sequence[socket.socket]:
        if not self._ours:
            raise RuntimeError(f"{self!r}: its sockets come with accept()")
        return self._ours

    def _give_back(self) -> None:
        """Close what has come, and let nobody wait for it."""
        arrived = self._arrived
        if arrived is None or arrived.cancelled():
            return
        if not arrived.done():
            arrived.set_exception(ConnectionAbortedError(f"{self!r}: it was closed"))
        if arrived.exception() is None:
            packets.close(arrived.result())


class _Reader(asyncio.StreamReader):
    """Counts what the app sends."""

    def __init__(self, connection: Connection | None) -> None:
        super().__init__(limit=1 << 16, loop=asyncio.get_running_loop())
        self._connection = connection

    def feed_data(self, data: Any) -> None:
        if self._connection is not None:
            self._connection.from_app += len(data)
        super().feed_data(data)


class _Writer(asyncio.StreamWriter):
    """Counts what the app is sent."""

    def __init__(self, connection: Connection | None, *more: Any) -> None:
        super().__init__(*more)
        self._connection = connection

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._connection is not None:
            self._connection.to_app += len(data)
        super().write(data)

    def writelines(self, data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(data))
