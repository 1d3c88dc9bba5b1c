"""Flow -> Verdict."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import NamedTuple

from appswitch.address import Address, is_any, is_loopback, loopback_like
from appswitch.model import Protocol
from appswitch.resources import BackendSpec, Limits, Outlier, Peek, Policy, Proxy, ServicePort
from appswitch.routing.balance import Balancer, Candidate
from appswitch.routing.clusters import Cluster, Clusters, Route, Upstream
from appswitch.routing.policy import Decision, End, Policies
from appswitch.routing.proxies import Proxies, accepting
from appswitch.routing.table import Endpoint, Member, Table


class World(NamedTuple):
    """The tables that decisions are made from."""

    table: Table
    clusters: Clusters | None  # None: of a protocol that has no vservices
    policies: Policies
    proxies: Proxies | None = None  # None: of a protocol that is never delegated


class Leave(NamedTuple):
    """What an app may reach outside by its own egress rules."""

    allows: Callable[[bytes], bool] = lambda _ip: True
    error: int = errno.EACCES


class Flow(NamedTuple):
    """A connection that an app, or somebody outside (app id 0), wants to make. ``to`` is the address it asked for."""

    client: End
    to: Address
    host_loopback: bool = False  # the client shares the host's network: its loopback is the host's unless it listens
    leave: Leave = Leave()
    protocol: Protocol = "tcp"
    attributes: dict[str, str] | None = None  # of its first bytes; None: not looked at yet
    had: tuple[str, ...] = ()  # proxies that had it already
    direct: bool = False  # a proxy has let it go: no other one gets it


class Local(NamedTuple):
    """Connect to one of these listeners on this host, each as good as the other; ``to`` is the destination they see."""

    endpoints: tuple[Endpoint, ...]
    to: Address
    dry_run: tuple[str, ...] = ()  # policies that would have denied it


class Balanced(NamedTuple):
    """Let the route's balancer choose. With ``hold`` the first bytes have to be seen before: then ask again."""

    cluster: Cluster
    route: Route
    upstreams: tuple[Upstream, ...]
    candidates: tuple[Candidate, ...]  # of ``upstreams``, by `Candidate.index`
    to: Address  # what the client sees
    hold: Peek | None = None
    dry_run: tuple[str, ...] = ()
    by_route: bool = False  # with ``hold``: first bytes choose the route, and matter to nothing else


class Delegate(NamedTuple):
    """Hand it to a proxy. With ``hold`` its first bytes have to be seen before: then ask again."""

    proxy: Proxy | None  # None: not known yet
    endpoints: tuple[Endpoint, ...]  # of the proxy's listener, if it has one
    server_side: bool  # the server's end goes to the proxy as well
    to: Address  # the original destination
    inner: Verdict  # without a proxy
    hold: Peek | None = None
    dry_run: tuple[str, ...] = ()


class Wait(NamedTuple):
    """Nobody is there yet: ask again when the tables have changed, for so many seconds."""

    to: Address
    seconds: float
    name: str


class Outside(NamedTuple):
    """Connect to this address on the host's own network."""

    to: Address
    dry_run: tuple[str, ...] = ()


class Home(NamedTuple):
    """Connect by TCP to this address in the app's own network namespace."""

    to: Address


class Deny(NamedTuple):
    """Fail with this errno. ``rule`` says who decided so: nothing where it is as on any network."""

    error: int
    rule: str = ""
    dry_run: tuple[str, ...] = ()


Verdict = Local | Balanced | Delegate | Wait | Outside | Home | Deny

REFUSED = Deny(errno.ECONNREFUSED)
EGRESS_RULE = "egress"  # the app's own --egress

# For services without a vservice whose policies want to see first bytes.
PLAIN = Cluster(
    "", "", ServicePort(0, 0),
    (Route("", {}, (), Balancer("Random", Outlier(consecutive_failures=0), Limits()), "source"),),
    Peek(), 0.0, "Random", Outlier(consecutive_failures=0), Limits(),
)  # fmt: skip
_PLAIN_BACKEND = BackendSpec()


def route(flow: Flow, world: World) -> Verdict:
    """Decide: where to, and through whom."""
    verdict = directly(flow, world)
    if not world.proxies or flow.direct or not isinstance(verdict, Local | Balanced | Outside):
        return verdict
    if isinstance(verdict, Balanced) and verdict.hold is not None:
        return verdict  # first bytes say whether it is allowed, and where to: before a proxy has it
    return by_proxy(flow, verdict, world, world.proxies)


def by_proxy(flow: Flow, verdict: Local | Balanced | Outside, world: World, proxies: Proxies) -> Verdict:
    """The same, or `Delegate` where a proxy is to have the connection."""
    servers, cluster = _addressed(verdict, world)
    if all(server.app_id and server.app_id == flow.client.app_id for server, _ in servers):
        return verdict
    # Whichever backend it will be: one that must not be reached without its proxy is not.
    found = [proxies.by_policy(flow.client, server, port, flow.attributes) for server, port in servers]
    policy = next((one for one in found if one is not None), None)
    if True in found:
        return Delegate(None, (), False, verdict.to, verdict, Peek(), verdict.dry_run)
    member = world.table.members.get(flow.client.app_id)
    name = policy.proxy if isinstance(policy, Policy) else cluster.proxy or (member.proxy if member else "")
    proxy = proxies.first(name, flow.client, member.uid if member else -1, flow.attributes, flow.had)
    if proxy is True:
        return Delegate(None, (), False, verdict.to, verdict, proxies.by_name[name].peek, verdict.dry_run)
    if not isinstance(proxy, Proxy):
        return verdict
    inside = all(server.app_id for server, _ in servers)
    server_side = isinstance(policy, Policy) and policy.direction == "ingress" and inside
    there = accepting(proxy, world.table, verdict.to.ip)
    return Delegate(proxy, there, server_side, verdict.to, verdict, None, verdict.dry_run)


def _addressed(verdict: Local | Balanced | Outside, world: World) -> tuple[list[tuple[End, int]], Cluster]:
    """Who may be connected to, and at which port."""
    match verdict:
        case Local(endpoints=endpoints, to=to):
            apps = dict.fromkeys(endpoint.app_id for endpoint in endpoints)
            return [(_server_end(world.table.members.get(one), to.ip, PLAIN), to.port) for one in apps], PLAIN
        case Balanced(cluster=cluster, upstreams=upstreams):
            return [(_server_end(u.member, u.address.ip, cluster), u.address.port) for u in upstreams], cluster
        case Outside(to=to):
            return [(_server_end(None, to.ip, PLAIN), to.port)], PLAIN


def directly(flow: Flow, world: World) -> Verdict:
    """Without a proxy. Loopback is the app itself; a virtual address a vservice, or whoever listens and shares a label.

    The rest is outside.
    """
    to = flow.to
    if is_any(to.ip):  # RFC 1122 3.2.1.3: "this host"; Linux connects to loopback
        to = Address(loopback_like(to.ip), to.port)
    if is_loopback(to.ip):
        own = tuple(e for e in world.table.by_app.get((flow.client.app_id, to.port), ()) if e.covers(to.ip))
        if own:
            return Local(_most_specific(own, to), to)
        return outside(flow, to, world) if flow.host_loopback else REFUSED
    if world.clusters is not None:
        cluster = world.clusters.find(to)
        if cluster is not None:
            return _by_cluster(flow, cluster, to, world)
    there = world.table.by_address.get(to)
    if there is not None:
        return _to_listeners(flow, there, to, world)
    if to.ip in world.table.by_ip or (world.clusters is not None and world.clusters.owns(to.ip)):
        return REFUSED
    return outside(flow, to, world)


def outside(flow: Flow, to: Address, world: World) -> Verdict:
    """An address of the host's network, if the app's own rules and the policies let it go there."""
    if not flow.leave.allows(to.ip):
        return Deny(flow.leave.error, EGRESS_RULE)
    if not world.policies:
        return Outside(to)
    judged = _judge(flow, (Upstream(to, None, (), _PLAIN_BACKEND),), PLAIN, world)
    if judged.undecided:
        return _held(PLAIN, judged, to)
    return Outside(to, judged.dry_run) if judged.allowed else _denied(judged)


def _to_listeners(flow: Flow, there: tuple[Endpoint, ...], to: Address, world: World) -> Verdict:
    reachable = tuple(e for e in there if e.app_id == flow.client.app_id or _shares(flow.client, e.labels))
    if not reachable:
        return REFUSED
    if not world.policies:
        return Local(_most_specific(reachable, to), to)
    apps = dict.fromkeys(e.app_id for e in reachable)
    upstreams = tuple(
        Upstream(to, world.table.members.get(app_id), tuple(e for e in reachable if e.app_id == app_id), _PLAIN_BACKEND)
        for app_id in apps
    )
    judged = _judge(flow, upstreams, PLAIN, world)
    if judged.undecided:
        return _held(PLAIN, judged, to)
    endpoints = tuple(e for upstream in judged.allowed for e in upstream.endpoints)
    return Local(_most_specific(endpoints, to), to, judged.dry_run) if endpoints else _denied(judged)


def _by_cluster(flow: Flow, cluster: Cluster, to: Address, world: World) -> Verdict:
    assert world.clusters is not None
    looking = cluster.looks and flow.attributes is None
    taken = cluster.taken(flow.attributes or {})
    routes = cluster.routes if looking else (taken,)
    port = cluster.port.target if cluster.port is not None else to.port
    specs = tuple(spec for one in routes for spec in one.backends)
    known = tuple(world.clusters.upstreams(specs, port, world.table))
    up = tuple(u for u in known if u.up)
    if not known or (not up and cluster.kind == "Reference"):
        return Wait(to, cluster.wait, cluster.name) if cluster.wait > 0 else REFUSED
    visible = tuple(u for u in up if u.member is None or _shares(flow.client, u.member.labels))
    judged = _judge(flow, visible, cluster, world)
    if looking or judged.undecided:
        return _held(cluster, judged, to) if judged.allowed else _denied(judged)
    usable = tuple(u for u in judged.allowed if not u.spec.drain)
    if not usable:
        return _denied(judged)
    return Balanced(cluster, taken, usable, _candidates(usable), to, None, judged.dry_run)


def forbidden(flow: Flow, upstream: Upstream, cluster: Cluster, world: World) -> Deny | None:
    """What now denies a backend that was allowed when the connection began; who must be asked anew counts as denied."""
    judged = _judge(flow, (upstream,), cluster, world)
    if judged.undecided:
        return REFUSED
    return None if judged.allowed else _denied(judged)


def _held(cluster: Cluster, judged: _Judged, to: Address) -> Balanced:
    return Balanced(cluster, cluster.default, judged.allowed, (), to, cluster.peek, judged.dry_run, not judged.waits)


def _denied(judged: _Judged) -> Deny:
    if judged.denial is None:
        return REFUSED
    if judged.denial.rule == EGRESS_RULE:
        return Deny(int(judged.denial.error), EGRESS_RULE)
    return Deny(getattr(errno, judged.denial.error), judged.denial.rule, judged.dry_run)


def _candidates(upstreams: Iterable[Upstream]) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(u.key, u.spec.weight, u.spec.priority, _locality(u), index) for index, u in enumerate(upstreams)
    )


def _locality(upstream: Upstream) -> str:
    """As it was configured, or else the zone that the backend's label says."""
    if upstream.spec.locality or upstream.member is None:
        return upstream.spec.locality
    return next((value for key, value in upstream.member.labels if key == "zone"), "")


def _shares(client: End, labels: frozenset[tuple[str, str]]) -> bool:
    """The original's rule: a client reaches a service only where they share a label. Who is outside has none."""
    return client.app_id == 0 or not client.labels.isdisjoint(labels)


# -- policies


class _Judged(NamedTuple):
    allowed: tuple[Upstream, ...]  # the undecided ones included
    undecided: bool
    denial: Decision | None  # the first
    dry_run: tuple[str, ...]
    waits: bool  # some policy depends on attributes, if only to say what it would deny


def _judge(flow: Flow, upstreams: tuple[Upstream, ...], cluster: Cluster, world: World) -> _Judged:
    """Ask the policies, and for what is outside the app's own rules."""
    allowed: list[Upstream] = []
    undecided, waits, denial = False, False, None
    dry_run: dict[str, None] = {}
    for upstream in upstreams:
        decision = _decide(flow, upstream, cluster, world)
        if decision is not None:
            dry_run.update(dict.fromkeys(decision.dry_run))
            waits = waits or decision.allowed is None or bool(decision.dry_run_waits)
            if decision.allowed is False:
                denial = denial or decision
                continue
            undecided = undecided or decision.allowed is None
        allowed.append(upstream)
    return _Judged(tuple(allowed), undecided, denial, tuple(dry_run), waits)


def _decide(flow: Flow, upstream: Upstream, cluster: Cluster, world: World) -> Decision | None:
    """None: nobody has anything against it."""
    ip, port = upstream.address
    member = upstream.member
    if member is None and not flow.leave.allows(ip):
        return Decision(False, EGRESS_RULE, str(flow.leave.error), (), False)
    if not world.policies or (member is not None and member.id == flow.client.app_id):
        return None
    server = _server_end(member, ip, cluster)
    attributes = flow.attributes if flow.protocol == "tcp" else {}
    return world.policies.decide(flow.client, server, port, flow.protocol, attributes)


def _server_end(member: Member | None, ip: bytes, cluster: Cluster) -> End:
    names = (cluster.name,) if cluster.name else ()
    if member is None:
        return End(0, "", names, frozenset(), ip, None, None)
    return End(member.id, member.name, names, member.labels, ip, None, None)


def _most_specific(endpoints: tuple[Endpoint, ...], to: Address) -> tuple[Endpoint, ...]:
    """Within an app a socket bound to the very address gets what would reach a wildcard, too; as in the kernel."""
    if len(endpoints) == 1:
        return endpoints
    exact = {e.app_id for e in endpoints if e.bound.ip == to.ip}
    return tuple(e for e in endpoints if e.bound.ip == to.ip or e.app_id not in exact) if exact else endpoints
