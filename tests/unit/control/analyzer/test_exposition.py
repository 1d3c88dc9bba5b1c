"""What Prometheus reads: that it can, that names follow its conventions, and that labels are bounded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from tests.unit.control.analyzer.builders import app, backend, proxy, server

from appswitch.control.analyzer import exposition
from appswitch.control.analyzer.exposition import MAX_APPS, MAX_BACKENDS, MAX_PROXIES, STATS, Snapshot, expose
from appswitch.control.analyzer.flowlog import Series
from appswitch.control.analyzer.meter import Usage
from appswitch.control.analyzer.processes import Figures
from appswitch.model import ConnectionRow

DOCS = Path(__file__).parents[4] / "docs" / "observability.md"
EVERYTHING = {key + ("x" if key.endswith(".") else ""): 7.0 for key in STATS}


def usage(**figures: float) -> Usage:
    return Usage(20.0, Figures(**figures), Figures(anonymous=10), 10.0)  # type: ignore[arg-type]


def snapshot(**more: Any) -> Snapshot:
    given: dict[str, Any] = {"version": "1", "node": "n", "cluster": "c", "started": 5.0, "switch_up": True, **more}
    return Snapshot(restarts=given.pop("restarts", 0), **given)


def full() -> Snapshot:
    return snapshot(
        stats=EVERYTHING,
        restarts=2,
        apps=[app(1, name="web"), app(2, attached=None)],
        servers=[server()],
        connections=[ConnectionRow(client_app=1, server_app=0, proto="tcp", client="c", server="s", transport="tcp")],
        backends=[backend("10.0.0.1:80"), backend("?", state="unknown")],
        proxies=[proxy("envoy"), proxy("audit", state="away")],
        flows={Series("denied", "no-db", "", False): 3, Series("allowed", 'a"\\\n', "web", True): 1},
        usages={1: usage(processes=1, cpu=1.5, anonymous=30)},
        alive_after={1: 0.25},
        dns_cached=4,
    )


def samples(found: Snapshot) -> dict[tuple[str, tuple[str, ...]], float]:
    text, _ = expose(found, "")
    return {
        (one.name.removeprefix("appswitch_"), tuple(one.labels.values())): one.value
        for family in parse(text.decode())
        for one in family.samples
    }


def test_values() -> None:
    found = samples(full())
    assert found["build_info", ("c", "n", "1")] == 1
    assert found["start_time_seconds", ()] == 5
    assert (found["switch_up", ()], found["switch_restarts_total", ()]) == (1, 2)
    assert (found["apps", ("running",)], found["apps", ("registered",)]) == (1, 1)
    assert found["servers", ("tcp",)] == found["connections", ("tcp", "tcp")] == 1
    assert found["calls_total", ("x",)] == found["flows_total", ("x",)] == found["denied_flows_total", ()] == 7
    assert found["call_seconds_total", ("x",)] == pytest.approx(7e-9)
    assert found["followed_flows_total", ("no-db", "denied", "")] == 3
    assert found["rule_denials_total", ("false", "no-db")] == 3
    assert found["rule_denials_total", ("true", 'a"\\\n')] == 1
    assert (found["backends", ("healthy", "web")], found["backends", ("unknown", "web")]) == (1, 1)
    names = ("active_connections", "connections_total", "failures_total")
    assert [found[f"backend_{name}", ("10.0.0.1:80", "80", "web")] for name in names] == [1, 2, 3]
    assert (found["proxies", ("ready",)], found["proxies", ("away",)]) == (1, 1)
    kinds = ("taken", "passed", "dropped", "handed_on")
    assert [found[f"proxy_{one}_connections_total", ("envoy",)] for one in kinds] == [6, 5, 4, 3]
    assert (found["proxy_active_connections", ("envoy",)], found["proxy_failures_total", ("envoy",)]) == (1, 2)
    assert not any("?" in labels for _, labels in found)
    who = ("00000001", "web")
    assert (found["app_cpu_seconds_total", who], found["app_anonymous_bytes", who]) == (1.5, 30)
    assert found["app_anonymous_growth_bytes", who] == 20
    assert found["app_alive_after_seconds", who] == 0.25
    assert found["dns_cache_entries", ()] == 4


def test_names_are_as_promtool_wants_them() -> None:
    for family in exposition.families(full()):
        assert re.fullmatch(r"appswitch_[a-z][a-z_]*[a-z]", family.name)
        assert family.documentation.endswith((".", ")"))
        assert not re.search(r"_(total|count|sum|bucket|gauge|counter|milli\w*|micro\w*|nano\w*|kilo\w*)$", family.name)
        for one in family.samples:
            assert one.name.endswith("_total") == (family.type == "counter"), one
            assert all(re.fullmatch(r"[a-z_]+", label) for label in one.labels)
        if "time" in family.name or "after" in family.name:
            assert family.name.endswith("_seconds")


def test_all_are_documented() -> None:
    documented = set(re.findall(r"`(appswitch_\w+)`", DOCS.read_text()))
    assert {one.name for family in exposition.families(full()) for one in family.samples} == documented


def test_no_series_twice() -> None:
    """Two specs of one vservice may stand for the same backend: their numbers are added up."""
    twice = [backend("10.0.0.1:80"), backend("10.0.0.1:80", route="canary")]
    text, _ = expose(snapshot(backends=twice, stats=EVERYTHING), "")
    lines = [line.rpartition(" ")[0] for line in text.decode().splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))
    assert samples(snapshot(backends=twice))["backend_connections_total", ("10.0.0.1:80", "80", "web")] == 4


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain; version=0.0.4", "text/html", "nonsense;;;q=,"])
def test_the_text_format(accept: str) -> None:
    text, media_type = expose(full(), accept)
    assert media_type.startswith("text/plain; version=0.0.4")
    assert list(parse(text.decode()))


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text",
        "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4",
        "application/openmetrics-text; version=x",
        "text/plain;q=0.1, Application/OpenMetrics-Text; version=999.0",
    ],
)
def test_openmetrics(accept: str) -> None:
    text, media_type = expose(full(), accept)
    assert media_type == openmetrics.exposition.CONTENT_TYPE_LATEST
    assert text.endswith(b"# EOF\n")
    found = {one.name: one for family in parse_openmetrics(text.decode()) for one in family.samples}
    assert found["appswitch_dns_cache_entries"].value == 4


def test_labels_are_bounded() -> None:
    numbers = range(1, MAX_APPS + 11)
    found = samples(
        snapshot(
            apps=[app(number) for number in numbers],
            usages={number: usage(threads=1) for number in numbers},
            alive_after=dict.fromkeys(numbers, 1.0),
            backends=[backend(f"10.0.{number >> 8}.{number & 255}:80") for number in range(MAX_BACKENDS + 10)],
            proxies=[proxy(f"p{number}") for number in range(MAX_PROXIES + 10)],
        )
    )
    assert sum(name == "app_threads" for name, _ in found) == MAX_APPS + 1
    assert found["app_threads", ("other", "other")] == 10
    assert sum(name == "app_alive_after_seconds" for name, _ in found) == MAX_APPS
    assert found["backend_active_connections", ("other", "other", "other")] == 10
    assert found["proxy_active_connections", ("other",)] == 10


def test_while_the_switch_is_away() -> None:
    found = samples(snapshot(switch_up=False))
    assert found["switch_up", ()] == 0
    assert ("parked_calls", ()) not in found


def test_times_that_are_not_measured() -> None:
    assert ("call_seconds_total", ("x",)) not in samples(snapshot(stats={"nanoseconds.x": 0.0}))
