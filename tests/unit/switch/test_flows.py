"""Decisions that are remembered, and forgotten when the tables change."""

from __future__ import annotations

import errno
import os

import pytest

from appswitch._kernel import Fd
from appswitch.address import LOOPBACK4, LOOPBACK6, Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6, AF_UNIX
from appswitch.model import AppSpec
from appswitch.resources import BackendSpec, L7Route, Policy, Selector, ServicePort, VService
from appswitch.routing.clusters import Clusters
from appswitch.routing.policy import Policies
from appswitch.routing.proxies import Proxies
from appswitch.routing.route import Balanced, Deny, Local, Outside, World
from appswitch.routing.table import Endpoint, Member, Table
from appswitch.switch import flows as module
from appswitch.switch import naming
from appswitch.switch.apps import App, Origin
from appswitch.switch.call import Failed
from appswitch.switch.flows import Flows

OWN, OWN6, SERVER, SERVER6 = b"\x0a\0\0\1", b"\xfd" + bytes(14) + b"\1", b"\x0a\0\0\2", b"\xfd" + bytes(14) + b"\2"
NODE = {4: b"\xc0\xa8\0\1"}
ZONE = {"zone": "default"}
TID = os.getpid()


def app(id: int = 1, ips: tuple[str, ...] = ("10.0.0.1", "fd00::1"), netns: str = "new") -> App:
    spec = AppSpec(
        id=id, uid=0, gid=0, node="n", cluster="c", command=("x",), created=0.0, ips=ips, labels=ZONE, netns=netns
    )  # type: ignore[arg-type]
    return App(spec, Fd(os.open("/dev/null", os.O_RDONLY)), Origin(1))


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def flows(table: Table) -> Flows:
    return Flows(World(table, Clusters(), Policies()), NODE)


def listen(table: Table, id: int = 1, ip: bytes = SERVER) -> Endpoint:
    endpoint = Endpoint(id, 2, Address(ip, 80), dual=False, labels=frozenset(ZONE.items()))
    table.add(endpoint, (ip,))
    return endpoint


def raw(ip: bytes, family: int = AF_INET, port: int = 80) -> bytes:
    return sockaddr.encode(family, Address(ip, port))


def test_a_decision_is_made_once(flows: Flows, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    decide = module.route
    monkeypatch.setattr(module, "route", lambda flow, table: (asked.append(flow.to), decide(flow, table))[1])
    client, listener = app(), listen(table)
    path = flows.find(client, AF_INET, raw(SERVER), TID)
    assert path.verdict == Local((listener,), Address(SERVER, 80))
    assert flows.find(client, AF_INET, raw(SERVER), TID) is path
    assert len(asked) == 1


@pytest.mark.parametrize("what", ["app", "family", "address", "port"])
def test_another_question_is_another_decision(flows: Flows, what: str) -> None:
    client = app()
    path = flows.find(client, AF_INET6, raw(SERVER, AF_INET6), TID)
    other = {
        "app": lambda: flows.find(app(9), AF_INET6, raw(SERVER, AF_INET6), TID),
        "family": lambda: flows.find(client, AF_INET, raw(SERVER), TID),
        "address": lambda: flows.find(client, AF_INET6, raw(OWN, AF_INET6), TID),
        "port": lambda: flows.find(client, AF_INET6, raw(SERVER, AF_INET6, 81), TID),
    }[what]()
    assert other is not path
    assert flows.find(client, AF_INET6, raw(SERVER, AF_INET6), TID) is path


def test_a_change_of_the_tables_is_seen_at_once(flows: Flows, table: Table) -> None:
    client = app()
    assert flows.find(client, AF_INET, raw(SERVER), TID).verdict == Outside(Address(SERVER, 80))
    table.join(Member(2, "", (SERVER,), frozenset(ZONE.items())))
    assert flows.find(client, AF_INET, raw(SERVER), TID).verdict == Deny(errno.ECONNREFUSED)
    endpoint = listen(table)
    assert flows.find(client, AF_INET, raw(SERVER), TID).verdict == Local((endpoint,), Address(SERVER, 80))
    table.remove(endpoint, (SERVER,))
    assert flows.find(client, AF_INET, raw(SERVER), TID).verdict == Deny(errno.ECONNREFUSED)


def test_an_app_that_asks_for_everything_does_not_fill_memory(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 8)
    client = app()
    for port in range(100):
        assert flows.find(client, AF_INET, raw(SERVER, port=port), TID).to.port == port
        assert len(flows._paths[client.id]) <= 8


def test_who_asks_for_everything_makes_nobody_else_forget(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 8)
    one, greedy = app(), app(id=77)
    known = flows.find(one, AF_INET, raw(SERVER), TID)
    for port in range(100):
        flows.find(greedy, AF_INET, raw(SERVER, port=port), TID)
    assert flows.find(one, AF_INET, raw(SERVER), TID) is known


@pytest.mark.parametrize(
    ("family", "given", "error"),
    [
        (AF_INET, b"", errno.EINVAL),
        (AF_INET, raw(SERVER)[:15], errno.EINVAL),
        (AF_INET6, raw(SERVER), errno.EINVAL),
        (AF_INET6, raw(SERVER6, AF_INET6)[:23], errno.EINVAL),
        (AF_INET, raw(SERVER6, AF_INET6), errno.EAFNOSUPPORT),
        (AF_INET6, AF_INET.to_bytes(2, "little") + bytes(26), errno.EAFNOSUPPORT),
        (AF_INET, AF_UNIX.to_bytes(2, "little") + bytes(14), errno.EAFNOSUPPORT),
        (AF_INET, AF_UNIX.to_bytes(2, "little") + bytes(13), errno.EINVAL),
    ],
)
def test_bad_addresses_fail_as_those_of_tcp(flows: Flows, family: int, given: bytes, error: int) -> None:
    with pytest.raises(Failed) as caught:
        flows.find(app(), family, given, TID)
    assert caught.value.error == error


def test_an_ipv6_address_without_scope_is_enough(flows: Flows) -> None:
    assert flows.find(app(), AF_INET6, raw(SERVER6, AF_INET6)[:24], TID).to == Address(SERVER6, 80)


@pytest.mark.parametrize(
    ("family", "to", "source"),
    [
        (AF_INET, SERVER, OWN),
        (AF_INET6, SERVER6, OWN6),
        (AF_INET6, SERVER, OWN),
        (AF_INET, LOOPBACK4, LOOPBACK4),
        (AF_INET, b"\x7f\0\0\x09", LOOPBACK4),
        (AF_INET, bytes(4), LOOPBACK4),
        (AF_INET6, bytes(16), LOOPBACK6),
        (AF_INET6, LOOPBACK6, LOOPBACK6),
    ],
)
def test_a_connection_comes_from_the_apps_own_address(flows: Flows, family: int, to: bytes, source: bytes) -> None:
    path = flows.find(app(netns="host"), family, raw(to, family), TID)
    assert path.source == source
    assert path.mapped == (family == AF_INET6 and len(to) == 4)
    assert path.to == Address(to, 80)


def test_an_app_without_an_address_comes_from_the_node(flows: Flows) -> None:
    bare = app(ips=())
    assert flows.find(bare, AF_INET, raw(SERVER), TID).source == NODE[4]
    assert flows.find(bare, AF_INET6, raw(SERVER6, AF_INET6), TID).source == LOOPBACK6  # the node has no IPv6


@pytest.mark.parametrize(
    ("netns", "verdict"), [("host", Outside(Address(LOOPBACK4, 80))), ("new", Deny(errno.ECONNREFUSED))]
)
def test_loopback_is_the_hosts_for_who_shares_its_network(flows: Flows, netns: str, verdict: object) -> None:
    assert flows.find(app(netns=netns), AF_INET, raw(LOOPBACK4), TID).verdict == verdict


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_tell_the_connection_and_are_never_the_same(flows: Flows, table: Table) -> None:
    endpoint = listen(table)
    path = flows.find(app(), AF_INET, raw(SERVER), TID)
    names = [path.name(endpoint, path.source, 40000 + n) for n in range(3)]
    names += [path.name(endpoint, b"\x0a\0\0\x63", 50000)]
    told = [naming.parse_connection(name) for name in names]
    to = Address(SERVER, 80)
    assert told[:3] == [naming.Connection(1, 2, Address(OWN, 40000 + n), to) for n in range(3)]
    assert told[3] == naming.Connection(1, 2, Address(b"\x0a\0\0\x63", 50000), to)
    assert len({name[:20] for name in names}) == 4


def test_a_name_tells_the_server_that_was_chosen(flows: Flows, table: Table) -> None:
    first = listen(table, 1)
    second = Endpoint(2, 3, Address(SERVER, 80), dual=False, labels=first.labels)
    table.add(second, (SERVER,))
    path = flows.find(app(), AF_INET, raw(SERVER), TID)
    for endpoint in (first, second, first):
        told = naming.parse_connection(path.name(endpoint, path.source, 1))
        assert told is not None
        assert told.server_app == endpoint.app_id


def test_a_name_tells_loopback_where_the_unspecified_address_was_asked_for(flows: Flows, table: Table) -> None:
    own = Endpoint(1, 1, Address(LOOPBACK4, 80), dual=False, labels=frozenset())
    table.add(own, ())
    path = flows.find(app(), AF_INET, raw(bytes(4)), TID)
    told = naming.parse_connection(path.name(own, path.source, 1))
    assert told == naming.Connection(1, 1, Address(LOOPBACK4, 1), Address(LOOPBACK4, 80))


# -- held connections

VIRTUAL = b"\x0a\0\0\x64"
API, OTHER = {"http.path": "/api/x"}, {"http.path": "/"}
API_ONLY = {"http.path": ("/api/*",)}


@pytest.fixture
def world(table: Table) -> World:
    """A vservice that looks at paths; both routes lead to the same server."""
    one = World(table, Clusters(), Policies())
    table.join(Member(2, "server", (SERVER,), frozenset(ZONE.items())))
    listen(table)
    to = (BackendSpec(ip="10.0.0.2"),)
    route = L7Route(match={"http.path": ("/api/*",)}, backends=to, name="api")
    one.clusters.put(  # type: ignore[union-attr]
        VService(name="web", ips=("10.0.0.100",), ports=(ServicePort(80, 80),), backends=to, routes=(route,))
    )
    table.changed()
    return one


def chosen(flows: Flows, client: App, attributes: dict[str, str]) -> Balanced:
    path = flows.find(client, AF_INET, raw(VIRTUAL), TID)
    verdict = flows.choose(path, path.flow._replace(attributes=attributes))
    assert isinstance(verdict, Balanced)
    return verdict


def test_a_route_is_decided_once_for_each_path(world: World) -> None:
    flows, client = Flows(world, NODE), app()
    first = chosen(flows, client, API)
    assert first.route.name == "api"
    assert chosen(flows, client, {"http.path": "/api/y"}) is first
    assert chosen(flows, client, OTHER).route.name == "default"
    assert chosen(flows, app(9, ("10.0.0.9",)), API) is not first
    world.table.changed()
    assert chosen(flows, client, API) is not first


def test_a_path_that_was_found_before_a_change_says_nothing_of_what_is_after_it(world: World) -> None:
    flows, client = Flows(world, NODE), app()
    path = flows.find(client, AF_INET, raw(VIRTUAL), TID)
    world.policies.put(Policy(name="no", action="deny", l7=(API_ONLY,)))
    world.table.changed()
    assert flows.choose(path, path.flow._replace(attributes=API)) == Deny(errno.EACCES, "no")


@pytest.mark.parametrize("dry_run", [False, True])
def test_where_a_policy_looks_at_first_bytes_each_connection_is_asked_about(world: World, dry_run: bool) -> None:
    """Both paths take the same route."""
    world.policies.put(Policy(name="no", action="deny", l7=({"http.path": ("/api/secret",)},), dry_run=dry_run))
    world.table.changed()
    flows, client = Flows(world, NODE), app()
    assert chosen(flows, client, API).dry_run == ()
    path = flows.find(client, AF_INET, raw(VIRTUAL), TID)
    secret = flows.choose(path, path.flow._replace(attributes={"http.path": "/api/secret"}))
    assert secret == Deny(errno.EACCES, "no") if not dry_run else secret.dry_run == ("no",)  # type: ignore[union-attr]


def test_what_is_led_alike_hangs_on_what_routes_and_policies_ask_for(world: World) -> None:
    flows, client = Flows(world, NODE), app()
    path = flows.find(client, AF_INET, raw(VIRTUAL), TID)
    assert path.asked_for == ("http.path",)
    world.policies.put(Policy(name="no", action="deny", l7=({"http.method": ("PUT",)},)))
    world.table.changed()
    assert flows.chosen(path, API) is None, "decided before it"
    path = flows.find(client, AF_INET, raw(VIRTUAL), TID)
    assert path.asked_for == ("http.path", "http.method")
    assert isinstance(flows.chosen(path, {**API, "http.method": "GET"}), Balanced)
    assert flows.chosen(path, {**API, "http.method": "PUT"}) is None, "each is told of"
    world.policies.remove("no")
    world.policies.put(Policy(name="no", action="deny", l7=({"http.method": ("PUT",)},), dry_run=True))
    world.table.changed()
    path = flows.find(client, AF_INET, raw(VIRTUAL), TID)
    assert flows.chosen(path, {**API, "http.method": "GET"}) is not None
    assert flows.chosen(path, {**API, "http.method": "PUT"}) is None


def test_a_listener_that_a_policy_looks_at(world: World) -> None:
    flows, client = Flows(world, NODE), app()
    world.policies.put(Policy(name="no", action="deny", l7=({"http.method": ("PUT",)},)))
    world.table.changed()
    path = flows.find(client, AF_INET, raw(SERVER), TID)
    assert path.asked_for == ("http.method",)
    assert isinstance(flows.chosen(path, {"http.method": "GET"}), Local)
    assert flows.chosen(path, {"http.method": "PUT"}) is None


def test_a_program_is_looked_up_where_a_policy_redirects_only_its_connections(table: Table) -> None:
    proxies = Proxies()
    flows = Flows(World(table, Clusters(), Policies(), proxies), NODE)
    raw = sockaddr.encode(AF_INET, Address(SERVER, 80))
    assert flows.find(app(), AF_INET, raw, TID).flow.client.executable is None
    proxies.put_policy(Policy(name="p", action="allow", proxy="x", from_=(Selector(uids=(os.geteuid(),)),)))
    table.changed()
    assert flows.find(app(), AF_INET, raw, TID).flow.client.uid == os.geteuid()
