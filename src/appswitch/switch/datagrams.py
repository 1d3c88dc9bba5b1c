"""UDP sockets: where each of them lives, and where it has to live to reach an address.

A UDP socket is in the network namespace of its peer: in its app's own ("at home") as long as it has none or serves,
in another app's when it talks to that app, in the host's when it talks to the outside. There its own virtual address
and its peer's are the kernel's real ones, so that data, addresses, control messages and errors need no help of ours.
See docs/design/udp.md.
"""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import ANY4, ANY6, Address, is_any, is_link_local, is_loopback, is_multicast
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.model import ConnectionRow, ServerRow, SocketRow
from appswitch.routing.policy import End, Policies
from appswitch.routing.route import Deny, Flow, Leave, Local, Outside, World, route
from appswitch.routing.table import Endpoint, Table
from appswitch.switch.apps import App
from appswitch.switch.datagram import OFF, Datagram, connection_row, restored, server_row, socket_row
from appswitch.switch.netns import Host, Netns, cookie_of
from appswitch.switch.pace import Pace

DGRAM, UDP = 2, 17
SOL_SOCKET, SO_REUSEADDR, SO_REUSEPORT, SO_PROTOCOL, SO_DOMAIN = 1, 2, 15, 38, 39
SOL_IPV6, IPV6_V6ONLY = 41, 26
DNS_PORT = 53
LIMIT = 4096  # decisions that are remembered
SOON = 0.05  # seconds that a look at all sockets is good for where they are shown
APPS_A_SWEEP = 64  # apps whose servers are looked at in one round
_MIN_GROWTH = 1000


class Target(NamedTuple):
    """Where a datagram for an address has to be sent: by one of ``apps`` in its namespace, or (none) by the host."""

    to: Address  # as the place knows it
    home: bool  # the app's own namespace
    apps: tuple[App, ...]
    error: int  # it must not be sent: with this errno


class Datagrams:
    """All of them, and the service table of UDP. One writer: the switch's thread."""

    def __init__(
        self,
        apps: dict[int, App],
        steady: dict[int, bytes],
        policies: Policies,
        node_ips: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:
        """``steady`` is for `_kernel.wait`: the sockaddr that a socket has sent to last, by its cookie.

        Only of one whose sends the kernel may make; and forgotten whenever a decision may be another one.
        ``node_ips``: the node's own addresses, by length.
        """
        self.by_cookie: dict[int, Datagram] = {}
        self.steady = steady
        self.table = Table(on_change=steady.clear)
        self.world = World(self.table, None, policies)
        self.host = Host()
        self.on_up: Callable[[ServerRow], None] = lambda _row: None
        self.on_down: Callable[[ServerRow], None] = lambda _row: None
        self.on_gone: Callable[[Datagram], None] = lambda _datagram: None
        self.on_denied: Callable[[Deny, End, Address], None] = lambda _verdict, _client, _to: None
        self._apps = apps
        self._node_ips = dict(node_ips)
        # Guests that an earlier switch has placed, until somebody uses them: app id -> address by cookie.
        self._inherited: dict[int, dict[int, Address]] = {}
        self._owners: dict[bytes, tuple[App, ...]] = {}  # who can be reached at a virtual address
        self._by_home: dict[int, App] = {}  # by the cookie of the network namespace
        self._targets: dict[tuple[int, bytes], Target] = {}
        self._version = -1
        self._serial = itertools.count(1)
        self._serving: dict[int, dict[int, Datagram]] = {}  # app id -> its servers by cookie
        self._turn: list[int] = []
        self._sweep_at = _MIN_GROWTH
        self._pace = Pace(SOON)

    # -- apps

    def attach(self, app: App) -> None:
        """Serve it."""
        self.table.join(app.member())
        if app.home is not None:
            for ip in app.ips:
                self._owners[ip] = (*self._owners.get(ip, ()), app)
            self._by_home[app.home.cookie] = app

    def detach(self, app: App) -> None:
        """Forget everything it had."""
        for datagram in [d for d in self.by_cookie.values() if d.app is app]:
            self.forget(datagram)
        self.table.leave(app.id)
        self._serving.pop(app.id, None)
        self._inherited.pop(app.id, None)
        for ip in app.ips:
            self._owners[ip] = tuple(other for other in self._owners.get(ip, ()) if other is not app)
            if not self._owners[ip]:
                del self._owners[ip]
        if app.home is not None:
            self._by_home.pop(app.home.cookie, None)

    # -- sockets

    def identify(self, fd: Fd, cookie: int, app: App) -> Datagram | None:
        """The entry of a descriptor; None for what is no UDP socket of ours."""
        known = self.by_cookie.get(cookie)
        if known is not None or cookie < 0:
            return known
        if _kernel.getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, 4) != UDP.to_bytes(4, "little"):
            return None
        where = cookie_of(fd)
        place = self._by_home.get(where)
        if place is None and where != self.host.cookie:
            return None  # of a namespace that the app made itself
        made = self.by_cookie[cookie] = Datagram(cookie, app, _domain(fd), place)
        if not made.at_home:
            self._recall(made, fd)
        if len(self.by_cookie) > self._sweep_at:
            self.sweep()
        return made

    def _recall(self, datagram: Datagram, fd: Fd) -> None:
        """An earlier switch has moved it: from where, and whether for one peer, the kernel knows."""
        own, peer = _kernel.getsockname(fd), _kernel.getpeername(fd)
        if isinstance(own, int):
            return
        app, place, source = datagram.app, datagram.place, sockaddr.decode(own)
        if not isinstance(peer, int):
            datagram.asked = sockaddr.decode(peer)
        if place is not None:
            self._inherited.get(place.id, {}).pop(datagram.cookie, None)
            datagram.source = source
        elif app.home is not None:
            if datagram.asked is not None and is_loopback(datagram.asked.ip):
                ports = {there: here for here, there in app.host_ports.items()}
                datagram.asked = Address(datagram.asked.ip, ports.get(datagram.asked.port, datagram.asked.port))
            towards = datagram.asked.ip if datagram.asked is not None else source.ip
            datagram.source = Address(app.source_for(towards, self._node_ips), source.port)

    def add(self, fd: Fd, app: App, family: int, place: App | None) -> Datagram:
        """Remember a socket that the switch has made."""
        cookie = _kernel.cookie(fd)
        made = self.by_cookie[cookie] = Datagram(cookie, app, family, place)
        return made

    def restore(self, app: App) -> None:
        """An earlier switch served the app: what is bound in its namespace serves, or is a guest."""
        if app.home is None:
            return
        for found in list(app.home.bound_datagrams()):
            own = found.own
            if not (is_any(own.ip) or is_loopback(own.ip) or app.has(own.ip)):
                app.welcome(own)
                self._inherited.setdefault(app.id, {})[found.cookie] = own
            elif not (own.port == DNS_PORT and own.ip in app.nameservers):
                self.by_cookie[found.cookie] = restored(found, app)

    def restored(self) -> Iterable[tuple[Datagram, bool]]:
        """Sockets that `restore` has found, and whether they were bound by bind(2)."""
        return [(one, one.settled) for one in self.by_cookie.values() if one.bound and not one.endpoint]

    def forget(self, datagram: Datagram) -> None:
        """It was closed, or another one has taken its place."""
        self.steady.pop(datagram.cookie, None)
        if self.by_cookie.pop(datagram.cookie, None) is not None:
            self.withdraw(datagram)
            if datagram.place is not None and datagram.source is not None and not datagram.at_home:
                datagram.place.dismiss(datagram.source)
                self.steady.clear()
            self.on_gone(datagram)

    # -- the service table

    def serve(self, datagram: Datagram) -> None:
        """A bound socket: others may send to it from now on."""
        app, bound = datagram.app, datagram.bound
        assert bound is not None
        endpoint = Endpoint(next(self._serial), app.id, bound, len(bound.ip) == 16 and not datagram.v6only, app.labels)
        datagram.endpoint, datagram.since = endpoint, time.time()
        self.table.add(endpoint, app.ips)
        self._serving.setdefault(app.id, {})[datagram.cookie] = datagram
        self.on_up(server_row(datagram))

    def withdraw(self, datagram: Datagram) -> None:
        """It serves no longer."""
        endpoint, app = datagram.endpoint, datagram.app
        if endpoint is not None:
            datagram.endpoint = None
            self.table.remove(endpoint, app.ips)
            self._serving.get(app.id, {}).pop(datagram.cookie, None)
            self.on_down(server_row(datagram, endpoint))

    def at_home(self, app: App, own: Address) -> Datagram | None:
        """The entry of the socket that has sent from an address of its app's, and has no peer. Raises OSError."""
        for found in app.home.bound_datagrams(own.port) if app.home is not None else ():
            if found.peer is None and (is_any(found.own.ip) or found.own.ip == own.ip):
                known = self.by_cookie.get(found.cookie)
                if known is None:
                    known = self.by_cookie[found.cookie] = restored(found, app)
                return known
        return None

    def somebody_serves(self, apps: Iterable[App], port: int) -> bool:
        """Whether a socket of one of them has the port."""
        there = (one.bound for app in apps for one in self._serving.get(app.id, {}).values())
        return any(bound is not None and bound.port == port for bound in there)

    def servers(self) -> Iterable[Datagram]:
        """All sockets that serve."""
        return (datagram for there in self._serving.values() for datagram in there.values())

    def taken(self, datagram: Datagram, wanted: Address, v6only: bool) -> bool:
        """Whether another socket of the app forbids to bind ``wanted``: inet_rcv_saddr_equal(), udp_lib_lport_inuse().

        Bound sockets all have SO_REUSEADDR in the kernel, for the sake of guests; here it is what the app has set.
        """
        if not self._refused(datagram, wanted, v6only):
            return False
        self._sweep_app(datagram.app)  # only now: it asks for every socket of the app
        return self._refused(datagram, wanted, v6only)

    def _refused(self, datagram: Datagram, wanted: Address, v6only: bool) -> bool:
        return any(
            OFF in (datagram.reuseaddr, other.reuseaddr)
            and not (datagram.reuseport and other.reuseport)
            and _overlap(wanted.ip, v6only, other.bound.ip, other.v6only)
            for other in self._serving.get(datagram.app.id, {}).values()
            if other is not datagram and other.bound is not None and other.bound.port == wanted.port
        )

    # -- closed sockets: close(2) is not reported, so the kernel is asked

    def sweep_some(self) -> None:
        """Look at the servers of some apps."""
        if not self._turn:
            self._turn = [app_id for app_id in self._apps if self._serving.get(app_id) or app_id in self._inherited]
        for app_id in self._turn[:APPS_A_SWEEP]:
            app = self._apps.get(app_id)
            if app is not None:
                self._sweep_app(app)
        del self._turn[:APPS_A_SWEEP]

    def sweep(self) -> None:
        """Forget all sockets that the kernel no longer lists as bound: of one that is bound again we learn again."""
        living: set[int] = set()
        places = {one.place.id: one.place for one in self.by_cookie.values() if one.place is not None}
        homes: list[Netns | Host] = [self.host]
        homes += [app.home for app in places.values() if app.home is not None and app.id in self._apps]
        with self._pace.timed():
            for place in homes:
                living.update(place.datagrams())
            for datagram in [d for d in self.by_cookie.values() if d.cookie not in living]:
                self.forget(datagram)
        self._sweep_at = 2 * len(self.by_cookie) + _MIN_GROWTH

    def sweep_for_view(self) -> None:
        """Before all are shown, unless that has been done a moment ago."""
        if self._pace.due():
            self.sweep()

    def _sweep_app(self, app: App) -> None:
        serving, inherited = self._serving.get(app.id, {}), self._inherited.get(app.id, {})
        if (serving or inherited) and app.home is not None:
            living = set(app.home.datagrams())
            if not serving.keys() <= living:  # it may leave one out while others come and go, but hardly twice
                living.update(app.home.datagrams())
            for datagram in [d for d in serving.values() if d.cookie not in living]:
                self.forget(datagram)
            for cookie in inherited.keys() - living:
                app.dismiss(inherited.pop(cookie))
            if not inherited:
                self._inherited.pop(app.id, None)

    # -- decisions

    def aim(self, datagram: Datagram, raw: bytes) -> Target:
        """Where datagrams of a socket to a sockaddr go: to guests from where it is, to all others as `target` says."""
        app = datagram.app
        to = _address(raw) if datagram.at_home and (app.guests or app.stand_ins) else None
        if to is None:
            return self.target(app, raw)
        here = Target(to, True, (), 0)
        if to in app.guests:
            return here
        target = self.target(app, raw)
        port = datagram.bound.port if datagram.bound is not None else 0
        return here if (to, port) in app.stand_ins and not target.apps else target

    def target(self, app: App, raw: bytes) -> Target:
        """Where datagrams of ``app`` to a sockaddr go. What is no address is sent at home, where the kernel says so."""
        if self._version != self.table.version or len(self._targets) > LIMIT:
            self._targets.clear()
            self._version = self.table.version
        key = (app.id, raw)
        target = self._targets.get(key)
        if target is None:
            target = self._decide(app, raw)
            if not app.rules.names:  # what names stand for changes with time
                self._targets[key] = target
        return target

    def _decide(self, app: App, raw: bytes) -> Target:
        to = _address(raw)
        if to is None:
            return Target(Address(b"\0\0\0\0", 0), True, (), 0)
        at_home = Target(to, True, (), 0)
        if is_any(to.ip) or is_multicast(to.ip) or is_link_local(to.ip):
            return at_home
        if is_loopback(to.ip):
            host_port = app.host_ports.get(to.port)
            return at_home if host_port is None else Target(Address(to.ip, host_port), False, (), 0)
        if to.port == DNS_PORT and to.ip in app.nameservers:
            return at_home
        if app.has(to.ip) and self.table.by_app.get((app.id, to.port)):
            return at_home
        client = app.end(app.source_for(to.ip, self._node_ips))
        verdict = route(Flow(client, to, leave=Leave(app.may_reach, app.rules.error), protocol="udp"), self.world)
        if isinstance(verdict, Local):
            places = tuple(self._apps[e.app_id] for e in verdict.endpoints if e.app_id in self._apps)
            places = tuple(place for place in places if place.home is not None and place is not app)
            return Target(to, False, places, 0) if places else at_home
        if isinstance(verdict, Outside):
            return Target(to, app.home is None, (), 0)
        if isinstance(verdict, Deny) and verdict.rule:
            self.on_denied(verdict, client, to)
            return Target(to, False, (), verdict.error)
        # Nobody listens there. If an app has the address, its namespace says so, by ICMP; else it stays unheard.
        if app.has(to.ip):
            return at_home
        owners = tuple(o for o in self._owners.get(to.ip, ()) if o is not app and not o.labels.isdisjoint(app.labels))
        return Target(to, False, owners, 0) if owners else at_home

    # -- views

    def server_rows(self) -> tuple[ServerRow, ...]:
        """As `ax get servers` shows them."""
        return tuple(server_row(datagram) for datagram in self.servers())

    def socket_rows(self) -> tuple[SocketRow, ...]:
        """As `ax get sockets` shows them."""
        return tuple(socket_row(datagram) for datagram in self.by_cookie.values())

    def connection_rows(self) -> Iterable[ConnectionRow]:
        """Flows of connected sockets that are not within their app, as `ax get connections` shows them."""
        for datagram in self.by_cookie.values():
            if datagram.asked is not None and not datagram.at_home and datagram.source is not None:
                yield connection_row(datagram, datagram.source, datagram.asked)


def _overlap(ip: bytes, v6only: bool, other: bytes, other_v6only: bool) -> bool:
    """Whether one of two addresses that are bound takes what is sent to the other."""
    for wide, only, narrow in ((ip, v6only, other), (other, other_v6only, ip)):
        if (
            wide == narrow
            or (wide == ANY4 and (len(narrow) == 4))
            or (wide == ANY6 and (len(narrow) == 16 or not only))
        ):
            return True
    return False


def _address(raw: bytes) -> Address | None:
    if len(raw) < 2:
        return None
    family = sockaddr.family_of(raw)
    if (family == AF_INET and len(raw) >= sockaddr.LEN4) or (family == AF_INET6 and len(raw) >= sockaddr.LEN6_MIN):
        return sockaddr.decode(raw)
    return None


def _domain(fd: Fd) -> int:
    raw = _kernel.getsockopt(fd, SOL_SOCKET, SO_DOMAIN, 4)
    if isinstance(raw, int):
        raise OSError(raw, errno.errorcode.get(raw, "SO_DOMAIN"))
    return raw[0]
