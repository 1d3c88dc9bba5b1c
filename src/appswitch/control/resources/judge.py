"""What holds or fails beside other resources: addresses, loops, and whose things are. Decides, and changes nothing.

Everything here raises ProblemError, with the fields at fault where fields are.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from appswitch.control.access import Caller, same_hands
from appswitch.control.claims import Claims, is_hosts
from appswitch.control.problems import ProblemError
from appswitch.control.resources import faults, loops
from appswitch.control.resources.catalog import Catalog, addresses, alone, leads_to, listener_host
from appswitch.control.resources.documents import invalid
from appswitch.control.roster import Roster
from appswitch.networks import Network, overlap
from appswitch.resources import BackendSpec, Policy, Proxy, Reference, Resource, VService, kind_of

MAX_OWNED = 1000  # vservices, references and proxies of one user who is no administrator
MAX_USERS_NETWORK = 256  # addresses of such a user's reference
FIRST_FREE_PORT = 1024  # below it a port is root's to give, ip(7)

Where = list[str | int]


class Judge:
    """Looks at one resource beside the others of ``catalog``, which does not hold it yet, and beside the apps."""

    def __init__(self, catalog: Catalog, claims: Claims, roster: Roster, caller: Caller) -> None:
        self._catalog = catalog
        self._claims = claims
        self._roster = roster
        self._caller = caller

    def may_change(self, resource: Resource, *, own: bool) -> None:
        """``own``: it is there, and the caller's."""
        self._caller.must_write()
        if self._caller.admin:
            return
        if isinstance(resource, Policy):
            raise ProblemError("forbidden", "policies are for everybody's connections: only administrators change them")
        if not own and self._catalog.count(self._caller.uid) >= MAX_OWNED:
            raise ProblemError("too-many", f"you have {MAX_OWNED} vservices, references and proxies already")

    def check(self, resource: Resource, *, drawn: bool, new: bool) -> None:
        """Beside the others. ``drawn``: its addresses are the daemon's choice. ``new``: there is none of its name."""
        self._check_lead(resource)
        match resource:
            case VService():
                self._check_vservice(resource)
            case Reference():
                self._check_reference(resource)
            case Proxy():
                self._check_proxy(resource, new=new)
            case Policy():
                return
        if not self._caller.admin:
            self._check_claims(resource, drawn=drawn)

    def _check_vservice(self, new: VService) -> None:
        for number, ip in enumerate(new.ips):
            self._check_shared(new, ip, ["spec", "ips", number])
            for reference in self._catalog.references_at(alone(ip)):
                raise _fault(["spec", "ips", number], f"{ip} is the network of the reference {reference.name}")
        self._check_name(new)
        if new.external:
            self._check_external_ports(new)
        try:
            found = loops.loop(new, loops.With(self._catalog, new))
        except loops.TooManyError:
            raise _fault(["spec", "backends"], "too many vservices are behind it, one behind the other") from None
        if found:
            raise _fault(["spec", "backends"], f"the vservices lead in a loop: {' -> '.join(found)}")

    def _check_shared(self, new: VService, ip: str, where: Where) -> None:
        """Vservices may share an address, but no port of it."""
        shared: dict[str, list[int]] = {}
        for one in new.ports:
            other = self._catalog.vservice_at(ip, one.port)
            if other is not None and other.name != new.name:
                shared.setdefault(other.name, []).append(one.port)
        if shared:
            raise invalid([_at(where, _both(new.name, name, ip, ports)) for name, ports in shared.items()])

    def _check_external_ports(self, new: VService) -> None:
        """Whatever addresses they have: for strangers it is the node's."""
        mine = {one.port for one in new.ports}
        for entry in self._catalog.entries("VService"):
            other = entry.resource
            if isinstance(other, VService) and other.external and other.name != new.name:
                shared = [one.port for one in other.ports if one.port in mine]
                if shared:
                    raise _fault(["spec", "ports"], _both(new.name, other.name, "the node", shared))

    def _check_name(self, new: VService | Reference) -> None:
        for other in self._catalog.named(new.name):
            if kind_of(other) != kind_of(new):
                kind = kind_of(other).lower()
                raise _fault(["metadata", "name"], f"{new.name} is the name of a {kind}, and can resolve to one only")

    def _check_reference(self, new: Reference) -> None:
        self._check_name(new)
        for ip in addresses(new):
            for other in self._catalog.vservices_at(ip):
                raise _fault(["spec", "network"], f"{ip} is the address of the vservice {other.name}")
        network = ipaddress.ip_network(new.network)
        for pool in self._claims.pools.pools if network.num_addresses > 1 else ():
            if overlap(network, pool.network):
                raise _fault(["spec", "network"], f"{network} overlaps {pool.network}, from which apps draw addresses")
        for reference in self._catalog.references_at(new.network):
            if reference.name != new.name:
                self._check_ports(new, reference)

    @staticmethod
    def _check_ports(new: Reference, other: Reference) -> None:
        mine, others = ({one.port for one in each.ports} for each in (new, other))
        shared = mine & others if mine and others else mine | others
        if shared or not mine or not others:
            ports = ", ".join(map(str, sorted(shared))) or "all its ports"
            raise _fault(["spec", "ports"], f"the reference {other.name} has {ports} of {new.network}")

    def _check_proxy(self, proxy: Proxy, *, new: bool) -> None:
        found = loops.chain(proxy, self._catalog.proxy)
        if found:
            raise _fault(["spec", "next"], f"the proxies lead in a loop: {' -> '.join(found)}")
        if not new:
            return
        leading = {one.resource.uid for one in self._catalog.entries() if leads_to(one.resource) == proxy.name}
        leading |= self._roster.owners_led_by(proxy.name)
        if not all(same_hands(uid, proxy.uid) for uid in leading):
            detail = f"something of another user's waits for a proxy called {proxy.name}, and would lead to this one"
            raise ProblemError("name-in-use", detail, [_at(["metadata", "name"], detail)])

    def _check_lead(self, resource: Resource) -> None:
        """Whoever leads to a proxy gives connections away, and the proxy makes others in its own name."""
        name = leads_to(resource)
        if not all(same_hands(uid, resource.uid) for uid in self._catalog.owners_of_proxy(name)):
            where: Where = ["spec", "next" if isinstance(resource, Proxy) else "proxy"]
            detail = f"the proxy {name} is another user's: only what its owner has configured leads to it"
            raise ProblemError("forbidden", f"{faults.dotted(where)}: {detail}", [_at(where, detail)])

    # Whose things are: for who is no administrator

    def _check_claims(self, new: VService | Reference | Proxy, *, drawn: bool) -> None:
        self._check_owner_of_name(new.name)
        if isinstance(new, Proxy):
            self._check_listener(listener_host(new))
            return
        if isinstance(new, VService):
            self._check_external(new)
            for number, ip in enumerate(new.ips):
                self._check_network(ipaddress.ip_network(alone(ip)), ["spec", "ips", number], drawn=drawn)
        else:
            self._check_network(ipaddress.ip_network(new.network), ["spec", "network"], drawn=False)
        for where, backend in _backends(new):
            self._check_backend(backend, ["spec", *where])

    def _check_listener(self, host: str) -> None:
        """An app's of the caller, or nobody's yet."""
        try:
            network = ipaddress.ip_network(host)
        except ValueError:
            self._check_owner_of_name(host)
        else:
            self._check_network(network, ["spec", "listener"], drawn=True)

    def _check_owner_of_name(self, name: str) -> None:
        owners = self._catalog.owners_of_name(name) | self._roster.owners_of_name(name)
        if owners - {self._caller.uid}:
            raise ProblemError("name-in-use", f"{name} is the name of something of another user's")

    def _check_external(self, new: VService) -> None:
        low = next((one.port for one in new.ports if one.port < FIRST_FREE_PORT), None)
        if new.external and low is not None and self._caller.uid != 0:
            raise ProblemError("privileged-port", f"only root may take the host's port {low} for an external vservice")

    def _check_network(self, network: Network, where: Where, *, drawn: bool) -> None:
        if not any(_within(network, allowed) for allowed in self._claims.user_networks):
            allowed = ", ".join(map(str, self._claims.user_networks))
            raise _forbidden(where, f"{network} is in none of the networks that users may claim: {allowed}")
        if network.num_addresses > MAX_USERS_NETWORK:
            raise _forbidden(where, f"{network} has more than {MAX_USERS_NETWORK} addresses: ask an administrator")
        if not drawn and any(overlap(network, pool.network) for pool in self._claims.pools.pools):
            raise _forbidden(where, f"{network} is in a pool, from which addresses are drawn: leave it away")
        if any(self._is_others(ip, network) for ip in self._addresses()):
            raise ProblemError("ip-in-use", f"{network} is in use by another user", [_at(where, "another user's")])
        if network.num_addresses == 1 and is_hosts(network.network_address):
            raise _forbidden(where, f"{network.network_address} is an address of this host")

    def _addresses(self) -> Iterator[tuple[str, int]]:
        """All virtual ones, with whose they are."""
        yield from ((ip, app.uid) for app in self._roster for ip in app.ips)
        yield from ((ip, one.resource.uid) for one in self._catalog.entries() for ip in addresses(one.resource))

    def _is_others(self, owned: tuple[str, int], network: Network) -> bool:
        ip, uid = owned
        return uid != self._caller.uid and ipaddress.ip_address(ip) in network

    def _check_backend(self, backend: BackendSpec, where: Where) -> None:
        """A name or an address that nobody has, or the caller alone. Labels select what its clients may reach."""
        owners: set[int] = set()
        if backend.name:
            owners = self._catalog.owners_of_name(backend.name)
            owners |= self._roster.owners_of_name(backend.name)
        elif backend.ip:
            owners = self._catalog.owners_of_address(backend.ip)
            owners |= self._roster.owners_of_address(backend.ip)
        if owners - {self._caller.uid}:
            what = backend.name or backend.ip
            raise ProblemError("forbidden", f"{what} is another user's", [_at(where, f"{what} is another user's")])


def _backends(resource: VService | Reference) -> Iterable[tuple[Where, BackendSpec]]:
    if isinstance(resource, VService):
        return loops.backends(resource)
    return ((["to", number], one) for number, one in enumerate(resource.to))


def _both(name: str, other: str, ip: str, ports: list[int]) -> str:
    some = f"port{'s' * (len(ports) > 1)} {', '.join(map(str, ports))}"
    return f"{name} and {other} cannot both have {some} of {ip}"


def _within(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type] # one version


def _at(where: Where, detail: str) -> dict[str, object]:
    return {"path": where, "detail": detail}


def _fault(where: Where, detail: str) -> ProblemError:
    return invalid([_at(where, detail)])


def _forbidden(where: Where, detail: str) -> ProblemError:
    return ProblemError("ip-forbidden", f"{faults.dotted(where)}: {detail}", [_at(where, detail)])
