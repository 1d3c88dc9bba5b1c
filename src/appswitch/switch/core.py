"""The switch: what everything else hangs on, and the reconciliation of our tables with the kernel's."""

from __future__ import annotations

import errno
import random
import select
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appswitch import _kernel, wire
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.attributes import shown
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.logbound import SUMMARY
from appswitch.routing.clusters import Cluster, Clusters
from appswitch.routing.policy import End, Policies
from appswitch.routing.proxies import Proxies
from appswitch.routing.route import Deny, Flow, World
from appswitch.routing.table import Table
from appswitch.switch import accept, sweep
from appswitch.switch.apps import App
from appswitch.switch.call import PidFds
from appswitch.switch.census import Census
from appswitch.switch.comers import Comers
from appswitch.switch.datagrams import Datagrams
from appswitch.switch.delegation import Delegation
from appswitch.switch.descriptors import Reserve
from appswitch.switch.dispatch import Dispatch
from appswitch.switch.doors import Doors
from appswitch.switch.early import Early
from appswitch.switch.flowlog import FlowLog
from appswitch.switch.flows import Flows
from appswitch.switch.gates import Gates
from appswitch.switch.held import Held, Splice
from appswitch.switch.holder import Holder
from appswitch.switch.holding import Holding
from appswitch.switch.journal import Journal
from appswitch.switch.keep import Keep, Kept
from appswitch.switch.loop import Loop
from appswitch.switch.loopback import bind_to_loopback
from appswitch.switch.memory import Memory, fresh_memory
from appswitch.switch.nameservers import NameServers
from appswitch.switch.options import Scratch
from appswitch.switch.parking import Parking
from appswitch.switch.peeking import Peeking
from appswitch.switch.reflexes import Reflexes
from appswitch.switch.relay import Relay
from appswitch.switch.report import Reports
from appswitch.switch.resume import Resume
from appswitch.switch.services import Arrival, Service, Services
from appswitch.switch.sockets import Socket, Sockets
from appswitch.switch.splicer import Splicer
from appswitch.switch.splicer import binary as splicer_binary
from appswitch.switch.strays import Strays
from appswitch.switch.turns import in_turn
from appswitch.switch.waiting import Waiting

_STREAM = 1
OVERFLOW = 1024  # held connections that wait for room in the queue of one listener


@dataclass(frozen=True)
class Config:
    """What the daemon was told."""

    arch: str
    ports: list[range]  # host ports that may be taken for apps
    node_ips: dict[int, bytes]  # by length: the node's own addresses
    transport: str
    timing: bool  # measure the time of each call
    dns: Path | None  # where control takes DNS sockets
    landlock: bool = True  # have the kernel forbid what interception alone would; off to test that alone


class Switch:
    """The composition root of the loop's objects, and the few operations that concern several of them."""

    def __init__(self, config: Config, loop: Loop, journal: Journal, reports: Reports, keep: Keep, kept: Kept) -> None:
        self.config = config
        self.loop = loop
        self.reports = reports
        self.node_ips = config.node_ips
        self.table = Table()
        self.clusters = Clusters()
        self.policies = Policies()
        self.proxies = Proxies()
        self.world = World(self.table, self.clusters, self.policies, self.proxies)
        self.apps: dict[int, App] = {}
        reflex = loop.reflex
        self._notifiers: dict[int, App] = reflex.apps  # by the number of the notification descriptor
        self.keep = keep
        self.kept = kept
        self.holder = Holder(loop, keep, reports.log)
        self.resume = Resume(self)
        self.memory = Memory(kept.memory or fresh_memory())
        self.sockets = Sockets(reflex.sockets, reflex.listening, self.memory)
        self.sockets.touched = reflex.touched
        self.services = Services(self.table, self.sockets, reflex.services)
        self.reflexes = Reflexes(reflex)
        self.datagrams = Datagrams(self.apps, reflex.steady, self.policies, config.node_ips)
        self.log = reports.log
        self._compose(loop, journal)
        loop.on_fault = lambda problem: self.log("fault", error=_told(problem), trace=_trace(problem))
        self._closed = {family: _bound_and_silent(family) for family in (AF_INET, AF_INET6)}
        self.closed_ports = {
            family: sockaddr.decode(_bytes(_kernel.getsockname(fd))) for family, fd in self._closed.items()
        }
        self.recovered = False  # some connections were made by an earlier switch
        self.early = Early(journal, loop.on_fault)
        self.configuring: list[wire.Configure] = []  # parts of a configuration whose last one has not come yet
        self.held: list[object] = []  # what else this process has open: see `audit`
        self.inherited: dict[int, str] = {}  # descriptors that it was started with
        self.on_detach: Callable[[App], None] = lambda _app: None
        self.pick = _picker()
        self._listen_to_tables()
        loop.every(sweep.EVERY, self._regularly)
        loop.every(SUMMARY, self.log.tell_suppressed)

    def _compose(self, loop: Loop, journal: Journal) -> None:
        """The parts that carry out what is decided."""
        self.relay = Relay(self, loop)
        self.strays = Strays(self)
        self.nameservers = NameServers(self, self.config.dns) if self.config.dns is not None else None
        self.parking = Parking(loop, journal)
        self.sockets.on_forgotten = lambda led: self._give_back(journal, led)
        self.parking.on_fault = lambda call, problem: self.fault("wait", call.app, problem)
        self.peeking = Peeking(loop)
        self.flowlog = FlowLog(self.reports)
        self.comers = Comers(lambda: self.gates.judges)
        self.gates = Gates(self)
        self.doors = Doors(
            loop, self.config.ports, self.wake, self.close_service, self.services.announce, self.gates,
            (self.keep, self.kept.listeners, self.memory),
        )  # fmt: skip
        self._exposed: Counter[int] = Counter()  # ports of the host that apps are to be exposed at
        self.doors.reserved = self._exposed.keys
        self.reserve = Reserve()
        loop.reflex.first_reserved = self.reserve.first
        self.pidfds = PidFds(loop.reflex.pidfds, self._forget_thread)
        self.scratch = Scratch()
        self.flows = Flows(self.world, self.node_ips)
        self.dispatch = Dispatch(self, self.config.arch, self.config.timing)
        self.holding = Holding(self)
        loop.reflex.on_arrival = lambda service: accept.arrived(self, service)
        loop.reflex.on_wait = lambda service, fd, *call: accept.waits(self, service, fd, *call)
        loop.reflex.on_unclaimed = lambda service, entry: accept.unclaimed(self, service, entry)
        loop.reflex.on_touch = lambda: self.sockets.keep_touched(loop)
        loop.reflex.on_left = lambda service, left, *call: accept.left(self, service, left, *call)
        self.waiting = Waiting(self)
        self.delegation = Delegation(self)
        self.census = Census(self)
        self.sweep = sweep.Sweep(self)
        self.splicer = Splicer(loop, splicer_binary(), self.log)

    def _listen_to_tables(self) -> None:
        self.table.on_change = self._on_change
        self.services.on_up = self.datagrams.on_up = self.reports.server_up
        self.services.on_down = self.datagrams.on_down = self.reports.server_down
        self.datagrams.on_gone = self.relay.forget
        self.datagrams.on_denied = self._datagram_denied

    # -- apps

    def attach(self, app: App) -> None:
        """Serve an app from now on."""
        self.apps[app.id] = app
        self._notifiers[app.listener.fileno()] = app
        self._exposed.update(one.host_port for one in app.spec.expose)
        self.table.join(app.member())
        self.datagrams.attach(app)
        self.strays.attach(app)
        if self.nameservers is not None:
            self.nameservers.attach(app)
        tcp_only = app.spec.transport == "tcp"
        serve = self.dispatch.server_for(app)
        self.loop.watch_notifier(
            app.listener, tcp_only, self.early.guard(serve), lambda events: self._on_hang_up(app, events)
        )
        self.reports.app_attached(app)

    def _on_change(self) -> None:
        self.reflexes.forget()
        self.waiting.look_again()

    def _datagram_denied(self, verdict: Deny, client: End, to: Address) -> None:
        flow = Flow(client, to, protocol="udp")
        self.flowlog.refused(flow, Address(client.ip, 0), verdict, verdict.error, verdict.rule)

    def _on_hang_up(self, app: App, events: int) -> None:
        if events & select.EPOLLHUP:
            self.detach(app)

    def detach(self, app: App) -> None:
        """The last process of an app has ended: forget everything it had."""
        self.loop.unwatch(app.listener)
        app.ended = True
        self.doors.forget_client(app.id)
        del self._notifiers[app.listener.fileno()]
        self.parking.forget(app)
        for service in self.services.of(app):
            self.close_service(service)
        self.table.leave(app.id)
        for one in app.spec.expose:
            self._exposed[one.host_port] -= 1
            if not self._exposed[one.host_port]:
                del self._exposed[one.host_port]
        self.datagrams.detach(app)
        self.relay.leave(app)
        self.strays.detach(app)
        if self.nameservers is not None:
            self.nameservers.detach(app)
        if app.home is not None:
            app.home.close()
        del self.apps[app.id]
        app.listener.close()
        app.bound.clear()
        self.on_detach(app)
        self.reports.app_gone(app)
        self.sweep.soon()

    def _give_back(self, journal: Journal, led: int) -> None:
        journal.forget_led(led)
        self.loop.reflex.give_back(led)

    def _forget_thread(self, tid: int, _pidfd: Fd) -> None:
        self.parking.leave(tid)

    # -- services

    def wake(self, service: Service) -> None:
        """Let those who wait in accept(2) try."""
        accept.wake(self, service)

    def offer(self, service: Service, arrival: Arrival, patient: bool = False) -> bool:
        """A connection that the switch holds is the next one that the service accepts.

        False: its queue is full, or the service has gone, and is none any more. Who waits in accept(2) holds the
        listener, and a bell tells; only one that was rung before may have been lost with the listener.
        ``patient``: it may wait for room, with so many others. TCP's client would send its SYN again meanwhile; this
        one believes to be connected, and must not be turned away because a queue is short. What has ``on_lost``
        is not lost when the service goes.
        """
        if service.rung and not service.parked and not self.sweep.alive(service):
            return False
        if len(service.returned) > service.room() + (OVERFLOW if patient else 0) or self.reserve.touched(arrival.fd):
            return False
        if arrival.pair:
            _kernel.set_ours(arrival.fd, 1)
            arrival = arrival._replace(slot=self.memory.put(0, service.note(arrival)))
        service.returned.append(arrival)
        if service.parked:
            self.wake(service)
        if not service.returned:
            return True
        self.doors.ring(service)
        return service.id in self.services.by_id or arrival.on_lost is not None

    def watch_listener(self, service: Service, fd: Fd) -> None:
        """shutdown(2) of a listening socket wakes accept(2): the one thing of it that must be noticed from here."""
        service.watched = True
        events = select.EPOLLRDHUP | select.EPOLLHUP
        self.loop.watch_file(fd, events, service.id, lambda _events: self._on_shutdown(service))

    def _on_shutdown(self, service: Service) -> None:
        self.wake(service)
        self.close_service(service)

    def close_service(self, service: Service) -> None:
        """Its listening socket has gone, or must not be used any more."""
        self.doors.close(service)
        self.loop.untag(service.id)
        left = [arrival.on_lost for arrival in service.returned if arrival.on_lost is not None]
        for arrival in service.returned:
            self.memory.drop(arrival.slot)
        service.returned.clear()
        self.loop.reflex.ticketed -= len(self.loop.reflex.tickets.pop(service.id, ()))
        self.services.close(service)
        Path(service.name.decode()).unlink(missing_ok=True)
        if left:
            self.loop.after(0, lambda: in_turn(self.loop, left))

    def close_service_of(self, sock: Socket) -> None:
        """The same, for a socket that stops listening."""
        service = self.services.by_id.get(sock.service)
        if service is not None:
            self.close_service(service)

    def _regularly(self) -> None:
        self.sweep.regularly()
        self.pidfds.sweep()
        self.datagrams.sweep_some()
        self.census.regularly()
        ended = _kernel.ended_for_us()
        if ended:
            self.log("file systems of an app ended", count=ended)

    def splice(self, held: Held, cluster: Cluster | None, backend: Address, client: Fd, server: Fd) -> None:
        """Let the splicer carry the bytes of a held connection, and note at the client's socket where it leads.

        Raises OSError, with both ends closed, when that process cannot be started.
        """
        entry = self.sockets.by_cookie.get(held.cookie)
        if entry is not None:
            entry.peeked = shown(held.flow.attributes or {})
            entry.actual = sockaddr.encode(AF_INET if len(backend.ip) == 4 else AF_INET6, backend)
            self.sockets.keep(entry)
        self.splicer.pair(Splice(held.client, held.to, cluster, backend), client, server)

    def fault(self, name: str, app: App, problem: Exception) -> int:
        """Our own limits (descriptors above all), or a mistake of ours: the call fails, everything else goes on."""
        self.log("fault", call=name, app=app.spec.appid, error=_told(problem), trace=_trace(problem))
        return -((problem.errno if isinstance(problem, OSError) else 0) or errno.EIO)


def _told(problem: Exception) -> str:
    """Not its repr, which has the bytes that could not be decoded: they are an app's."""
    return f"{type(problem).__name__}: {problem}"


def _trace(problem: Exception) -> str:
    return "".join(traceback.format_exception(problem))


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise OSError(value, "getsockname")
    return value


def _bound_and_silent(family: int) -> Fd:
    """A TCP port that nobody listens on, and nobody else can take: connections to it are refused, by TCP itself."""
    fd = _kernel.socket(family, _STREAM, 0)
    error = bind_to_loopback(fd, family)
    if error:
        raise OSError(error, "bind to a loopback port")
    return fd


def _picker() -> Callable[[int], int]:
    """Choose one of n: a generator of our own, seeded by the system, is fast and no secret."""
    choose = random.Random().random  # noqa: S311
    return lambda n: int(choose() * n)
