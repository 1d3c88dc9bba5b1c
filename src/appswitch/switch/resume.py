"""Connections that an earlier switch had in its hands (switch/estate.py) are led to their servers.

Who connects, and where to, is what the kernel knows: the name of a Unix connection, the two ends of a TCP one, by which
the client's own socket is found. It is as if they had just come: they are held, judged, delegated, accepted again. Not
before the switch knows what is configured.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import ANY4, ANY6, Address
from appswitch.kernel import procfs, sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6, AF_UNIX
from appswitch.routing.route import Delegate
from appswitch.switch import naming
from appswitch.switch.apps import App
from appswitch.switch.call import Failed
from appswitch.switch.delegation import header_of
from appswitch.switch.dial import zone_of
from appswitch.switch.doors import local_address
from appswitch.switch.estate import Found
from appswitch.switch.flows import Identity, Path
from appswitch.switch.held import Held, reset_tcp
from appswitch.switch.kill import sockets_of_all
from appswitch.switch.loop import SHORT
from appswitch.switch.memory import PairNote
from appswitch.switch.pieces import every, in_pieces
from appswitch.switch.services import Arrival, Door, Service

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

BATCH = 16  # connections in one go, before others have their turn
LOOKED_AT = 256  # descriptors of others
_STATES = 0xFFF
_TCP = 6


class Client(NamedTuple):
    """Who connects, to what, as it sees that; with the cookie and the inode of its socket."""

    app: App
    source: Address
    to: Address
    cookie: int
    inode: int


class Resume:
    """Those that were found, until it is time."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._found: list[Found] = []
        self.since = float("inf")  # when it was, monotonic
        self._busy = False

    def __len__(self) -> int:
        return len(self._found)

    def add(self, found: list[Found]) -> None:
        """These, too."""
        self._found += found
        if self.since < float("inf"):
            self._go_on()

    def empty(self, listener: Fd) -> None:
        """All that wait in the queue of a listening socket of an earlier switch's."""
        while True:
            accepted = _kernel.accept(listener)
            if isinstance(accepted, int):
                if accepted in SHORT:
                    self._switch.loop.after(0.1, partial(self.empty, listener))
                return
            self.stray(*accepted)

    def stray(self, fd: Fd, peer: bytes) -> None:
        """One that was accepted there, and that nobody expects: it may be that an earlier switch has."""
        own = _kernel.getsockname(fd)
        if self._switch.recovered and not isinstance(own, int):
            self.add([Found(fd, own, peer)])

    def begin(self) -> None:
        """What is configured is known."""
        if self.since == float("inf"):
            self.since = time.monotonic()
            if self._found:
                self._switch.log("took over connections", count=len(self._found))
            self._go_on()

    def _go_on(self) -> None:
        if self._found and not self._busy:
            self._busy = True
            found, self._found = self._found, []
            in_pieces(self._switch.loop, self._work(found), lambda _none: self._rest(), self._failed)

    def _rest(self) -> None:
        self._busy = False
        self._go_on()

    def _failed(self, problem: Exception) -> None:
        self._rest()
        raise problem

    def _work(self, found: list[Found]) -> Generator[None, None, None]:
        left = [one for one in found if not self._returned(one)]
        clients = _Clients(self._switch, left)
        yield
        who = yield from clients.identities(left)
        for batch in every(BATCH, left):
            for one in batch:
                try:
                    self._resume(one, clients, who)
                except Exception as problem:  # as in a turn of its own: it concerns this one alone
                    self._switch.loop.on_fault(problem)
            yield

    def _returned(self, one: Found) -> bool:
        """It was taken from an app's own queue, or a proxy stands before it: it is the next one there."""
        if one.pair is not None:
            self._wait_again(one.fd, *one.pair)
            return True
        name = sockaddr.unix_name(one.own) if sockaddr.family_of(one.own) == AF_UNIX else naming.LOBBY
        if name == naming.LOBBY:
            return False
        sock, link = self._switch.sockets.listening.get(name), naming.parse_connection(sockaddr.unix_name(one.peer))
        service = self._switch.services.by_id.get(sock.service) if sock is not None else None
        if service is None or link is None:
            one.fd.close()
        else:
            self._switch.offer(service, Arrival(one.fd, link.client, link.server, unix=True), patient=True)
        return True

    def _wait_again(self, fd: Fd, slot: int, note: PairNote) -> None:
        service = self._switch.services.by_id.get(note.service)
        arrival = Arrival(fd, note.peer, note.local, True, note.client_app, note.asked, pair=True)
        if service is None or not self._switch.offer(service, arrival, patient=True):
            fd.close()
        self._switch.memory.drop(slot)  # it has another one now

    def _resume(self, one: Found, clients: _Clients, who: dict[int, Identity]) -> None:
        if sockaddr.family_of(one.own) == AF_UNIX:
            self._hold(one.fd, clients.of(one), who, unix=True)
            return
        switch, own, peer = self._switch, sockaddr.decode(one.own), sockaddr.decode(one.peer)
        client = clients.of(one)
        if switch.holding.is_ours(own) or switch.waiting.is_room(own):
            self._hold(one.fd, client, who, unix=False)
            return
        leads_to = switch.gates.leads(one.own)
        at = clients.door_at(own) if leads_to is None else None
        if client is not None and (leads_to is not None or (at is not None and at[1].exposed)):
            path = self._path(client, who)
            if path is not None:
                switch.comers.known(peer, own, path.flow)
        if leads_to is not None:
            switch.gates.admit(one.fd, peer, leads_to)
        elif at is not None and at[1].exposed:
            switch.gates.admit_to(at[0], one.fd, peer, local_address(*at, peer))
        elif at is not None and client is not None:
            arrival = Arrival(one.fd, client.source, at[0].own(client.to), False, client.app.id, client.to)
            switch.offer(at[0], arrival, patient=True)
        else:
            reset_tcp(one.fd)

    def _hold(self, fd: Fd, client: Client | None, who: dict[int, Identity], unix: bool) -> None:
        """A client that the switch has connected to itself: it is connected, and who serves it is decided now."""
        path = self._path(client, who) if client is not None else None
        if client is None or path is None:
            if not unix:
                reset_tcp(fd)
            fd.close()
            return
        zone, now = zone_of(client.app.spec.labels), time.monotonic()
        held = Held(path.flow, client.source, client.to, unix, zone, now, client.cookie, path)
        verdict = path.verdict
        if isinstance(verdict, Delegate) and verdict.proxy is not None and verdict.proxy.header == "v2":
            header = header_of(client.source, verdict.to)
            if _kernel.peek(fd, len(header)) == header:  # written before it was held
                held = held._replace(header=header)
        self._switch.holding.settle(fd, held, verdict)

    def _path(self, client: Client, who: dict[int, Identity]) -> Path | None:
        family = AF_INET if len(client.to.ip) == 4 else AF_INET6
        raw = sockaddr.encode(family, client.to)
        try:
            return self._switch.flows.find(client.app, family, raw, 0, who.get(client.inode, (None, None)))
        except Failed:
            return None


class _Clients:
    """The sockets at the other ends, as the kernel lists them: sock_diag(7)."""

    def __init__(self, switch: Switch, found: list[Found]) -> None:
        self._switch = switch
        self._unix: dict[bytes, tuple[int, int]] = {}
        self._inet: dict[tuple[Address, Address], tuple[int, int]] = {}
        services = switch.services.by_id.values()
        self._doors = {door.actual: (service, door) for service in services for door in service.doors}
        families = {sockaddr.family_of(one.own) for one in found}
        if AF_UNIX in families:
            self._unix = {row[6]: row[:2] for row in _kernel.dump_unix(_STATES)}
        for family in families - {AF_UNIX}:
            for row in _kernel.dump_inet(family, _TCP, _STATES):
                self._inet[Address(row[4], row[5]), Address(row[6], row[7])] = row[:2]

    def of(self, one: Found) -> Client | None:
        """Of a connection; None: it is no app's, or the app has ended."""
        if sockaddr.family_of(one.own) == AF_UNIX:
            name = sockaddr.unix_name(one.peer)
            link, (cookie, inode) = naming.parse_connection(name), self._unix.get(name, (0, 0))
            app = self._switch.apps.get(link.client_app) if link is not None else None
            return None if app is None or link is None else Client(app, link.client, link.server, cookie, inode)
        ends = sockaddr.decode(one.peer), sockaddr.decode(one.own)
        cookie, inode = self._inet.get(ends, (0, 0))
        sock = self._switch.sockets.by_cookie.get(cookie)
        if sock is None or sock.app.ended or sock.local is None or sock.peer is None:
            return None
        return Client(sock.app, sock.local, sock.peer, cookie, inode)

    def door_at(self, own: Address) -> tuple[Service, Door] | None:
        """The door at which a connection was accepted, by its own address, and the service that it leads to."""
        everywhere = Address(ANY4 if len(own.ip) == 4 else ANY6, own.port)
        return self._doors.get(own) or self._doors.get(everywhere)

    def identities(self, found: list[Found]) -> Generator[None, None, dict[int, Identity]]:
        """Users and executables of those of whom policies ask for that, by inode: looked for in /proc."""
        clients = [client for one in found if (client := self.of(one)) is not None]
        wanted = {client.inode for client in clients if self._matters(client)}
        who: dict[int, Identity] = {}
        for batch in every(LOOKED_AT, sockets_of_all() if wanted else iter(())):
            for pid, _, inode in batch:
                if inode in wanted and inode not in who:
                    who[inode] = procfs.identity(pid)
            yield
        return who

    def _matters(self, client: Client) -> bool:
        """Whether it does of which user and executable it is."""
        world, end = self._switch.world, client.app.end(client.source.ip)
        return world.policies.needs_process(end) or (world.proxies or world.policies).needs_process(end)
