"""The daemon's side of the delegation endpoint, as a test says it. Waits in threads: the loop is the tested side's.

What a proxy accepts it is sent at once, as the switch does it; everything else the test says itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.unit.delegate.vectors import SMALL

from appswitch.delegate import packets
from appswitch.delegate.messages import (
    Action,
    Ask,
    FromDaemon,
    Handover,
    Hello,
    Offer,
    Received,
    ToDaemon,
    Verdict,
    Welcome,
    decode_to_daemon,
    encode,
)

T = TypeVar("T", bound=ToDaemon)
DEADLINE = 20.0  # seconds for everything that must happen


class FakeDaemon:
    """Listens in a run directory; speaks to one proxy or app at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sockets: list[socket.socket] = []  # came with the last message
        self.received: list[int] = []  # connections that the proxy has confirmed
        self.reads = True  # else the proxy is not listened to, from the next one on
        self.hands_over = True  # else what is accepted is not sent
        self.kept: dict[int, list[socket.socket]] = {}  # what is sent when it is accepted
        self._heard: queue.SimpleQueue[tuple[ToDaemon | None, list[socket.socket]]] = queue.SimpleQueue()
        self._readers: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        packets.close(self._open)

    def start(self) -> None:
        path = self.directory / "delegate.sock"
        path.unlink(missing_ok=True)
        self._listener = self._own(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        self._listener.settimeout(DEADLINE)
        self._listener.bind(str(path))
        self._listener.listen()

    def stop(self) -> None:
        if self._peer is not None and self._peer.fileno() >= 0:
            self._peer.shutdown(socket.SHUT_RDWR)  # the reader ends
        for reader in self._readers:
            reader.join(DEADLINE)
        packets.close((self._listener, self._peer))

    async def accept(self) -> None:
        assert self._listener is not None
        peer, _ = await asyncio.to_thread(self._listener.accept)
        self._peer = self._own(peer)
        self._heard = queue.SimpleQueue()
        if self.reads:
            self._readers.append(threading.Thread(target=self._read, args=(peer, self._heard)))
            self._readers[-1].start()

    def _read(self, peer: socket.socket, heard: queue.SimpleQueue[Any]) -> None:
        while True:
            try:
                packet, sockets = packets.receive(peer)
            except ConnectionResetError:  # it went and left packets unread; what it had said comes after that
                continue
            message = decode_to_daemon(packet, len(sockets)) if packet else None
            match message:
                case Received(number):
                    self.received.append(number)
                    packets.close(self.kept.pop(number, ()))
                    continue
                case Verdict(number, Action.ACCEPT) if self.hands_over and number in self.kept:
                    with contextlib.suppress(OSError):
                        packets.send(peer, encode(Handover(number)), self.kept[number])
            heard.put((message, [self._own(sock) for sock in sockets]))
            if message is None:
                return

    async def welcome(self, capacity: int = 0) -> Hello:
        """A proxy comes."""
        await self.accept()
        hello = await self.expect(Hello)
        self.say(Welcome(capacity))
        return hello

    async def expect(self, kind: type[T]) -> T:
        message, self.sockets = await asyncio.to_thread(self._heard.get, timeout=DEADLINE)
        assert isinstance(message, kind), message
        return message

    async def offered(self) -> Offer:
        await self.accept()
        return await self.expect(Offer)

    def say(self, message: FromDaemon, *sockets: socket.socket) -> None:
        self.say_bytes(encode(message), *sockets)

    def say_bytes(self, packet: bytes, *sockets: socket.socket) -> None:
        assert self._peer is not None
        packets.send(self._peer, packet, sockets)

    def ask(self, number: int, first: bytes = b"", **more: Any) -> socket.socket:
        """About a connection of direction client, with more metadata; returns the app's end."""
        app, end = socket.socketpair()
        app.settimeout(DEADLINE)
        app.sendall(first)
        self.kept[number] = [self._own(end)]
        self.say(Ask(dataclasses.replace(SMALL, connection=number, peeked=first, **more)))
        return self._own(app)

    def ask_both(self, number: int) -> tuple[socket.socket, socket.socket]:
        """About a connection of direction server; returns the app's end, and the remote client's."""
        app, end = socket.socketpair()
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = self._own(socket.create_connection(server.getsockname()))
            remote, _ = server.accept()
        self.kept[number] = [self._own(end), self._own(remote)]
        self.say(Ask(dataclasses.replace(SMALL, connection=number, direction="server")))
        for sock in (app, client):
            sock.settimeout(DEADLINE)
        return self._own(app), client

    def _own(self, sock: socket.socket) -> socket.socket:
        self._open.append(sock)
        return sock


async def eventually(condition: Callable[[], object]) -> None:
    """Within the deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - a test's condition is no event
            await asyncio.sleep(0.005)


def ended(sock: socket.socket) -> bool:
    """The other side has closed it; what was not read there makes it a reset."""
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return True
