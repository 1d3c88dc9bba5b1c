"""The way to the keeper, or to systemd: sd_notify(3). When the keeper dies, another one is started and told all."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence

from appswitch import parent


class Keeping:
    """What an earlier control stored, and what this one does. Errors in telling are nobody's business."""

    def __init__(self) -> None:
        self._passed_on: dict[str, socket.socket] = {}
        for name, fd in parent.descriptors():
            self._passed_on[name] = socket.socket(fileno=fd)
        self._stored: dict[str, socket.socket] = {}
        self._said = ""
        self._started: list[int] = []  # keepers

    def take(self, name: str) -> socket.socket | None:
        """A listening socket of an earlier control, with whoever waits in its queue: the caller's now."""
        found = self._passed_on.pop(name, None)
        if found is not None:
            self._stored[name] = found
        return found

    def store(self, name: str, sock: socket.socket) -> None:
        """Keep a listening socket in place of others of that name."""
        tell(f"FDSTOREREMOVE=1\nFDNAME={name}")
        self._stored[name] = sock
        self._tell_stored(name)

    def drop(self) -> None:
        """What nobody took: an option has changed."""
        for name, sock in self._passed_on.items():
            tell(f"FDSTOREREMOVE=1\nFDNAME={name}")
            sock.close()
        self._passed_on.clear()

    def ready(self, status: str) -> None:
        """Control serves."""
        self._said = f"READY=1\nSTATUS={status}\nX_APPSWITCH_SERVING=1"
        tell(self._said)

    async def run(self) -> None:
        """See to it that there is a keeper. Never returns; cancel it."""
        if not parent.has_keeper():
            await asyncio.Event().wait()
        while True:
            pidfd = parent.watch_keeper()
            if pidfd >= 0:
                try:
                    await _readable(pidfd)
                finally:
                    os.close(pidfd)
            await self._find_another()

    async def _find_another(self) -> None:
        looks = 0
        while True:
            if looks % 250 == 0:
                if not parent.has_daemon():
                    os.kill(os.getpid(), signal.SIGTERM)  # an orderly end
                    await asyncio.Event().wait()
                pid = parent.start_keeper()
                self._started += [pid] if pid else []
            looks += 1
            await asyncio.sleep(parent.RETRY)
            parent.reap(self._started)
            if tell(self._said or "STATUS="):
                for name in self._stored:
                    self._tell_stored(name)
                return

    def _tell_stored(self, name: str) -> None:
        tell(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", [self._stored[name].fileno()])


async def _readable(fd: int) -> None:
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(fd)


def tell(text: str, fds: Sequence[int] = ()) -> bool:
    """Send ``text`` ("READY=1", "STATUS=...") to ``$NOTIFY_SOCKET``. False: there is none, or nobody is there."""
    address = parent.notify_address()
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            socket.send_fds(sock, [text.encode()], list(fds))
        except OSError:
            return False
    return True
