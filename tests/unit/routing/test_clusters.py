"""Virtual services and references: what an address leads to, and which apps backends stand for."""

from __future__ import annotations

import pytest

from appswitch.address import ANY4, LOOPBACK4, Address, ip_bytes
from appswitch.resources import BackendSpec, L7Route, Outlier, Reference, ServicePort, VService
from appswitch.routing.clusters import DEPTH, MOST, Clusters, Upstream
from appswitch.routing.table import Endpoint, Labels, Member, Table

VIP, ONE, TWO = "10.1.0.100", "10.1.0.1", "10.1.0.2"
DEFAULT: Labels = frozenset({("zone", "default")})


def service(name: str = "web", ip: str = VIP, ports: tuple[tuple[int, int], ...] = ((80, 8080),), **more) -> VService:  # type: ignore[no-untyped-def]
    return VService(name=name, ips=(ip,), ports=tuple(ServicePort(*port) for port in ports), **more)


def at(text: str) -> Address:
    ip, port = text.rsplit(":", 1)
    return Address(ip_bytes(ip.strip("[]")), int(port))


class Apps:
    """A table, filled one app at a time."""

    def __init__(self) -> None:
        self.table = Table()

    def run(self, id: int, *ips: str, name: str = "", labels: Labels = DEFAULT) -> Member:
        member = Member(id, name, tuple(map(ip_bytes, ips)), labels)
        self.table.join(member)
        return member

    def listen(self, member: Member, port: int, ip: bytes = ANY4) -> Endpoint:
        endpoint = Endpoint(member.id * 1000 + port, member.id, Address(ip, port), False, member.labels)
        self.table.add(endpoint, member.ips)
        return endpoint


@pytest.fixture
def apps() -> Apps:
    return Apps()


@pytest.fixture
def clusters() -> Clusters:
    return Clusters()


def upstreams(clusters: Clusters, apps: Apps, to: str) -> list[Upstream]:
    cluster = clusters.find(at(to))
    assert cluster is not None
    target = cluster.port.target if cluster.port is not None else at(to).port
    return list(clusters.upstreams(cluster.default.backends, target, apps.table))


# --- look-up --------------------------------------------------------------------------------------------------------


def test_an_address_and_port_lead_to_their_service(clusters: Clusters) -> None:
    clusters.put(service())
    found = clusters.find(at(f"{VIP}:80"))
    assert found is not None
    assert (found.name, found.port) == ("web", ServicePort(80, 8080))
    assert clusters.find(at(f"{VIP}:81")) is None
    assert clusters.owns(ip_bytes(VIP))
    clusters.remove("VService", "web")
    assert clusters.find(at(f"{VIP}:80")) is None
    assert not clusters.owns(ip_bytes(VIP))


def test_removing_one_leaves_the_others(clusters: Clusters) -> None:
    clusters.put(service())
    clusters.put(service("other", "10.1.0.101"))
    clusters.remove("VService", "nobody")
    clusters.remove("VService", "web")
    assert clusters.find(at("10.1.0.101:80")) is not None


def test_a_replaced_service_loses_its_old_ports(clusters: Clusters) -> None:
    clusters.put(service(ports=((80, 80), (81, 81))))
    clusters.put(service(ports=((81, 81), (82, 82))))
    assert [clusters.find(at(f"{VIP}:{port}")) is not None for port in (80, 81, 82)] == [False, True, True]


def test_the_narrowest_reference_counts(clusters: Clusters) -> None:
    for name, network in (("wide", "10.9.0.0/16"), ("narrow", "10.9.1.0/24"), ("host", "10.9.1.7/32")):
        clusters.put(Reference(name=name, network=network, to=(BackendSpec(name=name),)))
    names = [found.name for to in ("10.9.2.1:1", "10.9.1.1:1", "10.9.1.7:1") if (found := clusters.find(at(to)))]
    assert names == ["wide", "narrow", "host"]
    assert clusters.find(at("10.8.0.1:1")) is None
    clusters.remove("Reference", "host")
    assert clusters.find(at("10.9.1.7:1")).name == "narrow"  # type: ignore[union-attr]


def test_a_reference_of_some_ports_leaves_the_others_to_a_wider_one(clusters: Clusters) -> None:
    clusters.put(Reference(name="db", network="10.9.0.5/32", ports=(ServicePort(5432, 6432),), to=()))
    clusters.put(Reference(name="rest", network="10.9.0.0/24", to=()))
    assert [clusters.find(at(f"10.9.0.5:{port}")).name for port in (5432, 80)] == ["db", "rest"]  # type: ignore[union-attr]


def test_references_of_both_families(clusters: Clusters) -> None:
    clusters.put(Reference(name="six", network="fd00:9::/32", to=()))
    assert clusters.find(at("[fd00:9::1]:1")) is not None
    assert clusters.find(at("10.9.0.1:1")) is None


def test_a_vservice_wins_over_a_reference(clusters: Clusters) -> None:
    clusters.put(Reference(name="all", network="10.0.0.0/8", to=()))
    clusters.put(service())
    assert clusters.find(at(f"{VIP}:80")).name == "web"  # type: ignore[union-attr]


# --- backends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", [BackendSpec(ip=ONE), BackendSpec(name="one"), BackendSpec(labels={"tier": "db", "zone": "a"})]
)
def test_backends_by_address_name_and_labels(clusters: Clusters, apps: Apps, spec: BackendSpec) -> None:
    one = apps.run(1, ONE, name="one", labels=frozenset({("tier", "db"), ("zone", "a")}))
    two = apps.run(2, TWO, name="two", labels=frozenset({("tier", "db"), ("zone", "b")}))
    listener = apps.listen(one, 8080)
    apps.listen(two, 8080)
    clusters.put(service(backends=(spec,)))
    assert upstreams(clusters, apps, f"{VIP}:80") == [
        Upstream(at(f"{ONE}:8080"), one, (listener,), spec, at(f"{ONE}:8080"))
    ]


def test_a_backend_that_nobody_matches_yet_is_left_out_and_one_that_does_not_listen_is_down(
    clusters: Clusters, apps: Apps
) -> None:
    clusters.put(service(backends=(BackendSpec(name="later"), BackendSpec(ip=ONE))))
    assert upstreams(clusters, apps, f"{VIP}:80") == []
    apps.run(1, ONE)
    (down,) = upstreams(clusters, apps, f"{VIP}:80")
    assert not down.up


def test_apps_that_share_an_address_are_backends_of_their_own(clusters: Clusters, apps: Apps) -> None:
    for id in (1, 2, 3):
        apps.listen(apps.run(id, ONE), 8080)
    clusters.put(service(backends=(BackendSpec(ip=ONE),)))
    assert [u.key for u in upstreams(clusters, apps, f"{VIP}:80")] == [(1, 8080), (2, 8080), (3, 8080)]


def test_a_listener_on_loopback_is_no_backend(clusters: Clusters, apps: Apps) -> None:
    one = apps.run(1, ONE, name="one")
    apps.listen(one, 8080, LOOPBACK4)
    clusters.put(service(backends=(BackendSpec(name="one"),)))
    assert not upstreams(clusters, apps, f"{VIP}:80")[0].up


def test_a_backend_outside_and_a_port_of_its_own(clusters: Clusters, apps: Apps) -> None:
    one = apps.run(1, ONE)
    apps.listen(one, 9000)
    clusters.put(service(backends=(BackendSpec(external="[2001:db8::1]:443"), BackendSpec(ip=ONE, port=9000))))
    outside, inside = upstreams(clusters, apps, f"{VIP}:80")
    assert (outside.address, outside.member, outside.up) == (at("[2001:db8::1]:443"), None, True)
    assert (inside.address, inside.up) == (at(f"{ONE}:9000"), True)


def test_a_vservice_behind_a_vservice(clusters: Clusters, apps: Apps) -> None:
    apps.listen(apps.run(1, ONE), 9000)
    clusters.put(service("inner", "10.1.0.101", ((8080, 9000),), backends=(BackendSpec(ip=ONE),)))
    for spec in (BackendSpec(ip="10.1.0.101"), BackendSpec(name="inner")):
        clusters.put(service(backends=(spec,)))
        assert [u.address for u in upstreams(clusters, apps, f"{VIP}:80")] == [at(f"{ONE}:9000")]


def test_a_loop_of_vservices_ends(clusters: Clusters, apps: Apps) -> None:
    clusters.put(service("a", "10.1.0.101", ((80, 80),), backends=(BackendSpec(name="b"),)))
    clusters.put(service("b", "10.1.0.102", ((80, 80),), backends=(BackendSpec(name="a"),)))
    assert upstreams(clusters, apps, "10.1.0.101:80") == []
    assert DEPTH < 100


def test_vservices_behind_vservices_do_not_multiply(clusters: Clusters, apps: Apps) -> None:
    apps.listen(apps.run(1, ONE), 80)
    for level in range(DEPTH):  # 8 ** 8 ways, and one backend
        behind = BackendSpec(ip=ONE) if level == DEPTH - 1 else BackendSpec(name=f"level-{level + 1}")
        clusters.put(service(f"level-{level}", f"10.1.0.{100 + level}", ((80, 80),), backends=(behind,) * 8))
    found = upstreams(clusters, apps, "10.1.0.100:80")
    assert {upstream.key for upstream in found} == {at(f"{ONE}:80")}
    assert len(found) == 8


def test_what_is_looked_at_for_one_decision_is_bounded(clusters: Clusters, apps: Apps) -> None:
    apps.listen(apps.run(1, ONE), 80)
    clusters.put(service(ports=((80, 80),), backends=(BackendSpec(ip=ONE),) * 2 * MOST))
    assert 0 < len(upstreams(clusters, apps, f"{VIP}:80")) <= MOST


# --- what lasts -----------------------------------------------------------------------------------------------------


def test_what_a_balancer_knows_outlives_a_change(clusters: Clusters) -> None:
    clusters.put(service(backends=(BackendSpec(ip=ONE),)))
    before = clusters.find(at(f"{VIP}:80"))
    clusters.put(service(backends=(BackendSpec(ip=TWO),), lbtype="Random", outlier=Outlier(consecutive_failures=1)))
    after = clusters.find(at(f"{VIP}:80"))
    assert before is not None
    assert after is not None
    assert after is not before
    assert after.default.balancer is before.default.balancer


def test_routes_come_before_the_default(clusters: Clusters) -> None:
    routes = (L7Route(match={"http.path": ("/api/*", "/v2/*")}, backends=()), L7Route(match={}, backends=(), name="x"))
    clusters.put(service(routes=routes))
    cluster = clusters.find(at(f"{VIP}:80"))
    assert cluster is not None
    assert cluster.looks
    assert [route.name for route in cluster.routes] == ["route-1", "x", "default"]
    assert cluster.routes[0].takes({"http.path": "/v2/y"})
    assert not cluster.routes[0].takes({"http.path": "/"})
    assert not cluster.routes[0].takes({})


@pytest.mark.parametrize(
    ("more", "looks"),
    [
        ({"lbtype": "Maglev", "hash_on": "http.path"}, True),
        ({"lbtype": "Maglev"}, False),
        ({"lbtype": "Random", "hash_on": "http.path"}, False),  # it hashes nothing
        ({"lbtype": "Random", "source_ip": True, "hash_on": "http.path"}, False),
    ],
)
def test_first_bytes_are_looked_at_where_they_count(clusters: Clusters, more: dict[str, object], looks: bool) -> None:
    clusters.put(service(**more))
    assert clusters.find(at(f"{VIP}:80")).looks is looks  # type: ignore[union-attr]
