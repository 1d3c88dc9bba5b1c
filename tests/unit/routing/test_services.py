"""Flow -> verdict where vservices, references and policies have a say."""

from __future__ import annotations

import errno

import pytest

from appswitch.address import ANY4, Address, ip_bytes
from appswitch.resources import BackendSpec, L7Route, Policy, PortRange, Reference, Selector, ServicePort, VService
from appswitch.routing import route as routing
from appswitch.routing.clusters import Clusters
from appswitch.routing.policy import End, Policies
from appswitch.routing.route import EGRESS_RULE, Balanced, Deny, Flow, Leave, Local, Outside, Verdict, Wait
from appswitch.routing.table import Endpoint, Labels, Member, Table

VIP, ONE, TWO, AWAY = map(ip_bytes, ("10.1.0.100", "10.1.0.1", "10.1.0.2", "192.0.2.7"))
DEFAULT: Labels = frozenset({("zone", "default")})
CLIENT = End(9, "client", (), DEFAULT, ip_bytes("10.1.0.9"), None, None)
STRANGER = End(0, "", (), frozenset(), ip_bytes("198.51.100.1"), None, None)
WEB = Address(VIP, 80)
REFUSED = Deny(errno.ECONNREFUSED)


class World:
    """Two apps that listen on 8080, one vservice in front of them."""

    def __init__(self) -> None:
        self.table, self.clusters, self.policies = Table(), Clusters(), Policies()
        self.world = routing.World(self.table, self.clusters, self.policies)
        self.run(1, ONE, "one")
        self.run(2, TWO, "two")
        self.serve()

    def run(self, id: int, ip: bytes, name: str, labels: Labels = DEFAULT, *, listens: bool = True) -> None:
        member = Member(id, name, (ip,), labels)
        self.table.join(member)
        if listens:
            self.table.add(Endpoint(id, id, Address(ANY4, 8080), False, labels), (ip,))

    def serve(self, *backends: BackendSpec, **more: object) -> None:
        specs = backends or (BackendSpec(name="one"), BackendSpec(name="two"))
        self.clusters.put(
            VService(name="web", ips=("10.1.0.100",), ports=(ServicePort(80, 8080),), backends=specs, **more)  # type: ignore[arg-type]
        )

    def policy(self, name: str, action: str, **more: object) -> None:
        self.policies.put(Policy(name=name, action=action, **more))  # type: ignore[arg-type]

    def route(self, to: Address = WEB, client: End = CLIENT, **more: object) -> Verdict:
        return routing.route(Flow(client, to, **more), self.world)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    return World()


def names(verdict: Verdict) -> list[str]:
    assert isinstance(verdict, Balanced), verdict
    return [u.member.name if u.member else str(u.address) for u in verdict.upstreams]


def test_a_vservice_offers_its_backends(world: World) -> None:
    verdict = world.route()
    assert names(verdict) == ["one", "two"]
    assert isinstance(verdict, Balanced)
    assert verdict.hold is None
    assert [c.index for c in verdict.candidates] == [0, 1]
    assert verdict.to == WEB


def test_another_port_of_a_vservices_address_is_closed(world: World) -> None:
    assert world.route(Address(VIP, 81)) == REFUSED


def test_backends_that_share_no_label_are_out_of_reach(world: World) -> None:
    other = CLIENT._replace(labels=frozenset({("zone", "other")}))
    assert world.route(client=other) == REFUSED
    assert names(world.route(client=STRANGER)) == ["one", "two"]  # whoever comes in by an external vservice


def test_a_draining_backend_gets_nothing_new(world: World) -> None:
    world.serve(BackendSpec(name="one", drain=True), BackendSpec(name="two"))
    assert names(world.route()) == ["two"]
    world.serve(BackendSpec(name="one", drain=True))
    assert world.route() == REFUSED


def test_unknown_backends_wait_and_known_ones_that_are_down_refuse(world: World) -> None:
    world.serve(BackendSpec(name="later"), wait=7)
    assert world.route() == Wait(WEB, 7, "web")
    world.run(3, ip_bytes("10.1.0.3"), "later", listens=False)
    assert world.route() == REFUSED
    world.serve(BackendSpec(name="never"), wait=0)
    assert world.route() == REFUSED


def test_a_reference_waits_for_whoever_is_to_listen(world: World) -> None:
    world.clusters.put(Reference(name="db", network="10.9.0.0/24", to=(BackendSpec(name="later"),), wait=3))
    to = Address(ip_bytes("10.9.0.8"), 8080)
    assert world.route(to) == Wait(to, 3, "db")
    world.run(3, ip_bytes("10.1.0.3"), "later", listens=False)
    assert world.route(to) == Wait(to, 3, "db")
    world.table.add(Endpoint(3, 3, Address(ANY4, 8080), False, DEFAULT), (ip_bytes("10.1.0.3"),))
    assert names(world.route(to)) == ["later"]


# --- first bytes ----------------------------------------------------------------------------------------------------


def test_routes_hold_a_connection_until_its_first_bytes_are_known(world: World) -> None:
    world.serve(
        BackendSpec(name="one"),
        routes=(L7Route(match={"http.path": ("/api/*",)}, backends=(BackendSpec(name="two"),)),),
    )
    held = world.route()
    assert isinstance(held, Balanced)
    assert held.hold is not None
    assert names(world.route(attributes={"http.path": "/api/x"})) == ["two"]
    assert names(world.route(attributes={"http.path": "/"})) == ["one"]
    assert names(world.route(attributes={})) == ["one"]


def test_a_policy_on_first_bytes_holds_a_plain_service(world: World) -> None:
    world.policy("read-only", "deny", to=(Selector(names=("one",)),), l7=({"http.method": ("POST",)},), error="EPERM")
    to = Address(ONE, 8080)
    held = world.route(to)
    assert isinstance(held, Balanced)
    assert held.hold is not None
    assert world.route(to, attributes={"http.method": "POST"}) == Deny(errno.EPERM, "read-only")
    assert isinstance(world.route(to, attributes={"http.method": "GET"}), Local)
    assert isinstance(world.route(Address(TWO, 8080)), Local)


# --- policies -------------------------------------------------------------------------------------------------------


def test_a_policy_takes_backends_away_and_denies_when_none_is_left(world: World) -> None:
    world.policy("not-one", "deny", to=(Selector(names=("one",)),), error="ETIMEDOUT")
    assert names(world.route()) == ["two"]
    world.policy("not-two", "deny", to=(Selector(names=("two",)),))
    assert world.route() == Deny(errno.ETIMEDOUT, "not-one")
    assert world.route(Address(TWO, 8080)) == Deny(errno.EACCES, "not-two")


def test_the_backends_port_counts(world: World) -> None:
    world.policy("closed", "deny", ports=(PortRange(8080, 8080),))
    assert isinstance(world.route(), Deny)
    world.policy("closed", "deny", ports=(PortRange(80, 80),))
    assert isinstance(world.route(), Balanced)


def test_an_allow_list_closes(world: World) -> None:
    world.policy("friends", "allow", from_=(Selector(names=("friend",)),), to=(Selector(names=("one",)),))
    assert names(world.route()) == ["two"]
    assert names(world.route(client=CLIENT._replace(name="friend"))) == ["one", "two"]


def test_an_app_always_reaches_itself(world: World) -> None:
    world.policy("nobody", "deny")
    assert isinstance(world.route(Address(ONE, 8080), client=CLIENT._replace(app_id=1)), Local)


def test_policies_about_the_outside(world: World) -> None:
    to = Address(AWAY, 443)
    assert world.route(to) == Outside(to)
    world.policy("no-way-out", "deny", direction="egress", to=(Selector(networks=("192.0.2.0/24",)),))
    assert world.route(to) == Deny(errno.EACCES, "no-way-out")


def test_a_dry_run_only_tells(world: World) -> None:
    world.policy("maybe", "deny", dry_run=True)
    verdict = world.route(Address(ONE, 8080))
    assert isinstance(verdict, Local)
    assert verdict.dry_run == ("maybe",)


def test_udp_is_never_held(world: World) -> None:
    world.policy("posts", "deny", l7=({"http.method": ("POST",)},))
    assert isinstance(world.route(Address(ONE, 8080), protocol="udp"), Local)
    assert world.route(Address(ONE, 8080)).hold is not None  # type: ignore[union-attr]


# --- egress ---------------------------------------------------------------------------------------------------------


def test_an_apps_own_egress_rules_hold_for_backends_outside_too(world: World) -> None:
    leave = Leave(lambda _ip: False, errno.ECONNREFUSED)
    world.serve(BackendSpec(external="192.0.2.7:80"), BackendSpec(name="one"))
    assert names(world.route(leave=leave)) == ["one"]
    world.serve(BackendSpec(external="192.0.2.7:80"))
    assert world.route(leave=leave) == Deny(errno.ECONNREFUSED, EGRESS_RULE)
    assert world.route(Address(AWAY, 80), leave=leave) == Deny(errno.ECONNREFUSED, EGRESS_RULE)
