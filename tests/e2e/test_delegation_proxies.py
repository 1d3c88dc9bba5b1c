"""Connections that are handed to haproxy and nginx behind a PROXY header, and to proxies that fail."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.servers import Nginx
from e2e.services import Services, document
from e2e.world import PROGRAMS, PYTHON, Switched, authority, url
from harness import App, wait_until

PORT = 15001
PATIENT = {"milliseconds": 5000}  # first bytes come late on a busy machine
CURL = ("curl", "-sS", "-g", "--max-time", "10")

HAPROXY = """
global
    nbthread 1
    log stdout format raw local0
defaults
    mode http
    log global
    log-format "%ci %fi:%fp %HU %ST"
    timeout connect 3s
    timeout client 10s
    timeout server 10s
frontend in
    bind :15001 accept-proxy
    bind :::15001 v6only accept-proxy
    http-request set-header x-through haproxy
    default_backend original
backend original
    server original 0.0.0.0
"""

NGINX = """
log_format proxied '$proxy_protocol_addr $where $request_uri $status';
map $proxy_protocol_server_addr $where {
    "~:" "[$proxy_protocol_server_addr]:$proxy_protocol_server_port";
    default "$proxy_protocol_server_addr:$proxy_protocol_server_port";
}
server {
    listen 15001 proxy_protocol;
    listen [::]:15001 proxy_protocol ipv6only=on;
    access_log %s/proxied.log proxied;
    location / {
        proxy_pass http://$where;
        proxy_set_header x-through nginx;
    }
}
"""

Log = Callable[[], list[list[str]]]


def haproxy(world: Switched, place: Path) -> Log:
    conf = place / "haproxy.cfg"
    conf.write_text(HAPROXY)
    app = world.start("haproxy", "-db", "-f", conf, listening=PORT, options=("--name", "front"))
    return lambda: [line.split() for line in app.stdout.splitlines()]


def nginx(world: Switched, place: Path) -> Log:
    world.start(*Nginx(place, http=NGINX % place, workers=1).argv, listening=PORT, options=("--name", "front"))
    return lambda: [line.split() for line in (place / "proxied.log").read_text().splitlines()]


PROXIES = {"haproxy": haproxy, "nginx": nginx}


def mirror(world: Switched, ip: str | None = None) -> App:
    return world.start(PYTHON, PROGRAMS / "mirror.py", "one", "8080", ip=ip, listening=8080)


def ask(world: Switched, where: str, ip: str | None = None, status: int | None = 0) -> dict[str, Any]:
    """What the server saw."""
    told = world.run(*CURL, where, ip=ip, status=status).stdout
    found: dict[str, Any] = json.loads(told) if told else {}
    return found


# -- the PROXY protocol


@pytest.mark.also("tcp")
@pytest.mark.parametrize("which", PROXIES)
def test_the_header_tells_who_it_is(switched: Switched, services: Services, place: Path, kind: str, which: str) -> None:
    """Both families, decided at once, and by first bytes: then the header comes before what is there already."""
    server = mirror(switched, f"{switched.addresses.v4()},{switched.addresses.v6()}")
    v4, v6 = str(server.ip).split(",")
    log = PROXIES[which](switched, place)
    switched.transport = "tcp" if kind == "tcp" else ""
    services.proxy("front", listener=f"front:{PORT}", header="v2")
    api = [{"http.path": ["/api/*"]}]
    services.proxy("api", listener=f"front:{PORT}", header="v2", wants=api, peek=PATIENT)
    at_once = services.vservice("at-once", v4, ports="80:8080", proxy="front")
    at_once6 = services.vservice("at-once6", v6, ports="80:8080", ip=switched.addresses.v6(), proxy="front")
    by_bytes = services.vservice("by-bytes", v4, ports="80:8080", proxy="api")
    client, client6 = switched.addresses.v4(), switched.addresses.v6()
    wanted = [(client, at_once, "/api/1"), (client6, at_once6, "/2"), (client, by_bytes, "/api/3")]
    for own, address, path in wanted:
        assert ask(switched, url(address, path=path), own)["headers"]["x-through"] == which
    assert "x-through" not in ask(switched, url(by_bytes, path="/4"))["headers"]
    wait_until(lambda: len(log()) >= 3, lambda: f"three lines in {log()}")
    assert [line[:3] for line in log()] == [
        [own, f"{address}:80" if which == "haproxy" else authority(address, 80), path] for own, address, path in wanted
    ]


@pytest.mark.also("tcp")
def test_many_behind_headers(switched: Switched, services: Services, place: Path, kind: str) -> None:
    server = mirror(switched)
    log = haproxy(switched, place)
    switched.transport = "tcp" if kind == "tcp" else ""
    services.proxy("front", listener=f"front:{PORT}", header="v2")
    api = [{"http.path": ["/api/*"]}]
    services.proxy("api", listener=f"front:{PORT}", header="v2", wants=api, peek=PATIENT)
    client = switched.addresses.v4()
    for name, path in (("front", "/"), ("api", "/api/x")):
        web = services.vservice(f"by-{name}", str(server.ip), ports="80:8080", proxy=name)
        loaded = switched.run("hey", "-n", "100", "-c", "10", "-disable-keepalive", url(web, path=path), ip=client)
        assert "[200]\t100 responses" in loaded.stdout, loaded.stdout
    wait_until(lambda: len(log()) >= 200, lambda: f"{len(log())} lines")
    assert {line[0] for line in log()} == {client}


def test_a_client_cannot_write_a_header_of_its_own(switched: Switched, services: Services, place: Path) -> None:
    """A second thread that writes while the first one connects: what it forges is never read as a header."""
    server = mirror(switched)
    log = haproxy(switched, place)
    services.proxy("front", listener=f"front:{PORT}", header="v2")
    web = services.vservice("web", str(server.ip), ports="80:8080", proxy="front")
    switched.run(PYTHON, PROGRAMS / "forger.py", web, "80", "200")
    ask(switched, url(web, path="/last"))
    wait_until(lambda: any(line[2:3] == ["/last"] for line in log()), lambda: f"the last one in {log()}")
    assert not [line for line in log() if line[0] == "192.0.2.66"]


# -- proxies that fail


def asleep(world: Switched, backlog: int = 128) -> App:
    """A proxy that listens, and accepts nothing."""
    script = f"import signal, socket\nwith socket.create_server(('', {PORT}), backlog={backlog}): signal.pause()"
    return world.start(PYTHON, "-c", script, listening=PORT, options=("--name", "front"))


@pytest.mark.also("tcp")
@pytest.mark.parametrize("header", ["none", "v2"])
@pytest.mark.parametrize("wants", [[], [{"http.method": ["GET"]}]], ids=["at-once", "by-bytes"])
def test_one_that_is_away(
    switched: Switched, services: Services, kind: str, header: str, wants: list[dict[str, list[str]]]
) -> None:
    server = mirror(switched)
    switched.transport = "tcp" if kind == "tcp" else ""
    services.proxy("open", listener=f"front:{PORT}", header=header, wants=wants, onFailure="open")
    services.proxy("closed", listener=f"front:{PORT}", header=header, wants=wants, onFailure="closed")
    through = {
        name: services.vservice(name, str(server.ip), ports="80:8080", proxy=name) for name in ("open", "closed")
    }
    client = switched.addresses.v4()
    assert ask(switched, url(through["open"]), client)["client"] == f"::ffff:{client}"
    status = switched.run(*CURL, url(through["closed"]), status=None).returncode
    assert status in ((7, 52, 55, 56) if wants else (7,)), "refused; or connected, and then reset"
    rows = services.proxies()
    assert {name: (row["state"], row["failed"]) for name, row in rows.items()} == {
        "open": ("away", 1),
        "closed": ("away", 1),
    }


@pytest.mark.also("tcp")
@pytest.mark.parametrize("header", ["none", "v2"])
def test_one_whose_queue_is_full(switched: Switched, services: Services, kind: str, header: str) -> None:
    """It has been stopped, say. Who comes then goes on without it; who is in its queue waits for it."""
    server = mirror(switched)
    asleep(switched, backlog=2)
    switched.transport = "tcp" if kind == "tcp" else ""
    services.proxy("front", listener=f"front:{PORT}", header=header, onFailure="open")
    web = services.vservice("web", str(server.ip), ports="80:8080", proxy="front")
    waiting = [switched.start("curl", "-sS", "-m", "100", url(web)) for _ in range(5)]
    wait_until(lambda: services.proxies()["front"]["failed"] or None, lambda: f"it to be full: {services.proxies()}")
    client = switched.addresses.v4()
    assert ask(switched, url(web), client)["client"] == f"::ffff:{client}"
    assert any(app.running() for app in waiting)


@pytest.mark.also("tcp")
@pytest.mark.parametrize("header", ["none", "v2"])
def test_who_was_not_accepted_goes_on(switched: Switched, services: Services, kind: str, header: str) -> None:
    """A proxy is killed that has connections in its queue: with them nothing has happened yet."""
    server = mirror(switched)
    proxy = asleep(switched)
    switched.transport = "tcp" if kind == "tcp" else ""
    services.proxy("open", listener=f"front:{PORT}", header=header, onFailure="open")
    services.proxy("closed", listener=f"front:{PORT}", header=header)
    waiting = {}
    for name in ("open", "closed"):
        web = services.vservice(name, str(server.ip), ports="80:8080", proxy=name)
        waiting[name] = [switched.start("curl", "-sS", "-m", "100", url(web)) for _ in range(3)]
        wait_until(lambda name=name: services.proxies()[name]["taken"] == 3, lambda: f"its queue: {services.proxies()}")
    proxy.send(signal.SIGKILL)
    for app in waiting["open"]:
        assert app.wait() == 0, str(app)
        assert json.loads(app.stdout)["name"] == "one"
    assert [app.wait() in (52, 55, 56) for app in waiting["closed"]] == [True] * 3
    assert services.proxies()["open"]["failed"] == 3


@pytest.mark.parametrize("header", ["none", "v2"])
def test_one_that_is_killed_under_load(switched: Switched, services: Services, place: Path, header: str) -> None:
    """What it had is lost with it. Nothing that comes later is."""
    server = mirror(switched)
    conf = place / "haproxy.cfg"
    conf.write_text(HAPROXY if header == "v2" else HAPROXY.replace(" accept-proxy", ""))
    proxy = switched.start("haproxy", "-db", "-f", conf, listening=PORT, options=("--name", "front"))
    services.proxy("front", listener=f"front:{PORT}", header=header, onFailure="open")
    target = f"server original {server.ip}:8080"
    if header == "none":
        conf.write_text(conf.read_text().replace("server original 0.0.0.0", target))
        proxy.stop()
        proxy = switched.start("haproxy", "-db", "-f", conf, listening=PORT, options=("--name", "front"))
    web = services.vservice("web", str(server.ip), ports="80:8080", proxy="front")
    load = switched.start("hey", "-n", "600", "-c", "10", "-disable-keepalive", url(web))
    wait_until(lambda: services.proxies()["front"]["taken"] > 50, lambda: f"some load: {services.proxies()}\n{load}")
    proxy.send(signal.SIGKILL)
    assert load.wait(30) == 0
    good = int(load.stdout.partition("[200]\t")[2].split()[0])
    assert good >= 600 - 10, load.stdout
    assert services.proxies()["front"]["failed"] > 0


# -- chains


def test_loops_are_refused(services: Services) -> None:
    services.proxy("c", listener=f"front:{PORT}")
    services.proxy("b", listener=f"front:{PORT}", next="c")
    services.proxy("a", listener=f"front:{PORT}", next="b")
    told = services.daemon.ax(
        "apply", "-f", "-", input=json.dumps(document("Proxy", "c", listener=f"front:{PORT}", next="a"))
    )
    assert told.returncode != 0
    assert "the proxies lead in a loop: c -> a -> b -> c" in told.stderr


def test_a_proxys_own_connections_are_not_handed_to_it(switched: Switched, services: Services, place: Path) -> None:
    """Not even by a policy for everybody."""
    server = mirror(switched)
    log = haproxy(switched, place)
    services.proxy("front", listener=f"front:{PORT}", header="v2")
    services.policy("all", "allow", proxy="front", to={"networks": [f"{server.ip}/32"]})
    assert ask(switched, url(str(server.ip), 8080))["headers"]["x-through"] == "haproxy"
    wait_until(lambda: log() or None, "its log")
    assert (len(log()), services.proxies()["front"]["taken"]) == (1, 1)
