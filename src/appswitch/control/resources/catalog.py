"""All resources there are, found by kind and name, by address, by owner. In memory; one writer (`service`).

A change is made in a copy (`draft`), which takes the place of what was there (`adopt`) when it is on disk. Until then
both count for who asks whether a name or an address is free: nobody gets between.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import msgspec

from appswitch.control.pools import Pools
from appswitch.networks import IPAddress
from appswitch.resources import Kind, Policy, Proxy, Reference, Resource, VService, kind_of

Key = tuple[Kind, str]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A resource, and what the daemon knows about it."""

    resource: Resource
    created: float  # seconds since the epoch
    generation: int = 1  # how often it has been changed, and made
    drawn: bool = False  # its addresses come from the daemon's pools
    order: int = 0  # of creation

    @property
    def key(self) -> Key:
        """What it is found by."""
        return kind_of(self.resource), self.resource.name


class _Tables:
    """What is copied for a change."""

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self.vservices_at: dict[str, frozenset[str]] = {}  # by address
        self.vservice_at: dict[tuple[str, int], str] = {}  # by address and virtual port
        self.references_at: dict[str, frozenset[str]] = {}  # by network
        self.proxies_at: dict[str, frozenset[str]] = {}  # by the name or address of their listener
        self.pooled: set[IPAddress] = set()  # addresses of the pools that are taken
        self.owned: dict[int, int] = {}  # how many by uid

    def copy(self) -> _Tables:
        other = _Tables()
        for name, table in vars(self).items():
            setattr(other, name, table.copy())
        return other


class Catalog:
    """See above. ``pools``: whose addresses are to be kept apart from those that apps draw."""

    def __init__(self, pools: Pools, *, tables: _Tables | None = None) -> None:
        self._pools = pools
        self._now = tables or _Tables()
        self._pending: Catalog | None = None

    # Changes

    def draft(self) -> Catalog:
        """A copy to be changed. What it holds counts as taken from now on, until `adopt` or `give_up`."""
        self._pending = Catalog(self._pools, tables=self._now.copy())
        return self._pending

    def adopt(self) -> None:
        """The draft is what there is."""
        assert self._pending is not None
        self._now = self._pending.tables()
        self._pending = None

    def give_up(self) -> None:
        """There never was a draft."""
        self._pending = None

    def put(self, entry: Entry) -> None:
        """In place of the one of its kind and name."""
        self.remove(entry.key)
        now, resource = self._now, entry.resource
        now.entries[entry.key] = entry
        now.owned[resource.uid] = now.owned.get(resource.uid, 0) + 1
        if isinstance(resource, VService):
            for ip in resource.ips:
                now.vservices_at[ip] = now.vservices_at.get(ip, frozenset()) | {resource.name}
            now.vservice_at.update(dict.fromkeys(_places(resource), resource.name))
        elif isinstance(resource, Reference):
            there = now.references_at.get(resource.network, frozenset())
            now.references_at[resource.network] = there | {resource.name}
        elif isinstance(resource, Proxy) and resource.listener:
            host = listener_host(resource)
            now.proxies_at[host] = now.proxies_at.get(host, frozenset()) | {resource.name}
        now.pooled |= self._pooled(resource)

    def remove(self, key: Key) -> Entry | None:
        """None if there is none."""
        now = self._now
        entry = now.entries.pop(key, None)
        if entry is None:
            return None
        resource = entry.resource
        now.owned[resource.uid] -= 1
        if isinstance(resource, VService):
            for ip in resource.ips:
                _discard(now.vservices_at, ip, resource.name)
            for place in _places(resource):
                del now.vservice_at[place]
        elif isinstance(resource, Reference):
            _discard(now.references_at, resource.network, resource.name)
        elif isinstance(resource, Proxy) and resource.listener:
            _discard(now.proxies_at, listener_host(resource), resource.name)
        now.pooled -= {ip for ip in self._pooled(resource) if not self._is_used(str(ip))}
        return entry

    def _is_used(self, ip: str) -> bool:
        return ip in self._now.vservices_at or alone(ip) in self._now.references_at

    def _pooled(self, resource: Resource) -> set[IPAddress]:
        found = map(ipaddress.ip_address, addresses(resource))
        return {one for one in found if one in self._pools}

    # What there is

    def get(self, kind: Kind, name: str) -> Entry | None:
        """One of them."""
        return self._now.entries.get((kind, name))

    def entries(self, kind: Kind | None = None) -> list[Entry]:
        """All, or all of a kind, in the order of their creation."""
        found = (one for key, one in self._now.entries.items() if kind in (None, key[0]))
        return sorted(found, key=lambda one: one.order)

    def vservice(self, name: str) -> VService | None:
        """By its name."""
        entry = self._now.entries.get(("VService", name))
        return entry.resource if entry is not None and isinstance(entry.resource, VService) else None

    def proxy(self, name: str) -> Proxy | None:
        """By its name."""
        entry = self._now.entries.get(("Proxy", name))
        return entry.resource if entry is not None and isinstance(entry.resource, Proxy) else None

    def vservices_at(self, ip: str) -> list[VService]:
        """Those of an address, in canonical form: they share its ports."""
        found = map(self.vservice, sorted(self._now.vservices_at.get(ip, ())))
        return [one for one in found if one is not None]

    def serves(self, ip: str) -> bool:
        """Whether an address is a vservice's."""
        return ip in self._now.vservices_at

    def vservice_at(self, ip: str, port: int) -> VService | None:
        """The one that has this virtual port of the address."""
        name = self._now.vservice_at.get((ip, port))
        return None if name is None else self.vservice(name)

    def proxies_of(self, host: str) -> list[Proxy]:
        """Those whose app has this name or address: they are called so, or listen there."""
        names = self._now.proxies_at.get(host, frozenset()) | {host}
        return [one for name in sorted(names) if (one := self.proxy(name)) is not None]

    def references_at(self, network: str) -> list[Reference]:
        """Those of exactly this network."""
        found = (self._now.entries[("Reference", name)].resource for name in self._now.references_at.get(network, ()))
        return [one for one in found if isinstance(one, Reference)]

    def named(self, name: str) -> list[Resource]:
        """What this name resolves to, of all kinds."""
        kinds: tuple[Kind, ...] = ("VService", "Reference")
        return [entry.resource for kind in kinds if (entry := self.get(kind, name)) is not None]

    def count(self, uid: int) -> int:
        """How many a user has."""
        return self._now.owned.get(uid, 0)

    # Who has what: the draft counts, too

    def owners_of_name(self, name: str) -> set[int]:
        """The users whose vservice or reference is called so."""
        return {one.uid for view in self._views() for one in view.named(name)}

    def owners_of_proxy(self, name: str) -> set[int]:
        """The users whose proxy is called so."""
        return {proxy.uid for view in self._views() if (proxy := view.proxy(name)) is not None}

    def owners_of_proxies_of(self, host: str) -> set[int]:
        """The users whose proxy an app of this name or address would be."""
        return {one.uid for view in self._views() for one in view.proxies_of(host)}

    def owners_of_address(self, ip: str) -> set[int]:
        """The users whose vservices, or whose references to one address, are there."""
        found: set[int] = set()
        for view in self._views():
            found |= {one.uid for one in view.vservices_at(ip)}
            found |= {one.uid for one in view.references_at(alone(ip))}
        return found

    def taken(self) -> set[IPAddress]:
        """The addresses of pools that are not to be drawn."""
        return set().union(*self.pooled())

    def pooled(self) -> list[set[IPAddress]]:
        """The same as one or two sets, which are not copied."""
        return [view.tables().pooled for view in self._views()]

    def tables(self) -> _Tables:
        """What a catalog takes over from its draft."""
        return self._now

    def _views(self) -> Iterator[Catalog]:
        yield self
        if self._pending is not None:
            yield self._pending


def listener_host(proxy: Proxy) -> str:
    """The name or address of the app that it runs as; empty where it connects to the delegation endpoint."""
    return proxy.listener.rpartition(":")[0].strip("[]")


def leads_to(resource: Resource) -> str:
    """The proxy that a resource names, or nothing."""
    match resource:
        case VService() | Policy():
            return resource.proxy
        case Proxy():
            return resource.next
        case _:
            return ""


def alone(ip: str) -> str:
    """A network of one address."""
    return f"{ip}/128" if ":" in ip else f"{ip}/32"


def addresses(resource: Resource) -> tuple[str, ...]:
    """Those that its name resolves to."""
    match resource:
        case VService():
            return resource.ips
        case Reference():
            ip, _, _ = resource.network.partition("/")
            return (ip,) if resource.network == alone(ip) else ()
        case _:
            return ()


def _places(vservice: VService) -> Iterator[tuple[str, int]]:
    return ((ip, one.port) for ip in vservice.ips for one in vservice.ports)


def _discard(table: dict[str, frozenset[str]], key: str, name: str) -> None:
    left = table.pop(key) - {name}
    if left:
        table[key] = left
