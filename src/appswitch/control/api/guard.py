"""What is refused before anything else looks at a request: foreign hosts over TCP, and bodies without an end."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appswitch.control.api import errors
from appswitch.control.problems import ProblemError

MAX_BODY = 1 << 20  # bytes
_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """ASGI middleware.

    A web page may let its own name resolve to 127.0.0.1 and have the browser ask us (DNS rebinding); the browser then
    sends that name as Host. So over TCP only names of this host are served.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        problem = _foreign_host(scope, headers) or _too_large(headers)
        if problem is not None:
            await errors.response(problem, scope["path"])(scope, receive, send)
            return
        await self._app(scope, _limited(receive), send)


def _foreign_host(scope: Scope, headers: dict[bytes, bytes]) -> ProblemError | None:
    if scope["state"].get("peer") is not None:
        return None
    host = headers.get(b"host", b"").decode("latin-1").lower()
    port = scope["server"][1] if scope.get("server") else None
    if host in _HOSTS or host in {f"{name}:{port}" for name in _HOSTS}:
        return None
    return ProblemError("misdirected", f"the Host {host!r} is not this one: use 127.0.0.1 or localhost")


def _too_large(headers: dict[bytes, bytes]) -> ProblemError | None:
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) <= MAX_BODY:
        return None
    return ProblemError("too-large", f"a body has at most {MAX_BODY} bytes")


def _limited(receive: Receive) -> Receive:
    """For bodies that come in chunks and do not say how long they will be."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise HTTPException(413, f"a body has at most {MAX_BODY} bytes")
        return message

    return limited
