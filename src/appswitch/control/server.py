"""HTTP on two sockets: the run directory's ``rest.sock``, whose peers the kernel names, and 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, Literal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from appswitch.control.access import Peer, administrates
from appswitch.control.problems import ProblemError
from appswitch.control.settings import DEFAULT_PORT

BACKLOG = 1024
CONNECTIONS = 256  # of one user who is no administrator, streams among them
BY_TCP = -1  # whose connections those are that come by TCP
LINGER = 2  # seconds that a stopping server gives to requests under way


class ListenError(Exception):
    """A socket cannot be listened on. The text is for the user."""


def unix_listener(path: Path, kept: socket.socket | None = None) -> socket.socket:
    """Mode 0666: who connects is judged by SO_PEERCRED. What a dead daemon left there is replaced.

    ``kept``: an earlier control's, which is taken if it is still the one that clients come to.
    """
    if kept is not None:
        if path.exists() and kept.getsockname() == str(path):
            return kept
        kept.close()
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o666)
        sock.listen(BACKLOG)
    except OSError as err:
        sock.close()
        raise ListenError(f"cannot listen on {path}: {err.strerror}") from None
    return sock


def tcp_listener(port: int | Literal["auto"], kept: socket.socket | None = None) -> socket.socket | None:
    """On 127.0.0.1; None if the port is 0, or "auto" and taken. ``kept``: as above. Raises ListenError."""
    if kept is not None:
        if port == "auto" or kept.getsockname()[1] == port:
            return kept
        kept.close()
    if port == 0:
        return None
    number = DEFAULT_PORT if port == "auto" else port
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", number))
        sock.listen(BACKLOG)
    except OSError as err:
        sock.close()
        if port == "auto":
            return None
        if err.errno == errno.EADDRINUSE:
            raise ListenError(f"REST port {number} is taken by another program: choose one with --rest-port") from None
        raise ListenError(f"cannot listen on 127.0.0.1:{number}: {err.strerror}") from None
    return sock


class PeerProtocol(H11Protocol):
    """uvicorn's own, which also tells handlers who is at the other end of a Unix socket (``state["peer"]``).

    One user, or all who come by TCP, may have so many connections at a time; one more is hung up on with 429.
    """

    users: ClassVar[Counter[int]] = Counter()  # connections by uid
    user: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Ask once: credentials are those of the moment of connect(2), unix(7)."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        peer = None
        if sock is not None and sock.family == socket.AF_UNIX:
            peer = Peer(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
        self.app_state: dict[str, Any] = {**self.app_state, "peer": peer}
        self.user = BY_TCP if peer is None else peer.uid
        self.users[self.user] += 1
        if self.users[self.user] > CONNECTIONS and not (peer is not None and administrates(peer.uid)):
            self._refuse(ProblemError("too-many-connections", f"you have {CONNECTIONS} connections already"))

    def connection_lost(self, exc: Exception | None) -> None:
        """One less of its user's."""
        super().connection_lost(exc)
        if self.user is not None:
            self.users[self.user] -= 1
            if not self.users[self.user]:
                del self.users[self.user]
            self.user = None

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP gets a problem, too."""
        self._refuse(ProblemError("bad-request", msg))

    def _refuse(self, problem: ProblemError) -> None:
        body = json.dumps(problem.body(None)).encode()
        status, reason = problem.status, HTTPStatus(problem.status).phrase.encode()
        headers = [
            ("content-type", "application/problem+json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn without its signal handlers and without its ten ticks a second: an idle daemon is idle."""

    def __init__(self, app: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=PeerProtocol,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=LINGER,
            )
        )
        self.listening = asyncio.Event()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Let requests that are under way end, then let `serve` return."""
        self.should_exit = True
        self._stop.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the main program's."""
        yield

    async def main_loop(self) -> None:
        """Between startup and shutdown."""
        self.listening.set()
        await self._stop.wait()
