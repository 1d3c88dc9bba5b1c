"""UDP between apps: a client and a server see what two hosts would see; who reaches whom, and who does not."""

from __future__ import annotations

import difflib
import errno
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import Addresses, App, Daemon, wait_until
from harness.addresses import free_port
from harness.differences import DIFFERENT
from harness.hosts import TwoHosts
from harness.probes import BROKEN, Probes, sections, split

PROGRAMS = Path(__file__).resolve().parent / "programs"
PEER = str(PROGRAMS / "udp_peer.py")
TWO = "../programs/udp_two.c"  # as the probes are named
PLACES = ("ip4", "ip6", "mapped")  # the last: an IPv6 socket that talks IPv4
OPEN = (7000, 7001, 7002, 7003, 5060)
LIMIT = 100.0  # seconds for all sections
SECTION = 12.0  # for one


class Pairs:
    """What the client prints, of two plain hosts (all sections in one run) and of two apps (a pair for each)."""

    def __init__(self, probes: Probes, daemon: Daemon, addresses: Addresses) -> None:
        self._probes = probes
        self._daemon = daemon
        self._addresses = addresses
        self._places: dict[str, tuple[str, str]] = {}
        self._bare: dict[str, dict[str, str]] = {}

    def bare(self, place: str) -> dict[str, str]:
        """Of two hosts, by section."""
        if place not in self._bare:
            server, client, words, environment = self._of(place)
            with (
                TwoHosts(server, client) as hosts,
                App(hosts.command(0, sys.executable, PEER, server), dict(os.environ)) as one,
            ):
                one.wait_for("listening")
                with App(hosts.command(1, *words), {**os.environ, **environment}) as asking:
                    assert asking.wait(LIMIT) == 0, asking
                    self._bare[place] = split(asking.stdout)
        return self._bare[place]

    def apps(self, place: str, section: str) -> str:
        """Of two apps. A server of its own: what one section does to it harms no other."""
        server, client, words, environment = self._of(place)
        words[1:1] = ["-s", section]
        with self._daemon.spawn(sys.executable, PEER, server, ip=server, listening=OPEN):
            return self._daemon.run(*words, ip=client, env=environment, timeout=SECTION).stdout

    def _of(self, place: str) -> tuple[str, str, list[str], dict[str, str]]:
        new = self._addresses.v6 if place == "ip6" else self._addresses.v4
        server, client = self._places.setdefault(place, (new(), new()))
        mapped = "::ffff:" if place == "mapped" else ""
        words = [*self._probes.command(TWO), mapped + client, *([client] if mapped else [])]
        return server, client, words, {"PEER": mapped + server}


@pytest.fixture(scope="session")
def pairs(probes: Probes, daemon: Daemon, addresses: Addresses) -> Pairs:
    """Shared by the tests of all sections."""
    return Pairs(probes, daemon, addresses)


@pytest.mark.parametrize("section", sections(TWO))
@pytest.mark.parametrize("place", PLACES)
def test_client_sees_what_it_would_see_of_another_host(pairs: Pairs, place: str, section: str) -> None:
    """The two outputs are equal, or differ as harness.differences says, for the reason given there."""
    bare = pairs.bare(place)[section]
    assert not BROKEN.search(bare), f"the program itself fails:\n{bare}"
    expected = DIFFERENT.expected("udp_two.c", section, place, "unix", bare)
    got = pairs.apps(place, section)
    if got != expected:
        lines = difflib.unified_diff(expected.splitlines(), got.splitlines(), "hosts", "apps", lineterm="", n=2)
        pytest.fail("\n".join(lines), pytrace=False)


# ---- small programs

# Answers every datagram with its name; "log": prints what comes.
NAMER = """
import socket, sys
name, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
if "reuseport" in sys.argv:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
one.bind((host, port))
print("up", flush=True)
while True:
    data, client = one.recvfrom(2000)
    if "log" in sys.argv:
        print(data.decode(), *client[:2], flush=True)
    one.sendto(name.encode() + b" " + data, client)
"""

# Each argument is IP/PORT, asked in turn by one unconnected socket; prints the answer and whether it is who was asked.
ASKER = """
import errno, socket, sys
family = socket.AF_INET6 if sys.argv[1].count(":") else socket.AF_INET
one = socket.socket(family, socket.SOCK_DGRAM)
one.settimeout(4)
for number, place in enumerate(sys.argv[1:]):
    host, _, port = place.rpartition("/")
    try:
        one.sendto(str(number).encode(), (host, int(port)))
        data, source = one.recvfrom(2000)
        print(data.decode(), source[:2] == (host, int(port)), flush=True)
    except OSError as error:
        print(errno.errorcode.get(error.errno, "silence"), flush=True)
"""

# A connected socket to IP PORT; for each line that it reads one try, until it is answered or refused.
CONNECTED = """
import errno, socket, sys
one = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(4)
one.connect((sys.argv[1], int(sys.argv[2])))
print("connected", flush=True)
for line in sys.stdin:
    try:
        one.getpeername()  # a call that is seen
        one.send(line.strip().encode())
        print(one.recv(2000).decode(), flush=True)
    except OSError as error:
        print(errno.errorcode.get(error.errno, "silence"), flush=True)
"""


def namer(
    daemon: Daemon, name: str, ip: str, port: int = 7000, host: str = "", *more: str, labels: str | None = None
) -> App:
    """Start a NAMER, and wait until it serves."""
    host = host or ("::" if ":" in ip else "0.0.0.0")
    words = [sys.executable, "-c", NAMER, name, host, str(port), *more]
    app = daemon.spawn(*words, ip=ip, labels=labels)
    app.wait_for("up")
    return app


def ask(daemon: Daemon, *places: str, ip: str | None = None, labels: str | None = None) -> list[str]:
    """What an ASKER prints."""
    return daemon.run(sys.executable, "-c", ASKER, *places, ip=ip, labels=labels).stdout.splitlines()


@pytest.fixture(params=["ip4", "ip6"])
def new(request: pytest.FixtureRequest, addresses: Addresses) -> Callable[[], str]:
    """Fresh addresses of each family."""
    return addresses.v4 if request.param == "ip4" else addresses.v6


# ---- several apps


def test_two_clients_at_once(daemon: Daemon, new: Callable[[], str]) -> None:
    """A server on the wildcard address tells its clients apart, and each is answered by whom it has asked."""
    ip, one, two = new(), new(), new()
    with namer(daemon, "a", ip, 7000, "", "log") as server, ExitStack() as stack:
        clients = [
            stack.enter_context(daemon.spawn(sys.executable, "-c", ASKER, *[f"{ip}/7000"] * 100, ip=own))
            for own in (one, two)
        ]
        for client in clients:
            assert client.wait() == 0
            assert client.stdout.splitlines() == [f"a {number} True" for number in range(100)]
        seen = {line.split()[1] for line in server.stdout.splitlines() if line != "up"}
        assert seen == {one, two}


def test_one_socket_two_servers(daemon: Daemon, new: Callable[[], str]) -> None:
    """An unconnected socket asks servers in different apps in turn."""
    one, two = new(), new()
    with namer(daemon, "a", one), namer(daemon, "b", two):
        told = ask(daemon, *[f"{one}/7000", f"{two}/7000"] * 10, ip=new())
    assert told == [f"{'ab'[number % 2]} {number} True" for number in range(20)]


@pytest.fixture
def outside() -> Iterator[tuple[str, int]]:
    """A NAMER of the host itself, on an address of the host that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            host = probe.getsockname()[0]
        except OSError:
            host = ""
    assert host, "this host has no address but loopback"
    port = free_port(host)
    with App([sys.executable, "-c", NAMER, "host", host, str(port)], dict(os.environ)) as server:
        server.wait_for("up")
        yield host, port


def test_one_socket_inside_and_outside(daemon: Daemon, addresses: Addresses, outside: tuple[str, int]) -> None:
    """The same with one server that is no app."""
    host, port = outside
    one, two = addresses.v4(), addresses.v4()
    order = [f"{one}/7000", f"{host}/{port}", f"{two}/7000", f"{host}/{port}", f"{one}/7000"]
    with namer(daemon, "a", one), namer(daemon, "b", two):
        told = ask(daemon, *order, ip=addresses.v4())
        assert told == ["a 0 True", "host 1 True", "b 2 True", "host 3 True", "a 4 True"]
        told = ask(daemon, *order[1:], ip=addresses.v4())
        assert told == ["host 0 True", "b 1 True", "host 2 True", "a 3 True"]


NAMES_OUTSIDE = """
import socket, sys
for bind in (False, True):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(4)
    if bind:
        one.bind(("0.0.0.0", 0))
    one.connect((sys.argv[1], int(sys.argv[2])))
    one.send(b"x")
    print(one.recv(100).decode(), one.getsockname()[0], one.getpeername() == (sys.argv[1], int(sys.argv[2])))
"""


def test_names_of_a_socket_that_talks_to_the_outside(
    daemon: Daemon, addresses: Addresses, outside: tuple[str, int]
) -> None:
    """Its own address stays the app's."""
    ip = addresses.v4()
    told = daemon.run(sys.executable, "-c", NAMES_OUTSIDE, outside[0], str(outside[1]), ip=ip).stdout
    assert told.splitlines() == [f"host x {ip} True"] * 2


def test_same_port_everywhere(daemon: Daemon, new: Callable[[], str]) -> None:
    """A port is an app's own, also for explicit ports on both sides: three apps that all have 5060."""
    ips = [new(), new(), new()]
    program = """
import socket, sys
own, others = sys.argv[1], sys.argv[2:]
one = socket.socket(socket.AF_INET6 if ":" in own else socket.AF_INET, socket.SOCK_DGRAM)
one.bind((own, 5060))
one.settimeout(8)
print("up", flush=True)
sys.stdin.readline()
for other in others:
    one.sendto(b"hello", (other, 5060))
heard = sorted(one.recvfrom(100)[1][:2] for _ in others)
print("good" if heard == sorted((other, 5060) for other in others) else heard, flush=True)
sys.stdin.readline()
"""
    with ExitStack() as stack:
        apps = []
        pipes = []
        for own in ips:
            reading, writing = os.pipe()
            others = [other for other in ips if other != own]
            app = daemon.spawn(sys.executable, "-c", program, own, *others, ip=own, stdin=reading)
            apps.append(stack.enter_context(app))
            os.close(reading)
            pipes.append(stack.enter_context(os.fdopen(writing, "w", buffering=1)))
        for app in apps:
            app.wait_for("up")
        for pipe in pipes:
            print(file=pipe)
        for app in apps:
            app.wait_for("good")
        for pipe in pipes:
            print(file=pipe)


def test_servers_with_one_ip_share_the_work(daemon: Daemon, new: Callable[[], str]) -> None:
    """Several apps with one IP serve one port: each client is answered by one of them, and goes on with it."""
    ip = new()
    with namer(daemon, "a", ip), namer(daemon, "b", ip):
        daemon.wait_listening(7000, ip, count=2)
        seen = set()
        for _ in range(14):  # all by one: once in eight thousand runs
            told = ask(daemon, f"{ip}/7000", f"{ip}/7000")
            names = {line.split()[0] for line in told}
            assert len(told) == 2, told
            assert all(line.endswith("True") for line in told), told
            seen |= names
        assert seen == {"a", "b"}


def test_reuseport_within_an_app_serves_others(daemon: Daemon, new: Callable[[], str]) -> None:
    """SO_REUSEPORT servers of one app all get clients from another one."""
    ip = new()
    forking = NAMER.replace("import socket, sys", "import os, socket, sys\nname = str(os.fork() > 0)").replace(
        "name, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])", "host, port = sys.argv[2], int(sys.argv[3])"
    )
    host = "::" if ":" in ip else "0.0.0.0"
    with daemon.spawn(sys.executable, "-c", forking, "x", host, "7000", "reuseport", ip=ip) as server:
        wait_until(lambda: server.stdout.count("up") == 2, "both servers")
        one_each = ASKER.replace("for number, place in", "for _ in range(40):\n  for number, place in").replace(
            "enumerate(sys.argv[1:]):\n", "enumerate(sys.argv[1:]):\n    one = socket.socket(family, one.type)\n"
        )
        told = daemon.run(sys.executable, "-c", one_each, f"{ip}/7000", ip=new()).stdout.splitlines()
    assert sorted(set(told)) == ["False 0 True", "True 0 True"]
    assert len(told) == 40


def _lines(pipe: int) -> Callable[[str], None]:
    def write(line: str) -> None:
        os.write(pipe, f"{line}\n".encode())

    return write


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_server_goes_and_comes_back(daemon: Daemon, new: Callable[[], str], how: int) -> None:
    """A connected client is refused when the server went, and served again by its successor: the same socket."""
    ip = new()
    reading, writing = os.pipe()
    with ExitStack() as stack:
        server = stack.enter_context(namer(daemon, "first", ip))
        client = stack.enter_context(daemon.spawn(sys.executable, "-c", CONNECTED, ip, "7000", ip=new(), stdin=reading))
        os.close(reading)
        stack.callback(os.close, writing)
        client.wait_for("connected")
        tell = _lines(writing)
        tell("early")
        client.wait_for("first early")
        server.stop(how)
        wait_until(lambda: not daemon.servers(7000, ip), "the service table to forget it")
        tell("nobody")
        client.wait_for("ECONNREFUSED")
        with namer(daemon, "second", ip):
            tell("late")
            client.wait_for("second late")


def test_unconnected_client_goes_on_with_the_next_server(daemon: Daemon, new: Callable[[], str]) -> None:
    """The same with sendto(2): unheard while there is none, then served."""
    ip = new()
    loop = """
import socket, sys
one = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(2)
for line in sys.stdin:
    one.sendto(line.strip().encode(), (sys.argv[1], 7000))
    try:
        print(one.recv(2000).decode(), flush=True)
    except TimeoutError:
        print("silence", flush=True)
"""
    reading, writing = os.pipe()
    with ExitStack() as stack, daemon.spawn(sys.executable, "-c", loop, ip, ip=new(), stdin=reading) as client:
        os.close(reading)
        stack.callback(os.close, writing)
        tell = _lines(writing)
        for name in ("first", "second", "third"):
            with namer(daemon, name, ip) as server:
                tell("hello")
                client.wait_for(f"{name} hello")
                server.kill()
            wait_until(lambda: not daemon.servers(7000, ip), "the service table to forget it")
            before = client.stdout.count("silence")
            tell("nobody")
            wait_until(lambda before=before: client.stdout.count("silence") > before, "silence")


def test_loopback_is_its_own(daemon: Daemon, new: Callable[[], str]) -> None:
    """What serves on an app's loopback is reached by itself, and by nobody else, whatever they try."""
    ip, other = new(), new()
    loopback = "::1" if ":" in ip else "127.0.0.1"
    words = [sys.executable, "-c", NAMER, "mine", loopback, "7000", "log"]
    with daemon.spawn(*words, ip=ip) as server, namer(daemon, "open", ip, 7001):
        server.wait_for("up")
        told = ask(daemon, f"{loopback}/7000", f"{ip}/7000", f"{ip}/7001", ip=other)
        assert told == ["silence", "silence", "open 2 True"]
        # one that visits the server's app already, and one on the same IP
        told = ask(daemon, f"{ip}/7001", f"{loopback}/7000", ip=other)
        assert told == ["open 0 True", "silence"]
        assert ask(daemon, f"{loopback}/7000", ip=ip) == ["silence"]
        assert server.stdout.splitlines() == ["up"]


def test_own_loopback(daemon: Daemon, new: Callable[[], str], tmp_path: Path) -> None:
    """Two programs of one app reach each other on its loopback, on its address and on 0.0.0.0."""
    ip, said = new(), tmp_path / "said"
    os.mkfifo(said)
    loopback, anywhere = ("::1", "::") if ":" in ip else ("127.0.0.1", "0.0.0.0")
    script = (
        f'"$0" -c "$1" in {anywhere} 7000 >"$3" & child=$!; exec 5<"$3"; read up <&5; '
        f'"$0" -c "$2" {loopback}/7000 {ip}/7000; kill $child; wait $child'
    )
    done = daemon.run("sh", "-c", script, sys.executable, NAMER, ASKER, str(said), ip=ip, check=False)
    assert done.stdout.splitlines() == ["in 0 True", "in 1 True"], done


def test_labels(daemon: Daemon, new: Callable[[], str]) -> None:
    """Apps without a common label do not reach each other; nothing is said to the server's app."""
    ip = new()
    with namer(daemon, "a", ip, 7000, "", "log", labels="tier=one") as server:
        assert ask(daemon, f"{ip}/7000", ip=new(), labels="tier=two") == ["silence"]
        reading, writing = os.pipe()
        words = [sys.executable, "-c", CONNECTED, ip, "7000"]
        with daemon.spawn(*words, ip=new(), labels="tier=two", stdin=reading) as stranger:
            os.close(reading)
            os.write(writing, b"x\nx\n")
            os.close(writing)
            stranger.wait()
            assert "a x" not in stranger.stdout
        assert server.stdout.splitlines() == ["up"]
        assert ask(daemon, f"{ip}/7000", ip=new(), labels="tier=one") == ["a 0 True"]


def test_reply_to_a_stranger_goes_nowhere(daemon: Daemon, new: Callable[[], str]) -> None:
    """A label keeps out the way back, too: an app cannot speak first to one that it does not share a label with."""
    ip = new()
    with (
        namer(daemon, "a", ip, 7000, "", "log", labels="tier=one") as server,
        namer(daemon, "b", new(), 7000, labels="tier=two") as other,
    ):
        assert other.ip
        assert ask(daemon, f"{ip}/7000", f"{other.ip}/7000", ip=new(), labels="tier=two") == ["silence", "b 1 True"]
        assert server.stdout.splitlines() == ["up"]


# ---- what an app sees of its addresses

GETIFADDRS = """
import ctypes, ipaddress
class Sockaddr(ctypes.Structure):
    _fields_ = [("family", ctypes.c_ushort), ("data", ctypes.c_ubyte * 26)]
class Ifaddrs(ctypes.Structure):
    pass
Ifaddrs._fields_ = [("next", ctypes.POINTER(Ifaddrs)), ("name", ctypes.c_char_p), ("flags", ctypes.c_uint),
                    ("addr", ctypes.POINTER(Sockaddr))]
first = ctypes.POINTER(Ifaddrs)()
assert ctypes.CDLL(None).getifaddrs(ctypes.byref(first)) == 0
while first:
    one = first.contents
    if one.addr and one.addr.contents.family == 2:
        print(ipaddress.ip_address(bytes(one.addr.contents.data[2:6])))
    elif one.addr and one.addr.contents.family == 10:
        print(ipaddress.ip_address(bytes(one.addr.contents.data[6:22])))
    first = one.next
"""


def test_getifaddrs(daemon: Daemon, addresses: Addresses) -> None:
    """The app's own addresses and loopback, and no other; guests of UDP do not show."""
    four, six = addresses.v4(), addresses.v6()
    words = [sys.executable, "-c", GETIFADDRS]
    wanted = {"127.0.0.1", "::1", four, six}
    assert set(daemon.run(*words, ip=[four, six]).stdout.split()) == wanted
    assert set(daemon.run(*words, ip=four).stdout.split()) == {"127.0.0.1", "::1", four}


@pytest.mark.parametrize(
    ("command", "options"),
    [(["ip", "-o", "addr"], ()), (["hostname", "-I"], ("--interface", "eth0"))],  # hostname leaves lo out
    ids=["ip", "hostname"],
)
def test_tools_that_show_addresses(
    daemon: Daemon, addresses: Addresses, command: list[str], options: tuple[str, ...]
) -> None:
    """ip(8) and hostname(1) see what getifaddrs sees."""
    four, six = addresses.v4(), addresses.v6()
    told = daemon.run(*command, ip=[four, six], options=options).stdout
    found = set(re.findall(r"\b(?:\d+\.){3}\d+\b", told)) | set(re.findall(r"\bfd00:[0-9a-f:]+", told))
    assert found - {"127.0.0.1"} == {four, six}, told


BIND = """
import errno, socket, sys
for host in sys.argv[1:]:
    one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        one.bind((host, 7000))
        print(host, "bound")
    except OSError as error:
        print(host, errno.errorcode[error.errno])
    one.close()
"""


def test_bind_to_what_is_another_apps(daemon: Daemon, new: Callable[[], str]) -> None:
    """Another app's address is none of ours, also when that app is a client of ours just now."""
    own, other = new(), new()
    with namer(daemon, "a", other):
        told = daemon.run(sys.executable, "-c", BIND, own, other, ip=own).stdout.splitlines()
    assert told == [f"{own} bound", f"{other} {errno.errorcode[errno.EADDRNOTAVAIL]}"]


def test_nothing_is_left(daemon: Daemon, new: Callable[[], str]) -> None:
    """Closed sockets are forgotten, with their server's lines; an ended app, with all of them."""
    ip = new()
    with namer(daemon, "a", ip) as server:
        ask(daemon, *[f"{ip}/7000"] * 5, ip=new())
        (row,) = daemon.servers(7000, ip)
        assert row["proto"] == "udp"
        server.stop()
    wait_until(lambda: not daemon.servers(7000, ip), "its server to be forgotten")
    for what in ("servers", "sockets"):
        wait_until(
            lambda what=what: row["app_id"] not in [one["app_id"] for one in daemon.get(what)],
            f"its {what} to be forgotten",
        )
