"""A switch that only talks: enough of one for control to be tested without the kernel's help."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Self

from appswitch import wire
from appswitch.model import AppPhase, AppRow, BackendRow, ConnectionRow, FlowRow, ProxyRow, ServerRow, SocketRow
from appswitch.resources import Resource, kind_of


class FakeSwitch:
    """Listens on ``path``, registers what it is asked to, and says what the test makes it say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.apps: dict[int, AppRow] = {}
        self.servers: list[ServerRow] = []
        self.sockets: list[SocketRow] = []
        self.connections: list[ConnectionRow] = []
        self.backends: list[BackendRow] = []
        self.proxies: list[ProxyRow] = []
        self.stats = {"calls": 7.0}
        self.followed = False  # somebody wants all flows
        self.tokens: dict[int, bytes] = {}
        self.asked: list[wire.ToSwitch] = []
        self.configured: dict[tuple[str, str], Resource] = {}  # what it was told, by kind and name
        self.complete = False  # it was told all of it
        self.forbidden: list[ConnectionRow] = []  # what the next Kill closes
        self.refuse: tuple[str, str] | None = None  # what the next Register is answered with
        self.deaf = False  # takes requests and does not answer
        self.version = wire.VERSION
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        """As if it died: connections and its socket go, what it knows stays for the next `start`."""
        self._server.close()
        for writer in list(self._writers):
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    # What the test makes happen

    def attach(self, app_id: int, pid: int = 4242) -> None:
        row = self.apps[app_id]
        self.apps[app_id] = AppRow(app=row.app, phase=AppPhase.RUNNING, pid=pid, attached=row.app.created + 1)
        self._tell(wire.AppChanged(self.apps[app_id]))

    def end(self, app_id: int) -> None:
        del self.apps[app_id]
        self._tell(wire.AppGone(app_id))

    def listen(self, row: ServerRow) -> None:
        self.servers.append(row)
        self._tell(wire.ServerUp(row))

    def unlisten(self, row: ServerRow) -> None:
        self.servers.remove(row)
        self._tell(wire.ServerDown(row))

    def see(self, *rows: FlowRow) -> None:
        for row in rows:
            self._tell(wire.FlowSeen(row))

    def _tell(self, event: wire.ToControl) -> None:
        for writer in self._writers:
            writer.write(wire.frame(event))

    # The conversation

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        unframer = wire.Unframer()
        writer.write(
            wire.frame(
                wire.Welcome(
                    version=self.version, pid=os.getpid(), apps=tuple(self.apps.values()), servers=tuple(self.servers)
                )
            )
        )
        try:
            while data := await reader.read(1 << 16):
                for body in unframer.feed(data):
                    self._answer(wire.decode_to_switch(body), writer)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, message: wire.ToSwitch, writer: asyncio.StreamWriter) -> None:
        self.asked.append(message)
        if self.deaf:
            return
        match message:
            case wire.Register():
                if self.refuse:
                    error, detail = self.refuse
                    self.refuse = None
                    writer.write(wire.frame(wire.Done(seq=message.seq, error=error, detail=detail)))
                    return
                self.apps[message.app.id] = AppRow(app=message.app, phase=AppPhase.REGISTERED, pid=0)
                self.tokens[message.app.id] = message.token
                writer.write(wire.frame(wire.Done(seq=message.seq)))
            case wire.Forget():
                known = self.apps.pop(message.app_id, None)
                writer.write(wire.frame(wire.Done(seq=message.seq, error="" if known else "no-such-app")))
                if known:
                    self._tell(wire.AppGone(message.app_id))
            case wire.Permit():
                writer.write(wire.frame(wire.Done(seq=message.seq)))
            case wire.Configure():
                self._configure(message)
                writer.write(wire.frame(wire.Done(seq=message.seq)))
            case wire.Follow():
                self.followed = message.flows
                writer.write(wire.frame(wire.Done(seq=message.seq)))
            case wire.Kill():
                killed, self.forbidden = tuple(self.forbidden), []
                writer.write(wire.frame(wire.Killed(seq=message.seq, connections=killed)))
            case wire.Explain():
                steps = (f"asked for {message.to}",)
                writer.write(wire.frame(wire.Explained(seq=message.seq, allowed=True, steps=steps)))
            case wire.Query():
                rows = wire.Rows(
                    seq=message.seq,
                    sockets=tuple(self.sockets),
                    connections=tuple(self.connections),
                    backends=tuple(self.backends),
                    proxies=tuple(self.proxies),
                    stats=self.stats,
                )
                writer.write(wire.frame(rows))

    def _configure(self, message: wire.Configure) -> None:
        if message.reset:
            self.configured.clear()
        for one in (*message.vservices, *message.policies, *message.references, *message.proxies):
            self.configured[kind_of(one), one.name] = one
        for key in message.remove:
            self.configured.pop(key, None)
        self.complete = message.done


async def _forever(path: Path) -> None:
    async with FakeSwitch(path):
        await asyncio.Event().wait()


if __name__ == "__main__":
    import sys

    asyncio.run(_forever(Path(sys.argv[1])))
