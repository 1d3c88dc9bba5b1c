"""Connections that are handed to an unmodified Envoy: it accepts them from its own socket, and knows where they were to
go by getsockopt(SO_ORIGINAL_DST)."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.envoy import PORT, Envoy, route
from e2e.services import Services, Spec
from e2e.world import PROGRAMS, PYTHON, Switched, authority, say, url
from harness import Addresses, App, Daemon, wait_until

CURL = ("curl", "-sS", "-g", "-i", "--max-time", "10", "-w", "\\n%{remote_ip} %{local_ip}")


class Front:
    """An Envoy that all tests of this file share, and what it was configured with."""

    def __init__(self, envoy: Envoy, app: App, other: str) -> None:
        self.envoy = envoy
        self.ip = str(app.ip).partition(",")[0]
        self.other = other  # the address to which it sends requests for /other/

    @property
    def listener(self) -> str:
        return f"{self.ip}:{PORT}"


@pytest.fixture(scope="module")
def front(daemon: Daemon, addresses: Addresses) -> Iterator[Front]:
    with tempfile.TemporaryDirectory(prefix="axt-envoy-", dir="/tmp") as place, Switched(daemon, addresses) as world:
        other = addresses.v4()
        made = Envoy(Path(place), routes=(route("/other/", "other"),), clusters={"other": f"{other}:8080"})
        app = made.start(world, name="front", ip=f"{addresses.v4()},{addresses.v6()}")
        yield Front(made, app, other)


@pytest.fixture
def one(switched: Switched) -> App:
    """A server of both families."""
    ips = f"{switched.addresses.v4()},{switched.addresses.v6()}"
    return mirror(switched, "one", ips)


def mirror(world: Switched, name: str, ip: str | None = None, *options: str) -> App:
    return world.start(PYTHON, PROGRAMS / "mirror.py", name, "8080", ip=ip, listening=8080, options=options)


class Answer:
    """What curl printed: of the response its headers, of the body what the mirror saw."""

    def __init__(self, output: str) -> None:
        head, _, rest = output.replace("\r", "").partition("\n\n")
        body, self.peer = rest.rsplit("\n", 1)
        self.status, *headers = head.splitlines()
        self.served = "x-served: envoy" in headers
        self.seen: dict[str, Any] = json.loads(body)

    @property
    def through(self) -> bool:
        """Whether the server was asked by way of Envoy."""
        return self.seen["headers"].get("x-through") == "envoy"


def ask(world: Switched, where: str, *options: str, ip: str | None = None) -> Answer:
    return Answer(world.run(*CURL, where, options=options, ip=ip).stdout)


def ips(app: App) -> list[str]:
    return str(app.ip).split(",")


@pytest.mark.also("tcp")
def test_requests_are_routed_and_changed(
    switched: Switched, services: Services, front: Front, one: App, kind: str
) -> None:
    mirror(switched, "two", front.other)
    switched.transport = "tcp" if kind == "tcp" else ""
    services.proxy("front", listener=front.listener)
    web = services.vservice("web", ips(one)[0], ports="80:8080", proxy="front")
    client = switched.addresses.v4()
    answer = ask(switched, url(web, path="/a"), ip=client)
    assert (answer.seen["name"], answer.served, answer.through) == ("one", True, True)
    assert answer.seen["headers"]["x-forwarded-for"] == client
    assert answer.seen["client"] == f"::ffff:{front.ip}", "the server is asked by Envoy"
    assert answer.peer == f"{web} {client}", "the client sees nothing of it"
    other = ask(switched, url(web, path="/other/b"), ip=client)
    assert (other.seen["name"], other.through) == ("two", False)
    logged = front.envoy.wait_logged(client, 2)
    assert [row.asked for row in logged] == [f"{web}:80"] * 2
    assert [row.upstream for row in logged] == [f"{web}:80", f"{front.other}:8080"]
    assert services.proxies()["front"]["taken"] == 2, "its own connections are not handed to it"


def test_what_failed_is_tried_again(switched: Switched, services: Services, front: Front, one: App) -> None:
    services.proxy("front", listener="front:15001")
    web = services.vservice("web", ips(one)[0], ports="80:8080", proxy="front")
    client = switched.addresses.v4()
    assert ask(switched, url(web, path=f"/once/{client}"), ip=client).status == "HTTP/1.1 200 OK"
    (row,) = front.envoy.wait_logged(client)
    assert (row.code, row.tried) == (200, 2)


@pytest.mark.also("tcp")
def test_ipv6(switched: Switched, services: Services, front: Front, one: App, kind: str) -> None:
    """Its filter asks for IP6T_SO_ORIGINAL_DST."""
    switched.transport = "tcp" if kind == "tcp" else ""
    services.proxy("front", listener="front:15001")
    web = services.vservice("web6", ips(one)[1], ports="80:8080", ip=switched.addresses.v6(), proxy="front")
    client = switched.addresses.v6()
    for _ in range(4):  # either of its listeners might be chosen
        answer = ask(switched, url(web), ip=client)
        assert (answer.through, answer.seen["headers"]["x-forwarded-for"]) == (True, client)
    assert {row.asked for row in front.envoy.wait_logged(client, 4)} == {authority(web, 80)}


@pytest.mark.also("tcp")
def test_many_connections(switched: Switched, services: Services, front: Front, one: App, kind: str) -> None:
    switched.transport = "tcp" if kind == "tcp" else ""
    services.proxy("front", listener=front.listener)
    web = services.vservice("web", ips(one)[0], ports="80:8080", proxy="front")
    client = switched.addresses.v4()
    ask(switched, url(web), ip=client)
    before = services.descriptors()
    loaded = switched.run("hey", "-n", "200", "-c", "20", "-disable-keepalive", url(web), ip=client, patience=40)
    assert "[200]\t200 responses" in loaded.stdout, loaded.stdout
    front.envoy.wait_logged(client, 201)
    assert services.proxies()["front"]["taken"] == 201
    left = before + 2  # where a queue was full for a moment, a service has got a door
    wait_until(lambda: services.descriptors() <= left, lambda: f"{services.descriptors()} sockets, {before} before")


# -- who says that a connection is handed over

CALLER = {"labels": {"zone": "default", "team": "a"}}
SERVER = {"names": ["target"]}
LABELS = ("--labels", "zone=default,team=a")
BY_POLICY: dict[str, Spec] = {
    "egress": {"direction": "egress", "from": [CALLER]},
    "ingress": {"direction": "ingress", "from": [CALLER], "to": [SERVER]},
    "names": {"from": [{"names": ["caller"]}], "to": [SERVER]},
    "server's labels": {"to": [{"labels": {"app": "target"}}], "from": [CALLER], "ports": ["8080"]},
}


@pytest.mark.parametrize("way", BY_POLICY)
def test_by_policy(switched: Switched, services: Services, front: Front, way: str) -> None:
    server = mirror(switched, "one", None, "--name", "target", "--labels", "zone=default,app=target")
    services.proxy("front", listener=front.listener)
    services.policy("to-front", "allow", proxy="front", **BY_POLICY[way])
    chosen = ask(switched, url(str(server.ip), 8080), *LABELS, "--name", "caller")
    assert chosen.through
    other = ask(switched, url(str(server.ip), 8080), "--name", "other")
    assert not other.through, "it closes nothing, and selects one client"


def test_by_the_clients_own_option(switched: Switched, services: Services, front: Front, one: App) -> None:
    services.proxy("front", listener=front.listener)
    where = url(ips(one)[0], 8080)
    assert ask(switched, where, "--proxy", "front").through
    assert not ask(switched, where).through


def test_only_what_is_asked_for(switched: Switched, services: Services, front: Front, one: App) -> None:
    """A policy's first bytes: the others never see Envoy."""
    services.proxy("front", listener=front.listener)
    services.policy(
        "api", "allow", proxy="front", to={"networks": [f"{ips(one)[0]}/32"]}, l7=[{"http.path": ["/api/*"]}]
    )
    client = switched.addresses.v4()
    for path in ("/api/x", "/plain", "/api/y"):
        answer = ask(switched, url(ips(one)[0], 8080, path), ip=client)
        assert (answer.seen["path"], answer.through) == (path, path.startswith("/api/"))
    assert [row.path for row in front.envoy.wait_logged(client, 2)] == ["/api/x", "/api/y"]


def test_what_a_proxy_wants(switched: Switched, services: Services, front: Front, one: App) -> None:
    api = [{"http.path": ["/api/*"], "http.method": ["GET"]}]
    services.proxy("front", listener=front.listener, wants=api, peek={"milliseconds": 5000})
    web = services.vservice("web", ips(one)[0], ports="80:8080", proxy="front")
    assert ask(switched, url(web, path="/api/x")).through
    assert not ask(switched, url(web, path="/plain")).through


def test_rules_change_while_apps_run(switched: Switched, services: Services, front: Front, one: App) -> None:
    web = services.vservice("web", ips(one)[0], ports="80:8080")
    app = switched.start(PYTHON, PROGRAMS / "asker.py", stdin=subprocess.PIPE)
    asked = 0

    def through() -> bool:
        nonlocal asked
        asked += 1
        say(app, f"{url(web)}\n")
        wait_until(lambda: app.stdout.count("\n") >= asked, lambda: f"an answer\n{app}")
        return bool(json.loads(app.stdout.splitlines()[-1])["headers"].get("x-through"))

    def by_vservice(**spec: str) -> None:
        services.vservice("web", ips(one)[0], ports="80:8080", ip=web, **spec)

    assert not through()
    services.proxy("front", listener=front.listener)
    by_vservice(proxy="front")
    assert through()
    by_vservice()
    assert not through()
    services.policy("to-front", "allow", proxy="front", to={"names": ["web"]})
    assert through()
    services.delete("policy", "to-front")
    assert not through()


@pytest.mark.parametrize("l7", [False, True], ids=["", "by first bytes"])
def test_strangers_by_an_ingress_policy(switched: Switched, services: Services, front: Front, l7: bool) -> None:
    """Who is outside, and comes in by an exposed port."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    server = mirror(switched, "one", None, "--name", "target", "--expose", f"8080:127.0.0.1:{port}")
    services.proxy("front", listener=front.listener)
    more: Spec = {"l7": [{"http.path": ["/api/*"]}]} if l7 else {}
    services.policy("in", "allow", proxy="front", to={"names": ["target"]}, **more)
    path = f"/api/{server.ip}"
    assert stranger(port, path)["headers"].get("x-through") == "envoy"
    wait_until(lambda: path in {row.path for row in front.envoy.accesses()}, "its line in the log")
    (row,) = (row for row in front.envoy.accesses() if row.path == path)
    assert (row.client_ip, row.asked) == ("127.0.0.1", f"{server.ip}:8080")
    if l7:
        assert "x-through" not in stranger(port, "/plain")["headers"]


def stranger(port: int, path: str) -> dict[str, Any]:
    """A program of the host asks."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url("127.0.0.1", port, path), timeout=10) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def test_strangers_of_an_external_vservice(switched: Switched, services: Services, front: Front, one: App) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    services.proxy("front", listener=front.listener)
    web = services.vservice("web", ips(one)[0], ports=f"{port}:8080", external=True, proxy="front")
    path = f"/{web}"
    assert stranger(port, path)["headers"].get("x-through") == "envoy"
    wait_until(lambda: path in {row.path for row in front.envoy.accesses()}, "its line in the log")
    (row,) = (row for row in front.envoy.accesses() if row.path == path)
    assert (row.client_ip, row.asked) == ("127.0.0.1", f"{web}:{port}")
