"""What ports are called, services(5).

The C library may read files for that, or ask a directory over the network: a thread waits for it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from appswitch.model import Protocol


class ServiceNames:
    """Knows what it has been told to learn, a moment later. ``changed`` is called when it knows a name more."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._known: dict[tuple[int, Protocol], str | None] = {}  # bounded: there are 2 * 65,536 ports
        self._one = asyncio.Lock()  # getservbyport(3) has one buffer for all threads
        self._learning: set[asyncio.Task[None]] = set()

    def get(self, port: int, proto: Protocol) -> str | None:
        """Its name in lower case, if there is one and it is known."""
        return self._known.get((port, proto))

    def learn(self, port: int, proto: Protocol) -> None:
        """See to it that the name is known soon."""
        if (port, proto) not in self._known:
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
        if name is not None:
            self._known[port, proto] = name
            self._changed()


def _ask(port: int, proto: Protocol) -> str | None:
    try:
        return socket.getservbyport(port, proto).lower()
    except (OSError, OverflowError):
        return None
