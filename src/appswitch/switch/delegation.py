"""Connections that a proxy takes over: an unmodified one gets them from its accept(2), another one from an endpoint.

The client's socket is connected in place, as to any server; what differs is who gets the other end. Routing has said
which proxy; here that is carried out, and counted. See docs/design/delegation.md.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.delegate.proxyprotocol import Command, Header, Transport, encode
from appswitch.model import ProxyRow
from appswitch.resources import BackendSpec, Proxy
from appswitch.routing.clusters import Upstream
from appswitch.routing.proxies import listeners
from appswitch.routing.route import Delegate, Flow
from appswitch.switch.call import Outcome
from appswitch.switch.connect import carry_out
from appswitch.switch.connecting import FULL, GONE, Attempt, learn, local, refuse, source_of
from appswitch.switch.dial import living
from appswitch.switch.endpoint import Endpoint
from appswitch.switch.flows import Path
from appswitch.switch.held import Held
from appswitch.switch.naming import Connection as Ends
from appswitch.switch.services import Arrival, Service

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_UNNAMED = BackendSpec()
RETURN = 1.5  # seconds in which a proxy comes again when there is another switch; longer, where it has more to answer
LOOK = 0.02  # seconds between looks whether it has


class Counts:
    """What became of the connections of one proxy."""

    __slots__ = ("dropped", "failed", "handed_on", "passed", "taken")

    def __init__(self) -> None:
        self.taken = self.passed = self.dropped = self.handed_on = self.failed = 0


class Delegation:
    """Hands connections to proxies, and goes on without one that is away."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._counts: dict[str, Counts] = {}
        self.endpoint: Endpoint | None = None  # made by the main program: it listens on a path

    def counts(self, name: str) -> Counts:
        """Of a proxy; what is not configured any more is not remembered."""
        if name not in self._switch.proxies.by_name:
            return self._counts.get(name) or Counts()
        return self._counts.setdefault(name, Counts())

    def forget(self, name: str) -> None:
        """It is configured no longer."""
        self._counts.pop(name, None)

    # -- connect(2)

    def connect(self, attempt: Attempt, raw: bytes, path: Path, verdict: Delegate) -> Outcome:
        """An app's connect(2)."""
        proxy = verdict.proxy
        if proxy is None:
            return self._switch.holding.connect(attempt, path, verdict.hold)
        if not proxy.listener:
            return self._switch.holding.connect(attempt, path, None)
        if self._service(verdict) is None:
            return self._without(attempt, raw, path, verdict, proxy)
        source, sock = source_of(attempt.sock, path), attempt.sock
        if proxy.header == "v2":
            return self._switch.holding.connect(attempt, path, None, header_of(source, verdict.to))
        if proxy.on_failure == "open":  # a kernel's queue would go with the proxy: it stays here until it is accepted
            return self._switch.holding.connect(attempt, path, None)
        outcome = local(self._switch, attempt, path, verdict.endpoints, source, patient=True)
        if outcome in (GONE, FULL):
            return self._without(attempt, raw, path, verdict, proxy)
        self._taken(path.flow, source, verdict, proxy, sock.unix)
        learn(self._switch, attempt, raw, path, verdict.endpoints, lambda taken: self._made(proxy.name, taken))
        return outcome

    def _without(self, attempt: Attempt, raw: bytes, path: Path, verdict: Delegate, proxy: Proxy) -> Outcome:
        """The proxy does not listen, or has no room."""
        self.counts(proxy.name).failed += 1
        if proxy.on_failure == "open":
            return carry_out(self._switch, attempt, raw, path.otherwise(verdict.inner))
        source = source_of(attempt.sock, path)
        self._switch.flowlog.refused(path.flow, source, verdict, errno.ECONNREFUSED, f"proxy {proxy.name}")
        ends = Ends(attempt.sock.app.id, 0, source, verdict.to)
        return refuse(self._switch, attempt, ends, errno.ECONNREFUSED)

    # -- connections that are held

    def take(self, fd: Fd, held: Held, verdict: Delegate) -> None:
        """Hand a connection over whose client has been answered already."""
        proxy = verdict.proxy
        assert proxy is not None
        if not proxy.listener:
            assert self.endpoint is not None
            if self.endpoint.send(fd, held, verdict):
                return
            if self._may_return(proxy):
                self._switch.loop.after(LOOK, lambda: self.take(fd, held, verdict))
            else:
                self.failed(fd, held, verdict)
            return
        service = self._service(verdict)
        if service is None:
            self.failed(fd, held, verdict)
            return
        if proxy.header == "v2":
            announced = self._announced(fd, held, verdict, f"proxy {proxy.name}")
            if announced is None:
                return
            fd, held = announced
        app_id, patient = held.flow.client.app_id, proxy.on_failure == "closed"
        on_lost = None if patient else partial(self.failed, fd, held, verdict)
        arrival = Arrival(fd, held.client, service.own(held.to), held.unix, app_id, held.to, on_lost, held.pair)
        if self._switch.offer(service, arrival, patient):  # else one whose queue is full is as good as away
            self._taken(held.flow, held.client, verdict, proxy, held.unix)
        else:
            self.failed(fd, held, verdict)

    def _may_return(self, proxy: Proxy) -> bool:
        """A proxy that was connected to an earlier switch has some time to come again."""
        assert self.endpoint is not None
        if not self._switch.recovered or time.monotonic() > self._switch.resume.since + max(RETURN, proxy.timeout):
            return False
        return proxy.name in self._switch.proxies.by_name and self.endpoint.guest(proxy.name) is None

    def failed(self, fd: Fd, held: Held, verdict: Delegate) -> None:
        """The proxy is away, full, or did not answer: as it is configured."""
        proxy = verdict.proxy
        assert proxy is not None
        self.counts(proxy.name).failed += 1
        if proxy.on_failure == "open" and (not held.header or _take_off(fd, held.header)):
            self._switch.holding.settle(fd, held._replace(header=b""), verdict.inner)
        else:
            self._switch.holding.refuse(fd, held, verdict, errno.ECONNREFUSED, f"proxy {proxy.name}")

    def _announced(self, fd: Fd, held: Held, verdict: Delegate, rule: str) -> tuple[Fd, Held] | None:
        """The connection with a PROXY header in front. None: it cannot have one, and has been refused.

        What has come already can only be copied behind it. Where the header was there first it has to be the first: a
        client with several threads might have written one of its own before.
        """
        if held.header:
            if _kernel.peek(fd, len(held.header)) == held.header:
                return fd, held
            self._switch.holding.refuse(fd, held, verdict, errno.ECONNRESET, rule)
            return None
        header = header_of(held.client, verdict.to)
        ours, theirs = (Fd(end.detach()) for end in socket.socketpair())
        _kernel.send(ours, header, 0)
        try:
            self._switch.splice(held, None, verdict.to, fd, ours)
        except OSError as problem:  # both ends are closed
            self._switch.flowlog.refused(held.flow, held.client, verdict, problem.errno or errno.EIO, rule)
            return None
        return theirs, held._replace(unix=True, header=header, pair=True)

    def _service(self, verdict: Delegate) -> Service | None:
        return living(self._switch, Upstream(verdict.to, None, verdict.endpoints, _UNNAMED))

    def _taken(self, flow: Flow, client: Address, verdict: Delegate, proxy: Proxy, unix: bool) -> None:
        self.counts(proxy.name).taken += 1
        self._switch.flowlog.delegated(flow, client, verdict, proxy.name, "unix" if unix else "tcp")

    def _made(self, proxy: str, taken: tuple[int, ...]) -> None:
        self.counts(proxy).taken += sum(taken)
        self._switch.flowlog.counts["delegated"] += sum(taken)

    # -- views

    def rows(self) -> tuple[ProxyRow, ...]:
        """As `ax get proxies` shows them."""
        self._switch.reflexes.settle()
        proxies = self._switch.proxies.by_name.values()
        return tuple(self._row(proxy, self.counts(proxy.name)) for proxy in proxies)

    def _row(self, proxy: Proxy, counts: Counts) -> ProxyRow:
        there = listeners(proxy, self._switch.table) if proxy.listener else ()
        guest = self.endpoint.guest(proxy.name) if self.endpoint is not None and not proxy.listener else None
        ready = bool(there) or guest is not None
        full = guest is not None and guest.full
        return ProxyRow(
            name=proxy.name, state="full" if full else "ready" if ready else "away", listener=proxy.listener,
            app_id=there[0].app_id if there else 0, pid=guest.pid if guest is not None else 0,
            active=guest.active if guest is not None else 0, taken=counts.taken, passed=counts.passed,
            dropped=counts.dropped, handed_on=counts.handed_on, failed=counts.failed,
        )  # fmt: skip


def _take_off(fd: Fd, header: bytes) -> bool:
    """Read a PROXY header that nobody else has read. It has come: whoever wrote it is this host."""
    return _kernel.peek(fd, len(header)) == header and os.read(fd.fileno(), len(header)) == header


def header_of(source: Address, destination: Address) -> bytes:
    """What `accept-proxy` of HAProxy and `proxy_protocol` of nginx read first."""
    return encode(Header(Command.PROXY, Transport.STREAM, source, destination))
