"""What the daemon tells about running programs, and two daemons side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.servers import Nginx, redis
from e2e.world import Switched, authority, hang_up, say, url, wait_output
from harness import Addresses, App, Daemon, wait_until


def get(world: Switched, what: str) -> list[dict[str, str]]:
    return json.loads(world.daemon.ax("get", what, "-o", "json", check=True).stdout)


@pytest.mark.also("tcp")
def test_connections_show_both_ends_and_the_transport(switched: Switched, kind: str) -> None:
    switched.transport = "tcp" if kind == "tcp" else ""
    server = switched.start("socat", "TCP-LISTEN:7000,fork", "EXEC:cat", listening=7000)
    client = switched.start("socat", "-", f"TCP:{server.ip}:7000", stdin=subprocess.PIPE)
    say(client, "one\n")
    wait_output(client, "one\n")
    rows = [row for row in switched.daemon.get("connections") if row["server"] == authority(str(server.ip), 7000)]
    assert len(rows) == 1, switched.daemon.get("connections")
    assert rows[0]["client"].startswith(f"{client.ip}:")
    assert rows[0]["transport"] == kind
    hang_up(client)
    client.wait()
    wait_until(lambda: not switched.daemon.get("connections"), "the connection to be forgotten")


def test_tables_of_apps_servers_and_sockets(switched: Switched, place: Path) -> None:
    server = switched.start(*Nginx(place).argv, options=["--name", "web", "--labels", "tier=front"], listening=80)
    assert server.ip is not None
    table = switched.daemon.ax("get", "apps", check=True).stdout
    assert "web" in table
    assert server.ip in table
    assert "tier" in table
    assert server.ip in switched.daemon.ax("get", "servers", check=True).stdout
    for what in ("apps", "servers", "sockets", "connections"):
        assert isinstance(get(switched, what), list)
        assert switched.daemon.ax("get", what, "-o", "yaml", check=True).returncode == 0
    server.stop()
    wait_until(lambda: not switched.daemon.get("servers"), "its listening socket to be forgotten")
    wait_until(lambda: not switched.daemon.get("apps"), "the app to be forgotten")


def test_two_daemons_do_not_see_each_other(
    daemon_factory: Callable[..., Daemon], addresses: Addresses, place: Path
) -> None:
    ip = addresses.v4()
    with Switched(daemon_factory(), addresses) as one, Switched(daemon_factory(), addresses) as two:
        one.start(*Nginx(place / "1", http='server { listen 80; return 200 "one\\n"; }').argv, ip=ip, listening=80)
        two.start(*Nginx(place / "2", http='server { listen 80; return 200 "two\\n"; }').argv, ip=ip, listening=80)
        curl = ("curl", "-sS", "--max-time", "10", url(ip))
        assert [one.run(*curl).stdout, two.run(*curl).stdout] == ["one\n", "two\n"]


def test_the_daemon_of_an_unprivileged_user(
    rootless_daemon: Daemon, daemon: Daemon, addresses: Addresses, place: Path
) -> None:
    """Each sees its own apps alone."""
    with Switched(rootless_daemon, addresses) as own, Switched(daemon, addresses) as roots:
        mine = own.start("sleep", "infinity")
        wait_until(lambda: [row["pid"] for row in own.daemon.get("apps")] == [mine.pid], "the app alone to be known")
        assert mine.pid not in {row["pid"] for row in roots.daemon.get("apps")}
        assert "uid=0" not in own.run("id", ip="").stdout


def test_the_first_run_starts_a_daemon(daemon: Daemon, place: Path) -> None:
    """Without a daemon `ax run` starts one; the next finds it, also when several ask at once."""
    run_dir = place / "run"
    environment = daemon.environment({"AX_RUN_DIR": str(run_dir)})

    def run(*words: str) -> App:
        return App(daemon.command("run", "--", *words), environment)

    with run("echo", "one") as one, run("echo", "two") as two, run("echo", "three") as three:
        for app, word in ((one, "one"), (two, "two"), (three, "three")):
            assert app.wait() == 0, app
            assert app.stdout == f"{word}\n"
    keeper = int((run_dir / "daemon.pid").read_text())
    with run("echo", "four") as four:
        assert four.wait() == 0
    assert int((run_dir / "daemon.pid").read_text()) == keeper
    os.kill(keeper, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{keeper}").exists(), "the daemon to end")


def test_a_crash_of_an_app_in_the_middle_harms_nobody(switched: Switched) -> None:
    """Apps that are killed while their calls wait in the daemon."""
    server = switched.start("socat", "TCP-LISTEN:7000,fork", "EXEC:echo served", listening=7000)
    waiting = [switched.start("socat", "TCP-LISTEN:7001", "-", listening=7001) for _ in range(5)]
    for app in waiting:
        app.kill()
    assert switched.run("socat", "-t10", "-", f"TCP:{server.ip}:7000").stdout == "served\n"
    ids = {app.pid for app in waiting}
    wait_until(lambda: not ids & {row["pid"] for row in switched.daemon.get("apps")}, "the dead to be forgotten")


def test_a_killed_switch_is_succeeded(daemon_factory: Callable[..., Daemon], addresses: Addresses, place: Path) -> None:
    """Connections go on, servers accept, waiting calls are answered; what comes meanwhile waits for the successor."""
    with Switched(daemon_factory(), addresses) as world:
        nginx = world.start(*Nginx(place / "nginx").argv, listening=80)
        server = redis(world, place)
        accepting = world.start("socat", "TCP-LISTEN:7000,fork", "EXEC:cat", listening=7000)
        client = world.start("redis-cli", "-h", server.ip, stdin=subprocess.PIPE)
        say(client, "set key kept\n")
        wait_output(client, "OK")
        for _ in range(2):
            status, told = world.daemon.rest("GET", "/v1/status")
            assert status == 200
            os.kill(told["pids"]["switch"], signal.SIGKILL)
            got = world.run("curl", "-sS", "--max-time", "10", url(str(nginx.ip)), url(str(nginx.ip)))
            assert got.stdout.count("hello") == 2
            assert world.run("socat", "-t10", "-", f"TCP:{accepting.ip}:7000", input="echo\n").stdout == "echo\n"
            say(client, "get key\n")
            wait_output(client, '"?kept')
            loaded = world.run("redis-benchmark", "-h", str(server.ip), "-q", "-n", "1000", "-c", "20", "-t", "incr")
            assert "requests per second" in loaded.stdout
        hang_up(client)
        assert client.wait() == 0
        assert {row["service_port"] for row in world.daemon.get("servers")} == {80, 6379, 7000}
