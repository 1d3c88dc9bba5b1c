"""HTTP to the daemon's Unix socket, in as little as it takes: http.client would cost every ``ax run`` 20 ms.

Requests are HTTP/1.0, so that a reply is whatever comes until the end, and a stream of events needs no decoding.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

TIMEOUT = 30.0  # seconds without a byte


class DaemonDownError(Exception):
    """No daemon answers in a run directory. The text says why, for the user."""

    def __init__(self, text: str, *, stale: bool = False) -> None:
        super().__init__(text)
        self.stale = stale  # its socket is there: it has died, or is just ending


class RefusedError(Exception):
    """The daemon answered with a problem (RFC 9457)."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP status {status}"))
        self.status = status
        self.slug = str(problem.get("type", "")).rpartition(":")[2]
        self.errors: list[dict[str, Any]] = problem.get("errors") or []


def connect(directory: str) -> socket.socket:
    """Raises DaemonDownError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(f"{directory}/rest.sock")
    except OSError as err:
        sock.close()
        if err.errno == errno.ECONNREFUSED:
            raise DaemonDownError(f"the daemon in {directory} has died, only its socket is left", stale=True) from None
        if err.errno in (errno.ENOENT, errno.ENOTDIR):
            raise DaemonDownError(f"no daemon runs in {directory}") from None
        raise DaemonDownError(f"cannot reach the daemon in {directory}: {err.strerror or err}") from None
    return sock


def owner(sock: socket.socket) -> int:
    """The uid of the daemon at the other end (SO_PEERCRED, unix(7))."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def request(sock: socket.socket, method: str, path: str, body: object = None) -> Any:
    """One request on a new connection, which is closed. Returns the decoded reply, None if it is empty.

    Raises RefusedError, or DaemonDownError when the daemon goes in the middle.
    """
    with sock:
        try:
            _send(sock, method, path, body)
            status, headers, rest = _head(sock)
            while chunk := sock.recv(1 << 16):
                rest += chunk
        except OSError as err:
            raise DaemonDownError(f"the daemon does not answer ({err}): its log tells why", stale=True) from None
    if len(rest) < int(headers.get("content-length", "0")):
        raise DaemonDownError("the daemon ended in the middle of its reply: its log tells why; try again", stale=True)
    return _judge(status, rest)


def stream(sock: socket.socket, path: str, reader: int | None = None) -> Iterator[Any]:
    """JSON values of a reply that has one a line, as they come, until the daemon ends it.

    Raises RefusedError and DaemonDownError; BrokenPipeError when ``reader``, a pipe for what is made of them, has
    nobody at its other end any more, also while nothing comes.
    """
    with sock:
        _send(sock, "GET", path, None)
        status, _, buffer = _head(sock)
        sock.settimeout(None)
        if status != 200:
            while chunk := sock.recv(1 << 16):
                buffer += chunk
            _judge(status, buffer)
        while True:
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                if line.strip():
                    yield json.loads(line)
            if reader is not None:
                _wait(sock, reader)
            chunk = sock.recv(1 << 16)
            if not chunk:
                return
            buffer += chunk


def _wait(sock: socket.socket, reader: int) -> None:
    """Until something comes. poll(2) always tells of POLLERR: of a pipe, that its reading end is closed."""
    import select

    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(reader, 0)
    if any(fd == reader for fd, _ in poll.poll()):
        raise BrokenPipeError


def _send(sock: socket.socket, method: str, path: str, body: object) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    if data:
        head += "Content-Type: application/json\r\n"
    sock.sendall(head.encode() + b"\r\n" + data)


def _head(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = sock.recv(1 << 16)
        if not chunk or len(data) > 1 << 16:
            raise DaemonDownError(
                "the daemon ended in the middle of its reply: its log tells why; try again", stale=True
            )
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(first.split()[1]), headers, rest


def _judge(status: int, body: bytes) -> Any:
    if status >= 400:
        try:
            problem = json.loads(body)
        except ValueError:
            problem = {}
        raise RefusedError(status, problem if isinstance(problem, dict) else {})
    return json.loads(body) if body else None


def explain_start(directory: str) -> str:
    """How to get a daemon into ``directory``."""
    given = f" --run-dir {directory}" if os.environ.get("AX_RUN_DIR") != directory else ""
    return f"start one with `ax daemon{given}`"
