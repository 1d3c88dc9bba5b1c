"""The switch is killed and succeeded: datagrams that were under way may be lost, and nothing else is."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.node import NODE, OUTSIDE, Plain, enter
from e2e.world import PROGRAMS, PYTHON, Switched, hang_up, say, wait_output
from harness import App, Daemon, wait_until

UDP = PROGRAMS / "udp.py"
PATIENCE = 20.0
AGAIN = 2.0  # seconds after which a question counts as lost


_killed: collections.deque[float] = collections.deque([0.0, 0.0, 0.0], 3)


def kill_switch(daemon: Daemon) -> int:
    """At once; whoever makes a call now waits for the successor. The dead one's process id.

    The keeper gives up when it is too often (keeper.py), so three have to be some time ago.
    """
    wait_until(lambda: time.monotonic() - _killed[0] > 11, "old deaths to be forgotten", PATIENCE)
    _killed.append(time.monotonic())
    status, told = daemon.rest("GET", "/v1/status")
    assert status == 200
    pid: int = told["pids"]["switch"]
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_successor(daemon: Daemon, dead: int) -> None:
    def there() -> bool:
        status, told = daemon.rest("GET", "/v1/status")
        return status == 200 and told["pids"].get("switch") not in (None, dead) and bool(daemon.get("apps"))

    wait_until(there, "a successor", PATIENCE)


def serve(apps: Switched, name: str = "one", options: tuple[str, ...] = (), where: str = "0.0.0.0") -> App:
    app = apps.start(PYTHON, UDP, "serve", where, "7000", name, options=options, serving=7000)
    wait_output(app, "serving")
    return app


def client(apps: Switched, *words: str) -> App:
    app = apps.start(PYTHON, UDP, *words, stdin=subprocess.PIPE)
    wait_output(app, "ready|connected")
    return app


@contextlib.contextmanager
def stranger(outside: Plain, *words: str) -> Iterator[App]:
    """A client that is no app."""
    with App(enter(outside.namespace, [PYTHON, UDP, *words]), os.environ.copy(), stdin=subprocess.PIPE) as app:
        wait_output(app, "ready|connected")
        yield app
        hang_up(app)


def ask(app: App, line: str, answer: str, tries: int = 10) -> str:
    """Say it until it is answered: that a datagram is lost is no fault, an error that the app sees is one."""
    for _ in range(tries):
        before = app.stdout.count("\n")
        say(app, f"{line}\n")
        with contextlib.suppress(AssertionError):
            wait_until(lambda before=before: app.stdout.count("\n") > before, "an answer", AGAIN)
        for told in app.stdout.splitlines()[before:]:
            if re.fullmatch(answer, told):
                return told
            assert told.startswith("silence timed out"), app
    raise AssertionError(f"no {answer!r} from\n{app}")


def test_clients_and_servers(apps: Switched) -> None:
    """Connected and unconnected, moved to their peer, and those that stayed: a bound client, one with a thread."""
    one, two = serve(apps, "one"), serve(apps, "two")
    follows = client(apps, "follow", str(one.ip), "7000")
    talks, bound = client(apps, "talk", "0"), client(apps, "talk", "7777")
    chats = client(apps, "chat", str(one.ip), "7000")

    def everybody(text: str) -> None:
        seen = rf"one {follows.ip} \d+ {text} {re.escape(str(one.ip))} 7000"
        ask(follows, text, seen)
        for who in (talks, bound):
            for name, server in (("one", one), ("two", two)):
                port = "7777" if who is bound else r"\d+"
                seen = rf"{name} {who.ip} {port} {text} {re.escape(str(server.ip))} 7000 as 0.0.0.0"
                ask(who, f"{server.ip} 7000 {text}", seen)
        ask(chats, text, rf"one {chats.ip} \d+ {text} {re.escape(str(one.ip))} 7000 {chats.ip}")

    everybody("before")
    for number in range(2):
        dead = kill_switch(apps.daemon)
        everybody(f"while{number}")
        wait_successor(apps.daemon, dead)
        everybody(f"after{number}")
    assert len(apps.daemon.servers(7000)) == 2
    fresh = client(apps, "follow", str(two.ip), "7000")
    ask(fresh, "hello", rf"two {fresh.ip} \d+ hello {re.escape(str(two.ip))} 7000")


def test_the_first_who_speaks_is_one_who_stays(apps: Switched) -> None:
    """No other call is seen between the switch's death and what a connected socket sends."""
    one = serve(apps)
    chats = client(apps, "chat", str(one.ip), "7000")
    answer = rf"one {chats.ip} \d+ \w+ {re.escape(str(one.ip))} 7000 {chats.ip}"
    ask(chats, "before", answer)
    dead = kill_switch(apps.daemon)
    wait_successor(apps.daemon, dead)
    ask(chats, "after", answer)


@pytest.mark.parametrize("how", ["follow", "talk"])
def test_exposed(apps: Switched, outside: Plain, how: str) -> None:
    app = serve(apps, options=("--expose", "7000:7100/udp"))
    where = [NODE, "7100"] if how == "follow" else ["0"]
    say_to = "" if how == "follow" else f"{NODE} 7100 "
    with stranger(outside, how, *where) as who:
        for text in ("before", "while", "after"):
            answer = rf"one {OUTSIDE} \d+ {text} {NODE} 7100.*"
            if text == "while":
                dead = kill_switch(apps.daemon)
            if text == "after":
                wait_successor(apps.daemon, dead)
            _ask_host(who, f"{say_to}{text}", answer)
    assert app.running()


def _ask_host(who: App, line: str, answer: str) -> None:
    """Once: what comes while there is no switch waits in the port's queue."""
    said = who.stdout.count("\n")
    say(who, f"{line}\n")
    wait_until(lambda: who.stdout.count("\n") > said, lambda: str(who), PATIENCE)
    assert [one for one in who.stdout.splitlines()[said:] if re.fullmatch(answer, one)], who


def test_exposed_and_connected(apps: Switched, outside: Plain) -> None:
    """The server has connected its socket to the client, and goes on with it."""
    app = apps.start("socat", "UDP-LISTEN:7000", "EXEC:cat", options=("--expose", "7000:7101/udp"), serving=7000)
    with stranger(outside, "follow", NODE, "7101") as who:
        _ask_host(who, "before", rf"before {NODE} 7101")
        dead = kill_switch(apps.daemon)
        wait_successor(apps.daemon, dead)
        _ask_host(who, "after", rf"after {NODE} 7101")
        assert app.running(), "it had an error"


OPTIONS = """if 1:
    import errno, socket, sys
    def bind(port, *options, family=socket.AF_INET):
        one = socket.socket(family, socket.SOCK_DGRAM)
        for level, option in options:
            one.setsockopt(level, option, 1)
        try:
            one.bind(("" if family == socket.AF_INET else "::", port))
        except OSError as error:
            return errno.errorcode[error.errno]
        kept.append(one)
        return "bound"
    kept, addr, port = [], (socket.SOL_SOCKET, socket.SO_REUSEADDR), (socket.SOL_SOCKET, socket.SO_REUSEPORT)
    only = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    for line in sys.stdin:
        print(bind(7001, addr), bind(7002, port), bind(7003), bind(7004, only, family=socket.AF_INET6), end=" ")
        print(bind(7001), bind(7002), bind(7003, addr), bind(7004), bind(7004), end=" ")
        print(*(one.getsockopt(*addr) for one in kept[:4]), flush=True)
"""


def test_what_was_set_on_sockets(apps: Switched) -> None:
    """Who may share a port with whom is known as before."""
    app = apps.start(PYTHON, "-c", OPTIONS, stdin=subprocess.PIPE)
    said = []
    for number in range(2):
        say(app, "bind\n")
        wait_until(lambda number=number: app.stdout.count("\n") > number, lambda: str(app), PATIENCE)
        said = app.stdout.splitlines()
        if not number:
            wait_successor(apps.daemon, kill_switch(apps.daemon))
    taken = "EADDRINUSE"
    assert said == [
        f"bound bound bound bound {taken} {taken} {taken} bound {taken} 1 0 0 0",
        f"bound bound {taken} {taken} {taken} {taken} {taken} {taken} {taken} 1 0 0 0",
    ]


@pytest.mark.parametrize("how", ["follow", "talk"])
def test_with_the_outside(apps: Switched, outside: Plain, how: str) -> None:
    """A socket that lives in the host's network has the app's address as before."""
    words = enter(outside.namespace, [PYTHON, UDP, "serve", OUTSIDE, "7200", "far"])
    with App(words, os.environ.copy()) as far:
        wait_output(far, "serving")
        app = client(apps, how, *([OUTSIDE, "7200"] if how == "follow" else ["0"]))
        for text in ("before", "while", "after"):
            dead = kill_switch(apps.daemon) if text == "while" else 0
            to = "" if how == "follow" else f"{OUTSIDE} 7200 "
            own = "" if how == "follow" else " as 0.0.0.0"
            ask(app, f"{to}{text}", rf"far {NODE} \d+ {text} {OUTSIDE} 7200{own}")
            if dead:
                wait_successor(apps.daemon, dead)
    rows = [row for row in apps.daemon.get("connections") if row["server"] == f"{OUTSIDE}:7200"]
    assert [row["client"].split(":")[0] for row in rows] == ([app.ip] if how == "follow" else [])


def test_dns(apps: Switched, place: Path) -> None:
    server = serve(apps)
    apps.daemon.wait_listening(7000, app=server)
    looks = """if 1:
        import socket, sys
        for line in sys.stdin:
            try:
                print(socket.getaddrinfo(line.strip(), 80, type=socket.SOCK_STREAM)[0][4][0], flush=True)
            except OSError as error:
                print("error", error, flush=True)
    """
    named = apps.start("sleep", "infinity", options=("--name", "named"))
    app = apps.start(PYTHON, "-c", looks, stdin=subprocess.PIPE)
    for text in ("before", "while", "after", "again"):
        if text in ("while", "again"):
            dead = kill_switch(apps.daemon)
        if text == "after":
            wait_successor(apps.daemon, dead)
        before = app.stdout.count("\n")
        say(app, "named\n")
        wait_until(lambda before=before: app.stdout.count("\n") > before, lambda: str(app), PATIENCE)
        assert app.stdout.splitlines()[-1] == named.ip, (text, app)
