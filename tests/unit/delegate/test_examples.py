"""The examples, as programs, against a daemon that the test plays; the servers behind them are real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest
from tests.unit.delegate.fake import FakeDaemon, ended
from tests.unit.delegate.vectors import at

from appswitch.address import Address
from appswitch.delegate.messages import Action, Done, Verdict
from appswitch.delegate.metadata import App

EXAMPLES = Path(__file__).parents[3] / "examples" / "delegation"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as one:
        yield one


@asynccontextmanager
async def example(daemon: FakeDaemon, file: str, name: str) -> AsyncIterator[subprocess.Popen[str]]:
    env = os.environ | {"AX_RUN_DIR": str(daemon.directory)}
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else is to be done meanwhile
        [sys.executable, EXAMPLES / file], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert (await daemon.welcome()).name == name
            yield process
        finally:
            process.terminate()


@asynccontextmanager
async def upstream(answer: Callable[[bytes], bytes], ends: bytes) -> AsyncIterator[tuple[Address, list[bytes]]]:
    """A server that answers each message that ends so; and what it got."""
    got: list[bytes] = []
    talks: list[asyncio.Task[None] | None] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        with suppress(EOFError, ConnectionError), closing(writer):
            while True:
                got.append(await reader.readuntil(ends))
                writer.write(answer(got[-1]))

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield at("127.0.0.1", server.sockets[0].getsockname()[1]), got
    await asyncio.gather(*(talk for talk in talks if talk))
    await asyncio.sleep(0)  # in which the last transport is closed


async def exchange(app: socket.socket, request: bytes, until: bytes) -> bytes:
    """What comes until that has come."""
    app.sendall(request)
    data = b""
    while until not in data:
        data += (more := await asyncio.to_thread(app.recv, 1 << 16))
        assert more, data
    return data


async def test_header_proxy(daemon: FakeDaemon) -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with upstream(lambda _: response, b"\r\n\r\n") as (there, got), example(daemon, "header_proxy.py", "adder"):
        app = daemon.ask(1, b"GET /a HTTP/1.1\r\n", destination=there, client=App(3, "shop"))
        assert await daemon.expect(Verdict) == Verdict(1, Action.ACCEPT)
        assert (await exchange(app, b"Host: x\r\nX-Client-App: liar\r\n\r\n", b"ok")).startswith(b"HTTP/1.1 200")
        assert (await exchange(app, b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n", b"ok")).startswith(b"HTTP/1.1 200")
        app.close()
        assert (await daemon.expect(Done)).connection == 1
    assert [head.split(b"\r\n")[0] for head in got] == [b"GET /a HTTP/1.1", b"GET /b HTTP/1.1"]
    assert all(b"x-client-app: shop\r\n" in head and b"liar" not in head for head in got)


async def test_header_proxy_with_a_body(daemon: FakeDaemon) -> None:
    response = b"HTTP/1.1 204 No Content\r\n\r\n"
    async with upstream(lambda _: response, b"body") as (there, got), example(daemon, "header_proxy.py", "adder"):
        head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        app = daemon.ask(1, head, destination=there)
        assert b"100" in await exchange(app, b"", b"\r\n\r\n")
        assert b"204" in await exchange(app, b"body", b"\r\n\r\n")
    assert got[0].endswith(b"\r\n\r\nbody")
    assert b"Expect" not in got[0]


async def test_echo(daemon: FakeDaemon) -> None:
    async with example(daemon, "echo.py", "echo"):
        app = daemon.ask(1, b"first ")
        assert await exchange(app, b"then", b"then") == b"first then"
        app.shutdown(socket.SHUT_WR)
        assert ended(app)
        assert await daemon.expect(Verdict) == Verdict(1, Action.ACCEPT)
        assert await daemon.expect(Done) == Done(1, 10, 10)
        daemon.ask(2, attributes={"protocol": "tls"})
        assert await daemon.expect(Verdict) == Verdict(2, Action.PASS)


async def test_redis_audit(daemon: FakeDaemon) -> None:
    async with (
        upstream(lambda _: b"+OK\r\n", b"$3\r\nval\r\n") as (there, got),
        example(daemon, "redis_audit.py", "audit") as process,
    ):
        app = daemon.ask(1, destination=there, client=App(3, "shop"), vservice="cache")
        assert await exchange(app, b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$3\r\nval\r\n", b"\r\n") == b"+OK\r\n"
        assert b"NOPERM" in await exchange(app, b"*1\r\n$8\r\nflushall\r\n", b"\r\n")
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["shop -> cache SET k\n", "shop -> cache FLUSHALL \n"]
        daemon.ask(2, attributes={"protocol": "http"})
        assert await daemon.expect(Verdict) == Verdict(1, Action.ACCEPT)
        assert await daemon.expect(Verdict) == Verdict(2, Action.NEXT)
    assert got == [b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$3\r\nval\r\n"]


async def test_redis_audit_does_not_trust_lengths(daemon: FakeDaemon) -> None:
    async with upstream(lambda _: b"", b"\n") as (there, _), example(daemon, "redis_audit.py", "audit"):
        app = daemon.ask(1, b"*1\r\n$9999999999\r\n", destination=there)
        assert ended(app)
