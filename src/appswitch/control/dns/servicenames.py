"""What ports are called, services(5).

The C library may read files for that, or ask a directory over the network: a thread waits for it.
"""

from __future__ import annotations

import asyncio
import socket

from appswitch.model import Protocol

EPHEMERAL = 32768  # ip_local_port_range, ip(7): from here on every client has ports, and they are called nothing


class ServiceNames:
    """Knows what it has been told to learn, a moment later."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Protocol], str | None] = {}
        self._one = asyncio.Lock()  # getservbyport(3) has one buffer for all threads
        self._learning: set[asyncio.Task[None]] = set()

    def get(self, port: int, proto: Protocol) -> str | None:
        """Its name in lower case, if there is one and it is known."""
        return self._known.get((port, proto))

    def learn(self, port: int, proto: Protocol) -> None:
        """See to it that the name is known soon."""
        if port < EPHEMERAL and (port, proto) not in self._known:
            self._known[port, proto] = None
            task = asyncio.create_task(self._learn(port, proto))
            self._learning.add(task)
            task.add_done_callback(self._learning.discard)

    async def close(self) -> None:
        """Learn nothing more."""
        for task in self._learning:
            task.cancel()
        await asyncio.gather(*self._learning, return_exceptions=True)

    async def _learn(self, port: int, proto: Protocol) -> None:
        async with self._one:
            name = await asyncio.to_thread(_ask, port, proto)
        self._known[port, proto] = name


def _ask(port: int, proto: Protocol) -> str | None:
    try:
        return socket.getservbyport(port, proto).lower()
    except (OSError, OverflowError):
        return None
