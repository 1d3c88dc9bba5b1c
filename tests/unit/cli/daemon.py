"""A daemon that says what a test wants it to say, on a real Unix socket, from a thread."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any, Self


class FakeDaemon:
    """Answers each request with the next of ``replies``: (status, body), or bytes as they are."""

    def __init__(self, directory: Path, *replies: tuple[int, Any] | bytes) -> None:
        self.directory = directory
        self.replies = list(replies)
        self.requests: list[tuple[str, str, Any]] = []  # method, path, body
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Self:
        self._listener.bind(str(self.directory / "rest.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        (self.directory / "rest.sock").unlink()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                data = b""
                while b"\r\n\r\n" not in data and (chunk := connection.recv(1 << 16)):
                    data += chunk
                if not data:
                    continue  # somebody who only looked whether we are there
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                while len(body) < length:
                    body += connection.recv(1 << 16)
                method, path, _ = head.split(b" ", 2)
                self.requests.append((method.decode(), path.decode(), json.loads(body) if body else None))
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.sendall(self._reply())

    def _reply(self) -> bytes:
        reply = self.replies.pop(0)
        if isinstance(reply, bytes):
            return reply
        status, body = reply
        data = b"" if body is None else json.dumps(body).encode()
        return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(data), data)


def problem(status: int, slug: str, detail: str, **more: Any) -> tuple[int, Any]:
    return status, {"type": f"urn:appswitch:problem:{slug}", "title": "T", "status": status, "detail": detail, **more}


class Answers(FakeDaemon):
    """Answers by path: each is a list of replies of which the last is given again and again."""

    def __init__(self, directory: Path, **answers: Any) -> None:
        super().__init__(directory)
        self.answers = {f"/v1/{name}": list(replies) for name, replies in answers.items()}

    def _reply(self) -> bytes:
        replies = self.answers[self.requests[-1][1].partition("?")[0]]
        self.replies = [replies[0] if len(replies) == 1 else replies.pop(0)]
        return super()._reply()


def stream(*rows: Any) -> bytes:
    """A reply with a JSON value a line."""
    return b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(json.dumps(row).encode() + b"\n" for row in rows)
