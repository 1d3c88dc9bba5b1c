"""A proxy's side of delegation: connections that are handed over, as an asynchronous iterator.

The shortest proxy, which carries bytes and nothing else::

    async def carry(connection):
        (from_client, to_client), (from_server, to_server) = await connection.ends()
        await asyncio.gather(pump(from_client, to_server), pump(from_server, to_client))

    asyncio.run(serve("carrier", carry))
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

from appswitch.delegate import packets
from appswitch.delegate.connection import Connection
from appswitch.delegate.errors import MalformedError, RefusedError
from appswitch.delegate.link import Link
from appswitch.delegate.messages import Action, Ask, Handover, Verdict, Withdrawn
from appswitch.delegate.metadata import Metadata
from appswitch.paths import RunDir, run_dir

_log = logging.getLogger(__name__)

_RETRY = (0.05, 1.0)  # seconds between attempts to find the daemon again: the first, the longest


class Delegation(AsyncIterator[Connection]):
    """A proxy, connected to the daemon under the name under which it is configured.

    - Connections must be answered within the configured time: one that waits here for its turn is waiting.
    - Not more than ``capacity`` (0: no limit) are here at a time; the daemon is told, and asks about no more.
    - When the daemon goes, accepted connections stay, unanswered ones are lost, and it is looked for until it is back.
    """

    def __init__(
        self, name: str, directory: str | os.PathLike[str] | None = None, *, capacity: int = 128, timeout: float = 10.0
    ) -> None:
        """``directory`` is the daemon's, by default ``$AX_RUN_DIR``; ``timeout`` the seconds for its welcome."""
        self.name = name
        self.capacity = capacity
        self._path = os.fspath((run_dir() if directory is None else RunDir(directory)).delegate)
        self._timeout = timeout
        self._live: dict[tuple[Link, int], Connection] = {}  # numbers of one daemon may be another's, too
        self._waiting: asyncio.Queue[Connection | None] = asyncio.Queue()
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises RefusedError, and OSError where no daemon is."""
        self._link = await self._connected()
        self._task = asyncio.create_task(self._serve(self._link), name=f"delegation of {self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __anext__(self) -> Connection:
        """The next connection that is not lost yet. Ends with `close`, from another task."""
        while (connection := await self._waiting.get()) is not None:
            if not connection.closed:
                return connection
        self._waiting.put_nowait(None)  # for whoever else iterates
        raise StopAsyncIteration

    @property
    def connected(self) -> bool:
        """Whether the daemon is there now."""
        return self._link is not None

    @property
    def active(self) -> int:
        """How many connections are here, unanswered ones included."""
        return len(self._live)

    async def close(self) -> None:
        """Close all connections; the daemon does with unanswered ones what is configured for failures."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(connection.close() for connection in tuple(self._live.values())))
        if self._link is not None:
            self._link.close()
            self._link = None
        self._waiting.put_nowait(None)

    async def _connected(self) -> Link:
        link = Link(self._path)
        try:
            async with asyncio.timeout(self._timeout):
                await link.hello(self.name, self.capacity)
        except BaseException:
            link.close()
            raise
        return link

    async def _serve(self, link: Link) -> None:
        while True:
            with contextlib.suppress(OSError, MalformedError):
                await self._read(link)
            link.close()
            self._link = None
            for connection in tuple(self._live.values()):
                connection.lost(link)
            link = self._link = await self._found_again()

    async def _read(self, link: Link) -> None:
        """Until the daemon goes."""
        while True:
            message, sockets = await link.receive()
            match message:
                case Ask(metadata):
                    await self._asked(link, metadata)
                case Handover(number) if (connection := self._live.get((link, number))) is not None:
                    try:
                        connection.hand_over(sockets)
                    except MalformedError:
                        packets.close(sockets)
                        raise
                case Withdrawn(number, reason) if (connection := self._live.get((link, number))) is not None:
                    connection.withdrawn(reason)
                case Handover() | Withdrawn():  # it was given up here meanwhile, and the daemon told so
                    packets.close(sockets)
                case _:
                    raise MalformedError(f"{type(message).__name__} from the daemon")

    async def _asked(self, link: Link, metadata: Metadata) -> None:
        if self.capacity and len(self._live) >= self.capacity:  # it knows, and there are still ones of another daemon
            await link.send(Verdict(metadata.connection, Action.FAIL))
            return
        connection = Connection(metadata, link, lambda one: self._gone(link, one))
        if (link, metadata.connection) in self._live:
            raise MalformedError(f"{connection!r} is asked about twice")
        self._live[link, metadata.connection] = connection
        self._waiting.put_nowait(connection)

    async def _found_again(self) -> Link:
        """It may not know its configuration yet, nor that our last connection has ended: refusals do not count."""
        pause, longest = _RETRY
        while True:
            with contextlib.suppress(OSError, TimeoutError, RefusedError, MalformedError):
                return await self._connected()
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def _gone(self, link: Link, connection: Connection) -> None:
        self._live.pop((link, connection.metadata.connection), None)


async def serve(
    name: str,
    handler: Callable[[Connection], Awaitable[None]],
    directory: str | os.PathLike[str] | None = None,
    *,
    capacity: int = 128,
) -> None:
    """Be a proxy until cancelled: a task for each connection, which is closed when its handler has returned.

    What a handler raises is logged. Raises what `Delegation` raises when there is nobody to connect to.
    """
    tasks: set[asyncio.Task[None]] = set()
    async with Delegation(name, directory, capacity=capacity) as delegation:
        try:
            async for connection in delegation:
                task = asyncio.create_task(_handled(connection, handler))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _handled(connection: Connection, handler: Callable[[Connection], Awaitable[None]]) -> None:
    async with connection:
        try:
            await handler(connection)
        except (OSError, EOFError) as error:  # an end that breaks off is nothing special
            _log.info("%r: %r", connection, error)
        except Exception:
            _log.exception("%r", connection)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes until the reader's end, and then end the writer's stream. What the other side broke off, ends it."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
