"""Which proxy a connection is handed to."""

from __future__ import annotations

import pytest

from appswitch.address import ANY4, ANY6, Address, ip_bytes
from appswitch.resources import BackendSpec, Policy, Proxy, Selector, ServicePort, VService
from appswitch.routing import route as routing
from appswitch.routing.clusters import Clusters
from appswitch.routing.policy import End, Policies
from appswitch.routing.proxies import Proxies, accepting, is_own, listeners
from appswitch.routing.route import Balanced, Delegate, Flow, Local, Outside, Verdict
from appswitch.routing.table import Endpoint, Labels, Member, Table

WEB, PROXY, VIP, AWAY = map(ip_bytes, ("10.1.0.1", "10.1.0.50", "10.1.0.100", "192.0.2.7"))
DEFAULT: Labels = frozenset({("zone", "default")})
CLIENT = End(9, "client", (), DEFAULT, ip_bytes("10.1.0.9"), None, None)
TO_WEB, TO_VIP = Address(WEB, 80), Address(VIP, 80)


class World:
    """A server, a vservice in front of it, and an app that is a proxy."""

    def __init__(self) -> None:
        self.table, self.clusters, self.proxies, self.policies = Table(), Clusters(), Proxies(), Policies()
        self.world = routing.World(self.table, self.clusters, self.policies, self.proxies)
        self.run(1, WEB, "web", 80)
        self.run(2, PROXY, "envoy", 15001)

    def run(self, id: int, ip: bytes, name: str, port: int, proxy: str = "") -> Endpoint:
        self.table.join(Member(id, name, (ip,), DEFAULT, proxy))
        endpoint = Endpoint(id, id, Address(ANY4, port), False, DEFAULT)
        self.table.add(endpoint, (ip,))
        return endpoint

    def serve(self, proxy: str = "envoy") -> None:
        ports = (ServicePort(80, 80),)
        self.clusters.put(
            VService(name="shop", ips=("10.1.0.100",), ports=ports, backends=(BackendSpec(name="web"),), proxy=proxy)
        )

    def redirect(self, proxy: str = "envoy", **more: object) -> None:
        self.proxies.put_policy(Policy(name="through", action="allow", proxy=proxy, **more))  # type: ignore[arg-type]

    def route(self, to: Address = TO_WEB, client: End = CLIENT, **more: object) -> Verdict:
        return routing.route(Flow(client, to, **more), self.world)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    return World()


def taken(verdict: Verdict) -> tuple[str, bool]:
    assert isinstance(verdict, Delegate), verdict
    assert verdict.proxy is not None
    return verdict.proxy.name, verdict.server_side


def test_nothing_is_delegated_where_nothing_says_so(world: World) -> None:
    world.proxies.put(Proxy(name="envoy", listener="envoy:15001"))
    assert isinstance(world.route(), Local)


def test_by_its_vservice(world: World) -> None:
    world.serve()
    assert isinstance(world.route(TO_VIP), Balanced)  # nobody is called so yet
    world.proxies.put(Proxy(name="envoy", listener="envoy:15001"))
    verdict = world.route(TO_VIP)
    assert taken(verdict) == ("envoy", False)
    assert isinstance(verdict, Delegate)
    assert [e.app_id for e in verdict.endpoints] == [2]
    assert verdict.to == TO_VIP
    assert isinstance(verdict.inner, Balanced)


def test_by_its_app(world: World) -> None:
    world.proxies.put(Proxy(name="envoy"))
    world.table.join(Member(9, "client", (CLIENT.ip,), DEFAULT, "envoy"))
    assert taken(world.route()) == ("envoy", False)
    assert isinstance(world.route(Address(AWAY, 80)), Delegate)


def test_by_a_policy(world: World) -> None:
    world.proxies.put(Proxy(name="envoy"))
    world.redirect(to=(Selector(names=("web",)),))
    assert taken(world.route()) == ("envoy", True)  # ingress: the server's end, too
    assert isinstance(world.route(Address(AWAY, 80)), Outside)
    world.redirect(direction="egress", from_=(Selector(names=("client",)),))
    assert taken(world.route()) == ("envoy", False)
    assert isinstance(world.route(client=CLIENT._replace(name="other")), Local)
    world.proxies.remove_policy("through")
    assert isinstance(world.route(), Local)


def test_a_policy_on_first_bytes_holds(world: World) -> None:
    world.proxies.put(Proxy(name="envoy"))
    world.redirect(l7=({"http.path": ("/api/*",)},))
    held = world.route()
    assert isinstance(held, Delegate)
    assert held.hold is not None
    assert isinstance(world.route(attributes={"http.path": "/api/x"}), Delegate)
    assert isinstance(world.route(attributes={"http.path": "/"}), Local)


def test_what_first_bytes_forbid_is_forbidden_before_a_proxy_has_it(world: World) -> None:
    world.proxies.put(Proxy(name="envoy"))
    world.redirect()
    world.policies.put(Policy(name="no-posts", action="deny", l7=({"http.method": ("POST",)},)))
    held = world.route()
    assert isinstance(held, Balanced)
    assert held.hold is not None
    assert isinstance(world.route(attributes={"http.method": "POST"}), routing.Deny)
    assert isinstance(world.route(attributes={"http.method": "GET"}), Delegate)


def test_a_proxys_own_connections_are_not_handed_to_it(world: World) -> None:
    world.serve()
    world.proxies.put(Proxy(name="envoy", listener="envoy:15001"))
    own = End(2, "envoy", (), DEFAULT, PROXY, None, None)
    assert isinstance(world.route(TO_VIP, client=own), Balanced)


@pytest.mark.parametrize(
    ("listener", "own"), [("", False), ("x:1", False), ("client:1", True), ("10.1.0.9:1", True), ("10.1.0.8:1", False)]
)
def test_whose_connections_are_a_proxys_own(listener: str, own: bool) -> None:
    assert is_own(Proxy(name="p", listener=listener), CLIENT, 0) is own
    assert is_own(Proxy(name="client", listener=listener), CLIENT, 0)
    assert not is_own(Proxy(name="client"), CLIENT._replace(app_id=0), 0)


def test_who_only_calls_itself_so_is_no_proxy(world: World) -> None:
    assert is_own(Proxy(name="client", uid=1000), CLIENT, 1000)
    assert not is_own(Proxy(name="client"), CLIENT, 1000)
    world.table.join(Member(7, "forger", (ip_bytes("10.1.0.7"),), DEFAULT, uid=1000))
    world.table.add(Endpoint(7, 7, Address(ANY4, 15001), False, DEFAULT), (ip_bytes("10.1.0.7"),))
    assert listeners(Proxy(name="p", listener="forger:15001"), world.table) == ()
    assert len(listeners(Proxy(name="p", listener="forger:15001", uid=1000), world.table)) == 1


def test_a_chain_goes_to_the_first_that_wants_it(world: World) -> None:
    world.serve("a")
    world.proxies.put(Proxy(name="a", wants=({"protocol": ("redis",)},), next="b"))
    world.proxies.put(Proxy(name="b", wants=({"http.path": ("/api/*",)},), next="c"))
    world.proxies.put(Proxy(name="c"))
    held = world.route(TO_VIP)
    assert isinstance(held, Delegate)
    assert held.hold is not None
    assert taken(world.route(TO_VIP, attributes={"protocol": "redis"})) == ("a", False)
    assert taken(world.route(TO_VIP, attributes={"http.path": "/api/x"})) == ("b", False)
    assert taken(world.route(TO_VIP, attributes={})) == ("c", False)


def test_who_had_it_does_not_get_it_again_and_the_end_is_the_fast_path(world: World) -> None:
    world.serve("a")
    world.proxies.put(Proxy(name="a", next="b"))
    world.proxies.put(Proxy(name="b", next="a"))  # control refuses it
    assert taken(world.route(TO_VIP)) == ("a", False)
    assert taken(world.route(TO_VIP, had=("a",))) == ("b", False)
    assert isinstance(world.route(TO_VIP, had=("a", "b")), Balanced)
    assert isinstance(world.route(TO_VIP, direct=True), Balanced)


def test_udp_is_never_delegated(world: World) -> None:
    world.redirect()
    world.proxies.put(Proxy(name="envoy"))
    udp = routing.World(world.table, None, world.policies)
    assert isinstance(routing.route(Flow(CLIENT, TO_WEB, protocol="udp"), udp), Local)


def test_a_listener_takes_the_families_that_its_socket_can_tell(world: World) -> None:
    """One of IPv4 knows no IPv6 address; one of IPv6 takes both, unless it is IPV6_V6ONLY."""
    v4 = Endpoint(10, 7, Address(ANY4, 9), False, DEFAULT)
    v6 = Endpoint(11, 7, Address(ANY6, 9), False, DEFAULT)
    dual = Endpoint(12, 7, Address(ANY6, 9), True, DEFAULT)
    ips = (PROXY, ip_bytes("fd00::50"))
    world.table.join(Member(7, "both", ips, DEFAULT))
    for endpoint in (v4, v6, dual):
        world.table.add(endpoint, ips)
    proxy = Proxy(name="p", listener="both:9")
    assert accepting(proxy, world.table, VIP) == (v4, dual)
    assert accepting(proxy, world.table, ip_bytes("fd00::1")) == (v6, dual)


def test_a_policy_may_redirect_single_programs_only(world: World) -> None:
    world.proxies.put(Proxy(name="envoy", listener="envoy:15001"))
    assert not world.proxies.needs_process(CLIENT)
    world.redirect(from_=(Selector(executables=("/usr/bin/curl",)),))
    assert world.proxies.needs_process(CLIENT)
    assert taken(world.route(client=CLIENT._replace(executable="/usr/bin/curl"))) == ("envoy", True)
    assert isinstance(world.route(client=CLIENT._replace(executable="/usr/bin/wget")), Local)
