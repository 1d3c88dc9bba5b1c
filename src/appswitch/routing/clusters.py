"""Virtual services and references, compiled: an address that leads to backends instead of to who listens there.

A look-up is one dictionary access for an exact address, and one for each prefix length in use for wildcards, whatever
the number of services. Which apps a backend stands for is found when a connection is decided, from the service table.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from appswitch.address import Address, is_loopback
from appswitch.address import ip_bytes as parse_ip
from appswitch.resources import (
    BackendSpec,
    L7Match,
    LbType,
    Limits,
    Outlier,
    Peek,
    Reference,
    ServicePort,
    VService,
)
from appswitch.routing.balance import Balancer
from appswitch.routing.patterns import Tests, compiled, hold
from appswitch.routing.table import Endpoint, Member, Table

DEPTH = 8  # of vservices behind vservices: loops are refused where they are made, and end here
MOST = 16384  # backends that are looked at for one decision, with what they stand for: some ten milliseconds
_HASHED = ("RingHash", "Maglev")
ip_bytes = functools.lru_cache(1 << 16)(parse_ip)  # only what is configured comes here


class Upstream(NamedTuple):
    """One place where connections of a cluster may go."""

    address: Address  # virtual, of an app; or outside
    member: Member | None  # None: outside
    endpoints: tuple[Endpoint, ...]  # of the app; none: it does not listen there
    spec: BackendSpec
    # For accounting and hashing: the address, which stays the same when the backend is restarted; of apps that share
    # one, the app and its port.
    key: Hashable = None

    @property
    def up(self) -> bool:
        """Whether a connection can be tried."""
        return self.member is None or bool(self.endpoints)


@dataclass(slots=True)
class Route:
    """The backends for what matches; the balancer's state lives as long as the route is configured so."""

    name: str
    match: L7Match
    backends: tuple[BackendSpec, ...]
    balancer: Balancer
    hash_on: str
    _tests: Tests = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._tests = compiled(self.match)

    def takes(self, attributes: dict[str, str]) -> bool:
        """Whether first bytes are for this route."""
        return hold(self._tests, attributes)


@dataclass(slots=True)
class Cluster:
    """One virtual port, or a whole reference. ``routes`` ends with one that matches everything."""

    kind: str
    name: str
    port: ServicePort | None  # None: any port, unchanged
    routes: tuple[Route, ...]
    peek: Peek
    wait: float
    lbtype: LbType
    outlier: Outlier
    limits: Limits
    external: bool = False
    proxy: str = ""
    # Whether the first bytes have to be known: to choose a route, or to hash.
    looks: bool = False

    @property
    def counted(self) -> bool:
        """Whether its balancers go by how many connections there are."""
        return self.lbtype == "LeastConnections" or bool(self.limits.connections or self.limits.pending)

    def taken(self, attributes: dict[str, str]) -> Route:
        """The route for such first bytes."""
        for route in self.routes:
            if route.takes(attributes):
                return route
        return self.default

    @property
    def names(self) -> tuple[str, ...]:
        """Of the attributes that choose a route, or are hashed."""
        matched = [name for route in self.routes for name in route.match]
        hashed = [route.hash_on for route in self.routes if route.hash_on != "source"]
        return tuple(dict.fromkeys(matched + hashed))

    @property
    def default(self) -> Route:
        """For what no other route matches, and for who did not say anything in time."""
        return self.routes[-1]


class _Search:
    """What has been looked at for one decision, and how deep it is in vservices behind vservices."""

    __slots__ = ("depth", "seen", "work")

    def __init__(self) -> None:
        self.depth = 0
        self.work = 0
        self.seen: set[int] = set()  # clusters, by identity

    def spent(self) -> bool:
        """One more step; whether it is one too many."""
        self.work += 1
        return self.work > MOST


@dataclass(slots=True)
class Clusters:
    """All of them. One writer: the switch. ``version`` is the table's business: whoever changes something tells it."""

    by_address: dict[Address, Cluster] = field(default_factory=dict)
    by_name: dict[tuple[str, str], tuple[Cluster, ...]] = field(default_factory=dict)  # (kind, name)
    external: dict[Address, Cluster] = field(default_factory=dict)  # those that strangers reach, too
    counted: int = 0  # how many go by the number of connections
    _ips: dict[bytes, dict[str, None]] = field(default_factory=dict)  # virtual address -> its vservices
    # address length, prefix length -> network -> clusters by port (0: every port)
    _networks: dict[tuple[int, int], dict[int, dict[int, Cluster]]] = field(default_factory=dict)
    _sources: dict[tuple[str, str], VService | Reference] = field(default_factory=dict)

    def put(self, resource: VService | Reference) -> None:
        """Add or replace. What a balancer knows of its backends is kept where its settings did not change."""
        kind = type(resource).__name__
        old = self.by_name.get((kind, resource.name), ())
        self.remove(kind, resource.name)
        made = tuple(_compile(resource, old))
        self.by_name[kind, resource.name] = made
        self._sources[kind, resource.name] = resource
        self.counted += sum(cluster.counted for cluster in made)
        if isinstance(resource, VService):
            for ip in map(ip_bytes, resource.ips):
                self._ips.setdefault(ip, {})[resource.name] = None
                for cluster in made:
                    assert cluster.port is not None
                    self.by_address[Address(ip, cluster.port.port)] = cluster
                    if cluster.external:
                        self.external[Address(ip, cluster.port.port)] = cluster
                    else:  # it may have been another's, who is told later that it is not any more
                        self.external.pop(Address(ip, cluster.port.port), None)
        else:
            size, bits, network = _network(resource.network)
            ports = self._networks.setdefault((size, bits), {}).setdefault(network, {})
            ports.update({cluster.port.port if cluster.port else 0: cluster for cluster in made})

    def remove(self, kind: str, name: str) -> None:
        """Forget; unknown ones are ignored."""
        resource = self._sources.pop((kind, name), None)
        gone = self.by_name.pop((kind, name), ())
        self.counted -= sum(cluster.counted for cluster in gone)
        if isinstance(resource, VService):
            for ip in map(ip_bytes, resource.ips):
                self._ips[ip].pop(name, None)
                if not self._ips[ip]:
                    del self._ips[ip]
                for cluster in gone:
                    assert cluster.port is not None
                    key = Address(ip, cluster.port.port)
                    if self.by_address.get(key) is cluster:
                        del self.by_address[key]
                        self.external.pop(key, None)
        elif isinstance(resource, Reference):
            self._forget_network(resource)

    def _forget_network(self, resource: Reference) -> None:
        size, bits, network = _network(resource.network)
        networks = self._networks[size, bits]
        for port in [port for port, one in networks[network].items() if one.name == resource.name]:
            del networks[network][port]
        if not networks[network]:
            del networks[network]
        if not networks:
            del self._networks[size, bits]

    def clear(self) -> None:
        """Forget everything."""
        self.retain(frozenset())

    def retain(self, names: Collection[tuple[str, str]]) -> None:
        """Forget all but those of these kinds and names."""
        for kind, name in [one for one in self._sources if one not in names]:
            self.remove(kind, name)

    def find(self, to: Address) -> Cluster | None:
        """What an address leads to: a vservice first, then the narrowest reference."""
        found = self.by_address.get(to)
        if found is not None or not self._networks:
            return found
        value = int.from_bytes(to.ip, "big")
        for size, bits in sorted(self._networks, reverse=True):
            if size == len(to.ip):
                ports = self._networks[size, bits].get(value >> 8 * size - bits)
                if ports is not None and (found := ports.get(to.port) or ports.get(0)) is not None:
                    return found
        return None

    def owns(self, ip: bytes) -> bool:
        """Whether a vservice has the address: its other ports are closed, and not the outside's."""
        return ip in self._ips

    def all(self) -> Iterator[Cluster]:
        """Every cluster."""
        for clusters in self.by_name.values():
            yield from clusters

    # -- backends

    def upstreams(self, specs: tuple[BackendSpec, ...], port: int, table: Table) -> Iterator[Upstream]:
        """What backends stand for now; those that nobody matches yet are left out. ``port``: where they say none.

        A vservice behind several others is looked at once: n backends on each of `DEPTH` levels would be n ** `DEPTH`.
        """
        return self._expand(specs, port, table, _Search())

    def _expand(self, specs: tuple[BackendSpec, ...], port: int, table: Table, search: _Search) -> Iterator[Upstream]:
        for spec in specs:
            for upstream in self._upstreams_of(spec, spec.port or port, table, search):
                if search.spent():
                    return
                yield upstream
            if search.spent():
                return

    def _upstreams_of(self, spec: BackendSpec, port: int, table: Table, search: _Search) -> Iterator[Upstream]:
        if spec.external:
            address = _outside(spec.external)
            yield Upstream(address, None, (), spec, address)
            return
        inner = self._inner(spec, port)
        if inner and search.depth < DEPTH:
            for cluster in inner:
                if id(cluster) not in search.seen:
                    search.seen.add(id(cluster))
                    target = cluster.port.target if cluster.port is not None else port
                    search.depth += 1
                    yield from self._expand(cluster.default.backends, target, table, search)
                    search.depth -= 1
            return
        for member, ip in _members(spec, table):
            there = tuple(e for e in table.by_app.get((member.id, port), ()) if _reached(e, ip))
            own = ip or next((e.bound.ip for e in there if any(e.bound.ip)), None) or next(iter(member.ips), b"\0" * 4)
            address = Address(own, port)
            alone = len(table.by_ip.get(own, ())) == 1
            yield Upstream(address, member, there, spec, address if alone else (member.id, port))

    def _inner(self, spec: BackendSpec, port: int) -> tuple[Cluster, ...]:
        """The vservice that a backend is, if it is one: by the port that it is asked for, or of a name its first."""
        if spec.ip:
            one = self.by_address.get(Address(ip_bytes(spec.ip), port))
            return (one,) if one is not None else ()
        clusters = self.by_name.get(("VService", spec.name), ()) if spec.name else ()
        return tuple(c for c in clusters if c.port is not None and c.port.port == port) or clusters[:1]


def _members(spec: BackendSpec, table: Table) -> Iterator[tuple[Member, bytes | None]]:
    """The apps that a backend stands for, with the address that was named."""
    if spec.ip:
        ip = ip_bytes(spec.ip)
        yield from ((member, ip) for member in table.by_ip.get(ip, {}).values())
    elif spec.name:
        yield from ((member, None) for member in table.by_name.get(spec.name, {}).values())
    elif spec.labels:
        yield from ((member, None) for member in table.labelled(spec.labels))


def _reached(endpoint: Endpoint, ip: bytes | None) -> bool:
    return endpoint.covers(ip) if ip is not None else not is_loopback(endpoint.bound.ip)


@functools.lru_cache(1 << 12)
def _outside(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(ip_bytes(host.strip("[]")), int(port))


def _network(text: str) -> tuple[int, int, int]:
    """Bytes of an address, bits that count, and those bits."""
    network = ipaddress.ip_network(text)
    size = network.max_prefixlen // 8
    return size, network.prefixlen, int(network.network_address) >> 8 * size - network.prefixlen


def _compile(resource: VService | Reference, old: tuple[Cluster, ...]) -> Iterator[Cluster]:
    known = {cluster.port: cluster for cluster in old}
    if isinstance(resource, VService):
        for port in resource.ports:
            yield _compile_vservice(resource, port, known.get(port))
        return
    for one in resource.ports or (None,):
        before = known.get(one)
        balancer = _balancer(resource.lbtype, Outlier(), Limits(), before, "default")
        route = Route("default", {}, resource.to, balancer, "source")
        yield Cluster(
            "Reference", resource.name, one, (route,), Peek(), resource.wait, resource.lbtype, Outlier(), Limits()
        )


def _compile_vservice(service: VService, port: ServicePort, old: Cluster | None) -> Cluster:
    lbtype: LbType = "RingHash" if service.source_ip else service.lbtype
    hash_on = "source" if service.source_ip or lbtype not in _HASHED else service.hash_on

    def route(name: str, match: L7Match, backends: tuple[BackendSpec, ...]) -> Route:
        balancer = _balancer(lbtype, service.outlier, service.limits, old, name)
        return Route(name, match, backends, balancer, hash_on)

    routes = [
        route(one.name or f"route-{index}", one.match, one.backends) for index, one in enumerate(service.routes, 1)
    ]
    routes.append(route("default", {}, service.backends))
    return Cluster(
        "VService", service.name, port, tuple(routes), service.peek, service.wait, lbtype, service.outlier,
        service.limits, service.external, service.proxy, looks=bool(service.routes) or hash_on != "source",
    )  # fmt: skip


def _balancer(lbtype: LbType, outlier: Outlier, limits: Limits, old: Cluster | None, name: str) -> Balancer:
    """What is known of the backends outlives a change of the settings."""
    for route in old.routes if old is not None else ():
        if route.name == name:
            route.balancer.reconfigure(lbtype, outlier, limits)
            return route.balancer
    return Balancer(lbtype, outlier, limits)
