"""/v1/flows: what is remembered, what comes, and who sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.unit.control.analyzer.builders import app, flow
from tests.unit.control.conftest import Connect, until
from tests.unit.control.fake_switch import FakeSwitch
from tests.unit.control.test_server import control, unix

from appswitch.control.__main__ import Control
from appswitch.control.access import Peer
from appswitch.control.access import caller as caller_of
from appswitch.control.api import flows
from appswitch.control.api.deps import Parts
from appswitch.control.link import SwitchLink

__all__ = ["control", "unix"]

ALICE, BOB = 1000, 1001
pytestmark = pytest.mark.usefixtures("as_root_daemon")


async def known(switch: FakeSwitch, link: SwitchLink) -> None:
    """App 1 is alice's and named web, app 2 is bob's and named db."""
    for number, uid, name in ((1, ALICE, "web"), (2, BOB, "db")):
        switch.apps[number] = app(number, uid=uid, name=name, labels={"zone": name}, attached=None)
        switch.attach(number)
    await until(lambda: len(link.apps) == 2)


async def rows(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get("/v1/flows", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonl"), answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_row(connect: Connect, switch: FakeSwitch, link: SwitchLink, parts: Parts) -> None:
    await known(switch, link)
    switch.see(flow(verdict="denied", rule="no-db", error="EACCES", protocol="http", attributes={"http.path": "/\n"}))
    await until(parts.analyzer.flows.recent)
    (row,) = await rows(connect(uid=0))
    assert row == {
        "time": 100.0, "proto": "tcp", "verdict": "denied", "client_app": 1, "server_app": 2,
        "client": "10.0.0.1:40000", "server": "10.0.0.2:80", "vservice": "", "backend": "", "rule": "no-db",
        "error": "EACCES", "dry_run": False, "protocol": "http", "attributes": {"http.path": "/\n"}, "transport": "",
        "waited": 0.0, "client_appid": "00000001", "client_name": "web", "client_labels": {"zone": "web"},
        "server_appid": "00000002", "server_name": "db", "server_labels": {"zone": "db"},
    }  # fmt: skip


async def test_choosing(connect: Connect, switch: FakeSwitch, link: SwitchLink, parts: Parts) -> None:
    await known(switch, link)
    switch.see(
        flow(time=1.0, verdict="denied", rule="no-db"),
        flow(time=2.0, verdict="timed out", vservice="v"),
        flow(time=3.0, client=0, server=2),
        flow(time=4.0, client=1, server=0),
    )
    await until(lambda: len(parts.analyzer.flows.recent()) == 4)

    async def times(**query: Any) -> list[float]:
        return [row["time"] for row in await rows(connect(uid=0), **query)]

    assert await times() == [1, 2, 3, 4]
    assert await times(limit=2) == [3, 4]
    assert await times(limit=0) == []
    assert await times(since=2.5) == [3, 4]
    assert await times(app="web") == await times(app="00000001") == [1, 2, 4]
    assert await times(app="nobody") == []
    assert await times(verdict="denied") == await times(rule="no-db") == [1]
    assert await times(verdict=["denied", "timed out"]) == [1, 2]
    assert await times(vservice="v", app="db", limit=1) == [2]
    for wrong in ({"verdict": "maybe"}, {"limit": 1001}, {"since": "yesterday"}, {"follow": "x"}):
        assert (await connect(uid=0).get("/v1/flows", params=wrong)).status_code == 422


async def test_who_sees_what(connect: Connect, switch: FakeSwitch, link: SwitchLink, parts: Parts) -> None:
    await known(switch, link)
    switch.see(flow(time=1.0), flow(time=2.0, client=1, server=0), flow(time=3.0, client=0, server=2))
    await until(lambda: len(parts.analyzer.flows.recent()) == 3)
    assert [row["time"] for row in await rows(connect())] == [1, 2, 3]
    seen = await rows(connect(uid=ALICE))
    assert [row["time"] for row in seen] == [1, 2]
    assert (seen[0]["client_name"], seen[0]["server_name"], seen[0]["server_labels"]) == ("web", None, None)
    assert await rows(connect(uid=ALICE), app="db") == [], "a hidden name cannot be guessed"
    assert await rows(connect(uid=5)) == []
    switch.end(1)
    await until(lambda: 1 not in link.apps)
    assert [row["client_name"] for row in await rows(connect(uid=ALICE))] == ["web", "web"]


async def test_policies_have_no_name_for_users(connect: Connect, switch: FakeSwitch, control: Control) -> None:
    app = (await connect(uid=ALICE).post("/v1/apps", json={"command": ["x"]})).json()["id"]
    said = ("no-db", "egress", "proxy secret", "limits", "")
    switch.see(*(flow(time=float(n), verdict="denied", rule=rule, client=app) for n, rule in enumerate(said)))
    await until(lambda: len(control.analyzer.flows.recent()) == len(said))
    assert [row["rule"] for row in await rows(connect(uid=ALICE))] == ["(policy)", "egress", "(proxy)", "limits", ""]
    assert [row["rule"] for row in await rows(connect(uid=0))] == list(said)
    assert await rows(connect(uid=ALICE), rule="no-db") == []


async def lines(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        yield json.loads(line)


async def test_following(control: Control, unix: httpx.AsyncClient, switch: FakeSwitch) -> None:
    switch.see(flow(time=1.0, verdict="denied"))
    await until(control.analyzer.flows.recent)
    assert not switch.followed
    async with unix.stream("GET", "/v1/flows?follow=1") as answer:
        found = lines(answer)
        assert (await anext(found))["time"] == 1
        await until(lambda: switch.followed)
        switch.see(flow(time=2.0), flow(time=3.0))
        assert [(await anext(found))["time"] for _ in range(2)] == [2, 3]
    await until(lambda: not switch.followed)


async def test_following_a_few(control: Control, unix: httpx.AsyncClient, switch: FakeSwitch) -> None:
    switch.see(flow(time=1.0, verdict="denied"))
    await until(control.analyzer.flows.recent)
    async with unix.stream("GET", "/v1/flows?follow=true&limit=0&verdict=denied&app=00000002") as answer:
        await until(lambda: switch.followed)
        switch.see(flow(time=2.0), flow(time=3.0, verdict="denied", server=0), flow(time=4.0, verdict="denied"))
        assert (await anext(lines(answer)))["time"] == 4


async def test_server_sent_events(control: Control, unix: httpx.AsyncClient, switch: FakeSwitch) -> None:
    switch.see(flow())
    await until(control.analyzer.flows.recent)
    answer = await unix.get("/v1/flows", headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    kind, data, *_ = answer.text.split("\n")
    assert kind == "event: flow"
    assert json.loads(data.removeprefix("data: "))["verdict"] == "allowed"


async def test_a_slow_follower_is_cut_off(parts: Parts, switch: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appswitch.control.link.BACKLOG", 2)
    everything = flows.Wanted(None, frozenset(), None, None, 0.0)
    caller = caller_of(Peer(1, 0, 0), None, None)
    stream = flows._stream(parts, caller, everything, 0, follow=True)
    first = asyncio.ensure_future(anext(stream))
    await until(lambda: switch.followed)
    switch.see(*(flow(time=float(number)) for number in range(10)))
    assert (await first)["time"] == 0
    await until(lambda: len(parts.analyzer.flows.recent()) == 10)
    rest = [row["time"] async for row in stream]
    assert rest == [float(number) for number in range(1, 1 + len(rest))]
    assert len(rest) < 9
    await until(lambda: not switch.followed)
