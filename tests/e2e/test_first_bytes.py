"""Connections that begin in odd ways: whatever their first bytes are, all of them arrive, once, at one server."""

from __future__ import annotations

import json
import subprocess

import pytest
from e2e.services import Services
from e2e.world import PROGRAMS, PYTHON, Switched, hang_up, wait_output
from harness import App, wait_until

PATIENCE_MS = 1500  # long enough for who sends byte by byte, on a busy machine
TO_TWO = {
    "half a request",
    "64 KiB of header",
    "64 KiB of cookies",
    "no UTF-8",
    "pipelined",
    "byte by byte",
    "a hello in ten writes",
    "a hello in fifty writes",
    "a hello in ten records",
    "half-closed",
    "asks and closes",
}
"""What is recognized: the others go to the default."""
EITHER = {"a hello, byte by byte"}
"""A Unix socket that nobody reads is writable for poll(2) until some 70 writes are in it, however short they are."""


def recorder(world: Switched, word: str) -> App:
    return world.start(PYTHON, PROGRAMS / "recorder.py", word, "7000", listening=7000)


def recorded(app: App) -> list[dict[str, str]]:
    return [json.loads(line) for line in app.stdout.splitlines()]


@pytest.mark.also("tcp")
def test_nothing_is_lost(switched: Switched, services: Services, kind: str) -> None:
    switched.transport = "tcp" if kind == "tcp" else ""
    servers = {word: recorder(switched, word) for word in ("one", "two")}
    backends = {word: [{"ip": str(server.ip)}] for word, server in servers.items()}
    routes = [
        {"match": {"http.path": ["/two/*"]}, "backends": backends["two"]},
        {"match": {"tls.sni": ["two.test"]}, "backends": backends["two"]},
    ]
    ip = services.vservice("odd", *backends["one"], ports="80:7000", routes=routes, peek={"milliseconds": PATIENCE_MS})
    client = (PYTHON, PROGRAMS / "oddities.py", ip, "80")
    switched.run(*client, "half-closed", "closes at once")  # what is made when it is needed first
    services.wait_settled()
    before = services.descriptors()
    told = [json.loads(line) for line in switched.run(*client, patience=40).stdout.splitlines()]
    assert len(told) > 70

    def seen() -> dict[str, tuple[str, dict[str, str]]]:
        return {row["peer"]: (word, row) for word, server in servers.items() for row in recorded(server)}

    waited = {one["own"] for one in told if not one["name"].startswith("resets")}
    wait_until(lambda: waited <= seen().keys(), lambda: f"{waited - seen().keys()} of {told}")
    for one in told:
        if one["own"] in waited:
            word, row = seen()[one["own"]]
            assert (row["bytes"], row["sha256"]) == (one["bytes"], one["sha256"]), (one, row)
            assert one["greeted"] in ("", word), (one, row)
            assert one["name"] in EITHER or word == ("two" if one["name"] in TO_TWO else "one"), one
            assert row["end"] == "eof" or "closes" in one["name"], (one, row)
    services.wait_settled()
    wait_until(lambda: services.descriptors() <= before, lambda: f"{services.descriptors()} sockets, {before} before")


READY = """if 1:
    import select, socket, sys
    with socket.create_server(("", 7000)) as listener:
        while True:
            select.select([listener], [], [])
            sock, _ = listener.accept()
            word = "again" if select.select([listener], [], [], 0)[0] else "idle"
            with sock:
                sock.sendall(word.encode())
                sock.recv(100)
"""


@pytest.mark.also("tcp")
def test_a_listener_is_ready_only_for_connections(switched: Switched, services: Services, kind: str) -> None:
    """As PostgreSQL has it: who trusts select(2) and accepts from a blocking socket must not hang there."""
    switched.transport = "tcp" if kind == "tcp" else ""
    server = switched.start(PYTHON, "-c", READY, listening=7000)
    routes = [{"match": {"http.path": ["*"]}, "backends": [{"ip": str(server.ip)}]}]
    held = services.vservice("held", str(server.ip), ports="80:7000", routes=routes)
    plain = services.vservice("plain", str(server.ip), ports="80:7000")
    script = 'for ip in "$@"; do printf "GET / HTTP/1.0\\r\\n\\r\\n" | socat -t10 - TCP:$ip; echo; done'
    got = switched.run("sh", "-c", script, "sh", f"{held}:80", f"{plain}:80", f"{server.ip}:7000", f"{held}:80")
    assert got.stdout.split() == ["idle"] * 4


HOARD = """if 1:
    import resource, socket, sys
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    hoard = [socket.create_connection((sys.argv[1], 80)) for _ in range(1100)]
    print("connected", flush=True)
    sys.stdin.read(1)
    for one in hoard:
        one.close()
"""


def test_who_connects_and_says_nothing(switched: Switched, services: Services) -> None:
    """A thousand connections of one app are held, more are not; nobody else notices."""
    servers = {word: recorder(switched, word) for word in ("one", "two")}
    backends = {word: [{"ip": str(server.ip)}] for word, server in servers.items()}
    routes = [{"match": {"http.path": ["/two/*"]}, "backends": backends["two"]}]
    ip = services.vservice("odd", *backends["one"], ports="80:7000", routes=routes, peek={"milliseconds": 60_000})
    hoarder = switched.start(PYTHON, "-c", HOARD, ip, stdin=subprocess.PIPE)
    wait_output(hoarder, "connected")
    assert services.stats()["held"] == 1024
    got = switched.run("socat", "-t10", "-", f"TCP:{ip}:80", input="GET /two/x HTTP/1.0\r\n\r\n")
    assert got.stdout == "two"
    hang_up(hoarder)
    assert hoarder.wait() == 0
    wait_until(lambda: len(recorded(servers["one"])) == 1100, "all of them at the default")
    assert {row["bytes"] for row in recorded(servers["one"])} == {0}
