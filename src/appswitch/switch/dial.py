"""A connection of a vservice: one backend after the other, until one takes it. The client hears only of the last."""

from __future__ import annotations

import errno
import time
from collections.abc import Hashable
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET
from appswitch.routing.balance import Candidate, NoRoom
from appswitch.routing.clusters import Upstream
from appswitch.routing.route import Balanced, Deny, Flow, forbidden
from appswitch.routing.table import Endpoint
from appswitch.switch.call import LATER, Outcome
from appswitch.switch.connecting import FULL, GONE, Attempt, announce, by_door, learn, local, refuse, source_of, tcp
from appswitch.switch.flows import Path
from appswitch.switch.naming import Connection as Ends
from appswitch.switch.reflexes import Settle
from appswitch.switch.services import Service

if TYPE_CHECKING:
    from appswitch.switch.core import Switch


AT_ONCE = 64  # backends outside that may fail within one call, while others wait


class Dial:
    """What a connection has tried, and what is left. Keeps the balancer's accounts."""

    def __init__(
        self, switch: Switch, flow: Flow, verdict: Balanced, key: bytes, locality: str, families: tuple[int, ...]
    ) -> None:
        """``key``: what is hashed. ``families``: lengths of addresses outside that the client's socket can reach."""
        self._switch = switch
        self.flow = flow
        self._version = switch.table.version
        self.verdict = verdict
        self.balancer = verdict.route.balancer
        self._key = key
        self._locality = locality
        self._tried = _out_of_reach(verdict, families)
        self.current: Upstream | None = None
        self.error = errno.ECONNREFUSED  # why there is nobody left
        self.rule = ""

    def next(self) -> Upstream | None:
        """Who is tried next; None when there is nobody left: see ``error`` and ``rule``."""
        while (upstream := self._next()) is not None:
            # A backend may have its turn many seconds after the decision: it must be allowed then, too.
            denial = None if self._version == self._switch.table.version else self._forbidden(upstream)
            if denial is None:
                self.current = upstream
                self.balancer.started(upstream.key)
                return upstream
            self.error, self.rule = denial.error, denial.rule
        return None

    def _forbidden(self, upstream: Upstream) -> Deny | None:
        return forbidden(self.flow, upstream, self.verdict.cluster, self._switch.world)

    def _next(self) -> Upstream | None:
        now = time.monotonic()
        if self.verdict.cluster.limits.pending:  # who waits in a server's queue is known by counting alone
            self._switch.census.refresh(now)
        chosen = self._choose(now)
        if isinstance(chosen, NoRoom):
            self._switch.census.refresh(now)
            chosen = self._choose(now)
        if isinstance(chosen, NoRoom):
            self.error, self.rule = getattr(errno, self.verdict.cluster.limits.error), "limits"
            return None
        if chosen is None:
            return None
        self._tried.add(chosen.key)
        return self.verdict.upstreams[chosen.index]

    def _choose(self, now: float) -> Candidate | NoRoom | None:
        return self.balancer.choose(
            self.verdict.candidates, now=now, draw=self._switch.pick, key=self._key, locality=self._locality,
            exclude=self._tried,
        )  # fmt: skip

    def succeeded(self) -> None:
        """The backend took it."""
        assert self.current is not None
        self.balancer.established(self.current.key)

    def failed(self, error: int) -> None:
        """The backend refused, or did not answer."""
        assert self.current is not None
        self.error = error
        self._switch.reflexes.forget()  # who has failed is asked about
        if self.balancer.failed(self.current.key, time.monotonic()):
            cluster = self.verdict.cluster
            self._switch.flowlog.ejected(cluster.name, str(self.current.address), errno.errorcode.get(error, ""))

    def busy(self) -> None:
        """The backend has no room: no fault of its."""
        assert self.current is not None
        self.balancer.cancelled(self.current.key)


class Dialled:
    """A TCP socket on its way to the backends of a vservice: a `connecting.Target`."""

    def __init__(self, switch: Switch, dial: Dial, source: Address, client_app: int) -> None:
        self._switch = switch
        self._dial = dial
        self._source = source
        self._client_app = client_app
        several = len(dial.verdict.candidates) > 1
        self.patience = dial.verdict.cluster.outlier.connect_timeout if several else None
        self.ends = Ends(client_app, 0, source, dial.verdict.to)

    def start(self, tcp: Fd, family: int) -> tuple[int, bytes]:
        """See `connecting.Target`. Where so many fail at once, one after the other, so would the rest: no network."""
        upstream = self._dial.current
        for _ in range(AT_ONCE):
            if upstream is None:
                break
            error, where = self._begin(tcp, family, upstream)
            if error in (0, errno.EINPROGRESS):
                return error, where
            self._dial.failed(error)
            upstream = self._dial.next()
        if upstream is not None:
            self._dial.busy()  # it has not been tried, and is not to count as pending
        return self._dial.error, b""

    def again(self, tcp: Fd, family: int, error: int) -> bytes | None:
        """See `connecting.Target`."""
        self._dial.failed(error)
        if self._dial.next() is None:
            return None
        error, where = self.start(tcp, family)
        return where if error in (0, errno.EINPROGRESS) else None

    def succeeded(self) -> None:
        """See `connecting.Target`."""
        self._dial.succeeded()

    def _begin(self, tcp: Fd, family: int, upstream: Upstream) -> tuple[int, bytes]:
        if upstream.member is None:
            self.ends = Ends(self._client_app, 0, self._source, self._dial.verdict.to)
            where = sockaddr.encode(family, upstream.address)
            error = _kernel.connect(tcp, where)
            self._switch.comers.expect(tcp, upstream.address, error, self._dial.flow)
            return error, where
        service = living(self._switch, upstream)
        if service is None:
            return errno.ECONNREFUSED, b""
        to = self._dial.verdict.to
        door = self._switch.doors.inside(service, family if len(to.ip) == 16 else AF_INET)
        if isinstance(door, int):
            return door, b""
        self.ends = Ends(self._client_app, service.app.id, self._source, to)
        where = sockaddr.encode(family, door)
        error = _kernel.connect(tcp, where)
        if error in (0, errno.EINPROGRESS):
            announce(self._switch, tcp, door, self.ends)
        return error, where


def living(switch: Switch, upstream: Upstream) -> Service | None:
    """One of the listeners of a backend on this host."""
    services = [switch.services.by_id.get(endpoint.id) for endpoint in upstream.endpoints]
    there = [service for service in services if service is not None]
    return there[switch.pick(len(there))] if there else None


def balanced(switch: Switch, attempt: Attempt, raw: bytes, path: Path, verdict: Balanced) -> Outcome:
    """Connect to a backend of a vservice."""
    sock = attempt.sock
    families = (4,) if sock.family == AF_INET else (16,) if sock.v6only else (4, 16)
    dial = Dial(switch, path.flow, verdict, path.source, zone_of(path.client.spec.labels), families)
    source = source_of(sock, path)
    full: Service | None = None
    while (upstream := dial.next()) is not None:
        if upstream.member is None:
            switch.flowlog.allowed(path.flow, source, verdict, upstream, "tcp")
            return tcp(switch, attempt, Dialled(switch, dial, source, sock.app.id))
        outcome = local(switch, attempt, path, upstream.endpoints, source, patient=False)
        if outcome == FULL:
            full = full or living(switch, upstream)
            dial.busy()
        elif outcome == GONE:
            dial.failed(errno.ECONNREFUSED)
        else:
            if outcome in (0, LATER):
                dial.succeeded()
            switch.flowlog.allowed(path.flow, source, verdict, upstream, "unix" if sock.unix else "tcp")
            known = planned(switch, verdict, path.source, zone_of(path.client.spec.labels))
            if known is not None:
                learn(switch, attempt, raw, path, *known)
            return outcome
    if full is not None:
        return by_door(switch, attempt, full, source, verdict.to)
    switch.flowlog.refused(path.flow, source, verdict, dial.error, dial.rule)
    return refuse(switch, attempt, Ends(sock.app.id, 0, source, verdict.to), dial.error)


# Listeners, whom to tell of connections to them, and whether they are drawn. None: each has to be asked for.
Planned = tuple[tuple[Endpoint, ...], Settle, bool] | None


def planned(switch: Switch, verdict: Balanced, key: bytes, locality: str) -> Planned:
    """The listeners that connections of a vservice will get.

    None also where one of several backends listens more than once, or one is outside.
    """
    balancer, upstreams = verdict.route.balancer, verdict.upstreams
    plan = balancer.plan(verdict.candidates, now=time.monotonic(), key=key, locality=locality)
    turns = [upstreams[candidate.index] for candidate in plan.turns] if plan is not None else []
    if plan is None or (any(len(one.endpoints) != 1 for one in turns) and (len(turns) > 1 or not turns[0].endpoints)):
        return None
    endpoints = tuple(endpoint for one in turns for endpoint in one.endpoints)
    took, keys = plan.took, [one.key for one in turns for _ in one.endpoints]

    def settle(taken: tuple[int, ...]) -> None:
        switch.flowlog.made(sum(taken))
        took(sum(taken))
        for one, number in zip(keys, taken, strict=True):
            if number:
                balancer.made(one, number)

    return endpoints, settle, plan.drawn


def zone_of(labels: dict[str, str]) -> str:
    """Where a client is, as its labels say."""
    return labels.get("zone", "")


def _out_of_reach(verdict: Balanced, families: tuple[int, ...]) -> set[Hashable]:
    """An IPv4 socket cannot be connected to an IPv6 address outside. Within this host the addresses are virtual."""
    if len(families) == 2:
        return set()
    upstreams = verdict.upstreams
    outside = [c for c in verdict.candidates if upstreams[c.index].member is None]
    return {c.key for c in outside if len(upstreams[c.index].address.ip) not in families}
