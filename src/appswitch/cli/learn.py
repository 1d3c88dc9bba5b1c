"""From connections that were seen to the least policies that allow exactly them. Pure: rows in, policies out.

An end is what policies can know it by: its name; if it has none its labels, where they tell it from all others that are
known; else its address. Ends of one name, such as replicas, are one. A server is closed by its first policy; so what is
learned says who may connect to servers that were seen, and nothing about others.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from appswitch.model import DEFAULT_LABELS, Protocol
from appswitch.networks import Network
from appswitch.resources import Policy, PortRange, Selector

MOST = 256  # selectors, names, networks or ports of one policy
MAX_NAME = 63  # a DNS label, RFC 1035 section 2.3.4

Labels = frozenset[tuple[str, str]]
_DEFAULT = frozenset(DEFAULT_LABELS.items())
Port = tuple[int, Protocol]
Row = Mapping[str, Any]


class End(NamedTuple):
    """Who was seen."""

    name: str  # "": it has none, or may not be known
    labels: Labels
    ip: str  # virtual, or outside; "": it has none


class Seen(NamedTuple):
    """A connection. ``port`` is where the server listens: of a vservice its backend's."""

    client: End
    server: End
    port: int
    protocol: Protocol
    vservice: str = ""  # by which the server was addressed


class Learned(NamedTuple):
    """The policies, and in sentences what they cannot express."""

    policies: tuple[Policy, ...]
    notes: tuple[str, ...]


# -- rows of the daemon


def seen(flow: Row) -> Seen | None:
    """A row of /v1/flows; None if it is no connection, or one within an app. Raises ValueError for another row."""
    try:
        if flow["verdict"] != "allowed":
            return None
        server_ip, port = _split(flow["backend"] or flow["server"])
        if server_ip == "":
            return None
        client = _end(flow["client_name"], flow["client_labels"], _split(flow["client"])[0])
        server = _end(flow["server_name"], flow["server_labels"], server_ip)
        if flow["client_app"] == flow["server_app"] and ipaddress.ip_address(server_ip).is_loopback:
            return None
        return Seen(client, server, port, flow["proto"], flow["vservice"])
    except (KeyError, TypeError, AttributeError) as err:
        raise ValueError(f"this is not a flow: {err!r}") from None


def flow_of(connection: Row, apps: Mapping[int, Row]) -> Row:
    """A row of /v1/connections as one of /v1/flows. ``apps``: ``app`` of rows of /v1/apps, by id."""
    flow = {"vservice": "", "backend": "", **connection, "verdict": "allowed"}
    for end in ("client", "server"):
        app = apps.get(connection[f"{end}_app"], {})
        flow |= {f"{end}_name": app.get("name"), f"{end}_labels": app.get("labels")}
    return flow


def ends_of(app: Row) -> Iterator[End]:
    """``app`` of a row of /v1/apps: all ends that it may be seen as."""
    for ip in app["ips"] or ("",):
        yield _end(app["name"], app["labels"], ip)


def _end(name: str | None, labels: Mapping[str, str] | None, ip: str) -> End:
    return End(name or "", frozenset((labels or {}).items()), ip)


def _split(address: str) -> tuple[str, int]:
    """``10.0.0.1:80`` or ``[fd00::1]:80``; nothing is no address. Raises ValueError."""
    if not address:
        return "", 0
    host, _, port = address.rpartition(":")
    ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    return ("" if ip.is_unspecified else str(ip)), int(port)


# -- who an end is to policies


class Pick(NamedTuple):
    """A selector with at most one name and one network."""

    name: str = ""
    labels: Labels = frozenset()
    network: str = ""

    def __str__(self) -> str:
        labels = (f"{key}={value}" for key, value in sorted(self.labels))
        return " ".join(filter(None, (self.name, self.network, *labels)))


class Cast:
    """All ends that are known, and what each is called by."""

    def __init__(self, connections: Iterable[Seen], others: Iterable[End] = ()) -> None:
        self.names: dict[End, frozenset[str]] = {}
        for end in others:
            self._add(end, "")
        for one in connections:
            self._add(one.client, "")
            self._add(one.server, one.vservice)
        self._named: dict[str, list[End]] = {}
        self._at: dict[str, list[End]] = {}
        for end, names in self.names.items():
            self._at.setdefault(_alone(end), []).append(end)
            for name in names:
                self._named.setdefault(name, []).append(end)
        self._picks: dict[End, Pick] = {}
        self._extras: dict[Pick, frozenset[End]] = {}
        for _, group in groupby(sorted(self.names, key=_order), key=self._key):
            self._choose(list(group))

    def pick(self, end: End) -> Pick | None:
        """The selector that is written for it; None if there is none but everybody's."""
        return self._picks.get(end)

    def extras(self, pick: Pick) -> frozenset[End]:
        """Who it selects although it is written for others: they cannot be told apart."""
        return self._extras[pick]

    def _add(self, end: End, vservice: str) -> None:
        before = self.names.get(end, frozenset({end.name} - {""}))
        self.names[end] = before | ({vservice} - {""})

    def _key(self, end: End) -> tuple[object, ...]:
        """What ends have in common that are one: the beginning of `_order`."""
        return _order(end) if not end.name and not _own_labels(end) else _order(end)[:2]

    def _choose(self, group: list[End]) -> None:
        """One selector for all of them if there is one that selects nobody else; else one for each."""
        first = group[0]
        whole = Pick(name=first.name) if first.name else Pick(labels=_own_labels(first))
        if whole != Pick() and self._selected(whole) == frozenset(group):
            self._take(group, whole)
            return
        for end in group:
            # What says least first; of those that select others, too, the one that selects the fewest.
            tries = [pick for pick in _descriptions(end) if pick != Pick()]
            if tries:
                self._take([end], min(tries, key=lambda pick: len(self._selected(pick))))

    def _take(self, group: list[End], pick: Pick) -> None:
        self._picks.update(dict.fromkeys(group, pick))
        self._extras[pick] = self._selected(pick) - frozenset(group)

    def _selected(self, pick: Pick) -> frozenset[End]:
        """The networks of picks are those of ends: of one address."""
        near = self._named[pick.name] if pick.name else self._at[pick.network] if pick.network else self.names
        return frozenset(end for end in near if pick.labels <= end.labels and pick.network in ("", _alone(end)))


def _alone(end: End) -> str:
    """The network that it is in alone, or nothing."""
    return str(ipaddress.ip_network(end.ip)) if end.ip else ""


def _own_labels(end: End) -> Labels:
    """But for the default ones, which nearly all have."""
    return end.labels - _DEFAULT


def _order(end: End) -> tuple[Any, ...]:
    return end.name, () if end.name else sorted(_own_labels(end)), end.ip, sorted(end.labels)


def _descriptions(end: End) -> Iterator[Pick]:
    network, name, labels, none = _alone(end), end.name, end.labels, frozenset[tuple[str, str]]()
    yield from (
        Pick("", none, network),
        Pick(name, none, network),
        Pick("", labels, network),
        Pick(name, labels, ""),
        Pick(name, labels, network),
    )


# -- policies


class _Product(NamedTuple):
    """All of these clients reach all of these servers on all of these ports."""

    clients: frozenset[Pick]
    servers: frozenset[Pick]
    ports: frozenset[Port]


def learn(
    connections: Iterable[Seen],
    others: Iterable[End] = (),
    *,
    prefix: str = "learned",
    widen: Mapping[int, int] = {},
) -> Learned:
    """``others``: ends that are known and were not seen: selectors tell them apart, too.

    ``widen``: prefix lengths by IP version, to which networks of clients are generalized.
    """
    connections = sorted(set(connections), key=lambda one: (_order(one.client), _order(one.server), one[2:]))
    cast = Cast(connections, others)
    table: dict[Pick, dict[Pick, set[Port]]] = {}
    notes: dict[str, None] = {}
    for one in connections:
        client, server = cast.pick(one.client), cast.pick(one.server)
        if client is None or server is None:
            notes["a connection of an end with neither name, address nor labels is left out: nothing selects it"] = None
            continue
        notes |= dict.fromkeys(_inexact(cast, client)) | dict.fromkeys(_inexact(cast, server))
        table.setdefault(server, {}).setdefault(_widened(client, widen), set()).add((one.port, one.protocol))
    names = Names(prefix)
    products = sorted(_merged(table), key=lambda one: (_said(one.servers), _said(one.clients), sorted(one.ports)))
    return Learned(tuple(policy for product in products for policy in _policies(product, names)), tuple(notes))


def _inexact(cast: Cast, pick: Pick) -> Iterator[str]:
    for end in sorted(cast.extras(pick), key=_order):
        yield f"{Pick(*end)} cannot be told from {pick}: what is allowed to the one is allowed to the other"


def _widened(pick: Pick, widen: Mapping[int, int]) -> Pick:
    if pick.name or pick.labels:
        return pick
    network = ipaddress.ip_network(pick.network)
    length = min(widen.get(network.version, network.prefixlen), network.prefixlen)
    return pick._replace(network=str(network.supernet(new_prefix=length)))


def _merged(table: Mapping[Pick, Mapping[Pick, set[Port]]]) -> Iterator[_Product]:
    """Products that together are the table, none of which holds what is not in it."""
    servers: dict[tuple[frozenset[Pick], frozenset[Port]], set[Pick]] = {}
    for server, clients in table.items():
        for key in _split_server(clients):
            servers.setdefault(key, set()).add(server)
    yield from (_Product(clients, frozenset(found), ports) for (clients, ports), found in servers.items())


def _split_server(clients: Mapping[Pick, set[Port]]) -> set[tuple[frozenset[Pick], frozenset[Port]]]:
    """Clients with the same ports together, or ports with the same clients: what gives fewer."""
    by_ports: dict[frozenset[Port], set[Pick]] = {}
    by_port: dict[Port, set[Pick]] = {}
    for client, ports in clients.items():
        by_ports.setdefault(frozenset(ports), set()).add(client)
        for port in ports:
            by_port.setdefault(port, set()).add(client)
    by_clients: dict[frozenset[Pick], set[Port]] = {}
    for port, found in by_port.items():
        by_clients.setdefault(frozenset(found), set()).add(port)
    if len(by_clients) < len(by_ports):
        return {(one, frozenset(ports)) for one, ports in by_clients.items()}
    return {(frozenset(one), ports) for ports, one in by_ports.items()}


def _policies(product: _Product, names: Names) -> Iterator[Policy]:
    """One, or several where there is more than a policy may have."""
    for to in _selectors(product.servers):
        for from_ in _selectors(product.clients):
            for ports in _chunks(_ranges(product.ports)):
                name = names.give(_said(product.servers))
                yield Policy(name=name, action="allow", from_=from_, to=to, ports=ports)


def _said(picks: frozenset[Pick]) -> str:
    return min(map(str, picks))


def _selectors(picks: frozenset[Pick]) -> Iterator[tuple[Selector, ...]]:
    """Names alone share a selector, and so do networks."""
    ordered = sorted(picks, key=str)
    named = [pick.name for pick in ordered if pick.name and pick == Pick(name=pick.name)]
    networks = _collapsed(pick.network for pick in ordered if pick.network and pick == Pick(network=pick.network))
    found = [Selector(names=some) for some in _chunks(named)]
    found += [
        Selector(dict(sorted(one.labels)), (one.name,) if one.name else (), (one.network,) if one.network else ())
        for one in ordered
        if one.labels or (one.name and one.network)
    ]
    found += [Selector(networks=some) for some in _chunks(networks)]
    return _chunks(found)


def _collapsed(networks: Iterable[str]) -> list[str]:
    parsed = [ipaddress.ip_network(one) for one in networks]
    found: list[Network] = []
    found += ipaddress.collapse_addresses(one for one in parsed if isinstance(one, ipaddress.IPv4Network))
    found += ipaddress.collapse_addresses(one for one in parsed if isinstance(one, ipaddress.IPv6Network))
    return [str(one) for one in found]


def _chunks(values: list[Any]) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(values), MOST):
        yield tuple(values[start : start + MOST])


def _ranges(ports: frozenset[Port]) -> list[PortRange]:
    """Ports that follow each other are one range; the same for TCP and UDP is one for both."""
    protocols: tuple[Protocol, ...] = ("tcp", "udp")
    each = {protocol: _runs([port for port, one in ports if one == protocol]) for protocol in protocols}
    both = set(each["tcp"]) & set(each["udp"])
    found = [PortRange(low, high) for low, high in both]
    found += [
        PortRange(low, high, name) for name, runs in each.items() for low, high in runs if (low, high) not in both
    ]
    return sorted(found, key=lambda one: (one.low, one.high, one.protocol or ""))


def _runs(ports: list[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for port in sorted(ports):
        if found and found[-1][1] == port - 1:
            found[-1] = (found[-1][0], port)
        else:
            found.append((port, port))
    return found


class Names:
    """Hands out names that are DNS labels, none of them twice."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._given: set[str] = set()

    def give(self, about: str) -> str:
        """One that tells whom it is about."""
        wanted = re.sub("[^a-z0-9]+", "-", f"{self._prefix}-{about}".lower()).strip("-")[:MAX_NAME].rstrip("-")
        name, number = wanted, 1
        while name in self._given:
            number += 1
            name = f"{wanted[: MAX_NAME - 1 - len(str(number))].rstrip('-')}-{number}"
        self._given.add(name)
        return name


# -- documents


def document(policy: Policy) -> dict[str, Any]:
    """As `ax apply` reads it."""
    spec: dict[str, Any] = {"action": policy.action, "direction": policy.direction}
    spec |= {key: list(map(_written, side)) for key, side in (("from", policy.from_), ("to", policy.to))}
    spec["ports"] = list(map(str, policy.ports))
    return {"apiVersion": "appswitch/v1", "kind": "Policy", "metadata": {"name": policy.name}, "spec": spec}


def _written(selector: Selector) -> dict[str, Any]:
    fields = {"labels": selector.labels, "names": list(selector.names), "networks": list(selector.networks)}
    return {key: value for key, value in fields.items() if value}
