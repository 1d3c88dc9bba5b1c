"""HTTP on two sockets: the run directory's ``rest.sock``, whose peers the kernel names, and 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from appswitch.control.access import Peer
from appswitch.control.problems import ProblemError
from appswitch.control.settings import DEFAULT_PORT

BACKLOG = 1024
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
    """uvicorn's own, which also tells handlers who is at the other end of a Unix socket (``state["peer"]``)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Ask once: credentials are those of the moment of connect(2), unix(7)."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        peer = None
        if sock is not None and sock.family == socket.AF_UNIX:
            peer = Peer(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
        self.app_state: dict[str, Any] = {**self.app_state, "peer": peer}

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP gets a problem, too."""
        body = json.dumps(ProblemError("bad-request", msg).body(None)).encode()
        headers = [
            ("content-type", "application/problem+json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
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
