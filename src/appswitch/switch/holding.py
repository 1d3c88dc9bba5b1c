"""Connections whose place is chosen by their first bytes: connected first, led to their server afterwards."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.attributes import shown
from appswitch.kernel import sockaddr
from appswitch.resources import BackendSpec, Peek
from appswitch.routing import l7
from appswitch.routing.clusters import Upstream
from appswitch.routing.l7 import UNKNOWN, Peeked
from appswitch.routing.route import Balanced, Delegate, Deny, Local, Outside, Verdict, route
from appswitch.routing.table import Endpoint
from appswitch.switch import naming
from appswitch.switch.call import LATER, Outcome
from appswitch.switch.connecting import NONBLOCK, Attempt, Fixed, joined, source_of, targets_of, tcp
from appswitch.switch.descriptors import share
from appswitch.switch.dial import Dial, Planned, living, planned, zone_of
from appswitch.switch.flows import Path
from appswitch.switch.held import Held, reset
from appswitch.switch.lobby import Lobby
from appswitch.switch.naming import Connection as Ends
from appswitch.switch.outbound import Outbound
from appswitch.switch.parking import Parked
from appswitch.switch.peeking import LIMIT, LOOKS, examine, look
from appswitch.switch.reflexes import Held as Leading
from appswitch.switch.reflexes import Route
from appswitch.switch.services import Arrival, Service

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

GoOn = Callable[[Fd, Held], None]  # what becomes of a connection whose client has been answered
Entry = list[Any]  # of `Reflex.held`: Fd, route, cookie, port, since, looks
MSG_DONTWAIT = 0x40
TICK = 0.02  # seconds between looks for those whose time is over
PER_APP = 1024  # connections of one app that are held at a time; more are decided without their first bytes
MOST_NAMES = 16  # attributes that matter, where connections with the same ones are led natively
TURN = 16  # backends outside that may fail at once before the loop looks after others
_UNNAMED = BackendSpec()  # of a service that no vservice leads to


class Holding:
    """Holds them, asks routing again when their first bytes are known, and hands them to whoever is to serve them."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._lobby: Lobby | None = None
        reflex = switch.loop.reflex
        self._by_app = reflex.crowd  # counted there as well
        reflex.most_by_app, reflex.most_held = PER_APP, share(LIMIT, 4)
        reflex.on_bytes, reflex.on_hold = self._on_bytes, self._on_hold
        reflex.on_refused = self._on_refused

    @property
    def lobby(self) -> Lobby:
        """Made when it is needed first."""
        if self._lobby is None:
            switch = self._switch
            self._lobby = Lobby(switch.loop, switch.keep, switch.kept.listeners, switch.resume.stray)
        return self._lobby

    def is_ours(self, own: Address) -> bool:
        """Whether a TCP connection with this address of its own was accepted in the lobby."""
        return self._lobby is not None and self._lobby.is_here(own)

    # -- connect(2)

    def connect(
        self, attempt: Attempt, path: Path, peek: Peek | None, header: bytes = b"", raw: bytes = b""
    ) -> Outcome:
        """An app's connect(2): it succeeds now, and is decided later, or (no ``peek``) at once.

        ``header`` comes before whatever the client sends. ``raw`` is the sockaddr, where the next connection to it may
        be held without anybody's look.
        """
        call, fd, sock, status, reply = attempt
        source, to = source_of(sock, path), path.destination
        if path.tcp_only is None:
            path.tcp_only = self._tcp_only(path.verdict)
        unix = sock.unix and not sock.named and not path.tcp_only
        zone = zone_of(path.client.spec.labels)
        held = Held(path.flow, source, to, unix, zone, time.monotonic(), sock.cookie, path, header)
        lobby, ends = self.lobby, Ends(sock.app.id, 0, source, to)
        if not lobby.has_room():  # later the client would be connected, and could only be hung up on
            return -errno.ENOBUFS
        go_on = self._decided(path.verdict) if peek is None else self._undecided(peek)
        if not unix:
            target = _ToLobby(self._switch, lobby.address(sock.family), ends, held, go_on)
            return tcp(self._switch, attempt, target)
        sock.named = True
        name = path.unnamed(source.ip, source.port)
        at_once = reply and not header
        error = _kernel.join(call.app.listener, call.id, fd, status, name, naming.LOBBY, at_once)
        if error > 0:
            return -errno.ECONNREFUSED
        sock.answered = call.tid
        joined(sock, source, to, error < 0 or bool(status & NONBLOCK))
        if header:  # before the client can write: `join` has not answered, and `fd` is still ours
            _kernel.send(fd, header, MSG_DONTWAIT)
        end = lobby.take(name)
        if end is not None:
            go_on(end, held)
        if raw and peek is not None and not path.mapped and sock.bound is None and self._switch.flows.has(sock, raw):
            self._switch.reflexes.hold(sock, raw, path, peek, lobby.unix, path.asked_for, self._switch.peeking.held)
        if at_once:
            return LATER
        return -errno.EINPROGRESS if header and reply and status & NONBLOCK else 0

    def _decided(self, verdict: Verdict) -> GoOn:
        return lambda end, held: self.settle(end, held, verdict)

    def _undecided(self, peek: Peek) -> GoOn:
        return lambda end, held: self.hold(end, held, peek)

    def _tcp_only(self, verdict: Verdict) -> bool:
        """Whether a server that may be chosen wants TCP, and no Unix socket."""
        services = self._switch.services.by_id
        return any(e.id in services and services[e.id].tcp_only for e in _endpoints(verdict))

    # -- held by `_kernel.Reflex`, as `connect` and `hold` do it

    def _on_hold(self) -> None:
        """One is held there, and nobody looks at its time."""
        self._switch.loop.after(TICK, self._tick)

    def _tick(self) -> None:
        """Whose time is over is decided by what has come."""
        reflex, now = self._switch.loop.reflex, time.monotonic()
        for number, entry in list(reflex.held.items()):
            if now - entry[4] >= entry[1].peek.milliseconds / 1000 and reflex.held.get(number) is entry:
                self._let_go(number, entry, look(entry[0], entry[1].peek.bytes, final=True) or UNKNOWN)
        reflex.ticking = bool(reflex.held)
        if reflex.ticking:
            self._on_hold()

    def _on_bytes(self, number: int, entry: Entry, data: bytes | int) -> None:
        """Something has come, or the client has closed."""
        found = _kernel.http_request(data) if isinstance(data, bytes) else None
        peeked = Peeked("http", found) if found is not None else examine(entry[0], data, entry[1].peek.bytes)
        if peeked is not None:
            self._let_go(number, entry, peeked)
            if found is not None:
                self._learn(entry[1], found)
            return
        entry[5] += 1
        if entry[5] == LOOKS:
            self._switch.loop.look_no_more(number)

    def _learn(self, held: Leading, found: dict[str, str]) -> None:
        """The next one with such first bytes may be led like this one was."""
        if len(held.names) > MOST_NAMES or held.key(found) in held.decided or self._switch.flowlog.followed:
            return
        attributes = l7.as_attributes(Peeked("http", found))
        verdict = self._switch.flows.chosen(held.path, attributes)
        if verdict is None:
            return
        taken = verdict.route if isinstance(verdict, Balanced) else None
        key = b"" if taken is None else hash_key(taken.hash_on, held.path.source, attributes)
        same = key, id(taken), tuple(endpoint.id for endpoint in _endpoints(verdict))
        if same not in held.led:
            held.led[same] = self._route(held.path, verdict, key)
        self._switch.reflexes.lead_held(held, found, held.led[same])

    def _route(self, path: Path, verdict: Balanced | Local, key: bytes) -> Route | None:
        switch = self._switch
        if isinstance(verdict, Local):
            known: Planned = verdict.endpoints, lambda taken: switch.flowlog.made(sum(taken)), True  # see `living`
        else:
            known = planned(switch, verdict, key, zone_of(path.client.spec.labels))
        if known is None:
            return None
        endpoints, settle, drawn = known
        targets = targets_of(switch, path, endpoints)
        if not targets:
            return None
        route = Route(targets, path.client.ports, drawn)
        route.settle = settle
        return route

    def _on_refused(self, parked: Parked, number: int, entry: Entry, data: bytes | int) -> None:
        """A call that waited could not take it, and has its answer."""
        self._switch.parking.drop(parked)
        self._on_bytes(number, entry, data)

    def _let_go(self, number: int, entry: Entry, peeked: Peeked) -> None:
        fd, route, cookie, port, since, _ = entry
        path: Path = route.path
        del self._switch.loop.reflex.held[number]
        self._switch.loop.let_go(number)
        self._leave(path.client.id)
        source = Address(path.source, port)
        zone = zone_of(path.client.spec.labels)
        held = Held(path.flow, source, path.destination, True, zone, since, cookie, path, b"")
        self._decide(fd, held, peeked, route.peek)

    def _leave(self, app_id: int) -> None:
        left = self._by_app.pop(app_id) - 1
        if left:
            self._by_app[app_id] = left

    # -- held

    def hold(self, fd: Fd, held: Held, peek: Peek) -> None:
        """Wait for first bytes, then go on."""
        app_id, by_app = held.flow.client.app_id, self._by_app
        count = by_app.get(app_id, 0)
        if app_id and count >= PER_APP:
            self._decide(fd, held, UNKNOWN, peek)
            return
        by_app[app_id] = count + 1

        def done(end: Fd, peeked: Peeked) -> None:
            self._leave(app_id)
            self._decide(end, held, peeked, peek)

        self._switch.peeking.start(fd, peek, done, stranger=not app_id)

    def _decide(self, fd: Fd, held: Held, peeked: Peeked, peek: Peek) -> None:
        flow = held.flow._replace(attributes=l7.as_attributes(peeked))
        verdict: Verdict
        if peeked.protocol == UNKNOWN.protocol and peek.otherwise == "deny":
            verdict = Deny(errno.EACCES, "peek")
        elif held.path is not None:
            verdict = self._switch.flows.choose(held.path, flow)
        else:
            verdict = route(flow, self._switch.world)
        self.settle(fd, held._replace(flow=flow), verdict)

    def settle(self, fd: Fd, held: Held, verdict: Verdict) -> None:
        """Hand a connection to whoever the verdict says."""
        match verdict:
            case Balanced(hold=None):
                self._balance(fd, held, verdict)
            case Balanced(hold=peek) | Delegate(hold=peek) if peek is not None and held.flow.attributes is None:
                self.hold(fd, held, peek)
            case Delegate(hold=None):
                self._switch.delegation.take(fd, held, verdict)
            case Local(endpoints=endpoints):
                self._hand_to_one(fd, held, verdict, Upstream(verdict.to, None, endpoints, _UNNAMED))
            case Outside(to=to):
                error = Outbound(self._switch, fd, held, verdict, None).go(to)
                if error:
                    self.refuse(fd, held, verdict, error, "")
            case Deny(error=error, rule=rule):
                self.refuse(fd, held, verdict, error, rule)
            case _:  # what it was to reach has gone meanwhile
                self.refuse(fd, held, verdict, errno.ECONNREFUSED, "")

    def _hand_to_one(self, fd: Fd, held: Held, verdict: Local, upstream: Upstream) -> None:
        service = living(self._switch, upstream)
        if service is not None and self._hand_over(fd, held, service, patient=True):
            self._switch.flowlog.allowed(held.flow, held.client, verdict, upstream, held.transport, held.since)
        else:
            self.refuse(fd, held, verdict, errno.ECONNREFUSED, "")

    def _balance(self, fd: Fd, held: Held, verdict: Balanced) -> None:
        key = hash_key(verdict.route.hash_on, held.client.ip, held.flow.attributes or {})
        dial = Dial(self._switch, held.flow, verdict, key, held.zone, (4, 16))
        self.retry(fd, held, dial, dial.next())

    def retry(self, fd: Fd, held: Held, dial: Dial, upstream: Upstream | None) -> None:
        """Try a backend, and then those that are left."""
        verdict = dial.verdict
        full: tuple[Upstream, Service] | None = None
        begun = 0
        while upstream is not None:
            if upstream.member is None:
                begun += 1
                if begun > TURN:  # others wait for their turn
                    self._switch.loop.after(0, partial(self.retry, fd, held, dial, upstream))
                    return
                error = Outbound(self._switch, fd, held, verdict, dial).go(upstream.address)
                if not error:
                    return
                dial.failed(error)
                upstream = dial.next()
                continue
            service = living(self._switch, upstream)
            if service is not None and self._hand_over(fd, held, service):
                dial.succeeded()
                self._switch.flowlog.allowed(held.flow, held.client, verdict, upstream, held.transport, held.since)
                return
            if service is None or service.id not in self._switch.services.by_id:
                dial.failed(errno.ECONNREFUSED)
            else:
                dial.busy()
                full = full or (upstream, service)
            upstream = dial.next()
        if full is not None and self._hand_over(fd, held, full[1], patient=True):
            self._switch.flowlog.allowed(held.flow, held.client, verdict, full[0], held.transport, held.since)
        else:
            self.refuse(fd, held, verdict, dial.error, dial.rule)

    def _hand_over(self, fd: Fd, held: Held, service: Service, patient: bool = False) -> bool:
        """Make it the next connection that the service accepts. False: its queue is full, or it has gone."""
        app = self._switch.apps.get(held.flow.client.app_id)
        ip = app.seen_as(held.client.ip, service.endpoint.bound.ip) if app is not None else held.client.ip
        client = Address(ip, held.client.port)
        app_id = held.flow.client.app_id
        arrival = Arrival(fd, client, service.own(held.to), held.unix, app_id, held.to, pair=held.pair)
        if not self._switch.offer(service, arrival, patient):
            return False
        entry = self._switch.sockets.by_cookie.get(held.cookie)
        if entry is not None:
            entry.peer_app, entry.peeked = service.app.id, shown(held.flow.attributes or {})
            self._switch.sockets.keep(entry)
        return True

    def refuse(self, fd: Fd, held: Held, verdict: Verdict, error: int, rule: str) -> None:
        """Close it, and tell why."""
        self._switch.flowlog.refused(held.flow, held.client, verdict, error, rule)
        reset(fd, held)


class _ToLobby(Fixed):
    """A TCP client on its way to the lobby."""

    def __init__(self, switch: Switch, lobby: Address, ends: Ends, held: Held, go_on: GoOn) -> None:
        super().__init__(switch, lobby, ends)
        self._lobby = switch.holding.lobby
        self._held = held
        self._go_on = go_on

    def start(self, tcp: Fd, family: int) -> tuple[int, bytes]:
        """See `connecting.Target`."""
        error, where = super().start(tcp, family)
        source = _kernel.getsockname(tcp)
        if error in (0, errno.EINPROGRESS) and not isinstance(source, int):
            held, go_on = self._held._replace(cookie=_kernel.cookie(tcp)), self._go_on
            if held.header:
                _kernel.send(tcp, held.header, MSG_DONTWAIT)  # loopback: it is connected already
            self._lobby.expect(sockaddr.decode(source), lambda fd: go_on(fd, held))
        return error, where


def _endpoints(verdict: Verdict) -> Iterator[Endpoint]:
    """The listeners that it may come to."""
    match verdict:
        case Balanced(upstreams=upstreams):
            for upstream in upstreams:
                yield from upstream.endpoints
        case Delegate(endpoints=endpoints, inner=inner):
            yield from endpoints
            yield from _endpoints(inner)
        case Local(endpoints=endpoints):
            yield from endpoints


def hash_key(hash_on: str, source: bytes, attributes: dict[str, str]) -> bytes:
    """What RingHash and Maglev hash: an attribute, or where there is none the client's address."""
    value = attributes.get(hash_on)
    return source if value is None else value.encode("utf-8", "surrogateescape")
