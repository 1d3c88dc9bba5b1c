"""Proxies over REST: how they are doing, what cannot be beside what is there, and whose they are."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.control.analyzer.builders import proxy as row
from tests.unit.control.conftest import Connect, until
from tests.unit.control.fake_switch import FakeSwitch
from tests.unit.control.test_resources_api import path, policy, proxy, vservice

from appswitch.control.access import administrates, same_hands
from appswitch.control.link import SwitchLink
from appswitch.resources import Policy, Proxy, VService


async def test_what_the_switch_tells(connect: Connect, switch: FakeSwitch, link: SwitchLink) -> None:
    client = connect(uid=0)
    made = (await client.put("/v1/proxies/envoy", json=proxy(listener="envoy:80"))).json()
    assert "status" not in made, "it has not heard of it yet"
    switch.proxies = [row("envoy", app_id=10, listener="10.1.0.50:80"), row("other", state="away")]
    shown = (await client.get("/v1/proxies/envoy")).json()
    assert shown["status"] == {"state": "ready", "appid": "0000000a", "pid": 7, "active": 1, "taken": 6, "passed": 5,
                               "dropped": 4, "handedOn": 3, "failed": 2}  # fmt: skip
    assert (await client.get("/v1/proxies")).json() == {"proxies": [shown]}
    again = await client.put("/v1/proxies/envoy", json=shown)
    assert (again.status_code, again.json()) == (200, shown)
    await switch.stop()
    await until(lambda: not link.connected.is_set())
    assert (await client.get("/v1/proxies")).json() == {"proxies": [made]}, "what is configured is known without it"


async def test_the_switch_is_told(connect: Connect, switch: FakeSwitch) -> None:
    documents = [vservice(proxy="envoy"), policy(proxy="audit"), proxy(next="audit")]
    await connect(uid=0).post("/v1/apply", json=documents)
    told = switch.configured
    web, lan, envoy = told["VService", "web"], told["Policy", "lan"], told["Proxy", "envoy"]
    assert isinstance(web, VService)
    assert isinstance(lan, Policy)
    assert isinstance(envoy, Proxy)
    assert (web.proxy, lan.proxy, envoy.next) == ("envoy", "audit", "audit")
    app = await connect(uid=0).post("/v1/apps", json={"command": ["x"], "proxy": "Envoy"})
    assert app.json()["app"]["proxy"] == "envoy"
    assert [one.app.proxy for one in switch.apps.values()] == ["envoy"]


async def test_names_do_not_resolve(connect: Connect) -> None:
    client = connect(uid=0)
    for one in (vservice("envoy"), proxy("envoy")):
        assert (await client.post(path(one).rpartition("/")[0], json=one)).status_code == 201
    names = (await client.get("/v1/names")).json()["names"]
    assert [(one["name"], one["source"]) for one in names] == [("envoy", "vservice")]


async def test_backends_are_of_what_balances(connect: Connect, switch: FakeSwitch) -> None:
    await connect(uid=0).post("/v1/apply", json=[proxy("web")])
    assert (await connect(uid=0).get("/v1/backends")).json() == {"backends": []}


async def test_loops(connect: Connect) -> None:
    client = connect(uid=0)
    applied = (await client.post("/v1/apply", json=[proxy("a", next="b"), proxy("b", next="c")])).json()["results"]
    assert [one["result"] for one in applied] == ["created", "created"], "c is awaited"
    answer = await client.put("/v1/proxies/c", json=proxy("c", next="a"))
    (error,) = answer.json()["errors"]
    assert error == {"path": ["spec", "next"], "detail": "the proxies lead in a loop: c -> a -> b -> c"}
    assert (await client.put("/v1/proxies/c", json=proxy("c"))).status_code == 201
    assert (await client.put("/v1/proxies/c", json=proxy("c", next="c"))).json()["detail"].endswith("loop: c -> c")


# Whose it is


@pytest.mark.usefixtures("as_root_daemon")
async def test_users_have_their_own(connect: Connect) -> None:
    one, other = connect(uid=1000), connect(uid=1001)
    made = await one.post("/v1/proxies", json=proxy())
    assert made.json()["metadata"]["uid"] == 1000
    assert (await one.post("/v1/vservices", json=vservice(proxy="envoy"))).status_code == 201
    assert (await one.post("/v1/apps", json={"command": ["x"], "proxy": "envoy"})).status_code == 201
    assert (await one.post("/v1/proxies", json=proxy("first", next="envoy"))).status_code == 201
    assert (await other.get("/v1/proxies")).json() == {"proxies": []}
    assert (await other.delete("/v1/proxies/envoy")).status_code == 404
    assert (await other.put("/v1/proxies/envoy", json=proxy())).json()["type"].endswith(":name-in-use")
    assert (await one.put("/v1/policies/p", json=policy("p", proxy="envoy"))).status_code == 403


@pytest.mark.usefixtures("as_root_daemon")
@pytest.mark.parametrize("uid", [0, 1001])
async def test_nobody_leads_to_anothers(connect: Connect, uid: int) -> None:
    """An administrator neither: what everybody is led to is not for a user to answer."""
    await connect(uid=1000).post("/v1/proxies", json=proxy())
    client = connect(uid=uid)
    documents = [
        (vservice("mine", ips=[], proxy="envoy"), ["spec", "proxy"]),
        (proxy("mine", next="envoy"), ["spec", "next"]),
        *([(policy(proxy="envoy"), ["spec", "proxy"])] if uid == 0 else []),
    ]
    for document, where in documents:
        answer = await client.put(path(document), json=document)
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (403, where), answer.text
        assert "another user's" in answer.json()["detail"]
    app = await client.post("/v1/apps", json={"command": ["x"], "proxy": "envoy"})
    assert (app.status_code, app.json()["errors"][0]["path"]) == (403, ["proxy"])


@pytest.mark.usefixtures("as_root_daemon")
@pytest.mark.parametrize(("waits", "comes"), [(0, 1000), (1000, 0), (1000, 1001)])
@pytest.mark.parametrize(
    "waiting", [vservice(ips=[], proxy="envoy"), proxy("a", next="envoy"), policy(proxy="envoy"), None]
)
async def test_nobody_takes_what_waits(
    connect: Connect, waits: int, comes: int, waiting: dict[str, Any] | None
) -> None:
    """A name that nobody has is no promise to whoever takes it first."""
    if waiting is None:
        await connect(uid=waits).post("/v1/apps", json={"command": ["x"], "proxy": "envoy"})
    else:
        answer = await connect(uid=waits).put(path(waiting), json=waiting)
        if answer.status_code == 403:  # users have no policies
            return
    answer = await connect(uid=comes).post("/v1/proxies", json=proxy())
    assert answer.json()["type"].endswith(":name-in-use"), answer.text
    assert answer.json()["errors"][0]["path"] == ["metadata", "name"]
    assert (await connect(uid=waits).post("/v1/proxies", json=proxy())).status_code == 201


@pytest.mark.usefixtures("as_root_daemon")
async def test_a_users_listener(connect: Connect) -> None:
    """Of an app of its own, or of nobody's yet; then it is nobody else's any more."""
    one, other = connect(uid=1000), connect(uid=1001)
    app = {"command": ["x"], "name": "web", "ips": ["10.1.0.50"]}
    assert (await one.post("/v1/apps", json=app)).status_code == 201
    for listener in ("web:80", "10.1.0.50:80", "8.8.8.8:80"):
        answer = await other.post("/v1/proxies", json=proxy(listener=listener))
        assert answer.status_code in (403, 409), answer.text
    assert (await other.post("/v1/proxies", json=proxy("web"))).status_code == 409
    documents = [proxy("by-name", listener="web:80"), proxy("by-ip", listener="10.1.0.51:80"),
                 proxy("also", listener="10.1.0.51:81")]  # fmt: skip
    applied = (await one.post("/v1/apply", json=documents)).json()["results"]
    assert [result["result"] for result in applied] == ["created"] * 3
    for taken in ({"name": "by-ip"}, {"ips": ["10.1.0.51"]}):
        answer = await other.post("/v1/apps", json={"command": ["x"], **taken})
        assert answer.status_code == 409, answer.text
        assert "of a proxy that another user has configured" in answer.json()["detail"]
    await one.delete("/v1/proxies/by-ip")
    assert (await other.post("/v1/apps", json={"command": ["x"], "ips": ["10.1.0.51"]})).status_code == 409
    await one.delete("/v1/proxies/also")
    assert (await other.post("/v1/apps", json={"command": ["x"], "ips": ["10.1.0.51"]})).status_code == 201


@pytest.mark.usefixtures("as_root_daemon")
def test_hands() -> None:
    assert administrates(0)
    assert not administrates(1000)
    assert same_hands(1000, 1000)
    assert not same_hands(0, 1000)


def test_hands_of_a_users_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert same_hands(0, 1000)
