"""A proxy written with the library, against a daemon that says what the test wants."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.delegate.fake import FakeDaemon, ended, eventually
from tests.unit.delegate.vectors import FULL, SMALL

from appswitch.delegate import messages
from appswitch.delegate.connection import Connection
from appswitch.delegate.errors import Reason, RefusedError
from appswitch.delegate.messages import Action, Ask, Done, Handover, Hello, Refused, Taken, Verdict, Withdrawn
from appswitch.delegate.server import Delegation, pump, serve


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as one:
        yield one


@contextlib.asynccontextmanager
async def connected(daemon: FakeDaemon, capacity: int = 8) -> AsyncIterator[Delegation]:
    delegation = Delegation("adder", daemon.directory, capacity=capacity)
    hello, _ = await asyncio.gather(daemon.welcome(), delegation.__aenter__())
    assert hello == Hello("adder", capacity)
    try:
        yield delegation
    finally:
        await delegation.close()


async def test_accepted_and_served(daemon: FakeDaemon) -> None:
    async with connected(daemon) as delegation:
        app = daemon.ask(7, b"hello ")
        async with await anext(delegation) as connection:
            assert connection.metadata.peeked == b"hello "
            with pytest.raises(RuntimeError, match=r"accept\(\)"):
                _ = connection.app
            await connection.accept()
            assert connection.remote is None
            assert connection.app.recv(100, socket.MSG_PEEK) == b"hello "
            assert await daemon.expect(Verdict) == Verdict(7, Action.ACCEPT)
            reader, writer = await connection.streams()
            app.sendall(b"world")
            app.shutdown(socket.SHUT_WR)
            assert await reader.read() == b"hello world"
            writer.write(b"good")
            writer.writelines([b"b", b"ye"])
        assert await daemon.expect(Done) == Done(7, 11, 7)
        assert daemon.received == [7]
        assert app.recv(100) == b"goodbye"
        assert ended(app)
        assert delegation.active == 0


async def test_both_ends(daemon: FakeDaemon) -> None:
    async with connected(daemon) as delegation:
        app, client = daemon.ask_both(8)
        async with await anext(delegation) as connection:
            await connection.accept()
            inside, outside = await connection.streams("app"), await connection.streams("remote")
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            app.sendall(b"answer")
            app.shutdown(socket.SHUT_WR)
            await asyncio.gather(pump(inside[0], outside[1]), pump(outside[0], inside[1]))
        assert (app.recv(100), client.recv(100)) == (b"question", b"answer")
        await daemon.expect(Verdict)
        assert await daemon.expect(Done) == Done(8, 6, 8)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (lambda connection: connection.pass_(), Verdict(7, Action.PASS)),
        (lambda connection: connection.drop(errno.EACCES), Verdict(7, Action.DROP, errno.EACCES)),
        (lambda connection: connection.hand_on("envoy"), Verdict(7, Action.NEXT, 0, "envoy")),
        (lambda connection: connection.hand_on(), Verdict(7, Action.NEXT)),
        (lambda connection: connection.close(), Verdict(7, Action.FAIL)),
    ],
    ids=["pass", "drop", "next", "configured next", "fail"],
)
async def test_not_served(
    daemon: FakeDaemon, answer: Callable[[Connection], Awaitable[None]], verdict: Verdict
) -> None:
    async with connected(daemon) as delegation:
        daemon.ask(7, b"untouched")
        connection = await anext(delegation)
        await answer(connection)
        assert await daemon.expect(Verdict) == verdict
        assert connection.closed
        with pytest.raises(RuntimeError):
            _ = connection.remote
        assert delegation.active == 0


async def test_answered_twice(daemon: FakeDaemon) -> None:
    async with connected(daemon) as delegation:
        daemon.ask(7)
        async with await anext(delegation) as connection:
            with pytest.raises(RuntimeError, match="accept"):
                await connection.streams()
            await connection.accept()
            for again in (connection.accept(), connection.pass_(), connection.drop(), connection.hand_on()):
                with pytest.raises(RuntimeError, match="answered"):
                    await again
            with pytest.raises(ValueError, match="remote"):
                await connection.streams("remote")
        await daemon.expect(Verdict)
        await daemon.expect(Done)
        await connection.close()


async def test_an_errno_that_cannot_be(daemon: FakeDaemon) -> None:
    async with connected(daemon) as delegation:
        daemon.ask(7)
        connection = await anext(delegation)
        with pytest.raises(ValueError, match="4096"):
            await connection.drop(4096)
        await connection.drop()
        assert await daemon.expect(Verdict) == Verdict(7, Action.DROP)


async def test_an_exception_before_the_answer(daemon: FakeDaemon) -> None:
    async with connected(daemon) as delegation:
        daemon.ask(7)
        with pytest.raises(ZeroDivisionError):
            async with await anext(delegation):
                _ = 1 // 0
        assert await daemon.expect(Verdict) == Verdict(7, Action.FAIL)


async def test_more_than_it_takes(daemon: FakeDaemon) -> None:
    """A daemon that asks nevertheless is told so at once."""
    async with connected(daemon, capacity=2) as delegation:
        for number in range(5):
            daemon.ask(number)
        for number in range(2, 5):
            assert await daemon.expect(Verdict) == Verdict(number, Action.FAIL)
        for number in range(2):
            connection = await anext(delegation)
            assert connection.metadata.connection == number
            await connection.pass_()
        daemon.ask(5)
        assert (await anext(delegation)).metadata.connection == 5


async def test_closes_with_everything(daemon: FakeDaemon) -> None:
    """Accepted ones, one that waits for its sockets, ones that wait for an answer."""
    async with connected(daemon, capacity=0) as delegation:
        apps = [daemon.ask(number) for number in range(4)]
        accepted = await anext(delegation)
        await accepted.accept()
        await accepted.streams()
        daemon.hands_over = False
        accepting = asyncio.create_task((await anext(delegation)).accept())
        await eventually(lambda: delegation.active == 4)
        assert await daemon.expect(Verdict) == Verdict(0, Action.ACCEPT)
        assert await daemon.expect(Verdict) == Verdict(1, Action.ACCEPT)
    with pytest.raises(ConnectionAbortedError):
        await accepting
    told = [await daemon.expect(messages.ToDaemon) for _ in range(4)]  # type: ignore[arg-type] # a union
    assert set(told) == {Done(0, 0, 0), *(Verdict(number, Action.FAIL) for number in range(1, 4))}
    assert ended(apps[0])
    with pytest.raises(StopAsyncIteration):
        await anext(delegation)


@pytest.mark.parametrize("when", ["asked", "accepted"])
async def test_withdrawn(daemon: FakeDaemon, when: str) -> None:
    """The time is over: it has no sockets, and is told."""
    async with connected(daemon) as delegation:
        daemon.hands_over = False
        daemon.ask(7)
        async with await anext(delegation) as connection:
            accepting = asyncio.create_task(connection.accept()) if when == "accepted" else None
            if accepting:
                assert await daemon.expect(Verdict) == Verdict(7, Action.ACCEPT)
            daemon.say(Withdrawn(7, Reason.TIMEOUT))
            with pytest.raises(ConnectionAbortedError, match="timeout"):
                await (accepting or _late(connection))
            assert connection.closed
        assert delegation.active == 0
        daemon.say(Withdrawn(7, Reason.TIMEOUT))  # of one that is not here any more
        daemon.ask(8)
        await (await anext(delegation)).pass_()
        assert await daemon.expect(Verdict) == Verdict(8, Action.PASS)


async def _late(connection: Connection) -> None:
    await eventually(lambda: connection.closed)
    await connection.accept()


async def test_who_stops_accepting_gives_it_back(daemon: FakeDaemon) -> None:
    """And closes what comes nevertheless."""
    async with connected(daemon) as delegation:
        daemon.hands_over = False
        app = daemon.ask(7)
        connection = await anext(delegation)
        accepting = asyncio.create_task(connection.accept())
        assert await daemon.expect(Verdict) == Verdict(7, Action.ACCEPT)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        assert await daemon.expect(Verdict) == Verdict(7, Action.FAIL)
        (end,) = daemon.kept.pop(7)
        daemon.say(Handover(7), end)
        end.close()
        assert await asyncio.to_thread(ended, app)


async def test_iteration_ends(daemon: FakeDaemon) -> None:
    async with connected(daemon) as delegation:
        waiting = asyncio.create_task(anext(delegation, None))
        await asyncio.sleep(0)
        await delegation.close()
        assert await waiting is None


async def test_refused(daemon: FakeDaemon) -> None:
    async def refuse() -> None:
        await daemon.accept()
        await daemon.expect(Hello)
        daemon.say(Refused(Reason.UNKNOWN, "no proxy adder"))

    refusing = asyncio.create_task(refuse())
    with pytest.raises(RefusedError, match="unknown: no proxy adder") as raised:
        await Delegation("adder", daemon.directory).__aenter__()
    assert raised.value.reason is Reason.UNKNOWN
    await refusing


async def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await Delegation("adder", tmp_path).__aenter__()


async def test_a_daemon_that_says_nothing(daemon: FakeDaemon) -> None:
    with pytest.raises(TimeoutError):
        await Delegation("adder", daemon.directory, timeout=0.01).__aenter__()


async def test_the_daemon_is_restarted(daemon: FakeDaemon) -> None:
    async with connected(daemon) as delegation:
        served, _ = daemon.ask(1), daemon.ask(2)
        accepted = await anext(delegation)
        await accepted.accept()
        reader, writer = await accepted.streams()
        asked = await anext(delegation)
        daemon.ask(3)  # nobody has asked for it yet
        await eventually(lambda: delegation.active == 3)
        daemon.stop()
        await eventually(lambda: not delegation.connected)
        with pytest.raises(ConnectionResetError):
            await asked.accept()
        daemon.start()
        await daemon.welcome()
        await eventually(lambda: delegation.connected)
        served.sendall(b"still here")
        assert await reader.read(100) == b"still here"
        writer.write(b"so am I")
        assert served.recv(100) == b"so am I"
        await accepted.close()
        daemon.ask(4)
        connection = await anext(delegation)
        assert connection.metadata.connection == 4  # what was lost is not given out
        await connection.pass_()
        assert await daemon.expect(Verdict) == Verdict(4, Action.PASS)


@pytest.mark.parametrize(
    "what",
    [
        "garbage",
        "descriptors too soon",
        "none",
        "too many",
        "for both",
        "not asked for",
        "no socket",
        "too long",
        "twice",
    ],
)
async def test_a_daemon_that_is_none(daemon: FakeDaemon, what: str) -> None:
    """The connection is given up, and looked for again."""
    async with connected(daemon) as delegation:
        daemon.hands_over = False
        app, end = socket.socketpair()
        with app, end, Path("/dev/null").open() as file:  # noqa: ASYNC230 - it never waits
            daemon.ask(7)
            accepting = asyncio.create_task((await anext(delegation)).accept())
            await daemon.expect(Verdict)
            if what == "garbage":
                daemon.say_bytes(b"garbage", end)
            elif what == "descriptors too soon":
                daemon.say(Ask(FULL), end, end)
            elif what == "none":
                daemon.say(Handover(7))
            elif what == "too many":
                daemon.say(Handover(7), end, end, end, end)
            elif what == "for both":
                daemon.say(Handover(7), end, end)
            elif what == "not asked for":
                daemon.say(Taken(1))
            elif what == "no socket":
                daemon.say(Handover(7), file)  # type: ignore[arg-type]
            elif what == "too long":
                daemon.say_bytes(messages.encode(Ask(SMALL)) + bytes(66000), end)
            else:
                daemon.ask(7)
            end.close()
            with pytest.raises(ConnectionResetError):
                await accepting
            assert await daemon.welcome() == Hello("adder", 8)
            await eventually(lambda: delegation.connected)
            if what not in ("none", "twice"):
                app.settimeout(20)
                assert what in ("not asked for", "no socket") or ended(app)
            assert delegation.active == 0


async def test_closes_half_way(daemon: FakeDaemon) -> None:
    """The app goes while it is served, and while nobody has answered."""
    async with connected(daemon) as delegation:
        daemon.ask(1).close()
        daemon.ask(2, b"unread").close()
        for _ in range(2):
            async with await anext(delegation) as connection:
                await connection.accept()
                reader, writer = await connection.streams()
                await pump(reader, writer)
        numbers = []
        for _ in range(2):
            await daemon.expect(Verdict)
            numbers.append((await daemon.expect(Done)).connection)
        assert numbers == [1, 2]


async def test_a_daemon_that_does_not_read(daemon: FakeDaemon) -> None:
    """Answers wait for it, and fail when it goes."""
    daemon.reads = False
    delegation = Delegation("adder", daemon.directory, capacity=0)
    coming = asyncio.create_task(delegation.__aenter__())
    await daemon.accept()
    daemon.say(messages.Welcome())
    await coming
    try:
        answers = []
        for number in range(2000):
            daemon.ask(number).close()
            connection = await anext(delegation)
            answers.append(asyncio.create_task(connection.pass_()))
            await asyncio.sleep(0)
            if not answers[-1].done():
                break
        assert not answers[-1].done()
        daemon.stop()
        with pytest.raises(ConnectionError):
            await answers[-1]
        assert delegation.active == 0
    finally:
        await delegation.close()


async def test_serve(daemon: FakeDaemon, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that fails costs its own connection; when the proxy is cancelled all are closed."""

    async def handler(connection: Connection) -> None:
        if connection.metadata.connection == 1:
            _ = 1 // 0
        await connection.accept()
        await pump(*await connection.streams())

    serving = asyncio.create_task(serve("adder", handler, daemon.directory, capacity=5))
    assert await daemon.welcome() == Hello("adder", 5)
    echoing = (daemon.ask(1), daemon.ask(2))[1]
    assert {await daemon.expect(Verdict), await daemon.expect(Verdict)} == {
        Verdict(1, Action.FAIL),
        Verdict(2, Action.ACCEPT),
    }
    assert "ZeroDivisionError" in caplog.text
    echoing.sendall(b"echo")
    assert await asyncio.to_thread(echoing.recv, 100) == b"echo"
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert ended(echoing)
