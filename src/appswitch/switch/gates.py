"""Where strangers come in, by TCP: exposed ports that policies look at, and the ports of external vservices.

Their connections are accepted as they come, judged, held if their first bytes count, and handed to a server.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import ANY4, ANY6, Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.resources import Peek
from appswitch.routing.l7 import Peeked, as_attributes
from appswitch.routing.policy import End
from appswitch.routing.route import Balanced, Delegate, Deny, Flow, Local, Verdict, by_proxy, route
from appswitch.switch.held import Held, reset
from appswitch.switch.loop import SHORT
from appswitch.switch.services import Arrival, Service

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_STREAM, _NONBLOCK, _BACKLOG, _SHUT_RDWR = 1, 0o4000, 4096, 2
_SOL_SOCKET, _SO_REUSEADDR, _IPV6, _V6ONLY = 1, 2, 41, 26
_ON = b"\1\0\0\0"
BATCH = 64  # connections that are accepted in one go, before others have their turn

_Port = tuple[int, int]  # family, port


def stranger(ip: bytes) -> End:
    """Who is outside, as policies see it."""
    return End(0, "", (), frozenset(), ip, None, None)


def _name(key: _Port) -> str:
    """What the keeper knows it by."""
    return f"gate-{key[0]}-{key[1]}"


class Gates:
    """The ports of external vservices: one listening socket of the host for each family and port."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._open: dict[_Port, Fd] = {}
        self._leads: dict[_Port, Address] = {}  # to which virtual address
        self.comers = switch.comers
        self._failed: dict[_Port, int] = {}  # those that could not be opened, and why: logged once

    def reconcile(self) -> None:
        """Open what is missing, close what is wanted no longer."""
        wanted = self._wanted()
        for key in self._open.keys() - wanted.keys():
            fd = self._open.pop(key)
            self.comers.gates[key[1]] -= 1
            self._switch.loop.unwatch(fd)
            _kernel.shutdown(fd, _SHUT_RDWR)  # the keeper has it for a little longer, and the port is to be free
            fd.close()
            self._switch.keep.forget(_name(key))
        self._drop_kept(wanted)
        self._leads = wanted
        self._failed = {key: error for key, error in self._failed.items() if key in wanted}
        for key, to in wanted.items():
            if key not in self._open:
                self._listen(key, to)

    def _wanted(self) -> dict[_Port, Address]:
        wanted: dict[_Port, Address] = {}
        for address in self._switch.clusters.external:
            for family in (AF_INET, AF_INET6):  # whatever family the virtual address is of
                wanted.setdefault((family, address.port), address)
        return wanted

    def _listen(self, key: _Port, to: Address) -> None:
        kept = self._switch.kept.listeners.pop(_name(key), None)
        if kept:  # an earlier switch's, with who waits in its queue
            self._switch.keep.again(_name(key), kept[-1])
            self._serve(key, kept[-1])
            return
        family, port = key
        try:
            fd = _kernel.socket(family, _STREAM | _NONBLOCK, 0)
        except OSError:  # a host without IPv6
            return
        _kernel.setsockopt(fd, _SOL_SOCKET, _SO_REUSEADDR, _ON)
        if family == AF_INET6:
            _kernel.setsockopt(fd, _IPV6, _V6ONLY, _ON)
        address = Address(ANY4 if family == AF_INET else ANY6, port)
        error = _kernel.bind(fd, sockaddr.encode(family, address)) or _kernel.listen(fd, _BACKLOG)
        cluster = self._switch.clusters.find(to)
        if error:
            if self._failed.get(key) != error:
                name, reason = cluster.name if cluster is not None else "", errno.errorcode.get(error, str(error))
                self._switch.log("cannot open a port of the host", vservice=name, host=str(address), error=reason)
            self._failed[key] = error
            return
        self._failed.pop(key, None)
        self._switch.keep.listener(_name(key), fd)
        self._serve(key, fd)

    def _drop_kept(self, wanted: Collection[_Port]) -> None:
        """Those of an earlier switch that nobody wants any more."""
        kept, names = self._switch.kept.listeners, {_name(key) for key in wanted}
        for name in [name for name in kept if name.startswith("gate-") and name not in names]:
            del kept[name]
            self._switch.keep.forget(name)

    def _serve(self, key: _Port, fd: Fd) -> None:
        self._open[key] = fd
        self.comers.gates[key[1]] += 1
        self._switch.loop.watch(fd, select.EPOLLIN, lambda _events: self._on_arrival(key, fd))

    def _on_arrival(self, key: _Port, listener: Fd) -> None:
        for _ in range(BATCH):
            accepted = _kernel.accept(listener)
            if isinstance(accepted, int):
                if accepted in SHORT:
                    self._switch.loop.pause(listener)
                return
            fd, raw = accepted
            self.admit(fd, sockaddr.decode(raw), self._leads[key])

    def leads(self, own: bytes) -> Address | None:
        """Where the port leads at which a connection was accepted, by its own sockaddr; None: it is no such port."""
        return self._leads.get((sockaddr.family_of(own), sockaddr.decode(own).port))

    @property
    def judges(self) -> bool:
        """Whether strangers at exposed ports have to be looked at."""
        return bool(self._switch.policies or self._switch.proxies)

    def admit_to(self, service: Service, fd: Fd, client: Address, local: Address) -> None:
        """A connection to an exposed port, which leads to this service and no other."""
        flow = self._flow(fd, client, local)
        self._judge(service, fd, Held(flow, client, local, unix=False, zone="", since=time.monotonic()))

    def _judge(self, service: Service, fd: Fd, held: Held) -> None:
        app, attributes = service.app, held.flow.attributes
        server = app.end(held.to.ip)
        decision = self._switch.policies.decide(held.flow.client, server, held.to.port, "tcp", attributes)
        if decision.allowed is None:
            self._look(service, fd, held, Peek())
            return
        log = self._switch.flowlog
        if not decision.allowed:
            error = getattr(errno, decision.error)
            log.refused(held.flow, held.client, Deny(error, decision.rule, decision.dry_run), error, decision.rule)
            reset(fd, held)
            return
        verdict = Local((service.endpoint,), held.to, decision.dry_run)
        delegated = by_proxy(held.flow, verdict, self._switch.world, self._switch.proxies)
        if isinstance(delegated, Delegate):
            if delegated.hold is not None:
                self._look(service, fd, held, delegated.hold)
            else:
                self._switch.delegation.take(fd, held, delegated)
            return
        arrival = Arrival(fd, held.client, held.to, unix=False, client_app=0)
        if service.id in self._switch.services.by_id and self._switch.offer(service, arrival, patient=True):
            log.counts["allowed"] += 1
            log.told(held.flow, held.client, verdict, unix=False)
        else:
            log.refused(held.flow, held.client, verdict, errno.ECONNREFUSED, "")
            reset(fd, held)

    def _look(self, service: Service, fd: Fd, held: Held, peek: Peek) -> None:
        def done(end: Fd, peeked: Peeked) -> None:
            self._judge(service, end, held._replace(flow=held.flow._replace(attributes=as_attributes(peeked))))

        self._switch.peeking.start(fd, peek, done, stranger=True)

    def _flow(self, fd: Fd, client: Address, to: Address) -> Flow:
        """Who comes: an app that went to an address of the host, as it left, or a stranger."""
        known = self.comers.take(fd, client)
        return Flow(stranger(client.ip), to) if known is None else known._replace(to=to)

    def admit(self, fd: Fd, client: Address, to: Address) -> None:
        """A connection that came to a port of the host, and leads to a virtual address."""
        flow = self._flow(fd, client, to)
        held = Held(flow, client, to, unix=False, zone="", since=time.monotonic())
        verdict: Verdict = route(flow, self._switch.world)
        if isinstance(verdict, Balanced | Delegate) and verdict.hold is not None:
            self._switch.holding.hold(fd, held, verdict.hold)
        else:
            self._switch.holding.settle(fd, held, verdict)
