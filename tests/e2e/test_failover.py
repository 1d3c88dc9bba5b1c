"""Backends that fail: killed under load, refusing, silent. Clients do not hear of it where somebody else is left."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.node import NODE, OUTSIDE, Namespaces, NodeDaemon, Plain
from e2e.servers import Nginx
from e2e.services import Services
from e2e.world import PROGRAMS, PYTHON, Switched, hang_up, say, url, wait_output
from harness import Addresses, App, wait_until

LATE = (PYTHON, PROGRAMS / "late.py")
FULL, SILENT = "192.0.2.4", "192.0.2.66"
"""Outside: an address with a server whose queue is full, and one whose packets get lost."""


def nginxes(world: Switched, place: Path, count: int) -> list[App]:
    http = 'server { listen 80 backlog=4096; keepalive_requests 1000000; return 200 "$pid\\n"; }'
    return [world.start(*Nginx(place / str(n), http=http, workers=1).argv, listening=80) for n in range(count)]


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


@pytest.mark.also("tcp")
def test_a_backend_is_killed_under_wrk(switched: Switched, services: Services, place: Path, kind: str) -> None:
    """Connections that are kept: those of the dead backend end, and nothing else fails; wrk makes new ones."""
    switched.transport = "tcp" if kind == "tcp" else ""
    servers = nginxes(switched, place, 3)
    ip = services.vservice("web", *(str(server.ip) for server in servers), outlier={"baseEjection": 5})
    load = switched.start("wrk", "-t", "2", "-c", "30", "-d", "2s", "--timeout", "10s", url(ip))

    def connected() -> int:
        return sum(row["active"] for row in services.backends("web").values())

    wait_until(lambda: connected() >= 30, lambda: f"thirty connections, not {services.backends('web')}")
    own = services.backends("web")[str(servers[0].ip)]["active"]
    servers[0].kill()
    assert load.wait() == 0
    assert number(r"connect (\d+)", load.stdout) == number(r"timeout (\d+)", load.stdout) == 0, load.stdout
    broken = number(r"read (\d+)", load.stdout) + number(r"write (\d+)", load.stdout)
    # Its processes end one after the other: a few of those that were made anew may have come to the last of them.
    assert broken < 2 * own, f"{load.stdout}\n{own} connections were its own"
    assert "Non-2xx" not in load.stdout, load.stdout


def test_a_backend_is_killed_under_many_short_connections(switched: Switched, services: Services, place: Path) -> None:
    """A connection for each request: only those that were at the dead backend in that moment are lost."""
    servers = nginxes(switched, place, 3)
    ip = services.vservice("web", *(str(server.ip) for server in servers))
    load = switched.start("hey", "-n", "2000", "-c", "8", "-disable-keepalive", "-t", "10", url(ip))
    victim = str(servers[0].ip)
    wait_until(lambda: services.backends("web")[victim]["total"] > 100, "the load")
    servers[0].kill()
    assert load.wait(50) == 0
    good = number(r"\[200\]\t(\d+) responses", load.stdout)
    assert good >= 2000 - 8, load.stdout
    assert "refused" not in load.stdout, load.stdout


# -- backends outside


@pytest.fixture(scope="module")
def wire() -> Iterator[tuple[Namespaces, NodeDaemon]]:
    with Namespaces() as namespaces, NodeDaemon(namespaces.node) as daemon:
        ip = ["ip", "-n", namespaces.outside]
        subprocess.run([*ip, "address", "add", f"{FULL}/24", "dev", "eth0"], check=True)
        show = subprocess.run([*ip, "-j", "link", "show", "eth0"], check=True, capture_output=True, text=True).stdout
        found = re.search(r'"address":"([0-9a-f:]+)"', show)
        assert found
        # The wire's other end gets what is for this address, and has no use for it.
        silent = ["neigh", "add", SILENT, "lladdr", found[1], "dev", "eth0", "nud", "permanent"]
        subprocess.run(["ip", "-n", namespaces.node, *silent], check=True)
        yield namespaces, daemon


@pytest.fixture
def outside(wire: tuple[Namespaces, NodeDaemon]) -> Iterator[Plain]:
    with contextlib.ExitStack() as stack:
        yield Plain(wire[0].outside, stack)


@pytest.fixture
def apps(wire: tuple[Namespaces, NodeDaemon], addresses: Addresses) -> Iterator[Switched]:
    with Switched(wire[1], addresses) as made:
        yield made


@pytest.fixture
def services(request: pytest.FixtureRequest, addresses: Addresses) -> Iterator[Services]:
    """On the daemon that the test uses."""
    on_wire = "apps" in request.fixturenames
    daemon = request.getfixturevalue("wire")[1] if on_wire else request.getfixturevalue("daemon")
    with Services(daemon, addresses) as made:
        yield made


def greeter(outside: Plain, *addresses: str, port: int = 7000) -> None:
    for address in addresses:
        outside.start("socat", f"TCP-LISTEN:{port},bind={address},fork,backlog=64", "SYSTEM:echo hello; exec cat",
                      listening=port)  # fmt: skip


@pytest.mark.parametrize("how", ["blocking", "poll", "epoll", "asyncio"])
def test_who_refuses_is_ejected_unnoticed(apps: Switched, services: Services, outside: Plain, how: str) -> None:
    greeter(outside, OUTSIDE)
    ip = services.vservice(
        "web", {"external": f"{OUTSIDE}:7000"}, {"external": f"{OUTSIDE}:7001"}, {"external": f"{NODE}:7001"},
        ports="80", outlier={"consecutiveFailures": 2},
    )  # fmt: skip
    script = f"for n in 1 2 3 4 5 6 7 8; do {PYTHON} {PROGRAMS}/late.py {how} {ip} 80 | tail -n 1; done"
    own = apps.addresses.v4()
    got = apps.run("sh", "-c", script, ip=own)
    # The addresses of sockets that leave are the host's on this side, virtual on the other.
    assert {line.split()[1:] == [ip, "80", "hello"] for line in got.stdout.splitlines()} == {True}, got.stdout
    assert len(got.stdout.splitlines()) == 8
    rows = {row["spec"]: row for row in apps.daemon.get("backends")}
    assert rows[f"{OUTSIDE}:7000"]["total"] == 8, rows
    ejected = [row for row in rows.values() if row["state"] == "ejected"]
    assert ejected, rows
    assert all(row["ejected_for"] > 0 and row["backend"].endswith(":7001") for row in ejected)
    wait_until(lambda: "backend ejected" in apps.daemon.output, "it in the log")


@pytest.mark.parametrize("deaf", [FULL, SILENT], ids=["full", "silent"])
def test_who_does_not_answer_is_passed_over(apps: Switched, services: Services, outside: Plain, deaf: str) -> None:
    """A blocking connect(2) goes on to another backend after the time that is configured."""
    greeter(outside, OUTSIDE)
    if deaf == FULL:
        fill(outside)
    ip = services.vservice(
        "web", {"external": f"{deaf}:7002"}, {"external": f"{OUTSIDE}:7000", "priority": 1},
        ports="80", outlier={"connectTimeout": 0.3, "consecutiveFailures": 1},
    )  # fmt: skip
    for _ in range(2):
        assert apps.run(*LATE, "blocking", ip, "80").stdout.endswith(f"{ip} 80 hello\n")
    row = next(row for row in apps.daemon.get("backends") if row["spec"].startswith(deaf))
    assert row["state"] == "ejected", row
    assert row["total"] == 1, "the second client did not try it"


def fill(outside: Plain) -> None:
    """A server that never accepts, and as many clients as its queue holds."""
    script = f"""if 1:
        import signal, socket
        server = socket.create_server(("{FULL}", 7002), backlog=0)
        clients = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("{FULL}", 7002))
            clients.append(client)
        print("full", flush=True)
        signal.pause()
    """
    wait_output(outside.start(PYTHON, "-c", script, listening=7002), "full")


def test_all_fail(apps: Switched, services: Services) -> None:
    """Then the client gets the error of the last one, in the way of its kind."""
    ip = services.vservice("web", {"external": f"{OUTSIDE}:7003"}, {"external": f"{OUTSIDE}:7004"}, ports="80")
    for how in ("blocking", "poll", "asyncio"):
        assert apps.run(*LATE, how, ip, "80").stdout.splitlines()[1].split()[0] == "ECONNREFUSED"


def test_here_first_then_outside(apps: Switched, services: Services, outside: Plain) -> None:
    """A backend of each kind: when the app goes, the one outside takes over."""
    greeter(outside, OUTSIDE)
    local = apps.start("socat", "TCP-LISTEN:7000,fork", "SYSTEM:echo local; exec cat", listening=7000)
    ip = services.vservice("web", str(local.ip), {"external": f"{OUTSIDE}:7000", "priority": 1}, ports="80:7000")
    for how in ("blocking", "poll"):
        assert apps.run(*LATE, how, ip, "80").stdout.split()[-1] == "local"
    kept = apps.start("socat", "-", f"TCP:{ip}:80", stdin=subprocess.PIPE)
    wait_output(kept, "local")
    local.send(signal.SIGTERM)  # the listener, not the child that serves
    wait_until(lambda: not apps.daemon.servers(7000), "it to stop listening")
    for how in ("blocking", "poll"):
        assert apps.run(*LATE, how, ip, "80").stdout.split()[-1] == "hello"
    say(kept, "still\n")
    wait_output(kept, "still")
    hang_up(kept)
    kept.wait()


# -- backends outside by first bytes, and clients from outside


def test_first_bytes_lead_outside(apps: Switched, services: Services, outside: Plain, place: Path) -> None:
    """The bytes are carried, which is counted and shown."""
    http = 'server { listen 80; return 200 "outside $remote_addr\\n"; }'
    outside.start(*Nginx(place / "out", http=http).argv, listening=80)
    inside = apps.start(*Nginx(place / "in").argv, listening=80)
    routes = [{"match": {"http.path": ["/out/*"]}, "backends": [{"external": f"{OUTSIDE}:80"}]}]
    ip = services.vservice("site", str(inside.ip), routes=routes)
    before = services.stats()["spliced"]
    script = f"curl -sS {url(ip)}; curl -sS {url(ip, path='/out/1')} {url(ip, path='/out/2')}"
    lines = apps.run("sh", "-c", script).stdout.splitlines()
    assert lines[0].startswith("hello")
    assert lines[1:] == [f"outside {NODE}"] * 2
    assert services.stats()["spliced"] == before + 1
    wait_until(lambda: services.stats()["splices"] == 0, "its end to be carried, too")
    client = apps.start("socat", "-", f"TCP:{ip}:80", stdin=subprocess.PIPE)
    say(client, "GET /out/ HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_output(client, "outside")
    rows = [row for row in apps.daemon.get("connections") if row["server"] == f"{ip}:80"]
    assert [row["transport"] for row in rows] == ["splice"], rows
    hang_up(client)
    client.wait()


def test_external_vservices(apps: Switched, services: Services, wire: tuple[Namespaces, NodeDaemon], place: Path,
                            outside: Plain) -> None:  # fmt: skip
    """Strangers come to the node's addresses, are balanced and routed like apps, and are seen as who they are."""
    logs = [Nginx(place / str(n), http=f'server {{ listen 80; return 200 "{n} $remote_addr\\n"; }}') for n in range(3)]
    servers = [str(apps.start(*one.argv, listening=80).ip) for one in logs]
    routes = [{"match": {"http.path": ["/two/*"]}, "backends": [{"ip": servers[2]}]}]
    services.vservice("front", *servers[:2], ports="8090:80", external=True, routes=routes)
    services.vservice("plain", *servers[:2], ports="8091:80", external=True)
    curl = ("curl", "-sS", "--max-time", "10", "-H", "Connection: close")
    four = outside.run(*curl, url(NODE, 8091, "/[1-4]")).stdout.splitlines()
    assert sorted(four) == [f"0 {OUTSIDE}"] * 2 + [f"1 {OUTSIDE}"] * 2
    four = outside.run(*curl, url(NODE, 8090, "/[1-4]")).stdout.splitlines()
    assert sorted(four) == [f"0 {OUTSIDE}"] * 2 + [f"1 {OUTSIDE}"] * 2
    assert outside.run(*curl, url(NODE, 8090, "/two/[1-2]")).stdout.splitlines() == [f"2 {OUTSIDE}"] * 2
    assert {line[0] for one in logs for line in one.access} == {OUTSIDE}
    services.policy("no-strangers", "deny", from_={"networks": [f"{OUTSIDE}/32"]}, to={"names": ["plain"]})
    assert outside.run(*curl, url(NODE, 8091), status=None).returncode in (7, 56), "reset, early or late"
    assert outside.run(*curl, url(NODE, 8090)).stdout.endswith(f"{OUTSIDE}\n")
    services.delete("vservice", "plain")
    wait_until(lambda: outside.run(*curl, url(NODE, 8091), status=None).returncode == 7, "the node's port to be closed")
