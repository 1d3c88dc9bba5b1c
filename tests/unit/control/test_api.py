"""The API as its callers see it, without sockets: who they are is told by the test."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import httpx
import msgspec
import pytest
from tests.unit.control.conftest import Connect, until
from tests.unit.control.fake_switch import FakeSwitch

from appswitch import wire
from appswitch.control import claims, registry
from appswitch.control.access import Peer, caller
from appswitch.control.api import events
from appswitch.control.api.deps import Parts
from appswitch.control.link import SwitchLink
from appswitch.control.pools import Pools
from appswitch.control.problems import SLUGS
from appswitch.control.registry import AppIds
from appswitch.model import AppPhase, AppRow, AppSpec, ConnectionRow, HostPort, ServerRow, SocketRow

pytestmark = pytest.mark.usefixtures("as_root_daemon")

ALICE, BOB = 1000, 1001


def problem(answer: httpx.Response, slug: str) -> dict[str, Any]:
    """The body of an error, after what all errors have was checked."""
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"urn:appswitch:problem:{slug}"
    assert (answer.status_code, body["title"]) == SLUGS[slug]
    assert body["status"] == answer.status_code
    assert body["detail"]
    assert body["instance"] == answer.request.url.path
    return body


async def register(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    answer = await client.post("/v1/apps", json={"command": ["sleep", "9"], **more})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


# --- registering -----------------------------------------------------------------------------------------------------


async def test_register(connect: Connect, switch: FakeSwitch, parts: Parts) -> None:
    answer = await connect(uid=ALICE).post(
        "/v1/apps",
        json={
            "command": ["web", "--x"],
            "name": "Web",
            "ips": ["FD00::1", "10.1.1.1"],
            "labels": {"zone": "a", "x": "y"},
            "expose": ["80:8080", "81:[::]:8081"],
            "netns": "host",
            "transport": "tcp",
        },
    )
    assert answer.status_code == 201
    made = answer.json()
    assert made["appid"] == f"{made['id']:08x}"
    assert answer.headers["location"] == f"/v1/apps/{made['appid']}"
    assert answer.headers["cache-control"] == "no-store"
    attach = str(parts.settings.run_dir.attach)
    assert (made["attach"], made["launcher"]) == (attach, ["--attach", attach])
    told = switch.asked[-1]
    assert isinstance(told, wire.Register)
    assert bytes.fromhex(made["token"]) == told.token
    assert len(told.token) == 32
    assert (told.app.uid, told.app.gid, told.app.node, told.app.cluster) == (ALICE, ALICE, "n1", "appswitch")
    assert told.app.ips == ("10.1.1.1", "fd00::1")
    assert told.app.labels == {"zone": "a", "x": "y"}
    assert [str(one) for one in told.app.expose] == made["app"]["expose"] == ["80:8080", "81:[::]:8081"]
    assert (told.app.name, told.app.netns, told.app.transport) == ("web", "host", "tcp")
    assert made["app"]["zones"] == ["a"]


async def test_register_with_defaults(connect: Connect, switch: FakeSwitch) -> None:
    made = await register(connect(uid=0))
    assert made["launcher"][-1] == "--new-netns"
    app = made["app"]
    assert (app["ips"], app["labels"], app["expose"], app["name"]) == ([], {"zone": "default"}, [], None)
    assert (app["netns"], app["transport"], app["driver"]) == ("new", "unix", "user")


async def test_addresses_and_interface_of_the_namespace(connect: Connect, switch: FakeSwitch) -> None:
    client = connect(uid=0)
    ips = {"ips": ["10.1.1.1", "fd00::1"]}
    addresses = ["--address", "10.1.1.1/32", "--address", "fd00::1/128"]
    made = await register(client, **ips)
    assert made["launcher"][2:] == ["--new-netns", *addresses]
    made = await register(client, **ips, interface="eth0")
    assert made["launcher"][2:] == ["--new-netns", "--interface", "eth0", *addresses]
    assert made["app"]["interface"] == "eth0"
    assert isinstance(told := switch.asked[-1], wire.Register)
    assert told.app.interface == "eth0"
    made = await register(client, **ips, netns="host")
    assert made["launcher"][2:] == []


async def test_nameservers(connect: Connect, switch: FakeSwitch) -> None:
    client = connect(uid=0)
    servers = ["127.0.0.53", "FD00::53", "127.0.0.53"]
    made = await register(client, nameservers=servers)
    assert isinstance(told := switch.asked[-1], wire.Register)
    assert list(told.app.nameservers) == made["app"]["nameservers"] == ["127.0.0.53", "fd00::53"]
    made = await register(client, nameservers=servers, netns="host")
    assert made["app"]["nameservers"] == []


async def test_given_labels_replace_the_default(connect: Connect) -> None:
    made = await register(connect(uid=0), labels={"a": "b"})
    assert (made["app"]["labels"], made["app"]["zones"]) == ({"a": "b"}, [])


async def test_tokens_and_ids_differ(connect: Connect) -> None:
    client = connect(uid=0)
    made = [await register(client) for _ in range(20)]
    assert len({one["id"] for one in made}) == len({one["token"] for one in made}) == 20


@pytest.mark.parametrize(
    ("body", "path", "what"),
    [
        ({}, ["command"], "Field required"),
        ({"command": []}, ["command"], "at least 1 item"),
        ({"command": "sleep"}, ["command"], "valid list"),
        ({"command": [1]}, ["command", 0], "valid string"),
        ({"ips": ["10.1.1.1", "10.1.1.300"]}, ["ips", 1], "'10.1.1.300' is not an IP address: give"),
        ({"ips": ["10.1.1.1", "10.1.1.2"]}, ["ips"], "at most one IPv4 address"),
        ({"name": "a b"}, ["name"], "'a b' is not a name"),
        ({"labels": {"a": "b c"}}, ["labels"], "is not a label's value"),
        ({"labels": {"a": 1}}, ["labels", "a"], "valid string"),
        ({"expose": ["80:8080", "x"]}, ["expose", 1], "give INTERNAL:HOSTPORT"),
        ({"expose": ["80:8080", "81:8080"]}, ["expose"], "cannot lead to two ports"),
        ({"netns": "old"}, ["netns"], "'new' or 'host'"),
        ({"interface": "lo", "name": "x"}, ["interface"], "and not lo"),
        ({"interface": "a/b", "name": "x"}, ["interface"], "'a/b' is no name for an interface"),
        ({"interface": "eth0"}, [], "an interface needs an address"),
        ({"interface": "eth0", "name": "x", "netns": "host"}, [], "a network namespace of its own"),
        ({"dns_override": True, "netns": "host"}, [], "a resolv.conf of its own is for an app with"),
        ({"expose": ["80:8080", "81:127.0.0.1:8080"]}, ["expose"], "cannot lead to two ports: 80:8080 has it"),
        ({"egress": {"default": "maybe"}}, ["egress", "default"], "'allow' or 'deny'"),
        ({"egress": {"deny": ["10.1.2.3/8"]}}, ["egress", "deny", 0], "10.0.0.0/8 is the network"),
        ({"egress": {"allow": ["a..b"]}}, ["egress", "allow", 0], "neither a network nor a DNS name"),
        ({"egress": {"allow": ["a.b"], "deny": ["A.B"]}}, ["egress"], "a.b is both allowed and denied"),
        ({"egress": {"error": "EPERM"}}, ["egress", "error"], "'EACCES' or 'ECONNREFUSED'"),
        ({"host_ports": ["x"]}, ["host_ports", 0], "'x' does not name a port of the host"),
        ({"host_ports": ["80:1", "80:2"]}, ["host_ports"], "the app's port 80 leads to 1 and to 2"),
        ({"nameservers": ["dns.example"]}, ["nameservers", 0], "is not a name server"),
        ({"nameservers": ["224.0.0.251"]}, ["nameservers", 0], "an address of many"),
        ({"nameservers": ["1.1.1.1"] * 4}, ["nameservers"], "at most 3"),
        ({"transport": "udp"}, ["transport"], "'unix' or 'tcp'"),
        ({"ip": "10.1.1.1"}, ["ip"], "there is no such field here"),
    ],
)
async def test_invalid(connect: Connect, switch: FakeSwitch, body: dict[str, Any], path: list[Any], what: str) -> None:
    whole = body if "command" in body or not body else {"command": ["x"], **body}
    found = problem(await connect(uid=0).post("/v1/apps", json=whole), "invalid")
    assert [one["path"] for one in found["errors"]] == [path]
    assert what in found["errors"][0]["detail"]
    assert found["errors"][0]["detail"] in found["detail"]
    assert not any(isinstance(one, wire.Register) for one in switch.asked)


async def test_all_errors_at_once(connect: Connect) -> None:
    body = {"command": ["x"], "ips": ["a", "b"], "name": "-"}
    found = problem(await connect(uid=0).post("/v1/apps", json=body), "invalid")
    assert [one["path"] for one in found["errors"]] == [["name"], ["ips", 0], ["ips", 1]]


async def test_not_json(connect: Connect) -> None:
    client = connect(uid=0)
    json = {"content-type": "application/json"}
    problem(await client.post("/v1/apps", content=b"{", headers=json), "malformed-json")
    problem(await client.post("/v1/apps", content=b"\xff", headers=json), "bad-request")
    said = problem(await client.post("/v1/apps", content=b'{"command": ["x"]}'), "invalid")
    assert said["detail"] == "the body must be application/json"
    problem(await client.post("/v1/apps", content=b"[]", headers=json), "invalid")
    problem(await client.post("/v1/apps", headers=json), "invalid")


async def test_endless_bodies(connect: Connect) -> None:
    async def endless() -> Any:
        for _ in range(300):
            yield b"x" * 10_000

    client = connect(uid=0)
    problem(await client.post("/v1/apps", content=b"x" * ((1 << 20) + 1)), "too-large")
    problem(await client.post("/v1/apps", content=endless(), headers={"content-type": "application/json"}), "too-large")


async def test_only_root_exposes_low_ports(connect: Connect) -> None:
    await register(connect(uid=0), expose=["80:80"])
    await register(connect(uid=ALICE), expose=["80:1024"])
    body = {"command": ["x"], "expose": ["8080:1023"]}
    said = problem(await connect(uid=ALICE).post("/v1/apps", json=body), "privileged-port")
    assert said["detail"] == "only root may expose on the host's port 1023"


async def test_nobody_takes_anothers_address(connect: Connect) -> None:
    body = {"command": ["x"], "ips": ["10.1.1.1"]}
    await register(connect(uid=ALICE), ips=["10.1.1.1", "fd00::1"])
    await register(connect(uid=ALICE), ips=["10.1.1.1"])
    problem(await connect(uid=BOB).post("/v1/apps", json=body), "ip-in-use")
    problem(await connect(uid=BOB).post("/v1/apps", json={**body, "ips": ["FD00:0::1"]}), "ip-in-use")
    await register(connect(uid=BOB), ips=["10.1.1.2"])
    await register(connect(uid=0), ips=["10.1.1.1"])
    await register(connect(uid=0), ips=["10.1.1.3"])
    problem(await connect(uid=BOB).post("/v1/apps", json={**body, "ips": ["10.1.1.3"]}), "ip-in-use")


async def test_nor_at_the_same_moment(connect: Connect) -> None:
    body = {"command": ["x"], "ips": ["10.1.1.1"]}
    answers = await asyncio.gather(*(connect(uid=uid).post("/v1/apps", json=body) for uid in (ALICE, BOB)))
    assert sorted(one.status_code for one in answers) == [201, 409]


async def test_nobody_takes_anothers_name(connect: Connect) -> None:
    await register(connect(uid=ALICE), name="web", ips=["10.1.1.1"])
    await register(connect(uid=ALICE), name="web", ips=["10.1.1.2"])
    said = problem(await connect(uid=BOB).post("/v1/apps", json={"command": ["x"], "name": "Web"}), "name-in-use")
    assert said["detail"] == "web is the name of another user's app"
    await register(connect(uid=0), name="web")


@pytest.mark.parametrize(
    ("ip", "why"),
    [
        ("8.8.8.8", "8.8.8.8 is in none of the networks that users may claim: 10.0.0.0/8, "),
        ("2606:4700::1", "is in none of the networks that users may claim"),
        ("10.250.3.4", "10.250.3.4 is in a pool, from which --name without --ip draws addresses"),
    ],
)
async def test_what_users_may_not_claim(connect: Connect, ip: str, why: str) -> None:
    body = {"command": ["x"], "ips": [ip]}
    said = problem(await connect(uid=ALICE).post("/v1/apps", json=body), "ip-forbidden")
    assert said["detail"].startswith(why) or why in said["detail"]
    await register(connect(uid=0), ips=[ip])


async def test_nobody_takes_the_hosts_address(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "is_hosts", lambda address: str(address) == "10.7.7.7")
    body = {"command": ["x"], "ips": ["10.7.7.7"]}
    said = problem(await connect(uid=ALICE).post("/v1/apps", json=body), "ip-forbidden")
    assert said["detail"] == "10.7.7.7 is an address of this host"
    await register(connect(uid=0), ips=["10.7.7.7"])


def test_which_addresses_the_host_has() -> None:
    for text, has in (("127.0.0.1", True), ("240.0.0.1", False), ("2001:db8::77", False)):
        assert claims.is_hosts(ipaddress.ip_address(text)) == has, text


async def test_a_name_draws_an_address(connect: Connect, switch: FakeSwitch, link: SwitchLink) -> None:
    alice, bob = connect(uid=ALICE), connect(uid=BOB)
    web = await register(alice, name="web")
    assert web["app"]["ips"] == ["10.250.0.16", "fd61:7070::10"]
    assert web["launcher"][3:] == ["--address", "10.250.0.16/32", "--address", "fd61:7070::10/128"]
    assert (await register(alice, name="web"))["app"]["ips"] == web["app"]["ips"]
    assert (await register(bob, name="db"))["app"]["ips"] == ["10.250.0.17", "fd61:7070::11"]
    assert (await register(alice, name="other", ips=["10.1.1.1"]))["app"]["ips"] == ["10.1.1.1"]
    assert (await register(alice, ips=["10.250.0.16"]))["app"]["ips"] == ["10.250.0.16"], "it is their own"
    problem(await bob.post("/v1/apps", json={"command": ["x"], "ips": ["10.250.0.16"]}), "ip-in-use")
    assert (await register(alice))["app"]["ips"] == []
    for app in list(switch.apps):
        switch.end(app)
    await until(lambda: not link.apps)
    assert (await register(bob, name="web"))["app"]["ips"] == ["10.250.0.18", "fd61:7070::12"]


async def test_names_at_the_same_moment(connect: Connect) -> None:
    async def drawn(client: httpx.AsyncClient, name: str) -> tuple[str, ...]:
        return tuple((await register(client, name=name))["app"]["ips"])

    client = connect(uid=ALICE)
    found = await asyncio.gather(*(drawn(client, f"n{number % 10}") for number in range(20)))
    assert found[:10] == found[10:]
    assert len(set(found)) == 10


async def test_a_pool_without_an_address_left(connect: Connect, parts: Parts) -> None:
    parts.registry.claims.pools = Pools([ipaddress.ip_network("10.99.0.0/27")])
    client = connect(uid=ALICE)
    for number in range(15):
        await register(client, name=f"n{number}")
    said = problem(await client.post("/v1/apps", json={"command": ["x"], "name": "more"}), "pool-exhausted")
    assert said["detail"].startswith("no IPv4 address is left in 10.99.0.0/27: give one with --ip")
    await register(client, name="n3")
    pools = (await client.get("/v1/pools")).json()["pools"]
    assert pools == [{"network": "10.99.0.0/27", "used": 15, "size": 15, "source": "chosen"}]


async def test_egress_and_host_ports(connect: Connect, switch: FakeSwitch) -> None:
    egress = {
        "default": "deny",
        "allow": ["*.Example.com", "10.0.0.0/8"],
        "deny": ["10.1.1.1"],
        "error": "ECONNREFUSED",
    }
    made = await register(connect(uid=ALICE), egress=egress, host_ports=["5432", "80:8080"])
    assert isinstance(told := switch.asked[-1], wire.Register)
    assert (told.app.egress.default, told.app.egress.error) == ("deny", "ECONNREFUSED")
    assert [(one.allow, str(one)) for one in told.app.egress.rules] == [
        (False, "10.1.1.1/32"), (True, "*.example.com"), (True, "10.0.0.0/8"),
    ]  # fmt: skip
    assert told.app.host_ports == (HostPort(5432, 5432), HostPort(80, 8080))
    assert made["app"]["egress"] == {**egress, "allow": ["*.example.com", "10.0.0.0/8"], "deny": ["10.1.1.1/32"]}
    assert made["app"]["host_ports"] == ["5432:5432", "80:8080"]


async def test_dns_override(connect: Connect, switch: FakeSwitch, parts: Parts) -> None:
    client = connect(uid=ALICE)
    path = parts.settings.run_dir.resolv_conf
    for _ in range(2):
        made = await register(client, dns_override=True, nameservers=["10.0.0.2"])
        assert made["launcher"][-2:] == ["--resolv-conf", str(path)]
        assert made["app"]["nameservers"] == ["127.0.0.53"]
    assert path.read_text().splitlines()[1:] == ["nameserver 127.0.0.53", "search appswitch.local", "options edns0"]
    assert path.stat().st_mode & 0o777 == 0o644
    path.write_text("nameserver 6.6.6.6")
    await register(client, dns_override=True)
    assert "6.6.6.6" not in path.read_text()
    assert [one.name for one in path.parent.iterdir() if "resolv" in one.name] == ["resolv.conf"]


async def test_dns_override_without_dns(connect: Connect, parts: Parts) -> None:
    parts.registry.settings = msgspec.structs.replace(parts.settings, dns=False)
    problem(await connect(uid=0).post("/v1/apps", json={"command": ["x"], "dns_override": True}), "dns-off")
    assert (await register(connect(uid=0), nameservers=["10.0.0.2"]))["app"]["nameservers"] == []


async def test_an_address_is_free_when_its_app_is_gone(connect: Connect, switch: FakeSwitch, link: SwitchLink) -> None:
    made = await register(connect(uid=ALICE), ips=["10.1.1.1"])
    switch.end(made["id"])
    await until(lambda: not link.apps)
    await register(connect(uid=BOB), ips=["10.1.1.1"])


async def test_a_user_has_so_many_waiting(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_WAITING", 2)
    for _ in range(2):
        await register(connect(uid=ALICE))
    problem(await connect(uid=ALICE).post("/v1/apps", json={"command": ["x"]}), "too-many")
    await register(connect(uid=BOB))


@pytest.mark.parametrize(("error", "slug"), [("port-in-use", "port-in-use"), ("full-moon", "conflict")])
async def test_the_switch_says_no(connect: Connect, switch: FakeSwitch, error: str, slug: str) -> None:
    switch.refuse = (error, "because")
    said = problem(await connect(uid=0).post("/v1/apps", json={"command": ["x"]}), slug)
    assert said["detail"] == "because"


async def test_the_switch_is_away(connect: Connect, switch: FakeSwitch, link: SwitchLink) -> None:
    link._timeout = 0.05
    switch.deaf = True
    client = connect(uid=0)
    answer = await client.post("/v1/apps", json={"command": ["x"]})
    problem(answer, "switch-unavailable")
    assert answer.headers["retry-after"]
    problem(await client.get("/v1/sockets"), "switch-unavailable")
    assert (await client.get("/v1/apps")).json() == {"apps": []}
    assert (await client.get("/v1/status")).json()["stats"] == {}


async def test_stopping(connect: Connect, parts: Parts) -> None:
    parts.registry.stopping = True
    problem(await connect(uid=0).post("/v1/apps", json={"command": ["x"]}), "stopping")


def test_ids_do_not_repeat() -> None:
    ids = AppIds(start=2**32 - 5)
    found = [ids.next({}) for _ in range(10_000)]
    assert len(set(found)) == len(found)
    assert all(0 < one < 2**32 for one in found)
    zero = next(start for start in (AppIds(start=(-1013904223 * pow(1664525, -1, 1 << 32)) % (1 << 32)),))
    assert zero.next({}) == 1013904223, "0 is left out"
    taken = AppIds(start=7).next({})
    assert AppIds(start=7).next({taken}) != taken


# --- looking ---------------------------------------------------------------------------------------------------------


async def world(connect: Connect, switch: FakeSwitch, link: SwitchLink) -> tuple[int, int]:
    """An app of Alice and one of Bob, a server, socket and connection of each, and a connection between them."""
    alice = (await register(connect(uid=ALICE), ips=["10.1.1.1"], name="a"))["id"]
    bob = (await register(connect(uid=BOB), ips=["10.1.1.2"]))["id"]
    for number, app in enumerate((alice, bob), 1):
        switch.attach(app)
        switch.listen(ServerRow(app_id=app, proto="tcp", service_ip="0.0.0.0", service_port=80 + number,
                                actual=(), since=number))  # fmt: skip
        switch.sockets.append(SocketRow(id=number, app_id=app, inode=number, proto="tcp", flags=("listening", "unix"),
                                        bind_ip=f"10.1.1.{number}:80", backlog=5))  # fmt: skip
    for client, server in ((alice, bob), (alice, 0), (0, bob)):
        switch.connections.append(ConnectionRow(client_app=client, server_app=server, proto="tcp", client="c",
                                                server="s", transport="unix"))  # fmt: skip
    await until(lambda: len(link.servers) == 2)
    return alice, bob


async def test_everybody_sees_their_own(connect: Connect, switch: FakeSwitch, link: SwitchLink) -> None:
    alice, bob = await world(connect, switch, link)

    async def seen(**who: Any) -> tuple[list[int], list[int], list[int], int]:
        client = connect(**who)
        rows = {what: (await client.get(f"/v1/{what}")).json()[what]
                for what in ("apps", "servers", "sockets", "connections")}  # fmt: skip
        return (
            [row["app"]["id"] for row in rows["apps"]],
            [row["app_id"] for row in rows["servers"]],
            [row["app_id"] for row in rows["sockets"]],
            len(rows["connections"]),
        )

    assert await seen(uid=0) == await seen() == ([alice, bob], [alice, bob], [alice, bob], 3)
    assert await seen(uid=ALICE) == ([alice], [alice], [alice], 2)
    assert await seen(uid=BOB) == ([bob], [bob], [bob], 2)
    assert await seen(uid=BOB + 1) == ([], [], [], 0)


async def test_names(connect: Connect) -> None:
    web = [await register(connect(uid=ALICE), name="web", ips=ips) for ips in (["10.1.1.2", "fd00::1"], ["10.1.1.1"])]
    db = await register(connect(uid=BOB), name="db", ips=["10.1.1.3"])
    await register(connect(uid=BOB), ips=["10.1.1.4"])
    rows = [
        {"name": "db", "fqdn": "db.appswitch.local", "source": "apps", "addresses": ["10.1.1.3"],
         "apps": [db["appid"]]},
        {"name": "web", "fqdn": "web.appswitch.local", "source": "apps",
         "addresses": ["10.1.1.1", "10.1.1.2", "fd00::1"], "apps": [one["appid"] for one in web]},
    ]  # fmt: skip
    assert (await connect(uid=0).get("/v1/names")).json() == {"names": rows}
    assert (await connect(uid=BOB).get("/v1/names")).json() == {"names": rows[:1]}
    assert (await connect(uid=ALICE).get("/v1/names")).json() == {"names": rows[1:]}


async def test_exposed(connect: Connect, switch: FakeSwitch, link: SwitchLink) -> None:
    made = await register(connect(uid=ALICE), name="web", ips=["10.1.1.1"], expose=["80:8080", "53:[::]:5353/udp"])
    await register(connect(uid=BOB), expose=["80:8081/tcp"])
    switch.listen(ServerRow(app_id=made["id"], proto="tcp", service_ip="0.0.0.0", service_port=80,
                            actual=("0.0.0.0:8080", "127.0.0.1:40000"), since=1.0))  # fmt: skip
    switch.listen(ServerRow(app_id=made["id"], proto="tcp", service_ip="0.0.0.0", service_port=53,
                            actual=("[::]:5353",), since=1.0))  # fmt: skip
    await until(lambda: len(link.servers) == 2)
    rows = (await connect(uid=ALICE).get("/v1/exposed")).json()["exposed"]
    assert [(row["internal"], row["address"], row["proto"], row["state"]) for row in rows] == [
        (80, "0.0.0.0:8080", "tcp", "open"),
        (80, "0.0.0.0:8080", "udp", "waiting"),
        (80, "[::]:8080", "udp", "waiting"),
        (53, "[::]:5353", "udp", "waiting"),
    ]
    assert {(row["appid"], row["name"]) for row in rows} == {(made["appid"], "web")}
    assert len((await connect(uid=0).get("/v1/exposed")).json()["exposed"]) == 6


async def test_a_port_of_the_host_is_drawn(connect: Connect, parts: Parts) -> None:
    made = await register(connect(uid=ALICE), expose=["80", "81/udp", "82:127.0.0.1:0"])
    drawn = [one.host_port for one in parts.registry.apps()[0].expose]
    assert len({*drawn}) == 3
    assert all(any(port in ports for ports in parts.settings.ports) for port in drawn)
    wanted = [f"80:{drawn[0]}", f"81:{drawn[1]}/udp", f"82:127.0.0.1:{drawn[2]}"]
    assert made["app"]["expose"] == wanted


async def test_events_are_for_their_own(parts: Parts) -> None:
    """Also when a server goes after its app."""
    alice, bob = (AppRow(app=AppSpec(id=uid, uid=uid, gid=uid, node="n", cluster="c", command=("x",), created=1.0),
                         phase=AppPhase.RUNNING, pid=1) for uid in (ALICE, BOB))  # fmt: skip
    happened: list[wire.AppChanged | wire.AppGone | wire.ServerUp | wire.ServerDown] = []
    for row in (alice, bob):
        server = ServerRow(app_id=row.app.id, proto="tcp", service_ip="::", service_port=1, actual=(), since=1.0)
        happened += [wire.AppChanged(row), wire.ServerUp(server), wire.AppGone(row.app.id), wire.ServerDown(server)]
    seen = events._Filter(parts, caller(Peer(1, ALICE, ALICE), None, None), None)
    shown = [seen.view(event) for event in happened]
    assert [view and view["type"] for view in shown] == [
        "app-changed", "server-up", "app-gone", "server-down", None, None, None, None,
    ]  # fmt: skip


async def test_rows(connect: Connect, switch: FakeSwitch, link: SwitchLink) -> None:
    alice, bob = await world(connect, switch, link)
    client = connect(uid=0)
    app = (await client.get(f"/v1/apps/{alice:08x}")).json()
    assert app == (await client.get("/v1/apps")).json()["apps"][0]
    assert (app["phase"], app["pid"], app["app"]["name"]) == ("running", 4242, "a")
    assert (await client.get("/v1/servers")).json()["servers"][0] == {
        "app_id": alice, "appid": f"{alice:08x}", "node": "n1", "cluster": "appswitch", "proto": "tcp",
        "service_ip": "0.0.0.0", "service_port": 81, "service_addrs": ["10.1.1.1:81"], "actual": [], "since": 1.0,
        "alive_after": 0.0,
    }  # fmt: skip
    assert (await client.get("/v1/sockets")).json()["sockets"][1] == {
        "id": 2, "app_id": bob, "appid": f"{bob:08x}", "node": "n1", "inode": 2, "proto": "tcp",
        "flags": ["listening", "unix"], "bind_ip": "10.1.1.2:80", "backlog": 5,
    }  # fmt: skip
    assert (await client.get("/v1/connections")).json()["connections"][1] == {
        "proto": "tcp", "client": "c", "server": "s", "client_app": alice, "client_appid": f"{alice:08x}",
        "client_name": "a", "server_app": 0, "server_appid": None, "server_name": None, "transport": "unix",
        "vservice": "", "backend": "", "protocol": "", "attributes": {}, "since": None,
        "bytes_sent": None, "bytes_received": None, "rtt": None, "retransmits": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("listens", "ips", "shown"),
    [
        ("10.1.1.1", ["10.1.1.1", "fd00::1"], ["10.1.1.1:80"]),
        ("0.0.0.0", ["10.1.1.1", "fd00::1"], ["10.1.1.1:80"]),
        ("::", ["10.1.1.1", "fd00::1"], ["10.1.1.1:80", "[fd00::1]:80"]),
        ("0.0.0.0", ["fd00::1"], ["0.0.0.0:80"]),
        ("::", [], ["[::]:80"]),
    ],
)
async def test_wildcards(connect: Connect, switch: FakeSwitch, link: SwitchLink, listens: str, ips: list[str],
                         shown: list[str]) -> None:  # fmt: skip
    app = (await register(connect(uid=0), ips=ips))["id"]
    switch.listen(ServerRow(app_id=app, proto="tcp", service_ip=listens, service_port=80, actual=(), since=1.0))
    await until(lambda: len(link.servers) == 1)
    assert (await connect(uid=0).get("/v1/servers")).json()["servers"][0]["service_addrs"] == shown


async def test_words_of_commands_are_not_for_everybody(connect: Connect) -> None:
    made = await register(connect(uid=ALICE), command=["curl", "--user", "me:secret"])
    assert made["app"]["command"][1:] == ["--user", "me:secret"]
    for path in ("/v1/apps", f"/v1/apps/{made['appid']}"):
        assert "secret" in (await connect(uid=ALICE).get(path)).text
        assert "secret" not in (await connect().get(path)).text


async def test_status(connect: Connect, parts: Parts) -> None:
    said = (await connect(uid=ALICE).get("/v1/status")).json()
    assert (said["node"], said["cluster"], said["transport"], said["apps"]) == ("n1", "appswitch", "unix", 0)
    assert said["pids"]["switch"] == parts.registry.link.pid
    assert said["stats"] == {"calls": 7.0}
    assert 0 <= said["uptime"] < 60


# --- forgetting ------------------------------------------------------------------------------------------------------


async def test_forget(connect: Connect, link: SwitchLink) -> None:
    made = await register(connect(uid=ALICE))
    path = f"/v1/apps/{made['appid']}"
    problem(await connect(uid=BOB).delete(path), "no-such-app")
    problem(await connect().delete(path), "read-only")
    answer = await connect(uid=ALICE).delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    await until(lambda: not link.apps)
    problem(await connect(uid=ALICE).delete(path), "no-such-app")


async def test_a_running_app_is_not_forgotten(connect: Connect, switch: FakeSwitch, link: SwitchLink) -> None:
    made = await register(connect(uid=0))
    switch.attach(made["id"])
    await until(lambda: link.apps[made["id"]].pid)
    problem(await connect(uid=0).delete(f"/v1/apps/{made['appid']}"), "app-running")


# --- who, and where --------------------------------------------------------------------------------------------------


async def test_tcp_reads_and_a_token_changes(connect: Connect, parts: Parts) -> None:
    body = {"command": ["x"]}
    problem(await connect().post("/v1/apps", json=body), "read-only")
    problem(await connect(headers={"authorization": "Bearer x"}).get("/v1/apps"), "bad-token")
    parts.token = "0123456789abcdef"
    answer = await connect(headers={"authorization": "Bearer x"}).get("/v1/apps")
    problem(answer, "bad-token")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    problem(await connect().post("/v1/apps", json=body), "read-only")
    trusted = connect(headers={"authorization": "Bearer 0123456789abcdef"})
    made = await register(trusted, command=["x", "y"])
    assert made["app"]["uid"] == 0
    assert (await trusted.get("/v1/apps")).json()["apps"][0]["app"]["command"] == ["x", "y"]


async def test_a_user_daemon_is_for_its_user(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: ALICE)
    await register(connect(uid=ALICE))
    await register(connect(uid=0))
    said = problem(await connect(uid=BOB).get("/v1/apps"), "forbidden")
    assert said["detail"] == "this daemon serves uid 1000 only, and you are uid 1001"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil", "10.0.0.1", "", "127.0.0.1:99", "[::2]"])
async def test_foreign_hosts_over_tcp(connect: Connect, host: str) -> None:
    problem(await connect().get("/v1/apps", headers={"host": host}), "misdirected")
    assert (await connect(uid=0).get("/v1/apps", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "localhost:80"])
async def test_own_hosts_over_tcp(connect: Connect, host: str) -> None:
    # httpx's transport says that the server's port is 80 here
    answer = await connect().get("http://localhost:80/v1/apps", headers={"host": host})
    assert answer.status_code in (200, 421 if ":80" in host else 200)


# --- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/apps", "/v1/apps/", "/docs", "/redoc", "/openapi.json"])
async def test_nothing_there(connect: Connect, path: str) -> None:
    problem(await connect(uid=0).get(path), "not-found")


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/v1/apps"), ("POST", "/v1/servers"), ("DELETE", "/v1/apps"), ("PATCH", "/v1/status")]
)
async def test_methods(connect: Connect, method: str, path: str) -> None:
    answer = await connect(uid=0).request(method, path)
    problem(answer, "method-not-allowed")
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("appid", ["00000000", "deadbeef"])
async def test_no_such_app(connect: Connect, appid: str) -> None:
    problem(await connect(uid=0).get(f"/v1/apps/{appid}"), "no-such-app")


@pytest.mark.parametrize("appid", ["x", "DEADBEEF", "1", "000000001", "-0000001"])
async def test_no_app_id(connect: Connect, appid: str) -> None:
    problem(await connect(uid=0).get(f"/v1/apps/{appid}"), "invalid")


async def test_own_mistakes_are_problems_too(connect: Connect, parts: Parts) -> None:
    parts.registry.link.apps = None  # type: ignore[assignment]
    said = problem(await connect(uid=0).get("/v1/apps"), "internal")
    assert "ax debug dump" in said["detail"]


async def test_openapi(connect: Connect) -> None:
    document = (await connect(uid=0).get("/v1/openapi.json")).json()
    assert document["openapi"].startswith("3.")
    assert set(document["paths"]) == {
        "/v1/apps", "/v1/apps/{appid}", "/v1/servers", "/v1/sockets", "/v1/connections", "/v1/status", "/v1/events",
        "/v1/names", "/v1/pools", "/v1/exposed", "/v1/apply", "/v1/backends", "/v1/explain",
        "/v1/debug/check", "/v1/debug/dump", "/v1/flows", "/v1/metrics", "/v1/apps/{appid}/metrics", "/metrics",
        *(f"/v1/{kind}{one}" for kind in ("vservices", "policies", "references", "proxies") for one in ("", "/{name}")),
    }  # fmt: skip
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for one in operations:
        assert list(one["responses"]["default"]["content"]) == ["application/problem+json"]
        assert one["summary"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
