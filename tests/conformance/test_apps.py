"""Apps among each other: what one sees of the other, who serves whom, and what is left when one goes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from harness import Addresses, App, Daemon, wait_until
from harness.hosts import TwoHosts

PROGRAMS = Path(__file__).resolve().parent / "programs"
PAIR = str(PROGRAMS / "pair.py")

both = pytest.mark.parametrize("transport", ["unix", "tcp"])

# A server that tells its name to whoever connects, and takes no notice of what comes.
TELLER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[3] else socket.AF_INET
server = socket.create_server((sys.argv[3], int(sys.argv[2])), family=family, backlog=100)
while True:
    one, _ = server.accept()
    one.sendall(sys.argv[1].encode())
    one.close()
"""

# Connects COUNT times and prints what it was told, a line each (or the error).
ASKER = """
import errno, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
for _ in range(int(sys.argv[3])):
    one = socket.socket(family)
    one.settimeout(5)
    try:
        one.connect((sys.argv[1], int(sys.argv[2])))
        told = b""
        while piece := one.recv(100):
            told += piece
        print(told.decode())
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))
    one.close()
"""


def teller(
    daemon: Daemon, name: str, ip: str, port: int = 80, bind: str = "0.0.0.0", transport: str | None = None
) -> App:
    """Start a TELLER, and wait until it listens."""
    words = [sys.executable, "-c", TELLER, name, str(port), bind]
    return daemon.spawn(*words, ip=ip, listening=port, transport=transport)


def ask(
    daemon: Daemon, ip: str, own: str | None = None, port: int = 80, count: int = 1, transport: str | None = None
) -> list[str]:
    """Run an ASKER; its lines."""
    words = [sys.executable, "-c", ASKER, ip, str(port), str(count)]
    return daemon.run(*words, ip=own, transport=transport).stdout.split()


@both
@pytest.mark.parametrize("family", ["ip4", "ip6"])
def test_client_and_server_see_what_two_hosts_would_see(
    daemon: Daemon, addresses: Addresses, transport: str, family: str
) -> None:
    """Addresses, ports, errors, data: as between two hosts on a wire."""
    new = addresses.v4 if family == "ip4" else addresses.v6
    server_ip, client_ip = new(), new()
    server = [sys.executable, PAIR, "server", server_ip, client_ip]
    client = [sys.executable, PAIR, "client", client_ip, server_ip]
    with TwoHosts(server_ip, client_ip) as hosts, App(hosts.command(0, *server), dict(os.environ)) as plain:
        plain.wait_for("listening")
        with App(hosts.command(1, *client), dict(os.environ)) as asking:
            assert asking.wait() == 0, asking
            expected = asking.stdout
        assert plain.wait() == 0
    with daemon.spawn(*server, ip=server_ip, transport=transport, listening=(7000, 7001)) as app:
        got = daemon.run(*client, ip=client_ip, transport=transport).stdout
        assert app.wait() == 0, app
    assert got.splitlines() == expected.splitlines()


@both
def test_transport_is_what_was_asked_for(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """`ax get connections` says what joins two apps, with both virtual addresses."""
    server_ip, client_ip = addresses.v4(), addresses.v4()
    hold = (
        "import socket, sys; s = socket.create_server(('', 80)); c = s.accept(); print('up', flush=True); c[0].recv(1)"
    )
    keep = "import socket, sys; c = socket.create_connection((sys.argv[1], 80)); print('up', flush=True); c.recv(1)"
    with (
        daemon.spawn(sys.executable, "-c", hold, ip=server_ip, transport=transport, listening=80) as server,
        daemon.spawn(sys.executable, "-c", keep, server_ip, ip=client_ip, transport=transport) as client,
    ):
        server.wait_for("up")
        client.wait_for("up")
        mine = [row for row in daemon.get("connections") if row["server"] == f"{server_ip}:80"]
        assert [row["transport"] for row in mine] == [transport]
        assert mine[0]["client"].startswith(f"{client_ip}:")
        links = [str(fd.readlink()) for fd in Path(f"/proc/{client.pid}/fd").iterdir()]
        inodes = {link[8:-1] for link in links if link.startswith("socket:")}
        table = Path(f"/proc/{os.getpid()}/net/unix").read_text(errors="replace")
        unix = {line.split()[6] for line in table.splitlines()[1:] if len(line.split()) > 6}
        assert bool(inodes & unix) == (transport == "unix")


@both
def test_apps_on_one_ip_share_the_work(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """Several apps with one IP listen on one port: no conflict, each gets a share."""
    ip = addresses.v4()
    with contextlib.ExitStack() as stack:
        for name in "abc":
            stack.enter_context(
                daemon.spawn(sys.executable, "-c", TELLER, name, "80", "0.0.0.0", ip=ip, transport=transport)
            )
        daemon.wait_listening(80, ip, count=3)
        told = Counter(ask(daemon, ip, count=90, transport=transport))
    assert set(told) == set("abc")
    assert min(told.values()) >= 10  # of 90 at random: below 10 once in some ten million runs


@both
def test_one_of_several_ends(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """Nobody is sent to an app that is gone."""
    ip = addresses.v4()
    with teller(daemon, "a", ip, transport=transport), teller(daemon, "b", ip, transport=transport) as second:
        daemon.wait_listening(80, ip, count=2)
        second.kill()
        wait_until(lambda: len(daemon.servers(80, ip)) == 1, "the service table to forget it")
        assert set(ask(daemon, ip, count=20, transport=transport)) == {"a"}


@both
def test_server_comes_back(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """Killed: refused. Started again, on the same address and port: served."""
    ip = addresses.v4()
    with teller(daemon, "first", ip, transport=transport) as server:
        assert ask(daemon, ip, transport=transport) == ["first"]
        server.kill()
    wait_until(lambda: not daemon.servers(80, ip), "the service table to forget it")
    with teller(daemon, "second", ip, transport=transport):
        assert ask(daemon, ip, transport=transport) == ["second"]


def test_mixed_transports(daemon: Daemon, addresses: Addresses) -> None:
    """One side asked for TCP, the other did not: they reach each other."""
    one, two = addresses.v4(), addresses.v4()
    with teller(daemon, "a", one, transport="tcp"), teller(daemon, "b", two, transport="unix"):
        assert ask(daemon, one, transport="unix", own=addresses.v4()) == ["a"]
        assert ask(daemon, two, transport="tcp", own=addresses.v4()) == ["b"]


@both
def test_nobody_else_on_loopback(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """What listens on an app's loopback is nobody else's, even on the same IP."""
    ip = addresses.v4()
    with teller(daemon, "a", ip, bind="127.0.0.1", transport=transport):
        assert ask(daemon, "127.0.0.1", own=ip, transport=transport) == ["ECONNREFUSED"]
        assert ask(daemon, ip, own=addresses.v4(), transport=transport) == ["ECONNREFUSED"]


@both
def test_client_without_an_address(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """An app with neither IP nor name still reaches others."""
    ip = addresses.v4()
    with teller(daemon, "a", ip, transport=transport):
        assert ask(daemon, ip, transport=transport) == ["a"]


@both
def test_ipv6_between_apps(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """An app with both kinds of address is reached by both."""
    four, six = addresses.v4(), addresses.v6()
    words = [sys.executable, "-c", TELLER, "both", "80", "::"]
    dual = words[2].replace("backlog=100", "backlog=100, dualstack_ipv6=True")
    with daemon.spawn(*words[:2], dual, *words[3:], ip=[four, six], listening=80, transport=transport):
        assert ask(daemon, four, own=addresses.v4(), transport=transport) == ["both"]
        assert ask(daemon, six, own=addresses.v6(), transport=transport) == ["both"]


@both
def test_different_apps_different_addresses_same_port(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """A port is an app's own."""
    one, two = addresses.v4(), addresses.v4()
    with teller(daemon, "a", one, transport=transport), teller(daemon, "b", two, transport=transport):
        assert ask(daemon, one, count=5, transport=transport) == ["a"] * 5
        assert ask(daemon, two, count=5, transport=transport) == ["b"] * 5


@both
def test_ended_app_is_forgotten(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """However it ends: no app, server, socket or connection of it is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        ip = addresses.v4()
        with teller(daemon, "a", ip, transport=transport) as server:
            (row,) = daemon.servers(80, ip)
            server.stop(number)
        app = row["app_id"]
        wait_until(
            lambda app=app: app not in [row["app"]["id"] for row in daemon.get("apps")], "the app to be forgotten"
        )
        for what in ("servers", "sockets"):
            wait_until(
                lambda what=what, app=app: app not in [row["app_id"] for row in daemon.get(what)],
                f"its {what} to be forgotten",
            )


def _switch(daemon: Daemon) -> int:
    (pid,) = [pid for pid in daemon.processes() if b"appswitch.switch" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


@both
def test_daemon_keeps_no_descriptor(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """After hundreds of connections the switch has the descriptors that it had before.

    All but pidfds: those of threads that called are kept, up to a limit, since most call again.
    """
    ip = addresses.v4()
    switch = Path(f"/proc/{_switch(daemon)}/fd")

    def count() -> int:
        links = []
        for one in switch.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed in the meantime
                links.append(str(one.readlink()))
        return sum("[pidfd]" not in link for link in links)

    with teller(daemon, "a", ip, transport=transport):
        ask(daemon, ip, count=20, transport=transport)
        daemon_apps = len(daemon.get("apps"))
        before = count()
        told = ask(daemon, ip, count=500, transport=transport)
        assert told == ["a"] * 500
        wait_until(
            lambda: len(daemon.get("apps")) == daemon_apps - 1 or len(daemon.get("apps")) == 1, "the asker to go"
        )
        wait_until(lambda: count() <= before, lambda: f"{count()} descriptors, {before} before")


@both
def test_killed_in_the_middle_of_accept(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """A server that dies while it waits in accept(2) harms nobody."""
    ip = addresses.v4()
    for _ in range(3):
        with teller(daemon, "a", ip, transport=transport) as server:
            server.kill()
    with teller(daemon, "b", ip, transport=transport):
        wait_until(lambda: len(daemon.servers(80, ip)) == 1, "the dead to be forgotten")
        assert ask(daemon, ip, transport=transport) == ["b"]


FULL = """
import os, socket, sys
server = socket.create_server(("", 80), backlog=0)
print("listening", flush=True)
sys.stdin.read()
while True:
    one, _ = server.accept()
    one.sendall(b"late")
    one.close()
"""

CROWD = """
import os, socket, sys
clients = []
for _ in range(300):
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex((sys.argv[1], 80))
    clients.append(one)
print("waiting", flush=True)
blocking = socket.create_connection((sys.argv[1], 80))
print("unexpected")
"""


@both
def test_killed_in_the_middle_of_connect(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """A client that dies while it waits in connect(2), in a full queue, harms nobody."""
    ip, other = addresses.v4(), addresses.v4()
    with (
        daemon.spawn(sys.executable, "-c", FULL, ip=ip, transport=transport, listening=80),
        teller(daemon, "other", other, transport=transport),
    ):
        with daemon.spawn(sys.executable, "-c", CROWD, ip, transport=transport) as crowd:
            crowd.wait_for("waiting")
            assert ask(daemon, other, transport=transport) == ["other"]
            crowd.kill()
        assert ask(daemon, other, transport=transport) == ["other"]


@both
def test_four_clients_at_once(daemon: Daemon, addresses: Addresses, transport: str) -> None:
    """Apps that connect at the same time do not get in each other's way."""
    ip = addresses.v4()
    words = [sys.executable, "-c", ASKER, ip, "80", "100"]
    with teller(daemon, "a", ip, transport=transport), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.spawn(*words, ip=addresses.v4(), transport=transport)) for _ in range(4)]
        assert [client.wait() for client in clients] == [0] * 4
        assert [client.stdout.split() for client in clients] == [["a"] * 100] * 4


def test_unprivileged_inside(daemon: Daemon, addresses: Addresses) -> None:
    """A program that gives up root of its own accord goes on as before."""
    ip = addresses.v4()
    words = ["setpriv", "--reuid", "65534", "--clear-groups", "/usr/bin/python3", "-c", ASKER, ip, "80", "3"]
    with teller(daemon, "a", ip):
        assert daemon.run(*words).stdout.split() == ["a"] * 3


def test_two_daemons_do_not_know_each_other(daemon: Daemon, daemon_factory, addresses: Addresses) -> None:
    """The same IP and port under two daemons are two services."""
    ip = addresses.v4()
    second = daemon_factory()
    with teller(daemon, "mine", ip), teller(second, "theirs", ip):
        assert ask(daemon, ip, count=3) == ["mine"] * 3
        assert ask(second, ip, count=3) == ["theirs"] * 3
