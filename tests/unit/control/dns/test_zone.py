"""What is ours, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence

import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest
from tests.unit.control.dns.builders import SOMEBODY, app, apps, listener, texts, texts_of

from appswitch.control.dns.answer import Answer
from appswitch.control.dns.apps import Apps
from appswitch.control.dns.asker import Asker, asker
from appswitch.control.dns.zone import MAX_ADDRESSES, TTL, Zone
from appswitch.control.pools import Pools
from appswitch.control.resources.catalog import Catalog, Entry
from appswitch.control.resources.names import Names
from appswitch.model import AppPhase, AppRow
from appswitch.resources import Policy, Reference, Resource, ServicePort, VService


def some() -> Apps:
    return apps(
        app(1, "web", ("10.0.0.1", "fd00::1")),
        app(2, "web", ("10.0.0.2",)),
        app(3, "db", ("10.0.0.3",), labels={"team": "a"}),
        app(4, None, ("10.0.0.4",)),
        app(5, "bare"),
        listeners=(listener(1, 80), listener(2, 80), listener(2, 8080), listener(1, 53, "udp", "10.0.0.1"),
                   listener(1, 9, "tcp", "127.0.0.1")),
    )  # fmt: skip


def find(name: str, rdtype: str = "A", who: Asker = SOMEBODY, zone: Zone | None = None) -> Answer | None:
    zone = zone or Zone("appswitch.local", some())
    return zone.find(who, dns.name.from_text(name), dns.rdatatype.from_text(rdtype))


def test_names_with_and_without_the_domain() -> None:
    for name in ("web", "web.appswitch.local", "WEB.AppSwitch.LOCAL"):
        assert texts(find(name)) == ["A 10.0.0.1", "A 10.0.0.2"]
        assert texts(find(name, "AAAA")) == ["AAAA fd00::1"]
        assert texts(find(name, "ANY")) == ["A 10.0.0.1", "A 10.0.0.2", "AAAA fd00::1"]
    answer = find("wEb")
    assert answer is not None
    assert answer.authoritative
    assert answer.answer[0].name.to_text() == "wEb."
    assert answer.answer[0].ttl == TTL


@pytest.mark.parametrize(
    ("name", "rdtype", "rcode", "soa"),
    [
        ("web", "MX", "NOERROR", "web."),
        ("bare", "A", "NOERROR", "bare."),
        ("web.appswitch.local", "MX", "NOERROR", "appswitch.local."),
        ("appswitch.local", "A", "NOERROR", "appswitch.local."),
        ("_tcp.web.appswitch.local", "A", "NOERROR", "appswitch.local."),
        ("_tcp.web", "SRV", "NOERROR", "web."),
        ("_http._tcp.web", "A", "NOERROR", "web."),
        ("no.appswitch.local", "A", "NXDOMAIN", "appswitch.local."),
        ("x.web.appswitch.local", "A", "NXDOMAIN", "appswitch.local."),
        ("_http.appswitch.local", "SRV", "NXDOMAIN", "appswitch.local."),
        ("_https._tcp.web.appswitch.local", "SRV", "NXDOMAIN", "appswitch.local."),
        ("_9._tcp.web.appswitch.local", "SRV", "NXDOMAIN", "appswitch.local."),
        ("80._tcp.web.appswitch.local", "SRV", "NXDOMAIN", "appswitch.local."),
        ("a._http._tcp.web.appswitch.local", "SRV", "NXDOMAIN", "appswitch.local."),
        ("_udp.db.appswitch.local", "SRV", "NXDOMAIN", "appswitch.local."),
        ("_https._tcp.web", "SRV", "NXDOMAIN", "web."),
        ("localhost", "MX", "NOERROR", "localhost."),
        ("1.0.0.10.in-addr.arpa", "A", "NOERROR", "1.0.0.10.in-addr.arpa."),
        ("4.0.0.10.in-addr.arpa", "PTR", "NXDOMAIN", "4.0.0.10.in-addr.arpa."),
    ],
)
def test_nothing_there(name: str, rdtype: str, rcode: str, soa: str) -> None:
    """RFC 2308: a name that is not there, or one that has other records; either way with a SOA that says how long."""
    answer = find(name, rdtype)
    assert answer is not None
    assert answer.rcode == dns.rcode.from_text(rcode)
    assert answer.answer == ()
    (authority,) = answer.authority
    assert authority.name.to_text() == soa
    assert authority.rdtype == dns.rdatatype.SOA
    assert min(authority.ttl, authority[0].minimum) == TTL


@pytest.mark.parametrize(
    "name",
    [".", "com", "x", "example.com", "x.web", "a.b.web", "local", "xappswitch.local", "_http._tcp.x", "_http._sctp.web",
     "a._http._tcp.web", "9.0.0.10.in-addr.arpa", "10.in-addr.arpa", "x.0.0.10.in-addr.arpa", "arpa"],
)  # fmt: skip
def test_what_is_not_ours(name: str) -> None:
    assert find(name) is None


def test_apex() -> None:
    assert texts(find("appswitch.local", "NS")) == ["NS appswitch.local."]
    assert texts(find("appswitch.local", "SOA"))[0].startswith("SOA appswitch.local. nobody.invalid. ")


@pytest.mark.parametrize("tail", ["web", "web.appswitch.local"])
def test_services(tail: str) -> None:
    assert texts(find(f"_http._tcp.{tail}", "SRV")) == ["SRV 0 0 80 web.appswitch.local."]
    assert texts(find(f"_8080._TCP.{tail}", "SRV")) == ["SRV 0 0 8080 web.appswitch.local."]
    assert texts(find(f"_domain._udp.{tail}", "SRV")) == ["SRV 0 0 53 web.appswitch.local."]
    answer = find(f"_80._tcp.{tail}", "SRV")
    assert answer is not None
    assert texts_of(answer.additional) == ["A 10.0.0.1", "A 10.0.0.2", "AAAA fd00::1"]


def test_reverse() -> None:
    assert texts(find("1.0.0.10.in-addr.arpa", "PTR")) == ["PTR web.appswitch.local."]
    six = "1." + "0." * 27 + "0.0.d.f.ip6.arpa"
    assert texts(find(six, "PTR")) == ["PTR web.appswitch.local."]


def test_localhost() -> None:
    assert texts(find("localhost")) == ["A 127.0.0.1"]
    assert texts(find("x.LOCALHOST", "AAAA")) == ["AAAA ::1"]


def test_names_lead_where_connections_do() -> None:
    """An app is found by who shares a label with it, and by itself."""
    assert find("db") is None
    answer = find("db.appswitch.local")
    assert answer is not None
    assert answer.rcode == dns.rcode.NXDOMAIN
    assert texts(find("3.0.0.10.in-addr.arpa", "PTR")) == [], "ours, for nobody else has the address"
    friend = asker(app(6, labels={"team": "a", "x": "y"}).app)
    assert texts(find("db", who=friend)) == ["A 10.0.0.3"]
    assert find("web", who=friend) is None
    hermit = app(7, "hermit", ("10.0.0.7",), labels={})
    zone = Zone("appswitch.local", apps(hermit))
    assert texts(find("hermit", who=asker(hermit.app), zone=zone)) == ["A 10.0.0.7"]
    assert find("hermit", zone=zone) is None


def test_changes() -> None:
    there = some()
    zone = Zone("appswitch.local", there)
    there.drop(1)
    there.drop(1)
    assert texts(find("web", zone=zone)) == ["A 10.0.0.2"]
    there.unlisten(listener(2, 80))
    assert texts(find("_http._tcp.web", "SRV", zone=zone)) == []
    there.drop(2)
    assert find("web", zone=zone) is None
    assert find("2.0.0.10.in-addr.arpa", "PTR", zone=zone) is None
    there.reset({8: app(8, "new", ("10.0.0.8",))}, {})
    assert find("db", who=asker(app(3, labels={"team": "a"}).app), zone=zone) is None
    assert texts(find("new", zone=zone)) == ["A 10.0.0.8"]


def test_what_is_only_registered_is_not_there() -> None:
    row = app(1, "web", ("10.0.0.1",))
    there = apps(AppRow(app=row.app, phase=AppPhase.REGISTERED, pid=0))
    zone = Zone("appswitch.local", there)
    assert find("web", zone=zone) is None
    there.put(row)
    there.put(row)
    assert texts(find("web", zone=zone)) == ["A 10.0.0.1"]


def configured(*resources: Resource) -> Names:
    catalog = Catalog(Pools(()))
    for one in resources:
        catalog.put(Entry(resource=one, created=1.0))
    called = {(80, "tcp"): "http"}
    return Names(catalog, lambda port, proto: called.get((port, proto)))


def vservice(name: str, *ips: str, ports: Sequence[int] = (80,)) -> VService:
    return VService(name=name, ips=ips, ports=tuple(ServicePort(port, port) for port in ports))


def reference(name: str, network: str, *ports: int) -> Reference:
    return Reference(name=name, network=network, ports=tuple(ServicePort(port, port) for port in ports), to=())


def test_vservices_and_references() -> None:
    """What is configured has the name, whatever apps are called so; everybody may know it."""
    there = configured(
        vservice("web", "10.9.0.1", "fd00::9", ports=(80, 443)),
        vservice("vip", "10.9.0.2"),
        reference("old", "10.9.0.3/32", 5432),
        reference("wild", "10.9.4.0/24"),
        Policy(name="db", action="deny"),
    )
    zone = Zone("appswitch.local", there, some())
    for name in ("web", "web.appswitch.local"):
        assert texts(find(name, zone=zone)) == ["A 10.9.0.1"]
        assert texts(find(name, "AAAA", zone=zone)) == ["AAAA fd00::9"]
    assert texts(find("vip", zone=zone)) == ["A 10.9.0.2"]
    assert texts(find("old", "ANY", zone=zone)) == ["A 10.9.0.3"]
    assert find("wild", zone=zone) is None
    assert texts(find("1.0.9.10.in-addr.arpa", "PTR", zone=zone)) == ["PTR web.appswitch.local."]
    assert texts(find("3.0.9.10.in-addr.arpa", "PTR", zone=zone)) == ["PTR old.appswitch.local."]
    assert texts(find("1.0.0.10.in-addr.arpa", "PTR", zone=zone)) == ["PTR web.appswitch.local."]
    pointer = dns.reversename.from_address("fd00::9").to_text()
    assert texts(find(pointer, "PTR", zone=zone)) == ["PTR web.appswitch.local."]
    assert find("9.10.in-addr.arpa", "PTR", zone=zone) is None
    assert find("4.0.9.10.in-addr.arpa", "PTR", zone=zone) is None
    for name in ("_http._tcp.web", "_80._tcp.web.appswitch.local"):
        assert texts(find(name, "SRV", zone=zone)) == ["SRV 0 0 80 web.appswitch.local."]
    answer = find("_443._udp.web", "SRV", zone=zone)
    assert texts(answer) == ["SRV 0 0 443 web.appswitch.local."]
    assert answer is not None
    assert [one.to_text() for rrset in answer.additional for one in rrset] == ["10.9.0.1", "fd00::9"]
    rcode = find("_8080._tcp.web.appswitch.local", "SRV", zone=zone)
    assert rcode is not None
    assert rcode.rcode == dns.rcode.NXDOMAIN  # the app of that name listens there
    assert texts(find("_5432._tcp.old", "SRV", zone=zone)) == ["SRV 0 0 5432 old.appswitch.local."]


def test_one_address_of_two_references() -> None:
    zone = Zone("d", configured(reference("b", "10.9.0.3/32", 1), reference("a", "10.9.0.3/32", 2)), some())
    assert texts(find("3.0.9.10.in-addr.arpa", "PTR", zone=zone)) == ["PTR a.d.", "PTR b.d."]


def test_one_address_of_two_vservices() -> None:
    zone = Zone("d", configured(vservice("b", "10.9.0.3", "fd00::9"), vservice("a", "10.9.0.3", ports=(443,))), some())
    assert texts(find("3.0.9.10.in-addr.arpa", "PTR", zone=zone)) == ["PTR a.d.", "PTR b.d."]
    assert texts(find("a", zone=zone)) == texts(find("b", zone=zone)) == ["A 10.9.0.3"]
    assert texts(find(dns.reversename.from_address("fd00::9").to_text(), "PTR", zone=zone)) == ["PTR b.d."]


def test_a_domain_of_one_label() -> None:
    zone = Zone("ax", apps(app(1, "ax", ("10.0.0.1",))))
    assert texts(find("ax", zone=zone)) == []
    assert texts(find("ax.ax", zone=zone)) == ["A 10.0.0.1"]


def test_very_many() -> None:
    zone = Zone("d", apps(*(app(n, "a", (f"10.1.{n // 250}.{n % 250}",)) for n in range(1, MAX_ADDRESSES + 10))))
    assert len(texts(find("a", zone=zone))) == MAX_ADDRESSES
