"""``python -m appswitch.control``: started by the keeper."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

import structlog

from appswitch import parent
from appswitch.control import gifts, idle, logs, server
from appswitch.control.analyzer import Analyzer
from appswitch.control.api.application import create
from appswitch.control.api.deps import Parts
from appswitch.control.dns.service import Dns
from appswitch.control.link import SwitchLink
from appswitch.control.notify import Keeping
from appswitch.control.registry import Registry
from appswitch.control.resources.service import Resources
from appswitch.control.resources.store import Store, StoreError
from appswitch.control.settings import Settings, SettingsError, from_environ, read_token

_log = structlog.get_logger(part="control")


class Control:
    """All of it, put together."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.link = SwitchLink(settings.run_dir.switch)
        self.registry = Registry(self.link, settings)
        self.analyzer = Analyzer(self.link)
        self.resources = Resources(self.link, self.registry, Store(settings.state_dir))
        self.parts = Parts(
            settings=settings,
            registry=self.registry,
            resources=self.resources,
            analyzer=self.analyzer,
            token=settings.token,
        )
        self.server = server.Server(create(self.parts))
        self.dns: Dns | None = None

    async def run(self, keeping: Keeping | None = None) -> None:
        """Until SIGTERM or SIGINT. Raises server.ListenError, StoreError."""
        self.keeping = keeping or Keeping()
        self.resources.load()  # before anybody can ask, or the switch is told
        try:
            await self._serve()
        finally:
            self.resources.close()

    async def _serve(self) -> None:
        path = self.settings.run_dir.rest
        tcp = self._kept("own-tcp", lambda kept: server.tcp_listener(self.settings.rest_port, kept))
        rest = self._kept("own-rest", lambda kept: server.unix_listener(path, kept))
        self.keeping.drop()
        sockets = [one for one in (rest, tcp) if one is not None]
        where = "{}:{}".format(*tcp.getsockname()) if tcp else str(path)
        self.dns = self._make_dns()
        if not gifts.refuse(sockets[0]):
            gifts.wait_for_none()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        tasks = [
            self.keeping.run(),
            self.link.run(),
            self.analyzer.meter.run(),
            self._announce(where),
            self._end_idle(),
            logs.tell_suppressed(),
        ]
        if self.dns:
            self.parts.dns_cached = self.dns.cached
            tasks.append(self.dns.run())
        # If one of these fails, so does control, and the keeper starts another.
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(task) for task in tasks]
            try:
                await self.server.serve(sockets)
            finally:
                if not self.settings.keeper:  # else it outlives us
                    path.unlink(missing_ok=True)
                for task in helpers:
                    task.cancel()

    def _kept(self, name: str, listen: Callable[[socket.socket | None], socket.socket | None]) -> socket.socket | None:
        """A listening socket that outlives us: who connects while nobody is there waits in its queue."""
        kept = self.keeping.take(name)
        sock = listen(kept)
        if sock is not None and sock is not kept:
            self.keeping.store(name, sock)
        return sock

    def stop(self) -> None:
        """End the streams, which would never end themselves, then the rest."""
        self.registry.stopping = True
        self.link.stopping = True
        self.link.close_watches()
        self.server.stop()

    def reload(self) -> None:
        """Read the token again: that is all that may change while the daemon runs."""
        if self.settings.token_file is None:
            return
        try:
            self.parts.token = read_token(self.settings.token_file)
            _log.info("read the REST token again")
        except SettingsError as err:
            _log.error("kept the old REST token", error=str(err))

    def _make_dns(self) -> Dns | None:
        """Its socket is there before the switch is: the switch says everything when it is connected to."""
        where = self.settings.run_dir.dns
        if not self.settings.dns:
            where.unlink(missing_ok=True)  # of a daemon that answered
            return None
        try:
            made = Dns(self.link, self.settings, self.registry.catalog)
        except OSError as err:
            raise server.ListenError(f"cannot listen on {where}: {err.strerror}") from None
        self.resources.on_change.append(made.changed)
        return made

    async def _announce(self, where: str) -> None:
        await self.server.listening.wait()
        await self.link.connected.wait()
        self.keeping.ready(f"REST on {where}")

    async def _end_idle(self) -> None:
        if self.settings.idle_exit <= 0:
            return
        await idle.until_idle(self.link, self.settings.idle_exit)
        _log.info("no app for a while: the daemon ends", seconds=self.settings.idle_exit)
        self.registry.stopping = True
        keeper = parent.keeper_pid()
        if not keeper and self.settings.keeper == os.getppid():
            keeper = self.settings.keeper
        if keeper and self.settings.keeper:  # else control was started by hand
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper, signal.SIGTERM)
        else:
            self.stop()


def main() -> int:
    """0 after an orderly end, 1 when the daemon cannot run so."""
    logs.configure(os.environ)
    try:
        settings = from_environ(os.environ)
        control = Control(settings)
        # Who is started to stand by waits here, with everything loaded, until its predecessor has ended.
        asyncio.run(control.run(Keeping()))
    except (SettingsError, StoreError, server.ListenError) as err:
        _log.error(str(err))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
