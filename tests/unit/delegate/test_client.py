"""Programs that hand their own sockets over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.delegate.fake import FakeDaemon, ended

from appswitch.address import Address, ip_bytes
from appswitch.delegate import client
from appswitch.delegate.errors import MalformedError, Reason, RefusedError
from appswitch.delegate.messages import Refused, Taken, Welcome, encode

THERE = Address(ip_bytes("10.1.0.9"), 6379)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as one:
        yield one


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=20) as there,
    ):
        here, _ = server.accept()
        with here:
            yield here, there


async def test_given_away(daemon: FakeDaemon, tcp: tuple[socket.socket, socket.socket]) -> None:
    here, there = tcp
    names = here.getpeername(), here.getsockname()
    giving = asyncio.create_task(asyncio.to_thread(client.delegate, here, "adder", directory=daemon.directory))
    known = (await daemon.offered()).metadata
    assert (known.proxy, known.direction) == ("adder", "client")
    assert [(str(end).rpartition(":")[0], end.port) for end in (known.source, known.destination)] == list(names)
    daemon.sockets[0].sendall(b"from the proxy")
    daemon.say(Taken(5))
    await giving
    assert here.fileno() < 0
    assert there.recv(100) == b"from the proxy"


async def test_a_connection_through_a_proxy(daemon: FakeDaemon) -> None:
    connecting = asyncio.create_task(
        asyncio.to_thread(client.connect, THERE, "audit", directory=daemon.directory, attributes={"protocol": "redis"})
    )
    known = (await daemon.offered()).metadata
    assert (known.destination, known.direction, known.protocol) == (THERE, "client", "redis")
    daemon.say(Taken(5))
    with await connecting as sock:
        daemon.sockets[0].sendall(b"+PONG\r\n")
        assert sock.recv(100) == b"+PONG\r\n"


async def test_a_proxy_in_front(daemon: FakeDaemon, tcp: tuple[socket.socket, socket.socket]) -> None:
    here, there = tcp
    wrapping = asyncio.create_task(asyncio.to_thread(client.wrap, here, "waf", directory=daemon.directory))
    offer = await daemon.offered()
    assert offer.metadata.direction == "server"
    app, remote = daemon.sockets
    daemon.say(Taken(5))
    with await wrapping as sock:
        there.sendall(b"question")
        app.sendall(remote.recv(100).upper())
        assert sock.recv(100) == b"QUESTION"


async def test_refused(daemon: FakeDaemon, tcp: tuple[socket.socket, socket.socket]) -> None:
    here, there = tcp
    giving = asyncio.create_task(asyncio.to_thread(client.delegate, here, "adder", directory=daemon.directory))
    await daemon.offered()
    daemon.say(Refused(Reason.AWAY, "nobody is adder"))
    with pytest.raises(RefusedError, match="away"):
        await giving
    here.sendall(b"still mine")
    assert there.recv(100) == b"still mine"


@pytest.mark.parametrize("call", ["connect", "wrap"])
async def test_what_was_made_is_closed_when_refused(
    daemon: FakeDaemon, tcp: tuple[socket.socket, socket.socket], call: str
) -> None:
    first = THERE if call == "connect" else tcp[0]
    calling = asyncio.create_task(asyncio.to_thread(getattr(client, call), first, "x", directory=daemon.directory))
    await daemon.offered()
    daemon.say(Refused(Reason.FULL))
    with pytest.raises(RefusedError):
        await calling
    daemon.sockets[0].settimeout(20)
    assert ended(daemon.sockets[0])


async def test_the_daemon_goes(daemon: FakeDaemon) -> None:
    connecting = asyncio.create_task(asyncio.to_thread(client.connect, THERE, "x", directory=daemon.directory))
    await daemon.offered()
    daemon.stop()
    with pytest.raises(RefusedError, match="went"):
        await connecting


async def test_another_answer(daemon: FakeDaemon) -> None:
    connecting = asyncio.create_task(asyncio.to_thread(client.connect, THERE, "x", directory=daemon.directory))
    await daemon.offered()
    daemon.say(Welcome())
    with pytest.raises(MalformedError, match="Welcome"):
        await connecting


async def test_no_answer(daemon: FakeDaemon) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(client.connect, THERE, "x", directory=daemon.directory, timeout=0.01)


@pytest.mark.parametrize("just_now", [False, True])
def test_an_offer_is_taken_back(monkeypatch: pytest.MonkeyPatch, just_now: bool) -> None:
    """But not one that was taken in the very moment in which the time was over."""
    ours, daemons = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, daemons:
        if just_now:
            daemons.send(encode(Taken(5)))
        receive, late = client.packets.receive, iter([True])

        def receive_late(sock: socket.socket) -> tuple[bytes, list[socket.socket]]:
            if next(late, False):
                raise TimeoutError
            return receive(sock)

        monkeypatch.setattr(client.packets, "receive", receive_late)
        with contextlib.nullcontext() if just_now else pytest.raises(TimeoutError):
            assert client._answer(ours) == (encode(Taken(5)), [])
        with pytest.raises(BrokenPipeError):
            daemons.send(encode(Taken(5)))


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.connect(THERE, "x", directory=tmp_path)
