"""Proxies at the delegation endpoint: what they are told, what they may answer, and what becomes of bad ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.servers import redis
from e2e.services import Services
from e2e.world import PROGRAMS, PYTHON, Switched, hang_up, say, url, wait_output
from harness import Addresses, App, Daemon, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples" / "delegation"
CURL = ("curl", "-sS", "-g", "--max-time", "10")
HTTP = {"wants": [{"protocol": ["http"]}], "peek": {"milliseconds": 5000}}
BROKEN = (7, 52, 55, 56)  # curl's statuses: a reset at once, instead of an answer, when it writes, when it reads


def mirror(world: Switched, *options: str) -> App:
    return world.start(PYTHON, PROGRAMS / "mirror.py", "server", "8080", listening=8080, options=options)


def takes(world: Switched, name: str, way: str) -> App:
    """A proxy of that name, which has been welcomed."""
    app = world.start(sys.executable, PROGRAMS / "takes.py", name, way, options=("--name", name))
    wait_output(app, "ready")
    return app


def ask(world: Switched, where: str, *options: str, ip: str | None = None) -> dict[str, Any]:
    """What the server, or the proxy in its stead, saw."""
    found: dict[str, Any] = json.loads(world.run(*CURL, where, ip=ip, options=options).stdout)
    return found


def refused(world: Switched, where: str) -> bool:
    """Whether a connection was reset, at whatever moment the client notices."""
    return world.run(*CURL, where, status=None).returncode in BROKEN


@pytest.fixture
def server(switched: Switched) -> App:
    return mirror(switched, "--name", "server")


def guarded(services: Services, server: App, proxy: str, **spec: Any) -> str:
    """A vservice in front of the server, whose connections go to a proxy."""
    services.proxy(proxy, **spec)
    return services.vservice("web", str(server.ip), ports="80:8080", proxy=proxy)


# -- answers


@pytest.mark.also("tcp")
def test_accept(switched: Switched, services: Services, server: App, kind: str) -> None:
    web = guarded(services, server, "one", **HTTP)
    takes(switched, "one", "accepts")
    switched.transport = "tcp" if kind == "tcp" else ""
    client = switched.addresses.v4()
    labels = ("--name", "caller", "--labels", "zone=default,team=a")
    told = ask(switched, url(web, path="/a/b"), *labels, ip=client)
    assert told.pop("source").startswith(f"{client}:")
    assert told.pop("peeked").startswith("GET /a/b HTTP/1.1\r\n")
    assert told == {
        "name": "one", "destination": f"{web}:80", "client": "caller", "labels": {"zone": "default", "team": "a"},
        "server": None, "direction": "client", "vservice": "web", "chain": [], "path": "/a/b",
    }  # fmt: skip
    row = services.proxies()["one"]
    assert (row["state"], row["taken"], row["failed"]) == ("ready", 1, 0)
    wait_until(lambda: services.proxies()["one"]["active"] == 0, "the proxy to be done with it")


@pytest.mark.also("tcp")
def test_pass(switched: Switched, services: Services, server: App, kind: str) -> None:
    web = guarded(services, server, "one")
    takes(switched, "one", "passes")
    switched.transport = "tcp" if kind == "tcp" else ""
    client = switched.addresses.v4()
    assert ask(switched, url(web), ip=client)["client"] == f"::ffff:{client}", "straight to the server"
    assert services.proxies()["one"]["passed"] == 1


@pytest.mark.also("tcp")
def test_drop(switched: Switched, services: Services, server: App, kind: str) -> None:
    web = guarded(services, server, "one", onFailure="open")
    takes(switched, "one", "drops")
    switched.transport = "tcp" if kind == "tcp" else ""
    assert refused(switched, url(web))
    assert services.proxies()["one"]["dropped"] == 1


def test_a_chain_of_three(switched: Switched, services: Services, server: App) -> None:
    """The first does not want it, the second hands it on, the third serves it."""
    services.proxy("three")
    services.proxy("two", next="three", **HTTP)
    services.proxy("one", next="two", wants=[{"protocol": ["tls"]}], peek={"milliseconds": 5000})
    web = services.vservice("web", str(server.ip), ports="80:8080", proxy="one")
    apps = [takes(switched, name, way) for name, way in (("one", "drops"), ("two", "hands on"), ("three", "accepts"))]
    told = ask(switched, url(web))
    assert (told["name"], told["chain"]) == ("three", ["two"])
    assert apps[0].stdout == "ready\n"
    apps[2].stop()
    assert refused(switched, url(web))


def test_the_end_of_a_chain_is_the_server(switched: Switched, services: Services, server: App) -> None:
    web = guarded(services, server, "one")
    takes(switched, "one", "hands on")
    assert ask(switched, url(web))["name"] == "server"


# -- failures


FAILING = (
    "is silent", "fails", "dies", "accepts and dies", "speaks nonsense", "sends descriptors", "greets again", "floods",
)  # fmt: skip


@pytest.mark.parametrize("way", FAILING)
@pytest.mark.parametrize("on_failure", ["open", "closed"])
def test_failures(switched: Switched, services: Services, server: App, way: str, on_failure: str) -> None:
    web = guarded(services, server, "one", onFailure=on_failure, timeout=0.3)
    before = services.descriptors()
    takes(switched, "one", way)
    if on_failure == "open":
        assert ask(switched, url(web))["name"] == "server", "nothing is lost"
    else:
        assert refused(switched, url(web))
    assert services.proxies()["one"]["failed"] == 1
    for app in switched.apps:
        app.stop()
    wait_until(lambda: services.proxies()["one"]["state"] == "away", "the proxy to go")
    wait_until(lambda: services.descriptors() <= before, lambda: f"{services.descriptors()} sockets, {before} before")


def test_one_that_answers_twice(switched: Switched, services: Services, server: App) -> None:
    web = guarded(services, server, "one")
    takes(switched, "one", "answers twice")
    for _ in range(3):
        assert ask(switched, url(web))["name"] == "one"
    row = services.proxies()["one"]
    assert (row["taken"], row["passed"], row["dropped"], row["failed"]) == (3, 0, 0, 0)


def test_one_that_answers_for_another(switched: Switched, services: Services, server: App) -> None:
    """It would let everything pass; what is not its own it cannot."""
    services.proxy("mute", timeout=20)
    services.proxy("liar")
    guarded_by_mute = services.vservice("guarded", str(server.ip), ports="80:8080", proxy="mute")
    web = services.vservice("web", str(server.ip), ports="80:8080", proxy="liar")
    mute = takes(switched, "mute", "is silent")
    takes(switched, "liar", "answers for others")
    client = switched.start(*CURL, url(guarded_by_mute))
    wait_output(mute, '"name": "mute"')
    assert ask(switched, url(web))["name"] == "server"
    assert client.running()
    mute.stop()
    assert client.wait() in BROKEN


@pytest.mark.parametrize("way", ["is silent", "passes", "hands on", "drops", "fails"])
def test_who_does_not_accept_has_nothing(switched: Switched, services: Services, server: App, way: str) -> None:
    """No descriptor but its standard ones and the link, whatever it answers, and when."""
    web = guarded(services, server, "one", onFailure="open", timeout=0.2)
    app = takes(switched, "one", way)
    assert switched.run(*CURL, url(web), status=None).returncode in (0, *BROKEN)
    if way == "is silent":
        wait_output(app, "withdrawn [0-9]+ TIMEOUT")
    assert "has" not in app.stdout
    assert len(list(Path(f"/proc/{app.pid}/fd").iterdir())) == 4


def test_one_of_the_first_protocol(switched: Switched, services: Services) -> None:
    """It is told why it cannot be served, in its own version."""
    services.proxy("one")
    told = switched.run(PYTHON, "-c", OF_VERSION_1, options=("--name", "one"))
    assert told.stdout.startswith("version 1, kind 3, reason 1: this daemon speaks version 2 of the protocol")


OF_VERSION_1 = """
import os, socket
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.connect(os.environ["AX_RUN_DIR"] + "/delegate.sock")
link.send(b"AXD\\x01\\x01" + bytes(3) + bytes(4) + b"\\x03one")
told = link.recv(2000)
assert told[:3] == b"AXD" and link.recv(2000) == b""
print(f"version {told[3]}, kind {told[4]}, reason {told[9]}: {told[10:].decode()}")
"""


def test_one_that_is_stopped(switched: Switched, services: Services, server: App) -> None:
    """More than it can be sent; then it is there again, and answers what nobody asks it any more."""
    web = guarded(services, server, "one", onFailure="open", timeout=0.2)
    app = takes(switched, "one", "passes")
    app.send(signal.SIGSTOP)
    loaded = switched.run("hey", "-n", "400", "-c", "100", "-disable-keepalive", url(web), patience=40)
    assert "[200]\t400 responses" in loaded.stdout, loaded.stdout
    assert services.proxies()["one"]["failed"] == 400
    app.send(signal.SIGCONT)
    wait_until(lambda: ask(switched, url(web)) and services.proxies()["one"]["passed"], lambda: f"it to answer\n{app}")


@pytest.mark.parametrize("on_failure", ["open", "closed"])
def test_one_that_is_full(switched: Switched, services: Services, server: App, on_failure: str) -> None:
    web = guarded(services, server, "one", capacity=2, onFailure=on_failure)
    takes(switched, "one", "accepts")
    held = [switched.start("socat", "-", f"TCP:{web}:80", stdin=subprocess.PIPE) for _ in range(2)]
    wait_until(lambda: services.proxies()["one"]["state"] == "full", lambda: f"it to be full: {services.proxies()}")
    if on_failure == "open":
        assert ask(switched, url(web))["name"] == "server"
    else:
        assert refused(switched, url(web))
    for app in held:
        say(app, "x")
        hang_up(app)
        wait_output(app, "200 OK")
    wait_until(lambda: services.proxies()["one"]["state"] == "ready", "it to have room")
    assert ask(switched, url(web))["name"] == "one"


def test_who_is_configured_no_longer_gets_nothing(switched: Switched, services: Services, server: App) -> None:
    web = guarded(services, server, "one")
    app = takes(switched, "one", "accepts")
    services.delete("proxy", "one")
    assert ask(switched, url(web))["name"] == "server", "as if there were no proxy"
    assert app.wait() == 0, "it is told to go"


# -- apps that hand over sockets of their own


def test_offers(switched: Switched, services: Services) -> None:
    services.proxy("one")
    app = switched.start(sys.executable, PROGRAMS / "offers.py", "8080", "one", listening=8080)
    assert ask(switched, url(str(app.ip), 8080)) == {"name": "itself", "reason": "AWAY"}
    proxy = takes(switched, "one", "accepts")
    client = switched.addresses.v4()
    told = ask(switched, url(str(app.ip), 8080), ip=client)
    assert (told["name"], told["path"], told["destination"]) == ("one", "/offered", f"{app.ip}:8080")
    assert told["source"].startswith(f"{client}:")
    proxy.stop()
    takes(switched, "one", "drops")
    assert ask(switched, url(str(app.ip), 8080)) == {"name": "itself", "reason": "DECLINED"}


# -- the examples


def example(world: Switched, services: Services, name: str, proxy: str) -> App:
    """One that is configured as its file says, and connected."""
    services.daemon.ax("apply", "-f", str(EXAMPLES / "proxies.yaml"), check=True)
    app = world.start(sys.executable, EXAMPLES / name, options=("--name", proxy))
    wait_until(lambda: services.proxies()[proxy]["state"] == "ready", lambda: f"the example\n{app}")
    return app


@pytest.mark.also("tcp")
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_the_header_adder(switched: Switched, services: Services, server: App, kind: str, direction: str) -> None:
    """By an egress policy it makes connections of its own; by an ingress policy it stands before the server's."""
    example(switched, services, "header_proxy.py", "adder")
    switched.transport = "tcp" if kind == "tcp" else ""
    services.policy(
        "add", "allow", direction=direction, proxy="adder", from_={"names": ["caller"]}, to={"names": ["server"]}
    )
    client = switched.addresses.v4()
    told = ask(switched, url(str(server.ip), 8080), "--name", "caller", ip=client)
    assert told["headers"].get("x-client-app") == "caller"
    assert (told["client"] == f"::ffff:{client}") == (direction == "ingress")
    assert "x-client-app" not in ask(switched, url(str(server.ip), 8080))["headers"]
    loaded = switched.run("hey", "-n", "100", "-c", "5", url(str(server.ip), 8080), options=("--name", "caller"))
    assert "[200]\t100 responses" in loaded.stdout, loaded.stdout


def test_the_redis_auditor(switched: Switched, services: Services, place: Path) -> None:
    server = redis(switched, place)
    app = example(switched, services, "redis_audit.py", "audit")
    cache = services.vservice("cache", str(server.ip), ports="6379", proxy="audit")
    client = ("redis-cli", "-h", cache)
    told = switched.run(*client, input="SET key secret\nGET key\nFLUSHALL\nGET key\n", options=("--name", "caller"))
    assert told.stdout.splitlines()[:2] == ["OK", "secret"]
    assert "refused by the auditor" in told.stdout
    assert told.stdout.splitlines()[-1] == "secret"
    for line in ("caller -> cache SET key", "caller -> cache GET key", "caller -> cache FLUSHALL"):
        wait_output(app, line)
    assert "secret" not in app.stdout


def test_established_connections_outlive_the_switch(
    daemon_factory: Callable[..., Daemon], addresses: Addresses
) -> None:
    """The echo example, before and after; it finds its way back."""
    daemon = daemon_factory()
    with Switched(daemon, addresses) as world, Services(daemon, addresses) as services:
        server = mirror(world)
        services.daemon.ax("apply", "-f", str(EXAMPLES / "proxies.yaml"), check=True)
        web = services.vservice("web", str(server.ip), ports="80:8080", proxy="echo")
        example(world, services, "echo.py", "echo")
        before = talking(world, web)
        status, told = daemon.rest("GET", "/v1/status")
        assert status == 200
        os.kill(told["pids"]["switch"], signal.SIGKILL)
        say(before, "two\n")
        wait_output(before, "two\n")
        wait_until(lambda: _state(daemon) == "ready", lambda: f"the proxy to be back: {_state(daemon)}", 20)
        after = talking(world, web)
        for app in (before, after):
            hang_up(app)
            assert app.wait() == 0


def talking(world: Switched, ip: str) -> App:
    app = world.start("socat", "-", f"TCP:{ip}:80", stdin=subprocess.PIPE)
    say(app, "one\n")
    wait_output(app, "one\n")
    return app


def _state(daemon: Daemon) -> str:
    status, told = daemon.rest("GET", "/v1/proxies/echo")
    return str((told.get("status") or {}).get("state")) if status == 200 else ""
