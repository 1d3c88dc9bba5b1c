"""haproxy between apps: http and tcp mode, health checks, several threads, the PROXY protocol."""

from __future__ import annotations

import csv
import signal
import socket
from pathlib import Path

import pytest
from e2e.servers import Nginx
from e2e.world import World, url
from harness import App, marks, wait_until

CONF = """
global
    nbthread 2
    stats socket {place}/stats
    stats timeout 5s
defaults
    mode {mode}
    timeout connect 3s
    timeout client 10s
    timeout server 10s
frontend in
    bind :80
    default_backend apps
backend apps
    balance roundrobin
    default-server check inter 200ms fall 2 rise 1 {extra}
    {options}
    {servers}
"""


class Haproxy:
    def __init__(
        self, world: World, place: Path, backends: list[App], *, mode: str, options: str = "", extra: str = ""
    ):
        self.stats = place / "stats"
        conf = place / "haproxy.cfg"
        servers = "\n    ".join(f"server s{n} {app.ip}:80" for n, app in enumerate(backends))
        conf.write_text(CONF.format(place=place, mode=mode, servers=servers, options=options, extra=extra))
        self.app = world.start("haproxy", "-W", "-db", "-f", conf, listening=80)
        wait_until(self.stats.exists, "its statistics")

    def states(self) -> dict[str, str]:
        """UP or DOWN for each server, from its own statistics."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.stats))
            sock.sendall(b"show stat apps 4 -1\n")
            with sock.makefile() as stream:
                rows = csv.DictReader(stream.read().removeprefix("# ").splitlines())
                return {row["svname"]: row["status"].split()[0] for row in rows if row["check_status"]}

    def wait_states(self, **states: str) -> None:
        def checked() -> bool:
            return {name: self.states().get(name) for name in states} == states

        wait_until(checked, lambda: f"{states}, but {self.states()}")


@pytest.fixture
def backends(world: World, place: Path) -> tuple[list[App], list[Nginx]]:
    nginxes = [Nginx(place / name, workers=1) for name in "ab"]
    return [world.start(*nginx.argv, ip=world.hold(), listening=80) for nginx in nginxes], nginxes


def curls(world: World, ip: str, count: int, client: str | None = None) -> list[str]:
    script = f'for i in $(seq {count}); do curl -sS -f --max-time 10 "$0" || exit; done'
    return world.run("sh", "-c", script, url(ip), ip=client).stdout.splitlines()


def test_http_mode(world: World, place: Path, backends: tuple[list[App], list[Nginx]]) -> None:
    apps, nginxes = backends
    proxy = Haproxy(
        world, place, apps, mode="http", options="option forwardfor\n    http-request set-header User-Agent %[src]"
    )
    client = world.addresses.v4()
    greetings = curls(world, proxy.app.ip, 20, client)
    for app, nginx in zip(apps, nginxes, strict=True):
        assert sum(f"to {proxy.app.ip} on {app.ip}:80" in line for line in greetings) == 10
        assert {line[-1] for line in nginx.access if line[2] == "GET"} == {client}, "haproxy saw the client"
    loaded = world.run("hey", "-n", "300", "-c", "20", url(proxy.app.ip))
    assert "[200]\t300 responses" in loaded.stdout, loaded.stdout


@pytest.mark.also("tcp")
@pytest.mark.parametrize("options", ["", "option splice-request\n    option splice-response"], ids=["copy", "splice"])
def test_tcp_mode(world: World, place: Path, backends: tuple[list[App], list[Nginx]], options: str) -> None:
    apps, _ = backends
    proxy = Haproxy(world, place, apps, mode="tcp", options=options)
    greetings = curls(world, proxy.app.ip, 20)
    assert [sum(app.ip in line for line in greetings) for app in apps] == [10, 10]
    loaded = world.run("hey", "-n", "300", "-c", "20", "-disable-keepalive", url(proxy.app.ip))
    assert "[200]\t300 responses" in loaded.stdout, loaded.stdout


def test_health_checks_notice_a_server_that_goes_and_comes(
    world: World, place: Path, backends: tuple[list[App], list[Nginx]]
) -> None:
    apps, nginxes = backends
    proxy = Haproxy(world, place, apps, mode="http", options="option httpchk GET /")
    proxy.wait_states(s0="UP", s1="UP")
    apps[0].stop(signal.SIGQUIT)
    proxy.wait_states(s0="DOWN", s1="UP")
    assert all(apps[1].ip in line for line in curls(world, proxy.app.ip, 6))
    world.start(*nginxes[0].argv, ip=apps[0].ip, listening=80)
    proxy.wait_states(s0="UP", s1="UP")
    assert sum(apps[0].ip in line for line in curls(world, proxy.app.ip, 6)) == 3


def test_proxy_protocol_carries_virtual_addresses(world: World, place: Path) -> None:
    http = """
    server { listen 80 proxy_protocol;
             set $own $proxy_protocol_server_addr:$proxy_protocol_server_port;
             location / { return 200 "$proxy_protocol_addr $own\\n"; } }
    """
    nginx = Nginx(place / "a", http=http, workers=1)
    app = world.start(*nginx.argv, listening=80)
    proxy = Haproxy(world, place, [app], mode="tcp", extra="send-proxy check-send-proxy")
    client = world.addresses.v4()
    assert curls(world, proxy.app.ip, 1, client) == [f"{client} {proxy.app.ip}:80"]


def test_reload_hands_the_listener_to_the_new_process(
    world: World, place: Path, backends: tuple[list[App], list[Nginx]]
) -> None:
    """The master executes itself anew; the new worker inherits the listening socket."""
    apps, _ = backends
    proxy = Haproxy(world, place, apps, mode="http")
    assert len(curls(world, proxy.app.ip, 4)) == 4
    before = set(marks.children(proxy.app.pid))
    proxy.app.send(signal.SIGUSR2)
    wait_until(lambda: before.isdisjoint(marks.children(proxy.app.pid) or before), "the new worker alone")
    assert len(curls(world, proxy.app.ip, 4)) == 4
