"""Connections that are decided like others before: by the native step, with nothing that tells the difference."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.services import Services
from e2e.world import PROGRAMS, PYTHON, Switched, hang_up, say, wait_output
from harness import Addresses, App, Daemon, wait_until

from appswitch._kernel import HELD

# Two processes that accept; each says who it is.
WORKERS = """if 1:
    import os, socket, sys
    with socket.create_server(("", 7000)) as listener:
        children = []
        for _ in range(2):
            child = os.fork()
            if not child:
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(100)
                        client.sendall(f"{os.getpid()}\\n".encode())
            children.append(child)
        print("workers", *children, flush=True)
        sys.stdin.read()
        for child in children:
            os.kill(child, 9)
            os.wait()
"""
# Asks once for each word that it is told.
ASKS = """if 1:
    import socket, sys
    for number, path in enumerate(sys.stdin):
        with socket.create_connection((sys.argv[1], 80), 20) as server:
            server.sendall(f"GET {path.strip()} HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n".encode())
            print("answer", number, server.recv(100).decode().strip(), flush=True)
"""

PATHS = ["/one/a", "/two", "/one/a", "/two", "/one/b", "/elsewhere", "/one/a", "/two", "/one/b"]


@pytest.fixture
def own(daemon_factory: Callable[..., Daemon], addresses: Addresses) -> Iterator[Switched]:
    with Switched(daemon_factory(), addresses) as made:
        yield made


def receptionist(world: Switched, word: str, threads: int = 1, ip: str | None = None) -> App:
    words = [PYTHON, PROGRAMS / "receptionist.py", "7000", word, str(threads)]
    return world.start(*words, ip=ip, listening=7000, stdin=subprocess.PIPE)


def visit(world: Switched, ip: str, *paths: str, **more: str) -> App:
    visitors = world.start(PYTHON, PROGRAMS / "visitors.py", ip, "80", *paths, stdin=subprocess.PIPE, **more)
    wait_output(visitors, "done")
    return visitors


def got(visitors: App) -> list[tuple[str, str]]:
    """Paths, and who has answered."""
    return [(words[0], words[1]) for line in visitors.stdout.splitlines() if len(words := line.split()) > 3]


def told(server: App, word: str) -> set[tuple[str, str]]:
    """What a server sees of its connections now: (own address, peer's)."""
    say(server, word + "\n")
    wait_output(server, f"all {word}")
    rows = [line.split() for line in server.stdout.splitlines() if line.startswith(word + " ")]
    return {(f"{own}:{port}", f"{peer}:{number}") for _, own, port, peer, number in rows}


def asked(visitors: App) -> dict[str, str]:
    """Paths by the client's address."""
    rows = [line.split() for line in visitors.stdout.splitlines()]
    return {f"{row[-2]}:{row[-1]}": row[0] for row in rows if len(row) > 3}


def watched(daemon: Daemon) -> list[str]:
    """What the switch's epoll waits for of connections that are held, whose data has a bit: proc_pid_fdinfo(5)."""
    status, told_ = daemon.rest("GET", "/v1/status")
    assert status == 200
    place = Path(f"/proc/{told_['pids']['switch']}")
    epolls = [fd.name for fd in (place / "fd").iterdir() if "eventpoll" in str(fd.readlink())]
    lines = [line for fd in epolls for line in (place / "fdinfo" / fd).read_text().splitlines() if "tfd:" in line]
    assert lines
    return [line for line in lines if int(line.partition("data:")[2].split()[0], 16) & HELD]


def routes(one: App, two: App) -> list[dict[str, object]]:
    return [
        {"match": {"http.path": ["/one/*"], "http.method": ["GET"]}, "backends": [{"ip": str(one.ip)}]},
        {"match": {"http.path": ["/two"]}, "backends": [{"ip": str(two.ip)}]},
    ]


@pytest.mark.parametrize("threads", [3, 0], ids=["accepting", "polling"])
def test_held_ones(own: Switched, addresses: Addresses, threads: int) -> None:
    """Each at the server of its route, which sees the right addresses; so do the next switch, and policies."""
    services = Services(own.daemon, addresses)
    servers = {word: receptionist(own, word, threads) for word in ("one", "two", "rest")}
    one, two, rest = servers.values()
    ip = services.vservice("web", str(rest.ip), ports="80:7000", routes=routes(one, two), peek={"milliseconds": 10_000})
    visitors = visit(own, ip, *PATHS)
    expected = {"/one/a": "one", "/one/b": "one", "/two": "two", "/elsewhere": "rest"}
    assert got(visitors) == [(path, expected[path]) for path in PATHS]
    assert services.stats()["at_once.held"] >= 4, "those whose path was asked for before"
    clients = asked(visitors)
    assert not watched(own.daemon), "nobody looks at bytes that come later"

    def seen(word: str) -> dict[str, set[tuple[str, str]]]:
        return {name: told(server, word) for name, server in servers.items()}

    before = seen("before")
    for name, rows in before.items():
        own_address = f"{servers[name].ip}:7000"
        assert rows == {(own_address, client) for client, path in clients.items() if expected[path] == name}

    def connections(field: str) -> dict[str, str]:
        return {row["client"]: row[field] for row in own.daemon.get("connections")}

    backends = {client: f"{servers[expected[path]].ip}:7000" for client, path in clients.items()}
    assert connections("backend") == backends
    shown = {row["client"]: row["attributes"] for row in own.daemon.get("connections")}
    assert {client: one["http.path"] for client, one in shown.items()} == clients
    assert not any("http.header.x-path" in one for one in shown.values()), "headers may hold credentials"
    counts = Counter(expected[path] for path in PATHS)
    assert {name: services.backends("web")[str(server.ip)]["total"] for name, server in servers.items()} == counts

    status, before_it = own.daemon.rest("GET", "/v1/status")
    assert status == 200
    os.kill(before_it["pids"]["switch"], signal.SIGKILL)
    assert got(visit(own, ip, "/two")) == [("/two", "two")]
    assert seen("after") == before | {"two": before["two"] | (seen("after")["two"] - before["two"])}
    now = connections("backend")
    assert {client: now.get(client) for client in backends} == backends

    applied = services.policy("closed", "deny", kill=True, to={"networks": [str(one.ip)]}, ports=["7000"])
    forbidden = {client for client, backend in backends.items() if backend.startswith(f"{one.ip}:")}
    assert {row["client"] for row in applied["killed"]} == forbidden
    hang_up(visitors)
    assert visitors.wait() == 0
    wait_until(lambda: not connections("client").keys() & clients.keys(), "no connection of theirs")


def test_a_change_is_heeded_at_once(switched: Switched, services: Services) -> None:
    """What was led by one configuration is led by the next; and what is followed is told, one by one."""
    one, two = receptionist(switched, "one"), receptionist(switched, "two")
    route = routes(one, two)
    ip = services.vservice("web", str(two.ip), ports="80:7000", routes=route, peek={"milliseconds": 10_000})
    assert got(visit(switched, ip, *["/one/a"] * 4)) == [("/one/a", "one")] * 4
    swapped = [{**route[0], "backends": route[1]["backends"]}, {**route[1], "backends": route[0]["backends"]}]
    services.vservice("web", str(two.ip), ip=ip, ports="80:7000", routes=swapped, peek={"milliseconds": 10_000})
    assert got(visit(switched, ip, *["/one/a"] * 4)) == [("/one/a", "two")] * 4
    services.policy("no", "deny", from_={"labels": {"zone": "default"}}, to={"networks": [str(two.ip)]})
    refused = switched.run(PYTHON, PROGRAMS / "visitors.py", ip, "80", "/one/a", status=None)
    assert "one" not in refused.stdout.split()[1:2]


def test_what_policies_allow(own: Switched, addresses: Addresses) -> None:
    """By first bytes, at a vservice and without one: what is denied is so each time, whatever was led before it."""
    services = Services(own.daemon, addresses)
    one, two = receptionist(own, "one"), receptionist(own, "two")
    ip = services.vservice("web", str(two.ip), ports="7000", routes=routes(one, two), peek={"milliseconds": 10_000})
    services.policy("secret", "deny", to={"networks": [str(one.ip)]}, l7=[{"http.path": ["*secret"]}])

    def ask(where: object, path: str) -> str:
        done = own.run(
            PYTHON, PROGRAMS / "visitors.py", str(where), "7000", *["/one/a"] * 3, path, "/one/a", status=None
        )
        lines = [line.split() for line in done.stdout.splitlines()]
        assert [line[:2] for line in lines[:3]] == [["/one/a", "one"]] * 3, done
        return lines[3][1] if len(lines) > 3 else ""

    for where in (one.ip, ip):
        before = services.stats()["at_once.held"]
        assert [ask(where, path) for path in ("/one/b", "/one/secret", "/one/b", "/one/secret")] == ["one", ""] * 2
        assert services.stats()["at_once.held"] >= before + 6, "the third of a path, and those after it"
    flows = map(json.loads, own.daemon.ax("flows", "-o", "json", check=True).stdout.splitlines())
    assert [row["rule"] for row in flows if row["verdict"] == "denied"] == ["secret"] * 4
    services.policy("more", "deny", to={"networks": [str(one.ip)]}, l7=[{"http.header.x-path": ["/one/b"]}])
    assert ask(one.ip, "/one/b") == "", "another attribute matters now"


def test_one_who_is_killed_while_it_waits(own: Switched, addresses: Addresses) -> None:
    """A held connection that was to be its is given to the next."""
    services = Services(own.daemon, addresses)
    server = own.start(PYTHON, "-c", WORKERS, listening=7000, stdin=subprocess.PIPE)
    workers = wait_output(server, r"workers (\d+) (\d+)").groups()
    ip = services.vservice("web", str(server.ip), ports="80:7000", routes=[
        {"match": {"http.path": ["/one/*"]}, "backends": [{"ip": str(server.ip)}]}
    ])  # fmt: skip
    client = own.start(PYTHON, "-c", ASKS, ip, stdin=subprocess.PIPE)

    def ask(number: int) -> str:
        say(client, "/one/a\n")
        return wait_output(client, rf"(?m)^answer {number} (\d+)$").group(1)

    assert {ask(number) for number in range(6)} == set(workers)
    assert services.stats()["at_once.held"] >= 4
    os.kill(int(workers[0]), signal.SIGKILL)
    assert [ask(number) for number in range(6, 10)] == [workers[1]] * 4
    for one in (client, server):
        hang_up(one)
    assert client.wait() == 0


def test_a_queue_that_nobody_empties(switched: Switched, services: Services) -> None:
    """Held connections wait for accept(2) in their server's queue, first come, first served; none is lost."""
    server = receptionist(switched, "one", 0)
    ip = services.vservice("web", str(server.ip), ports="80:7000", routes=routes(server, server))
    assert got(visit(switched, ip, "/one/a", "/one/a")) == [("/one/a", "one")] * 2
    os.kill(server.process.pid, signal.SIGSTOP)
    crowd = switched.start(PYTHON, "-c", CROWD, ip, "90", stdin=subprocess.PIPE)
    wait_output(crowd, "all sent")
    wait_until(lambda: services.stats()["held"] == 0, "all of them are decided")
    os.kill(server.process.pid, signal.SIGCONT)
    wait_output(crowd, "90 answers")
    hang_up(crowd)
    assert len(told(server, "end")) == 92


CROWD = """if 1:
    import resource, socket, sys
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    crowd = [socket.create_connection((sys.argv[1], 80)) for _ in range(int(sys.argv[2]))]
    for one in crowd:
        one.sendall(b"GET /one/a HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print("all sent", flush=True)
    print(sum(one.recv(9).startswith(b"one ") for one in crowd), "answers", flush=True)
    sys.stdin.read()
"""


def test_threads_that_are_interrupted_while_they_wait(switched: Switched, services: Services) -> None:
    """accept(2) that a signal takes away and the program makes again: nobody is lost, nobody is served twice."""
    server = receptionist(switched, "one", 4)
    ip = services.vservice("web", str(server.ip), ports="80:7000")
    paths = [f"/{number}" for number in range(20)]
    total = 0
    for _ in range(5):
        visitors = visit(switched, ip, *paths)
        assert got(visitors) == [(path, "one") for path in paths]
        total += len(paths)
        say(server, "interrupt\n")
        hang_up(visitors)
    assert len(told(server, "end")) == total


@pytest.mark.parametrize("kind", ["RoundRobin", "Weighted", "Random", "RingHash"])
def test_balanced_ones(switched: Switched, services: Services, kind: str) -> None:
    """Their shares, as if each were chosen; counted where counts are."""
    servers = {word: receptionist(switched, word) for word in ("a", "b", "c")}
    weights = {"a": 2, "b": 1, "c": 1}
    rows = [{"ip": str(server.ip), **({"weight": weights[word]} if kind == "Weighted" else {})}
            for word, server in servers.items()]  # fmt: skip
    ip = services.vservice("many", *rows, ports="80:7000", lbType=kind)
    count = Counter(word for _, word in got(visit(switched, ip, *["/"] * 40)))
    match kind:
        case "RoundRobin":
            assert max(count.values()) - min(count.values()) <= 1
        case "Weighted":
            assert count == {"a": 20, "b": 10, "c": 10}
        case "Random":
            assert set(count) == set(servers)
        case "RingHash":
            assert len(count) == 1, "the client's address is hashed"
    totals = {word: services.backends("many")[str(server.ip)]["total"] for word, server in servers.items()}
    assert {word: total for word, total in totals.items() if total} == count
