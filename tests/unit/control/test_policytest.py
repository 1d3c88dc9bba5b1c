"""/v1/explain: from names to the question that the switch is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.control.conftest import Connect
from tests.unit.control.test_api import ALICE, BOB, problem, register

from appswitch import wire
from appswitch.control.api.deps import Parts
from appswitch.resources import ServicePort, VService

pytestmark = pytest.mark.usefixtures("as_root_daemon")

STEPS = ("client: web", "deny policies that match: none", "denied by policy p: EACCES")
SHOP = VService(name="shop", ips=("10.3.0.1",), ports=(ServicePort(80, 8080),))
MANY = VService(name="many", ips=("fd00::9",), ports=(ServicePort(80, 80), ServicePort(443, 443)))


@pytest.fixture
def asked(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> list[wire.Explain]:
    """What the switch is asked; it denies."""
    questions: list[wire.Explain] = []

    async def explain(question: Callable[[int], wire.Explain]) -> wire.Explained | wire.Done:
        questions.append(question(7))
        if questions[-1].attributes.get("http.method") == "GONE":
            return wire.Done(seq=7, error="no-such-app", detail="it has gone")
        return wire.Explained(seq=7, allowed=False, steps=STEPS, rule="p", error="EACCES")

    link = parts.registry.link
    monkeypatch.setattr(link, "explain", explain)
    monkeypatch.setattr(link, "configuration", lambda: iter([wire.Configure(seq=0, vservices=(SHOP, MANY))]))
    return questions


@pytest.mark.parametrize(
    ("to", "address"),
    [
        ("10.1.0.1:80", "10.1.0.1:80"),
        ("[FD00::1]:80", "[fd00::1]:80"),
        ("[::ffff:10.1.0.1]:80", "10.1.0.1:80"),
        ("shop", "10.3.0.1:80"),
        ("shop:81", "10.3.0.1:81"),
        ("shop.appswitch.local:81", "10.3.0.1:81"),
        ("many:443", "[fd00::9]:443"),
        ("web:8080", "10.2.0.1:8080"),
        ("WEB.appswitch.local.:8080", "10.2.0.1:8080"),
    ],
)
async def test_to(connect: Connect, asked: list[wire.Explain], to: str, address: str) -> None:
    client = connect(uid=0)
    web = await register(client, name="web", ips=["10.2.0.1", "fd00::2"])
    answer = await client.post("/v1/explain", json={"from": "web", "to": to})
    assert answer.json() == {
        "appid": web["appid"], "to": address, "protocol": "tcp", "allowed": False, "rule": "p", "error": "EACCES",
        "steps": list(STEPS),
    }  # fmt: skip
    assert asked == [wire.Explain(seq=7, client=web["id"], to=address)]


@pytest.mark.parametrize(
    ("rule", "sentence", "seen", "shown"),
    [
        ("secret", "denied: EACCES, by secret", "(policy)", "denied: EACCES, by (policy)"),
        ("egress", "denied: EACCES, by egress", "egress", "denied: EACCES, by egress"),
        ("", "denied: ECONNREFUSED, nobody is there", "", "denied: ECONNREFUSED, nobody is there"),
        ("", "handed to the proxy secret", "", "handed to the proxy"),
    ],
)
async def test_what_others_have_configured_has_no_name(
    connect: Connect, parts: Parts, monkeypatch: pytest.MonkeyPatch, rule: str, sentence: str, seen: str, shown: str
) -> None:
    async def explain(_question: Callable[[int], wire.Explain]) -> wire.Explained:
        return wire.Explained(seq=7, allowed=False, steps=("policy secret says no", sentence), rule=rule, error="")

    monkeypatch.setattr(parts.registry.link, "explain", explain)
    web = await register(connect(uid=1000))
    answer = (await connect(uid=1000).post("/v1/explain", json={"from": web["appid"], "to": "10.1.0.1:53"})).json()
    assert (answer["rule"], answer["steps"]) == (seen, [shown])


async def test_all_that_can_be_asked(connect: Connect, asked: list[wire.Explain]) -> None:
    client = connect(uid=0)
    web = await register(client)
    more = {"protocol": "udp", "uid": 5, "executable": "/bin/x", "attributes": {"http.path": "/x"}}
    answer = await client.post("/v1/explain", json={"from": web["appid"], "to": "10.1.0.1:53", **more})
    assert answer.status_code == 200
    assert asked == [wire.Explain(seq=7, client=web["id"], to="10.1.0.1:53", **more)]


@pytest.mark.parametrize(
    ("body", "slug", "detail"),
    [
        ({"from": "nobody", "to": "10.1.0.1:80"}, "no-such-app", "no app has the id or name nobody"),
        ({"from": "00000000", "to": "10.1.0.1:80"}, "no-such-app", "no app has the id or name 00000000"),
        ({"from": "web", "to": "nobody:80"}, "no-such-app", "no app with an address and no vservice is called nobody"),
        ({"from": "web", "to": "many"}, "invalid", "vservice many has several ports: give one, such as many:PORT"),
        ({"from": "web", "to": "web"}, "invalid", "web is an app: give a port, too, web:PORT"),
        ({"from": "web", "to": "10.1.0.1"}, "invalid", "10.1.0.1 is an address: give a port, too, 10.1.0.1:PORT"),
        ({"from": "web", "to": "10.1.0.1:0"}, "invalid", "0 is not a port"),
        ({"from": "web", "to": "10.1.0.1:65536"}, "invalid", "65536 is not a port"),
        ({"from": "web", "to": "10.1.0.999:1"}, "invalid", "'10.1.0.999:1' holds no IP address"),
        ({"from": "web", "to": "[10.1.0.9]:1"}, "invalid", "'[10.1.0.9]:1': only IPv6 addresses are in brackets"),
        ({"from": "web", "to": "fd00::1:80"}, "invalid", "'fd00::1:80' is not where a connection can go"),
        ({"from": "web", "to": ""}, "invalid", "'' is not where a connection can go"),
        ({"from": "web", "to": "shop", "uid": -1}, "invalid", "uid"),
        ({"from": "web", "to": "shop", "protocol": "sctp"}, "invalid", "protocol"),
        ({"from": "web", "to": "shop", "path": "/x"}, "invalid", "path"),
        ({"from": "web", "to": "shop", "attributes": {"http.method": "GONE"}}, "no-such-app", "it has gone"),
        ({"to": "shop"}, "invalid", "from"),
    ],
)
async def test_bad_questions(
    connect: Connect, asked: list[wire.Explain], body: dict[str, Any], slug: str, detail: str
) -> None:
    client = connect(uid=0)
    await register(client, name="web", ips=["10.2.0.1"])
    assert detail in problem(await client.post("/v1/explain", json=body), slug)["detail"]


async def test_several_apps_of_one_name(connect: Connect, asked: list[wire.Explain]) -> None:
    client = connect(uid=0)
    first = await register(client, name="web", ips=["10.2.0.1"])
    await register(client, name="web", ips=["10.2.0.2"])
    answer = (await client.post("/v1/explain", json={"from": "web", "to": "shop"})).json()
    assert answer["steps"][0] == f"2 apps are called web: this is about {first['appid']}, the oldest"
    assert asked[0].client == first["id"]


async def test_who_may_ask(connect: Connect, asked: list[wire.Explain]) -> None:
    """About one's own apps; how others have configured it is told to who sees all."""
    await register(connect(uid=ALICE), name="web", ips=["10.2.0.1"])
    body = {"from": "web", "to": "shop"}
    problem(await connect(uid=BOB).post("/v1/explain", json=body), "no-such-app")
    assert (await connect(uid=ALICE).post("/v1/explain", json=body)).json()["steps"] == [STEPS[-1]]
    for client in (connect(), connect(uid=0)):
        assert (await client.post("/v1/explain", json=body)).json()["steps"] == list(STEPS)
