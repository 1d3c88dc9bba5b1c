"""A proxy's connection to the daemon's endpoint, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TypeVar

from appswitch.delegate import packets
from appswitch.delegate.errors import MalformedError, RefusedError
from appswitch.delegate.messages import FromDaemon, Hello, Refused, ToDaemon, Welcome, decode_from_daemon, encode

T = TypeVar("T")


class Link:
    """One attempt: after its end there is another one."""

    def __init__(self, path: str) -> None:
        """Raises OSError: unix(7); also BlockingIOError, where the daemon has too much to do."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._sending = asyncio.Lock()
        self._waits: set[asyncio.Event] = set()
        try:
            self._sock.connect(path)
        except BaseException:
            self._sock.close()
            raise

    def close(self) -> None:
        """Whoever waits in `send` or `receive` gets ConnectionError. May be called twice."""
        if not self.closed:
            loop, number = asyncio.get_running_loop(), self._sock.fileno()
            loop.remove_reader(number)
            loop.remove_writer(number)
            self._sock.close()
            for event in self._waits:
                event.set()

    @property
    def closed(self) -> bool:
        """By us."""
        return self._sock.fileno() < 0

    async def hello(self, name: str, capacity: int) -> None:
        """Raises RefusedError, OSError, MalformedError."""
        await self.send(Hello(name, capacity))
        message, sockets = await self.receive()
        packets.close(sockets)
        if isinstance(message, Refused):
            raise RefusedError(message.reason, message.detail)
        if not isinstance(message, Welcome):
            raise MalformedError(f"{type(message).__name__} instead of a welcome")

    async def send(self, message: ToDaemon) -> None:
        """Waits while the daemon does not read. Raises ValueError as `encode` does, and ConnectionError."""
        packet = encode(message)
        loop = asyncio.get_running_loop()
        async with self._sending:
            await self._until_ready(loop.add_writer, loop.remove_writer, lambda: packets.send(self._sock, packet))

    async def receive(self) -> tuple[FromDaemon, list[socket.socket]]:
        """The next message, and the sockets with it. Raises ConnectionError at the end, OSError, MalformedError."""
        loop = asyncio.get_running_loop()
        packet, sockets = await self._until_ready(
            loop.add_reader, loop.remove_reader, lambda: packets.receive(self._sock)
        )
        if not packet:
            packets.close(sockets)
            raise ConnectionResetError("the daemon went")
        try:
            return decode_from_daemon(packet, len(sockets)), sockets
        except MalformedError:
            packets.close(sockets)
            raise

    async def _until_ready(
        self, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], bool], call: Callable[[], T]
    ) -> T:
        """Not by the loop's own sock_sendall(): that waits for ever for a socket that is closed here."""
        while not self.closed:
            with contextlib.suppress(BlockingIOError):
                return call()
            event, number = asyncio.Event(), self._sock.fileno()
            self._waits.add(event)
            add(number, event.set)
            try:
                await event.wait()
            finally:
                self._waits.discard(event)
                if not self.closed:  # else the number may be another file's by now
                    remove(number)
        raise ConnectionResetError("the daemon went")
