"""The DNS server as control has it: made of its parts, fed by the link to the switch."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable

import structlog

from appswitch.address import ip_text
from appswitch.control.dns.apps import Apps
from appswitch.control.dns.asker import asker
from appswitch.control.dns.cache import Cache
from appswitch.control.dns.desk import Desk
from appswitch.control.dns.forward import Forwarder
from appswitch.control.dns.intake import Intake
from appswitch.control.dns.resolver import Resolver
from appswitch.control.dns.server import Port
from appswitch.control.dns.servicenames import ServiceNames
from appswitch.control.dns.upstream import ResolvConf, Servers
from appswitch.control.dns.zone import Zone
from appswitch.control.link import Event, SwitchLink
from appswitch.control.resources.catalog import Catalog
from appswitch.control.resources.names import Names, ports_of
from appswitch.control.settings import Settings
from appswitch.model import AppSpec
from appswitch.resources import Resource
from appswitch.wire import AppChanged, AppGone, NameServer, ServerDown, ServerUp

MAX_WAITING = 256  # name servers of apps that are not known yet
PATIENCE = 10.0  # seconds in which the switch tells of an app whose sockets have come: it uses two sockets for that

_log = structlog.get_logger(part="dns")


class Dns:
    """Made before the link connects: the switch then sends sockets to a place that is there. Raises OSError."""

    def __init__(self, link: SwitchLink, settings: Settings, catalog: Catalog) -> None:
        self._link = link
        self._catalog = catalog
        self._intake = Intake(settings.run_dir.dns, self._take)
        self._names = ServiceNames()
        self._apps = Apps(self._names.get)
        servers: Servers = ResolvConf()
        if given := tuple((ip_text(one.ip), one.port) for one in settings.dns_servers):
            servers = lambda: given  # noqa: E731 - a constant, where the other one looks at a file
        self._cache = cache = Cache()
        self._forwarder = Forwarder(servers, cache, time.monotonic)
        zone = Zone(settings.dns_domain, Names(catalog, self._names.get), self._apps)
        self._resolver = Resolver(zone, cache, self._forwarder, link.permit, time.monotonic)
        self._desks: dict[int, Desk] = {}
        self._ports: dict[tuple[int, str], Port] = {}
        self._keys: dict[int, set[tuple[int, str]]] = {}  # of `_ports`, by app
        self._waiting: dict[tuple[int, str], asyncio.TimerHandle] = {}  # `_ports` of apps that are not known yet

    async def run(self) -> None:
        """Serve until cancelled."""
        self._intake.start()
        self.changed([entry.resource for entry in self._catalog.entries()])
        try:
            while not self._link.stopping:
                await self._follow()
            await asyncio.Event().wait()  # control is stopping anyway
        finally:
            await self._close()

    def changed(self, resources: Iterable[Resource]) -> None:
        """These are new, different or gone."""
        for port in {one.port for resource in resources for one in ports_of(resource)}:
            self._names.learn(port, "tcp")
            self._names.learn(port, "udp")
        self._resolver.changed()

    def cached(self) -> int:
        """The number of answers of other servers that are kept."""
        return len(self._cache)

    # Events

    async def _follow(self) -> None:
        """Until the watch is cut off: it has fallen behind, and all is read anew."""
        with self._link.watch() as watch:
            self._apps.reset(self._link.apps, self._link.servers)
            self._resolver.changed()
            for app_id in {app_id for app_id, _ in self._ports.keys() - self._waiting.keys()} - self._link.apps.keys():
                self._end(app_id)
            for app_id in {app_id for app_id, _ in self._waiting} & self._link.apps.keys():
                self._known(self._link.apps[app_id].app)
            for row in self._link.servers.values():
                self._names.learn(row.service_port, row.proto)
            async for event in watch:
                self._apply(event)

    def _apply(self, event: Event) -> None:
        match event:
            case AppChanged(row):
                self._apps.put(row)
                self._known(row.app)
                self._resolver.changed()
            case AppGone(app_id):
                self._apps.drop(app_id)
                self._end(app_id)
                self._resolver.changed()
            case ServerUp(row):
                self._apps.listen(row)
                self._names.learn(row.service_port, row.proto)
            case ServerDown(row):
                self._apps.unlisten(row)

    # Sockets

    def _take(self, message: NameServer, udp: socket.socket, tcp: socket.socket) -> None:
        """They are served from now on, or from when the app is known; those that were there before are not any more."""
        key = (message.app_id, message.address)
        port = Port(udp, tcp)
        self._drop(key)
        self._keys.setdefault(message.app_id, set()).add(key)
        if message.app_id in self._link.apps:
            self._ports[key] = port
            port.start(self._desk(self._link.apps[message.app_id].app))
        elif len(self._waiting) < MAX_WAITING:
            self._ports[key] = port
            self._waiting[key] = asyncio.get_running_loop().call_later(PATIENCE, self._drop, key)
        else:
            _log.warning("too many sockets of unknown apps", appid=f"{message.app_id:08x}")
            self._drop(key)
            port.close()

    def _known(self, app: AppSpec) -> None:
        """What is told of it may be old: the link may have forgotten it already, and tell us in a moment."""
        for key in [key for key in self._waiting if key[0] == app.id]:
            self._waiting.pop(key).cancel()
            self._ports[key].start(self._desk(app))

    def _desk(self, app: AppSpec) -> Desk:
        desk = self._desks.get(app.id)
        if desk is None:
            desk = self._desks[app.id] = Desk(asker(app), self._resolver)
        return desk

    def _drop(self, key: tuple[int, str]) -> None:
        if timer := self._waiting.pop(key, None):
            timer.cancel()
        if port := self._ports.pop(key, None):
            port.close()
        mine = self._keys.get(key[0], set())
        mine.discard(key)
        if not mine:
            self._keys.pop(key[0], None)

    def _end(self, app_id: int) -> None:
        if desk := self._desks.pop(app_id, None):
            desk.close()
        for key in self._keys.pop(app_id, ()):
            self._drop(key)

    async def _close(self) -> None:
        self._intake.close()
        for app_id in list(self._keys):
            self._end(app_id)
        await self._forwarder.close()
        await self._names.close()
