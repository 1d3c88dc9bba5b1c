"""The switch is killed with connections in its hands: nobody notices. docs/design/keeper.md tells how."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.services import Services
from e2e.world import PROGRAMS, PYTHON, Switched, say, wait_output
from harness import Addresses, App, Daemon, free_port, wait_until
from harness.rootless import Rootless

from appswitch import _kernel
from appswitch.keeper.directory import read_roster
from appswitch.switch.journal import LOAN, LOAN_AT

MANY = 200
PATIENCE = 40.0  # seconds: a busy machine is no fault
REQUEST = b"GET /x HTTP/1.0\r\n\r\n"
# Accepts nothing until it is told to; says who came, and answers.
WAITS = """if 1:
    import socket, sys
    with socket.create_server(("", 7000), backlog=512) as listener:
        print("listens", flush=True)
        sys.stdin.readline()
        while True:
            sock, peer = listener.accept()
            with sock:
                request = sock.recv(100)
                sock.sendall(b"served " + request[:6])
            print(*peer, flush=True)
"""
# Connects so many times, says nothing until it is told to, and then expects an answer from each.
HOARDS = """if 1:
    import resource, socket, sys
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    host, port, count, request = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()
    socks = [socket.create_connection((host, port)) for _ in range(count)]
    print("connected", flush=True)
    sys.stdin.readline()
    for sock in socks:
        sock.sendall(request)
    served = sum(sock.recv(100).startswith(b"served") for sock in socks)
    print("served", served, flush=True)
"""

# A proxy at the endpoint, of direction server: one request, and one answer.
RELAYS = """if 1:
    import asyncio
    from appswitch.delegate.server import serve
    async def relay(connection):
        client, server = await connection.ends()
        server[1].write(await client[0].read(100))
        client[1].write(await server[0].read(100))
        await client[1].drain()
    asyncio.run(serve("relay", relay))
"""


@pytest.fixture
def world(daemon_factory: Callable[..., Daemon], addresses: Addresses) -> Iterator[Switched]:
    with Switched(daemon_factory(), addresses) as one:
        yield one


@pytest.fixture
def services(world: Switched) -> Iterator[Services]:
    with Services(world.daemon, world.addresses) as made:
        yield made


def kill_switch(daemon: Daemon) -> None:
    """And wait until its successor is there."""
    dead = read_roster(str(daemon.run_dir))["switch"]
    os.kill(dead, signal.SIGKILL)

    def another() -> bool:
        with contextlib.suppress(OSError):
            status, told = daemon.rest("GET", "/v1/status")
            return status == 200 and told["pids"]["switch"] not in (None, 0, dead)
        return False

    wait_until(another, "another switch", PATIENCE)


def wait_held(services: Services, count: int) -> None:
    wait_until(lambda: services.stats()["held"] == count, lambda: f"{count} held: {services.stats()}", PATIENCE)


def waiting_server(world: Switched, *options: str) -> App:
    return world.start(PYTHON, "-c", WAITS, listening=7000, options=options, stdin=subprocess.PIPE)


def hoarder(world: Switched, host: str, port: int, count: int) -> App:
    app = world.start(PYTHON, "-c", HOARDS, host, str(port), str(count), REQUEST.decode(), stdin=subprocess.PIPE)
    wait_output(app, "connected", PATIENCE)
    return app


def by_first_bytes(services: Services, server: App) -> str:
    routes = [{"match": {"http.path": ["/x"]}, "backends": [{"ip": str(server.ip)}]}]
    nowhere = services.addresses.v4()
    return services.vservice("held", nowhere, ports="80:7000", routes=routes, peek={"milliseconds": 60_000})


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_held_for_first_bytes(world: Switched, services: Services, transport: str) -> None:
    """Many at once, and twice: what a successor has taken over it leaves to the next as well."""
    server = waiting_server(world)
    say(server, "go\n")
    ip = by_first_bytes(services, server)
    client = world.start(
        PYTHON, "-c", HOARDS, ip, "80", str(MANY), REQUEST.decode(),
        stdin=subprocess.PIPE, options=("--transport", transport),
    )  # fmt: skip
    wait_output(client, "connected", PATIENCE)
    wait_held(services, MANY)
    for _ in range(2):
        kill_switch(world.daemon)
        wait_held(services, MANY)
    say(client, "go\n")
    wait_output(client, f"served {MANY}", PATIENCE)
    wait_until(lambda: len(server.stdout.splitlines()) == MANY + 1, "each to come once")
    peers = [line.split() for line in server.stdout.splitlines()[1:]]
    assert {peer[0] for peer in peers} == {str(client.ip)}
    assert len({peer[1] for peer in peers}) == MANY
    assert len(world.daemon.holders()) == 1


def strangers(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


def answers(socks: list[socket.socket]) -> list[bytes]:
    """What each gets: it is closed then."""
    found = []
    for sock in socks:
        with sock:
            sock.settimeout(PATIENCE)
            sock.sendall(REQUEST)
            found.append(sock.recv(100))
    return found


def test_strangers_who_are_judged_and_not_accepted(world: Switched, services: Services) -> None:
    """With a policy they are taken from the port's queue as they come, and wait until the server accepts them."""
    port = free_port()
    server = waiting_server(world, "--expose", f"7000:{port}")
    services.policy("other", "deny", to={"networks": [world.addresses.v4()]})
    socks = strangers(port, MANY)
    wait_until(lambda: accepted(world.daemon, port) == MANY, "them to be taken from the queue")
    kill_switch(world.daemon)
    say(server, "go\n")
    assert answers(socks) == [b"served GET /x"] * MANY
    assert {line.split()[0] for line in server.stdout.splitlines()[1:]} == {"127.0.0.1"}


def test_strangers_who_are_held(world: Switched, services: Services) -> None:
    """At an exposed port by a policy with l7, at an external vservice's by its routes."""
    exposed, external = free_port(), free_port()
    server = waiting_server(world, "--expose", f"7000:{exposed}")
    say(server, "go\n")
    services.policy("writes", "deny", to={"networks": [str(server.ip)]}, l7=[{"http.method": ["DELETE"]}])
    routes = [{"match": {"http.path": ["/x"]}, "backends": [{"ip": str(server.ip)}]}]
    services.vservice(
        "open", world.addresses.v4(), ports=f"{external}:7000", routes=routes, external=True,
        peek={"milliseconds": 60_000},
    )  # fmt: skip
    socks = strangers(exposed, 3) + strangers(external, 3)
    wait_until(lambda: services.stats()["held"] >= 3, "them to be held")
    kill_switch(world.daemon)
    assert answers(socks) == [b"served GET /x"] * 6


def accepted(daemon: Daemon, port: int) -> int:
    """How many connections at a port of the host the switch has in its hands."""
    pid = read_roster(str(daemon.run_dir))["switch"]
    listed = subprocess.run(
        ["ss", "-Htnp", f"sport = :{port}"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return sum(f"pid={pid}," in line for line in listed)


def test_on_the_way_to_a_proxy(world: Switched, services: Services) -> None:
    """The proxy has been asked, and has not answered: it is asked again when it has found the new switch."""
    server = waiting_server(world)
    say(server, "go\n")
    services.proxy("one", onFailure="closed", timeout=30)
    web = services.vservice("web", str(server.ip), ports="80:7000", proxy="one")
    silent = world.start(sys.executable, PROGRAMS / "takes.py", "one", "is silent", options=("--name", "one"))
    wait_output(silent, "ready")
    client = hoarder(world, web, 80, 20)
    kill_switch(world.daemon)
    silent.stop()
    world.start(sys.executable, PROGRAMS / "takes.py", "one", "passes", options=("--name", "one"))
    say(client, "go\n")
    wait_output(client, "served 20", PATIENCE)


def test_behind_a_proxy_that_stands_before_the_server(world: Switched, services: Services) -> None:
    """The proxy serves them already, and their ends of the pairs that were made for it wait for accept(2). Twice."""
    server = waiting_server(world, "--name", "server")
    services.proxy("relay")
    services.policy("all", "allow", direction="ingress", proxy="relay", to={"names": ["server"]})
    world.start(sys.executable, "-c", RELAYS, options=("--name", "relay"))
    wait_until(lambda: services.proxies()["relay"]["state"] == "ready", "the proxy")
    client = hoarder(world, str(server.ip), 7000, 20)
    wait_until(lambda: services.proxies()["relay"]["taken"] == 20, lambda: f"all taken: {services.proxies()}")
    for _ in range(2):
        kill_switch(world.daemon)
    say(client, "go\n")
    say(server, "go\n")
    wait_output(client, "served 20", PATIENCE)
    peers = [line.split()[0] for line in server.stdout.splitlines()[1:]]
    assert peers == [str(client.ip)] * 20


def test_behind_a_header(world: Switched, services: Services) -> None:
    """Strangers for a proxy that expects a PROXY header, which the splicer carries: the proxy has not accepted yet."""
    port = free_port()
    server = world.start(PYTHON, "-c", WAITS, listening=7000, options=("--expose", f"7000:{port}"))
    front = waiting_server(world, "--name", "front")
    services.proxy("front", listener="front:7000", header="v2")
    services.policy("all", "allow", direction="ingress", proxy="front", to={"networks": [str(server.ip)]})
    socks = strangers(port, MANY)
    wait_until(lambda: services.proxies()["front"]["taken"] == MANY, lambda: f"all taken: {services.proxies()}")
    for _ in range(2):
        kill_switch(world.daemon)
    say(front, "go\n")
    assert [answer[:7] for answer in answers(socks)] == [b"served "] * MANY
    assert {line.split()[0] for line in front.stdout.splitlines()[1:]} == {"127.0.0.1"}


def test_a_file_that_was_lent_o_nonblock(world: Switched) -> None:
    """For accept(2), which then is to wait as before: the switch is stopped where it has just lent it, and killed."""
    server = waiting_server(world)
    say(server, "go\n")
    switch = read_roster(str(world.daemon.run_dir))["switch"]
    number, own = wait_until(lambda: shared(switch, server.pid), "accept(2) to wait")
    os.kill(switch, signal.SIGSTOP)
    got = _kernel.fetch(_kernel.pidfd_open(switch, 0), number)
    assert not isinstance(got, int)
    listener, _, flags = got
    _kernel.set_status_flags(listener, flags | os.O_NONBLOCK)
    listener.close()
    journal = next(one for one, what in files(switch).items() if "memfd:appswitch-journal" in what)
    with journal.open("r+b", buffering=0) as memory:
        memory.seek(LOAN_AT)
        memory.write(LOAN.pack(number, flags))
    assert not is_blocking(own)
    kill_switch(world.daemon)
    assert is_blocking(own)
    client = hoarder(world, str(server.ip), 7000, 3)
    say(client, "go\n")
    wait_output(client, "served 3", PATIENCE)


def files(pid: int) -> dict[Path, str]:
    """Its descriptors, and what they are. Some are closed meanwhile."""
    found = {}
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[one] = str(one.readlink())
    return found


def shared(switch: int, app: int) -> tuple[int, Path] | None:
    """The number that a socket of the app's has in the switch, and the app's own."""
    mine = {what: one for one, what in files(app).items() if what.startswith("socket:")}
    return next(((int(one.name), mine[what]) for one, what in files(switch).items() if what in mine), None)


def is_blocking(file: Path) -> bool:
    """proc_pid_fdinfo(5)."""
    info = (file.parents[1] / "fdinfo" / file.name).read_text()
    return not int(info.split("flags:")[1].split()[0], 8) & os.O_NONBLOCK


def test_an_upgrade_takes_them_over(world: Switched, services: Services) -> None:
    server = waiting_server(world)
    say(server, "go\n")
    client = hoarder(world, by_first_bytes(services, server), 80, 20)
    wait_held(services, 20)
    done = world.daemon.ax("daemon", "--upgrade", timeout=60)
    assert done.returncode == 0, done
    wait_held(services, 20)
    say(client, "go\n")
    wait_output(client, "served 20", PATIENCE)


def five_held(world: Switched, services: Services) -> App:
    """A client whose connections are held for their first bytes."""
    server = waiting_server(world)
    say(server, "go\n")
    return hoarder(world, by_first_bytes(services, server), 80, 5)


def test_a_holder_that_is_killed_is_replaced(world: Switched, services: Services) -> None:
    client = five_held(world, services)
    (first,) = world.daemon.holders()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: world.daemon.holders() not in ([], [first]), "another one", PATIENCE)
    kill_switch(world.daemon)
    say(client, "go\n")
    wait_output(client, "served 5", PATIENCE)


def test_with_another_keeper(world: Switched, services: Services) -> None:
    client = five_held(world, services)
    dead = world.daemon.keeper()
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: world.daemon.keeper() not in (0, dead), "another keeper", PATIENCE)
    wait_until(lambda: stores(world.daemon) > 1, "it to be told", PATIENCE)
    kill_switch(world.daemon)
    say(client, "go\n")
    wait_output(client, "served 5", PATIENCE)


def test_of_an_unprivileged_daemon(
    daemon_factory: Callable[..., Daemon], rootless: Rootless, addresses: Addresses
) -> None:
    daemon = daemon_factory(user=rootless)
    with Switched(daemon, addresses) as world, Services(daemon, addresses) as services:
        server = waiting_server(world)
        say(server, "go\n")
        client = hoarder(world, by_first_bytes(services, server), 80, 5)
        wait_held(services, 5)
        kill_switch(daemon)
        say(client, "go\n")
        wait_output(client, "served 5", PATIENCE)


def stores(daemon: Daemon) -> int:
    """How many apps the keeper knows."""
    links = [os.readlink(entry) for entry in Path(f"/proc/{daemon.keeper()}/fd").iterdir()]  # noqa: PTH115
    return links.count("anon_inode:seccomp notify")


def test_it_is_small_and_has_what_the_switch_has(world: Switched) -> None:
    (holder,) = world.daemon.holders()
    switch = read_roster(str(world.daemon.run_dir))["switch"]
    rollup = Path(f"/proc/{holder}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in rollup[1:]}
    assert sizes["Private_Dirty"] + sizes["Private_Clean"] < 256, sizes
    assert sizes["Rss"] < 512, sizes
    assert sorted(os.listdir(f"/proc/{holder}/fd")) == sorted(os.listdir(f"/proc/{switch}/fd"))  # noqa: PTH208
    assert Path(f"/proc/{holder}/cmdline").read_bytes().rstrip(b"\0") == b"ax-hold"
