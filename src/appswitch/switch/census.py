"""How many connections each backend has: counted in the kernel's own list, since close(2) is not reported."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.model import BackendRow
from appswitch.routing.balance import Row
from appswitch.routing.clusters import Cluster, Route, Upstream
from appswitch.switch import naming
from appswitch.switch.connections import established
from appswitch.switch.pace import Pace

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

FRESH = 0.02  # seconds that a count is good for where a limit may have been reached
EVERY = 0.5  # seconds between counts where a balancer goes by them
_SYN_SENT, _LISTEN = 1 << 2, 1 << 10

Led = tuple[int, int | Address]  # the cluster that a connection went by; the app or the address that it led to


class Census:
    """Corrects the balancers' accounts. It costs a list of all sockets, so only where somebody needs it."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self.outbound: Counter[Led] = Counter()  # that the switch itself is making, for clients that it holds
        self._pace = Pace(FRESH)  # with many connections a count takes long, and the loop serves all
        self._regular = Pace(EVERY)

    def refresh(self, now: float) -> None:
        """A limit has been reached, or may have been: look whether it is so now."""
        if self._pace.due(now):
            self._count(self._counted())

    def regularly(self) -> None:
        """From the loop's timer."""
        if self._switch.clusters.counted and self._regular.due() and self._pace.due():
            with self._regular.timed():
                self._count(self._counted())

    def rows(self) -> tuple[BackendRow, ...]:
        """As `ax get backends` shows them: not older than the time that counts may take allows."""
        if self._pace.due():
            self._count(list(self._switch.clusters.all()))
        switch, now = self._switch, time.monotonic()
        found: list[BackendRow] = []
        for cluster in switch.clusters.all():
            for route in cluster.routes:
                known = {row.key: row for row in route.balancer.rows(now)}
                found += _rows_of(switch, cluster, route, known)
        return tuple(found)

    def _counted(self) -> list[Cluster]:
        """Those that go by it. What the backends of the others stand for is not looked at: there may be thousands."""
        return [cluster for cluster in self._switch.clusters.all() if cluster.counted]

    def _count(self, clusters: list[Cluster]) -> None:
        self._switch.reflexes.settle()
        with self._pace.timed():
            counts = Counter(self._connections())
            limited = [cluster for cluster in clusters if cluster.counted]
            connecting = Counter(self._connecting()) + self.outbound if limited else Counter[Led]()
            queued = self._pending() if any(cluster.limits.pending for cluster in limited) else {}
            for cluster in clusters:
                self._tell(cluster, counts, connecting, queued)

    def _tell(
        self, cluster: Cluster, counts: Counter[Led], connecting: Counter[Led], queued: dict[Hashable, int]
    ) -> None:
        """The balancers of a cluster."""
        port = cluster.port.target if cluster.port is not None else 0
        for route in cluster.routes:
            for upstream in self._switch.clusters.upstreams(route.backends, port, self._switch.table):
                backend = upstream.member.id if upstream.member is not None else upstream.address
                pending = connecting[id(cluster), backend]
                if cluster.limits.pending:
                    pending += queued.get((backend, upstream.address.port), 0)
                route.balancer.set_active(upstream.key, counts[id(cluster), backend], pending)

    def _connecting(self) -> Iterator[Led]:
        """The same of connections that are being made: a client that does not wait says nothing of how that ended."""
        switch = self._switch
        for family in (AF_INET, AF_INET6):
            for cookie, *_ in _kernel.dump_inet(family, 6, _SYN_SENT):
                sock = switch.sockets.by_cookie.get(cookie)
                cluster = switch.clusters.find(sock.peer) if sock is not None and sock.peer is not None else None
                if sock is not None and cluster is not None and sock.actual:
                    yield id(cluster), sock.peer_app or sockaddr.decode(sock.actual)

    def _connections(self) -> Iterator[Led]:
        """The cluster that a connection went by, and the app or the outside address that it led to."""
        switch = self._switch
        for one in established(switch):
            cluster = switch.clusters.find(one.server)
            if cluster is not None:
                yield id(cluster), one.server_app or one.actual or 0

    def _pending(self) -> dict[Hashable, int]:
        """Connections in the queues of listeners, by app and port."""
        queued: Counter[Hashable] = Counter()
        for *_, waiting, _, name in _kernel.dump_unix(_LISTEN):
            listener = naming.parse_listener(name.rstrip(b"\0"))
            if listener is not None:
                queued[listener.app_id, listener.bound.port] += waiting
        return dict(queued)


def _rows_of(switch: Switch, cluster: Cluster, route: Route, known: dict[Hashable, Row]) -> Iterator[BackendRow]:
    port = cluster.port.target if cluster.port is not None else 0
    matched = set()
    for upstream in switch.clusters.upstreams(route.backends, port, switch.table):
        matched.add(id(upstream.spec))
        yield _row(cluster, route, upstream, known.get(upstream.key))
    for spec in route.backends:
        if id(spec) not in matched:
            yield BackendRow(
                vservice=cluster.name, port=cluster.port.port if cluster.port else 0, route=_named(cluster, route),
                backend="?", spec=str(spec), app_id=0, state="unknown", weight=spec.weight, priority=spec.priority,
                locality=spec.locality, active=0, total=0, failures=0,
            )  # fmt: skip


def _row(cluster: Cluster, route: Route, upstream: Upstream, row: Row | None) -> BackendRow:
    spec = upstream.spec
    state = "draining" if spec.drain else "down" if not upstream.up else row.state if row is not None else "healthy"
    return BackendRow(
        vservice=cluster.name, port=cluster.port.port if cluster.port else 0, route=_named(cluster, route),
        backend=str(upstream.address), spec=str(spec), app_id=upstream.member.id if upstream.member else 0,
        state=state, weight=spec.weight, priority=spec.priority, locality=spec.locality,
        active=row.active if row else 0, total=row.total if row else 0, failures=row.failures if row else 0,
        ejected_for=row.ejected_for if row else 0.0,
    )  # fmt: skip


def _named(cluster: Cluster, route: Route) -> str:
    return route.name if len(cluster.routes) > 1 else ""
