"""/metrics, /v1/metrics and an app's own: what they say, and to whom."""

from __future__ import annotations

import asyncio
import json
import os
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from tests.unit.control.analyzer.builders import app, backend, flow, proxy, server
from tests.unit.control.conftest import Connect, until
from tests.unit.control.fake_switch import FakeSwitch
from tests.unit.control.test_server import control, unix

from appswitch.control.__main__ import Control
from appswitch.control.api.deps import Parts
from appswitch.control.link import SwitchLink
from appswitch.model import ConnectionRow

__all__ = ["control", "unix"]

ALICE, BOB = 1000, 1001
pytestmark = pytest.mark.usefixtures("as_root_daemon")


async def known(switch: FakeSwitch, link: SwitchLink, parts: Parts) -> None:
    """App 1 is alice's and is this process, app 2 is bob's and nobody."""
    for number, uid, pid in ((1, ALICE, os.getpid()), (2, BOB, 0)):
        switch.apps[number] = app(
            number, uid=uid, name=f"app{number}", attached=None, created=time.time(), netns="host"
        )
        switch.attach(number, pid=pid)
        switch.listen(server(app_id=number, since=switch.apps[number].app.created + 4))
    for client, to in ((1, 2), (2, 0)):
        row = ConnectionRow(
            client_app=client, server_app=to, proto="tcp", client="c", server="s", transport="tcp", bytes_sent=5,
            protocol="http", attributes={"http.path": "/"},
        )  # fmt: skip
        switch.connections.append(row)
    switch.backends.append(backend("10.0.0.1:80"))
    switch.proxies.append(proxy("envoy"))
    switch.stats = {"parked": 3.0, "flows.denied": 2.0}
    switch.see(flow(verdict="denied", rule="no-db"))
    await until(lambda: len(link.servers) == 2 and parts.analyzer.flows.recent())
    await parts.analyzer.meter._attached(link.apps[1])


def samples(answer: httpx.Response) -> dict[str, float]:
    assert answer.status_code == 200, answer.text
    return {
        one.name.removeprefix("appswitch_") + "".join(f" {value}" for value in one.labels.values()): one.value
        for family in parse(answer.text)
        for one in family.samples
    }


async def test_everything(connect: Connect, switch: FakeSwitch, link: SwitchLink, parts: Parts) -> None:
    await known(switch, link, parts)
    parts.dns_cached = lambda: 12
    for client in (connect(uid=0), connect()):
        answer = await client.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = samples(answer)
        assert (found["switch_up"], found["parked_calls"], found["flows_total denied"]) == (1, 3, 2)
        assert (found["apps running"], found["servers tcp"], found["connections tcp tcp"]) == (2, 2, 2)
        assert (found["rule_denials_total false no-db"], found["backends healthy web"]) == (1, 1)
        assert (found["proxies ready"], found["proxy_failures_total envoy"]) == (1, 2)
        assert found["app_alive_after_seconds 00000002 app2"] == pytest.approx(3)
        assert found["app_resident_bytes 00000001 app1"] > 1 << 20
        assert found["dns_cache_entries"] == 12


async def test_only_ones_own(connect: Connect, switch: FakeSwitch, link: SwitchLink, parts: Parts) -> None:
    await known(switch, link, parts)
    found = samples(await connect(uid=BOB).get("/metrics"))
    assert (found["apps running"], found["servers tcp"], found["connections tcp tcp"]) == (1, 1, 2)
    assert not [name for name in found if "app1" in name or "no-db" in name or "web" in name or "envoy" in name]


async def test_openmetrics(connect: Connect) -> None:
    answer = await connect(uid=0).get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_without_a_switch(connect: Connect, switch: FakeSwitch, link: SwitchLink) -> None:
    """A scrape does not wait for it; nor is one that hangs an error."""
    client = connect(uid=0)
    link._timeout = 0.1
    switch.deaf = True
    assert samples(await client.get("/metrics"))["switch_up"] == 0
    await switch.stop()
    await until(lambda: not link.connected.is_set())
    assert samples(await client.get("/metrics"))["switch_up"] == 0


async def test_a_switch_that_was_replaced(
    switch: FakeSwitch, link: SwitchLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    await switch.stop()
    await until(lambda: not link.connected.is_set())
    await switch.start()
    await until(link.connected.is_set)
    assert link.restarts == 0, "the same one, connected to again"
    await switch.stop()
    await until(lambda: not link.connected.is_set())
    monkeypatch.setattr(os, "getpid", lambda: 99)
    await switch.start()
    await until(link.connected.is_set)
    assert link.restarts == 1


async def test_usage(connect: Connect, switch: FakeSwitch, link: SwitchLink, parts: Parts) -> None:
    await known(switch, link, parts)
    mine, other = (await connect(uid=0).get("/v1/metrics")).json()["metrics"]
    assert (mine["appid"], mine["name"], mine["figures"]["processes"]) == ("00000001", "app1", 1)
    assert mine["figures"]["anonymous"] > 1 << 20
    assert mine["alive_after"] == pytest.approx(3)
    assert mine["growth"]["cpu"] >= 0
    assert mine["since"] <= mine["sampled"]
    assert (other["figures"], other["growth"], other["sampled"]) == (None, None, None)
    (only,) = (await connect(uid=BOB).get("/v1/metrics")).json()["metrics"]
    assert only["appid"] == "00000002"


async def test_usage_of_one(connect: Connect, switch: FakeSwitch, link: SwitchLink, parts: Parts) -> None:
    await known(switch, link, parts)
    found = (await connect(uid=ALICE).get("/v1/apps/00000001/metrics")).json()
    (connection,) = found["connections"]
    assert (connection["client_name"], connection["server_name"]) == ("app1", None)
    assert (connection["protocol"], connection["attributes"]) == ("http", {"http.path": "/"})
    assert found["figures"]["processes"] == 1
    answer = await connect(uid=ALICE).get("/v1/apps/00000002/metrics")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:appswitch:problem:no-such-app")


async def test_over_the_socket(control: Control, unix: httpx.AsyncClient, switch: FakeSwitch) -> None:
    """Control looks at apps as they attach."""
    switch.apps[1] = app(1, attached=None, created=time.time(), netns="host")
    switch.attach(1, pid=os.getpid())
    await until(lambda: 1 in control.analyzer.meter._usages)
    assert samples(await unix.get("/metrics"))["app_processes 00000001 "] == 1


async def test_the_event_of_coming_alive(control: Control, unix: httpx.AsyncClient, switch: FakeSwitch) -> None:
    switch.apps[1] = app(1, attached=None, ips=("10.0.0.1",))
    switch.attach(1)
    async with unix.stream("GET", "/v1/events?what=servers") as answer:
        events = (json.loads(line) async for line in answer.aiter_lines())
        assert (await anext(events))["type"] == "synced"
        for row in (server(), server(actual=("0.0.0.0:80",)), server(port=81)):
            switch.listen(row)
        found = [await asyncio.wait_for(anext(events), 10) for _ in range(4)]
    assert [one["type"] for one in found] == ["server-up", "service-alive", "server-up", "server-up"]
    assert found[1] == {
        "type": "service-alive", "appid": "00000001", "proto": "tcp", "service_ip": "10.0.0.1", "service_port": 80,
        "service_addrs": ["10.0.0.1:80"], "seconds": 3.0,
    }  # fmt: skip
