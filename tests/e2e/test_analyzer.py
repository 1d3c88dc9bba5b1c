"""The network analyzer with real programs: what TCP counts, when services come alive, what apps use, Prometheus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.servers import redis
from e2e.world import PROGRAMS, PYTHON, Switched, World, hang_up, say, wait_output
from harness import Addresses, App, Daemon, free_port, wait_until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from appswitch.cli import rest

TWO_PORTS = """
import socket
input()
one = socket.create_server(('', 7000))
input()
two = socket.create_server(('', 7001))
input()
"""


def connection(world: Switched, server: App) -> dict[str, Any]:
    """The one to a redis-server."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = [row for row in world.daemon.get("connections") if row["server"] == f"{server.ip}:6379"]
        return len(found) == 1

    wait_until(there, lambda: f"one connection, but {found}")
    return found[0]


def metrics(world: Switched, app: App) -> dict[str, Any]:
    """As /v1/apps/ID/metrics has them."""
    (row,) = (row for row in world.daemon.get("apps") if row["pid"] == app.pid)
    status, found = world.daemon.rest("GET", f"/v1/apps/{row['app']['appid']}/metrics")
    assert status == 200, found
    return found


def samples(text: str, parser: Any = parse) -> dict[str, dict[tuple[str, ...], float]]:
    """Metric, labels, value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parser(text):
        for one in family.samples:
            found.setdefault(one.name, {})[tuple(one.labels.values())] = one.value
    return found


# --- connections -----------------------------------------------------------------------------------------------------


def test_bytes_and_round_trips_of_tcp(switched: Switched, place: Path) -> None:
    """As the client has them, though both ends are here."""
    switched.transport = "tcp"
    server = redis(switched, place)
    client = switched.start("redis-cli", "-h", server.ip, options=["--name", "cli"], stdin=subprocess.PIPE)
    say(client, "set key value\n")
    wait_output(client, "OK")
    before = connection(switched, server)
    assert (before["client_name"], before["transport"]) == ("cli", "tcp")
    assert before["bytes_sent"] > 0
    assert before["bytes_received"] > 0
    say(client, f"set key {'x' * 100_000}\nstrlen key\n")
    wait_output(client, "100000")
    after = connection(switched, server)
    assert 100_000 <= after["bytes_sent"] - before["bytes_sent"] < 101_000, "nothing twice"
    assert 0 < after["bytes_received"] - before["bytes_received"] < 1000
    assert after["rtt"] > 0
    assert after["retransmits"] >= 0
    head, line = switched.daemon.ax("get", "connections", "-o", "wide", check=True).stdout.splitlines()
    assert head.split()[-3:] == ["BYTES", "RTT", "RETRANS"]
    assert line.split()[-3].startswith("98K/")
    (only,) = metrics(switched, client)["connections"]
    assert only["server"] == f"{server.ip}:6379"
    hang_up(client)


def test_a_client_that_is_no_app(switched: Switched, place: Path) -> None:
    """The socket that we know is the server's; the figures are the client's all the same."""
    port = free_port()
    server = switched.start(
        "redis-server", "--bind", "0.0.0.0", "-::*", "--protected-mode", "no", "--save", "", "--dir", place,
        options=["--expose", f"6379:127.0.0.1:{port}"], listening=6379,
    )  # fmt: skip
    with App(["redis-cli", "-p", str(port)], switched.environment(), stdin=subprocess.PIPE) as client:
        say(client, f"set key {'x' * 50_000}\nstrlen key\n")
        wait_output(client, "50000")
        row = connection(switched, server)
        assert (row["client_app"], row["client_name"]) == (0, None)
        assert 50_000 < row["bytes_sent"] < 60_000
        assert row["bytes_received"] not in (0, row["bytes_sent"])
        hang_up(client)
        client.wait()


def test_unix_sockets_do_not_count(switched: Switched, place: Path) -> None:
    server = redis(switched, place)
    client = switched.start("redis-cli", "-h", server.ip, "blpop", "queue", "30")
    row = connection(switched, server)
    assert row["transport"] == "unix"
    assert {row[name] for name in ("bytes_sent", "bytes_received", "rtt", "retransmits")} == {None}
    client.stop()


# --- coming alive ----------------------------------------------------------------------------------------------------


def test_a_service_comes_alive(switched: Switched) -> None:
    stream: Any = rest.stream(rest.connect(str(switched.daemon.run_dir)), "/v1/events?what=servers")
    for event in stream:
        if event["type"] == "synced":
            break
    server = switched.start(PYTHON, "-c", TWO_PORTS, stdin=subprocess.PIPE)
    events = (event for event in stream if f"{server.ip}:700" in json.dumps(event))
    say(server, "\n")
    up, alive = next(events), next(events)
    assert (up["type"], alive["type"]) == ("server-up", "service-alive")
    assert (alive["proto"], alive["service_addrs"]) == ("tcp", [f"{server.ip}:7000"])
    assert 0 < alive["seconds"] < 60
    say(server, "\n")
    second = next(events)
    assert (second["type"], second["row"]["service_port"]) == ("server-up", 7001)
    stream.close()
    rows = {row["service_port"]: row["alive_after"] for row in switched.daemon.servers(7000, server.ip)}
    assert rows == {7000: alive["seconds"]}
    assert second["row"]["alive_after"] > alive["seconds"]
    assert metrics(switched, server)["alive_after"] == alive["seconds"]
    hang_up(server)
    server.wait()


def test_a_killed_switch_changes_nothing_of_that(
    daemon_factory: Callable[..., Daemon], addresses: Addresses, place: Path
) -> None:
    with Switched(daemon_factory(), addresses) as world:
        server = redis(world, place)
        before, servers = metrics(world, server), world.daemon.servers(6379)
        _, told = world.daemon.rest("GET", "/v1/status")
        os.kill(told["pids"]["switch"], signal.SIGKILL)

        def replaced() -> bool:
            _, now = world.daemon.rest("GET", "/v1/status")
            return now["pids"]["switch"] not in (0, told["pids"]["switch"]) and len(world.daemon.servers(6379)) == len(
                servers
            )

        wait_until(replaced, "another switch")
        found = world.daemon.servers(6379)
        assert min(row["alive_after"] for row in found) == before["alive_after"] > 0
        (app,) = world.daemon.get("metrics")
        assert app["figures"]["processes"] == 1
        assert app["since"] == before["since"]
        scraped = scrape(world.daemon, "/metrics")
        assert samples(scraped)["appswitch_switch_restarts_total"] == {(): 1}


# --- what apps use ---------------------------------------------------------------------------------------------------


@pytest.mark.also("rootless")
def test_memory_grows(world: World) -> None:
    assert isinstance(world, Switched)
    app = world.start(PYTHON, PROGRAMS / "grows.py", stdin=subprocess.PIPE)
    wait_output(app, "ready")
    before = metrics(world, app)
    assert before["figures"]["processes"] == 1
    say(app, "60\n")
    wait_output(app, "done 60")
    after: dict[str, Any] = {}

    def grown() -> bool:  # a look is good for a second
        after.update(metrics(world, app))
        return after["sampled"] > before["sampled"] and after["figures"]["data"] > before["figures"]["data"] + (
            59 << 20
        )

    wait_until(grown, lambda: f"60 MiB more than {before}, but {after}")
    for kind in ("anonymous", "resident"):
        assert after["figures"][kind] - before["figures"][kind] > 55 << 20
        assert after["growth"][kind] > 55 << 20
    assert after["figures"]["stack"] > 0
    assert after["figures"]["cpu"] >= before["figures"]["cpu"]
    hang_up(app)
    app.wait()


@pytest.mark.also("rootless")
def test_a_process_that_detaches_itself_is_still_the_apps(world: World) -> None:
    assert isinstance(world, Switched)
    app = world.start(PYTHON, PROGRAMS / "grows.py", stdin=subprocess.PIPE)
    wait_output(app, "ready")
    assert metrics(world, app)["figures"]["processes"] == 1
    say(app, "detach\n")
    wait_output(app, "done detach")
    wait_until(lambda: metrics(world, app)["figures"]["processes"] == 2, "the other process")
    hang_up(app)
    app.wait()


def test_tables(switched: Switched, place: Path) -> None:
    server = redis(switched, place)
    appid = next(row["app"]["appid"] for row in switched.daemon.get("apps") if row["pid"] == server.pid)
    line = next(line for line in switched.daemon.ax("get", "metrics", check=True).stdout.splitlines() if appid in line)
    assert line.split()[-1].endswith("s"), "alive after so many seconds"
    top = switched.daemon.ax("top", "--once", "-d", "0.5", "-o", "json", check=True).stdout
    (row,) = (row for row in json.loads(top)["apps"] if row["appid"] == appid)
    assert row["rss"] > 1 << 20
    assert switched.daemon.ax("flows", "-o", "json", "--app", appid).returncode == 0


# --- Prometheus ------------------------------------------------------------------------------------------------------


def scrape(daemon: Daemon, path: str, *options: str) -> str:
    """By a client of the real world, over the Unix socket unless ``path`` is a URL."""
    where = [path] if "://" in path else ["--unix-socket", str(daemon.run_dir / "rest.sock"), f"http://localhost{path}"]
    words = ["curl", "-sS", "--fail", "--max-time", "10", *options, *where]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=20).stdout


def test_prometheus(daemon_factory: Callable[..., Daemon], addresses: Addresses, place: Path) -> None:
    port = free_port()
    with Switched(daemon_factory("--rest-port", str(port)), addresses, "tcp") as world:
        server = redis(world, place, "--io-threads", "1")
        client = world.start("redis-cli", "-h", server.ip, "blpop", "queue", "30")
        connection(world, server)
        accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        for where in ("/metrics", f"http://127.0.0.1:{port}/metrics"):
            plain = samples(scrape(world.daemon, where))
            assert samples(scrape(world.daemon, where, "-H", accept), parse_openmetrics).keys() == plain.keys()
            assert plain["appswitch_switch_up"] == {(): 1}
            assert plain["appswitch_apps"] == {("running",): 2}
            assert plain["appswitch_connections"] == {("tcp", "tcp"): 1}
            assert plain["appswitch_calls_total"]["connect",] >= 1
            assert len(plain["appswitch_app_resident_bytes"]) == 2
            assert min(plain["appswitch_app_resident_bytes"].values()) > 1 << 20
            assert list(plain["appswitch_app_alive_after_seconds"]) != []
        client.stop()


def test_scrapes_without_end_harm_nobody(switched: Switched, place: Path) -> None:
    server = redis(switched, place)
    done = threading.Event()

    def often() -> None:
        while not done.is_set():
            scrape(switched.daemon, "/metrics")

    thread = threading.Thread(target=often)
    thread.start()
    try:
        got = switched.run(
            "redis-benchmark", "-h", server.ip, "-q", "-n", "300", "-c", "10", "-k", "0", "-t", "ping_mbulk"
        )
    finally:
        done.set()
        thread.join()
    assert "requests per second" in got.stdout
