"""Resources over REST: made, shown, replaced, taken away, many at once; and what the switch hears of it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.control.conftest import Connect, until
from tests.unit.control.fake_switch import FakeSwitch

from appswitch import wire
from appswitch.control.access import Caller
from appswitch.control.api.deps import Parts
from appswitch.control.link import SwitchLink
from appswitch.control.registry import Registry
from appswitch.control.resources import service, store
from appswitch.control.settings import Settings
from appswitch.model import BackendRow, ConnectionRow
from appswitch.resources import Policy, Resource


def vservice(name: str = "web", /, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "appswitch/v1",
        "kind": "VService",
        "metadata": {"name": name},
        "spec": {"ips": ["10.1.0.100"], "ports": ["80:8080"], "backends": ["app=web"]} | spec,
    }


def policy(name: str = "lan", /, **spec: Any) -> dict[str, Any]:
    return {"kind": "Policy", "metadata": {"name": name}, "spec": {"action": "allow"} | spec}


def reference(name: str = "olddb", /, **spec: Any) -> dict[str, Any]:
    spec = {"network": "10.9.0.5", "ports": [5432], "to": [{"labels": {"role": "db"}}]} | spec
    return {"kind": "Reference", "metadata": {"name": name}, "spec": spec}


def proxy(name: str = "envoy", /, **spec: Any) -> dict[str, Any]:
    return {"kind": "Proxy", "metadata": {"name": name}, "spec": spec}


PLURAL = {"VService": "vservices", "Policy": "policies", "Reference": "references", "Proxy": "proxies"}
ALL = [vservice(), policy(), reference(), proxy()]
# What is changed in a life, and how it is shown.
CHANGE: dict[str, tuple[str, Any, Any]] = dict.fromkeys(PLURAL, ("ports", [81], ["81"])) | {"Proxy": ("next", "n", "n")}


def path(document: dict[str, Any]) -> str:
    return f"/v1/{PLURAL[document['kind']]}/{document['metadata']['name']}"


@pytest.mark.parametrize("document", ALL, ids=PLURAL)
async def test_a_life(connect: Connect, switch: FakeSwitch, document: dict[str, Any]) -> None:
    client, where = connect(uid=0), path(document)
    collection = where.rpartition("/")[0]
    key = (document["kind"], document["metadata"]["name"])
    made = await client.post(collection, json=document)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == where
    assert key in switch.configured
    assert (await client.get(where)).json() == made.json()
    assert (await client.get(collection)).json() == {collection.rpartition("/")[2]: [made.json()]}
    again = await client.post(collection, json=document)
    assert (again.status_code, again.json()["type"]) == (409, "urn:appswitch:problem:already-exists")
    same = await client.put(where, json=made.json())  # what is shown can be sent
    assert (same.status_code, same.json()) == (200, made.json())
    assert made.json()["metadata"]["generation"] == 1
    field, given, shown = CHANGE[document["kind"]]
    changed = await client.put(where, json=document | {"spec": document["spec"] | {field: given}})
    assert changed.json()["metadata"] == made.json()["metadata"] | {"generation": 2}
    assert changed.json()["spec"][field] == shown
    gone = await client.delete(where)
    assert (gone.status_code, gone.json()) == (200, {"killed": []})
    assert not switch.configured
    assert (await client.get(where)).status_code == (await client.delete(where)).status_code == 404
    new = await client.put(where, json=document)
    assert new.status_code == 201


async def test_put_names_what_it_puts(connect: Connect) -> None:
    answer = await connect(uid=0).put("/v1/vservices/other", json=vservice())
    assert answer.json()["errors"] == [{"path": ["metadata", "name"], "detail": "it is web, and the path names other"}]


async def test_drawn_addresses_stay(connect: Connect, parts: Parts) -> None:
    client = connect(uid=0)
    first = (await client.post("/v1/vservices", json=vservice(ips=[]))).json()
    assert "ips" not in first["spec"]
    assert first["status"] == {"ips": ["10.250.0.16", "fd61:7070::10"], "drawn": True, "fqdn": "web.appswitch.local"}
    app = await client.post("/v1/apps", json={"command": ["x"], "name": "a"})
    assert app.json()["app"]["ips"] == ["10.250.0.17", "fd61:7070::11"]
    second = (await client.post("/v1/vservices", json=vservice("two", ips=[]))).json()
    assert second["status"]["ips"] == ["10.250.0.18", "fd61:7070::12"]
    changed = (await client.put("/v1/vservices/web", json=vservice(ips=[], wait=1))).json()
    assert changed["status"] == first["status"]
    assert len(parts.resources.catalog.taken()) == 4
    own = (await client.put("/v1/vservices/web", json=vservice())).json()
    assert own["status"]["ips"] == own["spec"]["ips"] == ["10.1.0.100"]
    assert len(parts.resources.catalog.taken()) == 2


async def test_many_at_once(connect: Connect, switch: FakeSwitch) -> None:
    client = connect(uid=0)
    await client.put("/v1/policies/lan", json=policy())
    await client.put("/v1/references/olddb", json=reference())
    wrong = vservice("bad", ports=["80:x"])
    documents = [vservice(), wrong, policy(), reference(wait=1), 7, {"kind": "Route", "metadata": {"name": "r"}}]
    dry = (await client.post("/v1/apply?dryRun=true", json=documents)).json()
    assert set(switch.configured) == {("Policy", "lan"), ("Reference", "olddb")}
    answer = await client.post("/v1/apply", json=documents)
    assert answer.json() == dry
    found = [(one["kind"], one["name"], one["result"]) for one in dry["results"]]
    assert found == [
        ("VService", "web", "created"),
        ("VService", "bad", "rejected"),
        ("Policy", "lan", "unchanged"),
        ("Reference", "olddb", "changed"),
        ("", "", "rejected"),
        ("", "r", "rejected"),
    ]
    assert dry["results"][1]["errors"][0]["path"] == ["spec", "ports", 0]
    assert set(switch.configured) == {("VService", "web"), ("Policy", "lan"), ("Reference", "olddb")}


async def test_twice_in_one_request(connect: Connect) -> None:
    answer = (await connect(uid=0).post("/v1/apply", json=[vservice(), vservice(wait=1)])).json()
    assert [one["result"] for one in answer["results"]] == ["created", "rejected"]


def connection() -> ConnectionRow:
    return ConnectionRow(client_app=1, server_app=2, proto="tcp", client="10.0.0.1:5", server="10.0.0.2:80",
                         transport="unix")  # fmt: skip


async def test_kill(connect: Connect, switch: FakeSwitch) -> None:
    client = connect(uid=0)
    switch.forbidden = [connection()]
    answer = (await client.post("/v1/apply?kill=true", json=[policy()])).json()
    assert [one["client"] for one in answer["killed"]] == ["10.0.0.1:5"]
    switch.forbidden = [connection()]
    assert len((await client.delete("/v1/policies/lan?kill=true")).json()["killed"]) == 1


@pytest.mark.usefixtures("as_root_daemon")
async def test_only_administrators_kill(connect: Connect, switch: FakeSwitch) -> None:
    await connect(uid=1000).post("/v1/vservices", json=vservice(ips=[]))
    for answer in (
        await connect(uid=1000).delete("/v1/vservices/web?kill=true"),
        await connect(uid=1000).post("/v1/apply?kill=true", json=[]),
    ):
        assert answer.status_code == 403
    assert ("VService", "web") in switch.configured


# What cannot be beside what is there


@pytest.mark.parametrize(
    ("there", "new", "where", "why"),
    [
        (vservice("a"), vservice("b"), ["spec", "ips", 0], "b and a cannot both have port 80 of 10.1.0.100"),
        (vservice("a", ips=["fd00::1"], ports=[1, 2, 3]), vservice("b", ips=["10.0.0.1", "fd00::01"], ports=[3, 4, 1]),
         ["spec", "ips", 1], "b and a cannot both have ports 3, 1 of fd00::1"),
        (vservice("a", ports=[80, 81], external=True),
         vservice("b", ips=["10.1.0.9"], ports=["81:8081"], external=True), ["spec", "ports"],
         "b and a cannot both have port 81 of the node"),
        (reference("r", network="10.1.0.100"), vservice(), ["spec", "ips", 0], "the reference r"),
        (vservice(), reference("r", network="10.1.0.100"), ["spec", "network"], "the vservice web"),
        (reference("web"), vservice(), ["metadata", "name"], "the name of a reference"),
        (vservice("olddb"), reference(), ["metadata", "name"], "the name of a vservice"),
        (reference("r"), reference(), ["spec", "ports"], "the reference r has 5432 of 10.9.0.5/32"),
        (reference("r", ports=[]), reference(), ["spec", "ports"], "the reference r has 5432"),
        (reference("r", ports=[]), reference(ports=[]), ["spec", "ports"], "all its ports"),
        (policy(), reference(network="10.250.0.0/24"), ["spec", "network"], "overlaps 10.250.0.0/16"),
        (vservice("b", backends=["a"]), vservice("a", ips=["10.1.0.9"], backends=["b"]), ["spec", "backends"],
         "in a loop: a:80 -> b:80 -> a:80"),
        (vservice("b", ports=[80], backends=["10.1.0.9"]), vservice("a", ips=["10.1.0.9"], backends=["c", "b"]),
         ["spec", "backends"], "in a loop: a:80 -> b:80 -> a:80"),
        (policy(), vservice("a", ips=[], backends=["a"]), ["spec", "backends"], "a:80 -> a:80"),
        (policy(), vservice("a", ports=[80], backends=["10.1.0.100"]), ["spec", "backends"], "a:80 -> a:80"),
        (vservice("b", backends=["a"]),
         vservice("a", ips=["10.1.0.9"], routes=[{"match": {"http.path": "/*"}, "backends": ["b"]}]),
         ["spec", "backends"], "a:80 -> b:80 -> a:80"),
    ],
)  # fmt: skip
async def test_conflicts(connect: Connect, there: dict[str, Any], new: dict[str, Any], where: list[Any],
                         why: str) -> None:  # fmt: skip
    client = connect(uid=0)
    assert (await client.put(path(there), json=there)).status_code == 201
    answer = await client.put(path(new), json=new)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["path"] == where
    assert why in error["detail"]
    assert len((await client.get(path(new).rpartition("/")[0])).json()[PLURAL[new["kind"]]]) == (
        there["kind"] == new["kind"]
    )


@pytest.mark.parametrize(
    ("there", "new"),
    [
        (vservice("a"), vservice("b", ips=["10.1.0.101"], backends=["a"])),
        (reference("r", ports=[5433]), reference()),
        (reference("r", network="10.1.0.0/16"), vservice()),
        (vservice("a", backends=["b"]), vservice("b", ips=["10.1.0.101"], backends=["nobody", "10.77.0.1"])),
        (policy("web"), vservice()),
        (vservice("a"), vservice("b", ports=[81])),
        (vservice("a", backends=["10.1.0.100"]), vservice("b", ports=["81:8081"], backends=["10.1.0.100"])),  # an app
    ],
)
async def test_what_goes_together(connect: Connect, there: dict[str, Any], new: dict[str, Any]) -> None:
    client = connect(uid=0)
    for one in (there, new):
        answer = await client.put(path(one), json=one)
        assert answer.status_code == 201, answer.text


async def test_a_loop_by_a_change(connect: Connect) -> None:
    client = connect(uid=0)
    names = [f"v{number}" for number in range(20)]
    chain = [vservice(name, ips=[f"10.1.0.{number}"], ports=[80], backends=[f"10.1.0.{number + 1}"])
             for number, name in enumerate(names, 1)]  # fmt: skip
    applied = (await client.post("/v1/apply", json=chain)).json()["results"]
    assert {one["result"] for one in applied} == {"created"}
    answer = await client.put("/v1/vservices/v19", json=vservice("v19", ips=["10.1.0.20"], backends=["v0"]))
    way = [f"{name}:80" for name in ("v19", *names)]
    assert answer.json()["detail"].endswith(f"in a loop: {' -> '.join(way)}")
    other = await client.put("/v1/vservices/v19", json=vservice("v19", ips=["10.1.0.21"], backends=["v0"]))
    assert other.status_code == 200  # what leads to 10.1.0.20 waits


async def test_one_address_several_vservices(connect: Connect, parts: Parts) -> None:
    """Each has its ports of it; the address is taken until the last has gone."""
    client, catalog = connect(uid=0), parts.resources.catalog
    drawn = (await client.post("/v1/vservices", json=vservice("web", ips=[]))).json()["status"]["ips"]
    there = [vservice("mail", ips=drawn, ports=[25]), vservice("dns", ips=drawn[:1], ports=["53:5353", 54])]
    assert {one["result"] for one in (await client.post("/v1/apply", json=there)).json()["results"]} == {"created"}
    assert [one.name for one in catalog.vservices_at(drawn[0])] == ["dns", "mail", "web"]
    assert [getattr(catalog.vservice_at(drawn[0], port), "name", None) for port in (25, 53, 80, 81)] == [
        "mail", "dns", "web", None
    ]  # fmt: skip
    moved = await client.put("/v1/vservices/mail", json=vservice("mail", ips=drawn, ports=[54]))
    assert "mail and dns cannot both have port 54" in moved.text
    await client.put("/v1/vservices/dns", json=vservice("dns", ips=drawn[:1], ports=[53]))
    assert (await client.put("/v1/vservices/mail", json=vservice("mail", ips=drawn, ports=[54]))).status_code == 200
    for name, left in (("web", 2), ("dns", 2), ("mail", 0)):
        assert catalog.owners_of_address(drawn[0]) == {0}
        await client.delete(f"/v1/vservices/{name}")
        assert len(catalog.taken()) == left, name
    assert not catalog.vservices_at(drawn[0])


# Whose it is


@pytest.mark.usefixtures("as_root_daemon")
async def test_users_have_their_own(connect: Connect) -> None:
    one, other, root = connect(uid=1000), connect(uid=1001), connect(uid=0)
    made = await one.post("/v1/vservices", json=vservice())
    assert made.json()["metadata"]["uid"] == 1000
    assert (await other.get("/v1/vservices")).json() == {"vservices": []}
    assert len((await root.get("/v1/vservices")).json()["vservices"]) == 1
    assert len((await connect().get("/v1/vservices")).json()["vservices"]) == 1
    assert (await one.post("/v1/vservices", json=vservice("second", ports=[81]))).status_code == 201
    beside = await other.post("/v1/vservices", json=vservice("third", ports=[82]))
    assert beside.json()["type"].endswith(":ip-in-use")
    assert (await root.post("/v1/vservices", json=vservice("third", ports=[82]))).status_code == 201
    for name in ("second", "third"):
        assert (await root.delete(f"/v1/vservices/{name}")).status_code == 200
    for answer in (await other.get("/v1/vservices/web"), await other.delete("/v1/vservices/web")):
        assert answer.status_code == 404
    for answer in (
        await other.put("/v1/vservices/web", json=vservice(ips=[])),
        await other.post("/v1/vservices", json=vservice(ips=[])),
        await other.post("/v1/references", json=reference("web")),
        await other.post("/v1/vservices", json=vservice("mine")),
        await other.post("/v1/references", json=reference(network="10.1.0.0/24")),
        await other.post("/v1/vservices", json=vservice("mine", ips=[], backends=["web"])),
        await other.post("/v1/vservices", json=vservice("mine", ips=[], backends=["10.1.0.100"])),
        await other.post("/v1/apps", json={"command": ["x"], "name": "web"}),
        await other.post("/v1/apps", json={"command": ["x"], "ips": ["10.1.0.100"]}),
    ):
        assert answer.status_code in (403, 409, 422), answer.text
    assert (
        await one.post("/v1/apps", json={"command": ["x"], "name": "web", "ips": ["10.1.0.100"]})
    ).status_code == 201
    changed = await root.put("/v1/vservices/web", json=vservice(wait=1))
    assert changed.json()["metadata"]["uid"] == 1000  # whoever made it owns it


@pytest.mark.usefixtures("as_root_daemon")
@pytest.mark.parametrize(
    ("document", "slug", "why"),
    [
        (policy(), "forbidden", "only administrators"),
        (vservice(ips=["8.8.8.8"]), "ip-forbidden", "in none of the networks"),
        (vservice(ips=["10.250.3.4"]), "ip-forbidden", "in a pool"),
        (vservice(external=True), "privileged-port", "only root"),
        (reference(network="10.9.0.0/16"), "ip-forbidden", "more than 256"),
        (reference(network="8.8.8.8"), "ip-forbidden", "in none of"),
        (reference(network="10.250.1.1"), "ip-forbidden", "in a pool"),
    ],
)
async def test_what_users_may_not(connect: Connect, document: dict[str, Any], slug: str, why: str) -> None:
    answer = await connect(uid=1000).put(path(document), json=document)
    assert answer.json()["type"].endswith(f":{slug}"), answer.text
    assert why in answer.json()["detail"]
    assert (await connect(uid=0).put(path(document), json=document)).status_code == 201


@pytest.mark.usefixtures("as_root_daemon")
async def test_users_may(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    user = connect(uid=1000)
    assert (await user.post("/v1/vservices", json=vservice(ports=["8080:80"], external=True))).status_code == 201
    assert (await user.post("/v1/references", json=reference())).status_code == 201
    monkeypatch.setattr("appswitch.control.resources.judge.MAX_OWNED", 2)
    assert (await user.post("/v1/vservices", json=vservice("more", ips=[]))).status_code == 429
    assert (await user.put("/v1/references/olddb", json=reference(wait=2))).status_code == 200
    assert (await user.delete("/v1/references/olddb")).status_code == 200
    assert (await user.post("/v1/vservices", json=vservice("more", ips=[]))).status_code == 201


async def test_over_tcp_nothing_is_changed(connect: Connect) -> None:
    for method, where in (("POST", "/v1/vservices"), ("PUT", "/v1/vservices/web"), ("DELETE", "/v1/vservices/web")):
        answer = await connect().request(method, where, json=vservice())
        assert answer.json()["type"].endswith(":read-only")
    assert (await connect().post("/v1/apply", json=[vservice()])).status_code == 403


# The switch


async def test_a_switch_is_told_everything(connect: Connect, switch: FakeSwitch, link: SwitchLink,
                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(service, "CHUNK", 2)
    await connect(uid=0).post("/v1/apply", json=ALL)
    before = dict(switch.configured)
    assert len(before) == 4
    await switch.stop()
    await until(lambda: not link.connected.is_set())
    switch.asked.clear()
    switch.configured = {("VService", "old"): before["VService", "web"]}
    await switch.start()
    await until(lambda: switch.configured == before and switch.complete)
    told = [one for one in switch.asked if isinstance(one, wire.Configure)]
    assert [(one.reset, one.done) for one in told] == [(True, False), (False, True)]


async def test_nothing_configured(connect: Connect, switch: FakeSwitch) -> None:
    await until(lambda: switch.complete)
    assert [one.reset for one in switch.asked if isinstance(one, wire.Configure)] == [True]


async def test_a_switch_that_is_away(connect: Connect, switch: FakeSwitch, link: SwitchLink, parts: Parts) -> None:
    link._timeout = 0.2
    switch.deaf = True
    answer = await connect(uid=0).post("/v1/vservices", json=vservice())
    assert answer.status_code == 503
    assert "the change is stored" in answer.json()["detail"]
    assert parts.resources.catalog.vservice("web")
    await switch.stop()
    await until(lambda: not link.connected.is_set())
    answer = await connect(uid=0).post("/v1/vservices", json=vservice("two"))
    assert answer.status_code == 503
    assert not parts.resources.catalog.vservice("two")


async def test_what_is_not_stored_is_not_done(connect: Connect, switch: FakeSwitch, parts: Parts,
                                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise store.StoreError("cannot write the state: database or disk is full")

    monkeypatch.setattr(parts.resources._store, "write", full)
    answer = await connect(uid=0).post("/v1/vservices", json=vservice(ips=[]))
    assert (answer.status_code, answer.json()["type"]) == (507, "urn:appswitch:problem:not-stored")
    assert not switch.configured
    assert not parts.resources.catalog.taken()
    assert (await connect(uid=0).get("/v1/vservices")).json() == {"vservices": []}


async def test_backends(connect: Connect, switch: FakeSwitch) -> None:
    await connect(uid=0).post("/v1/vservices", json=vservice())
    row = BackendRow(vservice="web", port=80, backend="10.1.0.1:8080", spec="app=web", app_id=10, state="healthy",
                     weight=1, priority=0, locality="", active=2, total=9, failures=0)  # fmt: skip
    switch.backends = [row, BackendRow(**{**{f: getattr(row, f) for f in row.__struct_fields__}, "vservice": "x"})]
    (found,) = (await connect(uid=0).get("/v1/backends")).json()["backends"]
    assert (found["backend"], found["appid"], found["state"]) == ("10.1.0.1:8080", "0000000a", "healthy")


async def test_backends_of_others(connect: Connect, switch: FakeSwitch) -> None:
    """Whose vservice leads to other users' apps does not learn of them."""
    mine, other = [
        (await connect(uid=uid).post("/v1/apps", json={"command": ["x"]})).json()["app"]["id"] for uid in (1000, 1001)
    ]
    document = vservice(ips=[])
    assert (await connect(uid=1000).post("/v1/vservices", json=document)).status_code == 201
    switch.backends = [
        BackendRow(vservice="web", port=80, backend=f"10.1.0.{number}:80", spec="app=web", app_id=app_id, weight=1,
                   state="healthy", priority=0, locality="", active=2, total=9, failures=0)
        for number, app_id in enumerate((mine, other, 0))
    ]  # fmt: skip
    for uid, seen in ((1000, [0, 2]), (0, [0, 1, 2])):
        rows = (await connect(uid=uid).get("/v1/backends")).json()["backends"]
        assert [row["backend"] for row in rows] == [f"10.1.0.{number}:80" for number in seen]


async def test_names(connect: Connect) -> None:
    client = connect(uid=0)
    await client.post("/v1/apply", json=[vservice(), reference(), reference("wild", network="10.9.4.0/24")])
    app = (await client.post("/v1/apps", json={"command": ["x"], "name": "web", "ips": ["10.1.0.1"]})).json()
    names = (await client.get("/v1/names")).json()["names"]
    assert [(one["name"], one["source"], one["addresses"], one["apps"]) for one in names] == [
        ("olddb", "reference", ["10.9.0.5"], []),
        ("web", "vservice", ["10.1.0.100"], [app["appid"]]),
    ]


async def test_described(connect: Connect) -> None:
    document = (await connect().get("/v1/openapi.json")).json()
    schemas = document["components"]["schemas"]
    for kind, plural in PLURAL.items():
        assert document["paths"][f"/v1/{plural}/{{name}}"].keys() == {"get", "put", "delete"}
        assert schemas[f"{kind}Document"]["examples"]
        body = document["paths"][f"/v1/{plural}"]["post"]["requestBody"]["content"]["application/json"]
        assert body["schema"]["$ref"].endswith(f"/{kind}Document")
    applied = document["paths"]["/v1/apply"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert [one["$ref"].rpartition("/")[2] for one in applied["items"]["anyOf"]] == [
        f"{kind}Document" for kind in PLURAL
    ]
    text = str(document)
    for used in {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}:
        assert used in schemas


async def test_at_the_same_moment(connect: Connect, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a change is being written nobody else gets its addresses and names, and the next one waits."""
    writing, go_on = threading.Event(), threading.Event()
    write = parts.resources._store.write

    def slow(*what: Any) -> None:
        writing.set()
        assert go_on.wait(10)
        write(*what)

    monkeypatch.setattr(parts.resources._store, "write", slow)
    client = connect(uid=0)
    first = asyncio.create_task(client.post("/v1/vservices", json=vservice(ips=[])))
    await asyncio.to_thread(writing.wait, 10)
    second = asyncio.create_task(client.post("/v1/vservices", json=vservice("two", ips=[])))
    app = await client.post("/v1/apps", json={"command": ["x"], "name": "a"})
    assert parts.registry.catalog.owners_of_name("web") == {0}
    assert (await client.get("/v1/vservices")).json() == {"vservices": []}
    go_on.set()
    answers = await asyncio.gather(first, second)
    drawn = [app.json()["app"]["ips"][0], *(one.json()["status"]["ips"][0] for one in answers)]
    assert len(set(drawn)) == 3


async def test_a_daemon_that_ends(connect: Connect, parts: Parts) -> None:
    parts.registry.stopping = True
    answer = await connect(uid=0).post("/v1/vservices", json=vservice())
    assert answer.json()["type"].endswith(":stopping")


async def test_what_was_stored_is_told(
    switch: FakeSwitch, link: SwitchLink, settings: Settings, tmp_path: Path
) -> None:
    """Control was restarted: what it reads is what the switch gets."""
    for found in (["created"] * 3, ["unchanged"] * 3):
        registry = Registry(link, settings)
        resources = service.Resources(link, registry, store.Store(tmp_path / "state"))
        resources.load()
        everything = [one for part in resources.configuration() for one in (*part.vservices, *part.references)]
        assert [one.name for one in everything] == ([] if found[0] == "created" else ["web", "olddb"])
        caller = Caller(uid=0, gid=0, admin=True, writes=True, sees_all=True)
        outcomes = await resources.change(
            [service.Put(one) for one in (vservice(ips=[]), policy(), reference())], caller
        )
        assert [one.result for one in outcomes] == found
        resources.close()
    new = (await resources_of(link, settings, tmp_path, [policy("second")]))[0]
    assert isinstance(new, Policy)
    assert new.order == 4  # behind those that were there


async def resources_of(link: SwitchLink, settings: Settings, tmp_path: Path, bodies: list[Any]) -> list[Resource]:
    resources = service.Resources(link, Registry(link, settings), store.Store(tmp_path / "state"))
    resources.load()
    caller = Caller(uid=0, gid=0, admin=True, writes=True, sees_all=True)
    outcomes = await resources.change([service.Put(one) for one in bodies], caller)
    resources.close()
    return [one.entry.resource for one in outcomes if one.entry]


SEARCHES = {"http.path": [f"*{n}*" for n in range(129)]}


@pytest.mark.parametrize(
    "document",
    [
        vservice(routes=[{"match": SEARCHES, "backends": [{"ip": "10.1.0.1"}]}]),
        {"kind": "Policy", "metadata": {"name": "no"}, "spec": {"action": "deny", "l7": [SEARCHES]}},
        {"kind": "Proxy", "metadata": {"name": "px"}, "spec": {"wants": [SEARCHES]}},
    ],
)
async def test_matches_that_would_take_too_long(connect: Connect, document: dict[str, Any]) -> None:
    answer = await connect(uid=0).put(path(document), json=document)
    assert answer.status_code == 422
    assert "129 patterns have a * at both ends, and a document may have 128" in answer.text
