"""Listening sockets: the service table, and the doors through which TCP comes to a Unix listener."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.model import ServerRow
from appswitch.routing.table import Endpoint, Table
from appswitch.switch import naming
from appswitch.switch.apps import App
from appswitch.switch.memory import PairNote
from appswitch.switch.parking import Queue
from appswitch.switch.sockets import Socket, Sockets, own_address

SOMAXCONN = 4096  # net.core.somaxconn, since Linux 5.4
UNKNOWN_BACKLOG = 128  # of a service that listened before this switch was there


class Arrival(NamedTuple):
    """A connection that was taken from a queue and belongs to whoever accepts next."""

    fd: Fd
    peer: Address  # virtual, as the server sees it
    local: Address
    unix: bool
    client_app: int | None = None
    asked: Address | None = None  # where the client wanted to go, if that is not ``local``
    on_lost: Callable[[], None] | None = None  # what becomes of it when nobody will accept any more; else it is closed
    pair: bool = False  # the switch has made it: `memory.PairNote`
    slot: int = 0  # of that, while it waits


class Door:
    """A TCP listening socket on the host that leads to a service. ``exposed``: strangers may come in."""

    __slots__ = ("actual", "armed", "exposed", "fd", "port")

    def __init__(self, fd: Fd, actual: Address, port: int, exposed: bool) -> None:
        self.fd = fd
        self.actual = actual
        self.port = port  # the app's own port
        self.exposed = exposed
        self.armed = True  # the loop waits for its next arrival


class Service:
    """One listening socket of one app."""

    __slots__ = (
        "announced", "app", "backlog", "doors", "endpoint", "family", "id", "name", "parked", "returned", "rung",
        "since", "socket", "tcp_only", "watched",
    )  # fmt: skip

    def __init__(self, id: int, app: App, name: bytes, endpoint: Endpoint, sock: Socket, backlog: int) -> None:
        self.id = id
        self.app = app
        self.name = name  # of its socket file
        self.endpoint = endpoint
        self.socket = sock
        self.family = sock.family
        self.tcp_only = app.spec.transport == "tcp"
        self.backlog = backlog
        self.since = time.time()
        self.doors: list[Door] = []
        self.parked: Queue = {}  # accept(2) calls that wait
        self.returned: deque[Arrival] = deque()  # accepted, but the caller was gone
        self.rung = False  # a bell is in the queue
        self.watched = False  # for shutdown(2)
        self.announced: ServerRow | None = None  # what others were told of it last

    def room(self) -> int:
        """Connections that may wait for accept(2): listen(2). A negative backlog is as many as the system allows."""
        return SOMAXCONN if self.backlog < 0 else self.backlog or UNKNOWN_BACKLOG

    def own(self, to: Address) -> Address:
        """What a connection to ``to`` has as its local address here."""
        return own_address(self.endpoint.bound, self.app.ips, to)

    def note(self, pair: Arrival) -> PairNote:
        """What a successor has to know of one that waits here."""
        return PairNote(_kernel.cookie(pair.fd), self.id, pair.peer, pair.local, pair.client_app, pair.asked)

    def row(self) -> ServerRow:
        """As `ax get servers` shows it."""
        ip, port = self.endpoint.bound
        text = str(Address(ip, port)).rsplit(":", 1)[0].strip("[]")
        return ServerRow(
            app_id=self.app.id, proto="tcp", service_ip=text, service_port=port,
            actual=tuple(str(door.actual) for door in self.doors), since=self.since,
        )  # fmt: skip


class Services:
    """All services. Keeps routing's table in step, and tells who wants to know."""

    def __init__(self, table: Table, sockets: Sockets, by_id: dict[int, Service]) -> None:
        self.by_id = by_id
        self._by_app: dict[int, dict[int, Service]] = {}
        self.table = table
        self.on_up: Callable[[ServerRow], None] = lambda _row: None
        self.on_down: Callable[[ServerRow], None] = lambda _row: None
        self._sockets = sockets
        self._next = 1

    def open(self, app: App, sock: Socket, fd: Fd, bound: Address, backlog: int) -> Service | int:
        """Make the app's Unix socket ``fd`` listen under a name of ours. The service, or an errno."""
        serial = self._next
        name = naming.listener(naming.Listener(app.id, sock.family, bound, sock.flags(), serial))
        error = _kernel.bind_unix(fd, name)
        if error:
            return error
        error = _kernel.listen(fd, backlog)
        if error:
            os.unlink(name)
            return error
        return self._add(sock, name, serial, bound, backlog)

    def restore(self, sock: Socket, name: bytes, serial: int) -> Service:
        """A socket that listens already, for an earlier switch."""
        assert sock.bound is not None
        return self._add(sock, name, serial, sock.bound, sock.backlog)

    def _add(self, sock: Socket, name: bytes, serial: int, bound: Address, backlog: int) -> Service:
        self._next = max(self._next, serial) + 1
        app = sock.app
        endpoint = Endpoint(serial, app.id, bound, len(bound.ip) == 16 and not sock.v6only, app.labels)
        service = self.by_id[serial] = Service(serial, app, name, endpoint, sock, backlog)
        self._by_app.setdefault(app.id, {})[serial] = service
        sock.service = serial
        self._sockets.listening[name] = sock
        self.table.add(endpoint, app.ips)
        return service

    def close(self, service: Service) -> None:
        """Its listening socket has gone. The doors must be closed already."""
        if self.by_id.pop(service.id, None) is not None:
            mine = self._by_app[service.app.id]
            del mine[service.id]
            if not mine:
                del self._by_app[service.app.id]
            self._sockets.listening.pop(service.name, None)
            self.table.remove(service.endpoint, service.app.ips)
            self._withdraw(service)

    def of(self, app: App) -> list[Service]:
        """Those of an app."""
        return list(self._by_app.get(app.id, {}).values())

    def announce(self, service: Service) -> None:
        """Tell others of a new service, or that its doors have changed."""
        self._withdraw(service)
        service.announced = service.row()
        self.on_up(service.announced)

    def _withdraw(self, service: Service) -> None:
        if service.announced is not None:
            self.on_down(service.announced)
            service.announced = None
