"""Flow -> verdict."""

from __future__ import annotations

import errno

import pytest

from appswitch.address import ANY4, ANY6, LOOPBACK4, LOOPBACK6, Address
from appswitch.routing import route as routing
from appswitch.routing.clusters import Clusters
from appswitch.routing.policy import End, Policies
from appswitch.routing.route import Deny, Flow, Local, Outside, Verdict, route
from appswitch.routing.table import Endpoint, Labels, Member, Table

IP, OTHER, IP6 = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), b"\xfd" + bytes(14) + b"\1"
DEFAULT: Labels = frozenset({("zone", "default")})
TEST: Labels = frozenset({("zone", "test")})
REFUSED = Deny(errno.ECONNREFUSED)
CLIENT, SERVER, RIVAL = 1, 2, 3


class World:
    """A table, filled one listener at a time."""

    def __init__(self) -> None:
        self.table = Table()
        self.tables = routing.World(self.table, Clusters(), Policies())
        self.ids = 0

    def listen(
        self,
        ip: bytes,
        *,
        app: int = SERVER,
        ips: tuple[bytes, ...] = (IP,),
        dual: bool = False,
        labels: Labels = DEFAULT,
    ) -> Endpoint:
        self.ids += 1
        endpoint = Endpoint(self.ids, app, Address(ip, 80), dual, labels)
        if app not in self.table.members:
            self.table.join(Member(app, "", ips, labels))
        self.table.add(endpoint, ips)
        return endpoint

    def connect(
        self, ip: bytes, port: int = 80, *, app: int = CLIENT, labels: Labels = DEFAULT, host_loopback: bool = False
    ) -> Verdict:
        client = End(app, "", (), labels, OTHER, None, None)
        return route(Flow(client, Address(ip, port), host_loopback), self.tables)


@pytest.fixture
def world() -> World:
    return World()


def test_an_address_of_nobody_is_outside(world: World) -> None:
    assert world.connect(IP) == Outside(Address(IP, 80))


def test_an_address_of_an_app_without_that_port_is_refused(world: World) -> None:
    world.listen(IP)
    assert world.connect(IP, 81) == REFUSED


def test_an_address_goes_outside_again_when_its_app_has_gone(world: World) -> None:
    server = world.listen(IP)
    world.table.remove(server, (IP,))
    assert world.connect(IP) == REFUSED
    world.table.leave(SERVER)
    assert world.connect(IP) == Outside(Address(IP, 80))


@pytest.mark.parametrize("bound", [IP, ANY4])
def test_a_listener_is_reached_at_its_virtual_address(world: World, bound: bytes) -> None:
    server = world.listen(bound)
    assert world.connect(IP) == Local((server,), Address(IP, 80))


def test_a_dual_wildcard_is_reached_at_both_families(world: World) -> None:
    server = world.listen(ANY6, dual=True, ips=(IP, IP6))
    assert world.connect(IP) == Local((server,), Address(IP, 80))
    assert world.connect(IP6) == Local((server,), Address(IP6, 80))


def test_an_ipv6_only_wildcard_is_not_reached_by_ipv4(world: World) -> None:
    world.listen(ANY6, ips=(IP, IP6))
    assert world.connect(IP) == REFUSED
    assert isinstance(world.connect(IP6), Local)


def test_one_common_label_is_needed(world: World) -> None:
    server = world.listen(IP, labels=TEST)
    assert world.connect(IP) == REFUSED
    assert world.connect(IP, labels=frozenset()) == REFUSED
    assert world.connect(IP, labels=TEST | DEFAULT) == Local((server,), Address(IP, 80))


def test_a_label_is_a_name_with_its_value(world: World) -> None:
    world.listen(IP, labels=frozenset({("zone", "a"), ("tier", "b")}))
    assert world.connect(IP, labels=frozenset({("zone", "b"), ("tier", "a")})) == REFUSED


def test_an_app_reaches_itself_whatever_its_labels(world: World) -> None:
    server = world.listen(IP, app=CLIENT, labels=TEST)
    assert world.connect(IP, labels=frozenset()) == Local((server,), Address(IP, 80))


def test_only_those_that_may_be_reached_are_offered(world: World) -> None:
    ours = world.listen(IP)
    world.listen(IP, app=RIVAL, labels=TEST)
    also = world.listen(IP, app=RIVAL)
    assert world.connect(IP) == Local((ours, also), Address(IP, 80))


def test_within_an_app_the_bound_address_wins_over_a_wildcard(world: World) -> None:
    world.listen(ANY4)
    exact = world.listen(IP)
    elsewhere = world.listen(ANY4, app=RIVAL)
    assert world.connect(IP) == Local((exact, elsewhere), Address(IP, 80))


def test_wildcards_alone_are_equals(world: World) -> None:
    both = world.listen(ANY4), world.listen(ANY4, app=RIVAL)
    assert world.connect(IP) == Local(both, Address(IP, 80))


# --- loopback -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [LOOPBACK4, ANY4])
def test_loopback_is_the_app_itself(world: World, bound: bytes) -> None:
    world.listen(bound, app=SERVER)
    own = world.listen(bound, app=CLIENT)
    assert world.connect(LOOPBACK4) == Local((own,), Address(LOOPBACK4, 80))


def test_loopback_of_another_app_is_out_of_reach(world: World) -> None:
    world.listen(LOOPBACK4, app=SERVER)
    assert world.connect(LOOPBACK4) == REFUSED


def test_a_listener_on_a_virtual_address_is_not_on_loopback(world: World) -> None:
    world.listen(IP, app=CLIENT)
    assert world.connect(LOOPBACK4) == REFUSED


def test_a_listener_on_loopback_is_not_on_the_virtual_address(world: World) -> None:
    world.listen(LOOPBACK4, app=CLIENT)
    assert world.connect(IP, app=CLIENT) == REFUSED


def test_other_loopback_addresses_need_a_wildcard_or_themselves(world: World) -> None:
    other = b"\x7f\x00\x00\x09"
    world.listen(LOOPBACK4, app=CLIENT)
    assert world.connect(other) == REFUSED
    own = world.listen(other, app=CLIENT)
    assert world.connect(other) == Local((own,), Address(other, 80))


def test_ipv6_loopback_and_wildcards(world: World) -> None:
    world.listen(ANY4, app=CLIENT)
    assert world.connect(LOOPBACK6) == REFUSED
    dual = world.listen(ANY6, app=CLIENT, dual=True)
    assert world.connect(LOOPBACK6) == Local((dual,), Address(LOOPBACK6, 80))


def test_the_most_specific_of_its_own_gets_loopback(world: World) -> None:
    world.listen(ANY4, app=CLIENT)
    exact = world.listen(LOOPBACK4, app=CLIENT)
    assert world.connect(LOOPBACK4) == Local((exact,), Address(LOOPBACK4, 80))


def test_an_app_in_the_hosts_network_shares_its_loopback(world: World) -> None:
    assert world.connect(LOOPBACK4, host_loopback=True) == Outside(Address(LOOPBACK4, 80))
    own = world.listen(LOOPBACK4, app=CLIENT)
    assert world.connect(LOOPBACK4, host_loopback=True) == Local((own,), Address(LOOPBACK4, 80))


@pytest.mark.parametrize(("unspecified", "loopback"), [(ANY4, LOOPBACK4), (ANY6, LOOPBACK6)])
def test_the_unspecified_address_is_loopback(world: World, unspecified: bytes, loopback: bytes) -> None:
    assert world.connect(unspecified) == REFUSED
    assert world.connect(unspecified, host_loopback=True) == Outside(Address(loopback, 80))
    own = world.listen(loopback, app=CLIENT)
    assert world.connect(unspecified) == Local((own,), Address(loopback, 80))
