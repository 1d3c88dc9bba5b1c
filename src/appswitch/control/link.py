"""Control's end of the channel to the switch: requests with answers, and a mirror that events keep true.

The connection may go at any time (the switch was restarted) and is made again for ever. What the switch knows comes
back with its `Welcome`, and whoever watches is told only the differences.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import structlog

from appswitch import wire
from appswitch.model import AppPhase, AppRow, AppSpec, ConnectionRow, FlowRow, ServerRow

ServerKey = tuple[int, str, str, int, float]
Event = wire.AppChanged | wire.AppGone | wire.ServerUp | wire.ServerDown

TIMEOUT = 5.0  # seconds a request may take, a reconnection included
KILL_TIMEOUT = 60.0  # seconds to look through all processes of the host
CHECK_TIMEOUT = 60.0  # seconds to compare everything, again and again where something differs
RETRY = (0.02, 1.0)  # seconds between attempts to connect: the first, the longest
BACKLOG = 10_000  # events that a watcher may be behind before it is cut off

_log = structlog.get_logger(part="link")


def server_key(row: ServerRow) -> ServerKey:
    """What makes a listening socket that socket: all but where the host leads to it, which changes."""
    return row.app_id, row.proto, row.service_ip, row.service_port, row.since


class SwitchDownError(Exception):
    """The switch did not answer in time. It is being restarted, or hangs."""


T = TypeVar("T")


class Watch(Generic[T]):
    """The events since it was made, for one watcher. `next` raises StopAsyncIteration when it is cut off."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[T | None] = asyncio.Queue(BACKLOG)
        self._over = False

    def __aiter__(self) -> Watch[T]:
        return self

    async def __anext__(self) -> T:
        if self._over and self._queue.empty():
            raise StopAsyncIteration
        event = await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event

    def put(self, event: T) -> None:
        """Hand an event over, or cut the watcher off: it has fallen too far behind, and must start anew."""
        if not self._over:
            try:
                self._queue.put_nowait(event)
            except asyncio.QueueFull:
                self._over = True

    def close(self) -> None:
        """No more events will come."""
        self._over = True
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait(None)


class SwitchLink:
    """The switch as control sees it. `run` keeps the connection; everything else may be used at any time."""

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        self.apps: dict[int, AppRow] = {}
        self.servers: dict[ServerKey, ServerRow] = {}
        self.pid = 0  # of the switch, 0 while it is away
        self.connected = asyncio.Event()
        self.stopping = False  # the switch may go, too: that is nothing to report
        # All that users have configured, for a switch that was just connected to: the first message resets, the last is
        # ``done``. Their ``seq`` is 0: nobody waits for the replies.
        self.configuration: Callable[[], Iterable[wire.Configure]] = lambda: (wire.Configure(seq=0, reset=True),)
        self.restarts = 0  # of the switch, since control was started
        self.on_event: list[Callable[[Event], None]] = []  # get every one, before watchers do
        self.on_flow: Callable[[FlowRow], None] = lambda _row: None  # every one that comes, followed or not
        self._last_pid = 0
        self._path = path
        self._timeout = timeout
        self._seq = itertools.count(1)
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[wire.Reply]] = {}
        self._registering: dict[int, AppSpec] = {}
        self._watches: set[Watch[Event]] = set()
        self._followers: set[Watch[FlowRow]] = set()

    # Requests

    async def register(self, app: AppSpec, token: bytes, expires: float) -> wire.Done:
        """Make ``app`` known. If the switch is restarted meanwhile, ask again, unless it remembers. SwitchDownError."""
        again = False
        async with self._deadline():
            while True:
                await self.connected.wait()
                if again and app.id in self.apps:
                    return wire.Done(seq=0)
                seq = next(self._seq)
                self._registering[seq] = app
                with contextlib.suppress(ConnectionResetError):
                    answer = await self._ask(seq, wire.Register(seq=seq, app=app, token=token, expires=expires))
                    assert isinstance(answer, wire.Done)
                    return answer
                again = True

    async def synced(self) -> None:
        """Return when the mirror is true: at once, but after the switch or control was restarted. SwitchDownError."""
        async with self._deadline():
            await self.connected.wait()

    async def forget(self, app_id: int) -> wire.Done:
        """Drop a registration. Raises SwitchDownError."""
        answer = await self._repeat(lambda seq: wire.Forget(seq=seq, app_id=app_id))
        assert isinstance(answer, wire.Done)
        return answer

    async def permit(self, app_id: int, name: str, ips: tuple[str, ...], seconds: float) -> wire.Done:
        """Tell what the app has resolved the name of one of its egress rules to. Raises SwitchDownError."""
        answer = await self._repeat(
            lambda seq: wire.Permit(seq=seq, app_id=app_id, name=name, ips=ips, seconds=seconds)
        )
        assert isinstance(answer, wire.Done)
        return answer

    async def configure(self, change: Callable[[int], wire.Configure]) -> None:
        """Tell of a change, made by ``change`` with the seq to use. Raises SwitchDownError.

        A switch that was restarted meanwhile has got all of it, the change included, from `configuration`: being told
        again changes nothing.
        """
        await self._repeat(change)

    async def explain(self, question: Callable[[int], wire.Explain]) -> wire.Explained | wire.Done:
        """What would become of a connection; Done with an error if that cannot be told. Raises SwitchDownError."""
        answer = await self._repeat(question)
        assert isinstance(answer, wire.Explained | wire.Done)
        return answer

    async def kill_forbidden(self) -> tuple[ConnectionRow, ...]:
        """Close the established connections that policies now forbid. Raises SwitchDownError."""
        answer = await self._repeat(lambda seq: wire.Kill(seq=seq), KILL_TIMEOUT)
        if isinstance(answer, wire.Done):
            raise SwitchDownError(f"the switch did not close what is forbidden: {answer.detail or answer.error}")
        assert isinstance(answer, wire.Killed)
        return answer.connections

    async def check(self) -> wire.Checked:
        """What differs between the switch's tables and the kernel's. Raises SwitchDownError."""
        answer = await self._repeat(lambda seq: wire.Check(seq=seq), CHECK_TIMEOUT)
        if isinstance(answer, wire.Done):
            raise SwitchDownError(f"the switch could not check: {answer.detail or answer.error}")
        assert isinstance(answer, wire.Checked)
        return answer

    async def query(self, what: str) -> wire.Rows:
        """Rows that are not mirrored: sockets, connections, backends, stats. Raises SwitchDownError."""
        answer = await self._repeat(lambda seq: wire.Query(seq=seq, what=what))
        if isinstance(answer, wire.Done):
            raise SwitchDownError(f"the switch does not tell {what}: {answer.detail or answer.error}")
        assert isinstance(answer, wire.Rows)
        return answer

    async def _repeat(self, request: Callable[[int], wire.ToSwitch], patience: float | None = None) -> wire.Reply:
        async with self._deadline(patience):
            while True:
                await self.connected.wait()
                seq = next(self._seq)
                with contextlib.suppress(ConnectionResetError):
                    return await self._ask(seq, request(seq))

    @contextlib.asynccontextmanager
    async def _deadline(self, patience: float | None = None) -> AsyncIterator[None]:
        seconds = self._timeout if patience is None else patience
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            late = f"the switch did not answer within {seconds:g} s"
            raise SwitchDownError(f"{late}: try again, and look at the daemon's log if it stays so") from None

    async def _ask(self, seq: int, request: wire.ToSwitch) -> wire.Reply:
        """Raises ConnectionResetError when the connection goes before the answer comes."""
        assert self._writer is not None
        future: asyncio.Future[wire.Reply] = asyncio.get_running_loop().create_future()
        self._waiting[seq] = future
        try:
            self._writer.write(wire.frame(request))
            return await future
        finally:
            self._waiting.pop(seq, None)
            self._registering.pop(seq, None)

    # Watching

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watch[Event]]:
        """All events from now on. What is read from the mirror before the next await belongs to the time before."""
        watch: Watch[Event] = Watch()
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    @contextlib.contextmanager
    def follow(self) -> Iterator[Watch[FlowRow]]:
        """Every decision about a connection from now on. The switch reports them as long as somebody follows."""
        watch: Watch[FlowRow] = Watch()
        self._followers.add(watch)
        self._tell_whether_followed()
        try:
            yield watch
        finally:
            self._followers.discard(watch)
            self._tell_whether_followed()

    def _tell_whether_followed(self) -> None:
        if self._writer is not None:
            self._writer.write(wire.frame(wire.Follow(seq=0, flows=bool(self._followers))))

    def close_watches(self) -> None:
        """End every watch: control is about to stop."""
        for watch in self._watches:
            watch.close()
        for follower in self._followers:
            follower.close()

    # The connection

    async def run(self) -> None:
        """Connect, follow, and begin again when the connection goes. Never returns; cancel it."""
        pause = RETRY[0]
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._path))
            except OSError:
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY[1])
                continue
            try:
                await self._follow(reader, writer)
                if not self.stopping:
                    _log.warning("the switch closed the connection")
            except (OSError, ValueError, msgspec.MsgspecError) as err:
                _log.warning("lost the switch", error=str(err))
            finally:
                self._lost()
                writer.close()
            pause = RETRY[0]
            await asyncio.sleep(pause)

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the end of the stream. Raises OSError, ValueError or msgspec.MsgspecError on what it cannot follow."""
        unframer = wire.Unframer()
        while data := await reader.read(1 << 16):
            for body in unframer.feed(data):
                self._handle(wire.decode_to_control(body), writer)

    def _lost(self) -> None:
        self.connected.clear()
        self._writer = None
        self.pid = 0
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError())

    def _handle(self, message: wire.ToControl, writer: asyncio.StreamWriter) -> None:
        if isinstance(message, wire.Welcome):
            self._welcome(message, writer)
        elif self._writer is None:
            raise ValueError(f"{type(message).__name__} before Welcome")
        elif isinstance(message, wire.Reply):
            self._answer(message)
        elif isinstance(message, wire.FlowSeen):
            self._flow(message.row)
        else:
            self._apply(message)

    def _welcome(self, message: wire.Welcome, writer: asyncio.StreamWriter) -> None:
        if message.version != wire.VERSION:
            raise ValueError(f"the switch speaks version {message.version}, control {wire.VERSION}")
        for event in self._differences(message):
            self._apply(event)
        self._writer = writer
        for part in self.configuration():  # before anything else is asked: requests are carried out in their order
            writer.write(wire.frame(part))
        if self._followers:
            self._tell_whether_followed()
        self.restarts += self._last_pid not in (0, message.pid)
        self.pid = self._last_pid = message.pid
        self.connected.set()
        _log.info("connected to the switch", pid=message.pid, apps=len(message.apps), servers=len(message.servers))

    def _differences(self, now: wire.Welcome) -> list[Event]:
        """What happened while nobody told us: servers go before their apps do, and come after them."""
        apps = {row.app.id: row for row in now.apps}
        servers = {server_key(row): row for row in now.servers}
        events: list[Event] = [wire.ServerDown(row) for key, row in self.servers.items() if key not in servers]
        events += [wire.AppGone(app_id) for app_id in self.apps if app_id not in apps]
        events += [wire.AppChanged(row) for app_id, row in apps.items() if self.apps.get(app_id) != row]
        events += [wire.ServerUp(row) for key, row in servers.items() if self.servers.get(key) != row]
        return events

    def _flow(self, row: FlowRow) -> None:
        self.on_flow(row)
        for watch in self._followers:
            watch.put(row)

    def _answer(self, message: wire.Reply) -> None:
        app = self._registering.get(message.seq)
        if app is not None and isinstance(message, wire.Done) and not message.error and app.id not in self.apps:
            # Here and not where the answer is awaited: the app's first events may be right behind it.
            self._apply(wire.AppChanged(AppRow(app=app, phase=AppPhase.REGISTERED, pid=0)))
        future = self._waiting.get(message.seq)
        if future is not None and not future.done():
            future.set_result(message)

    def _apply(self, event: Event) -> None:
        match event:
            case wire.AppChanged(row):
                self.apps[row.app.id] = row
            case wire.AppGone(app_id):
                self.apps.pop(app_id, None)
            case wire.ServerUp(row):
                self.servers[server_key(row)] = row
            case wire.ServerDown(row):
                # Its doors are closed by now: watchers are told what they were told before.
                event = wire.ServerDown(self.servers.pop(server_key(row), row))
        for listener in self.on_event:
            listener(event)
        for watch in self._watches:
            watch.put(event)
