"""What apps, launchers and other users do on purpose: nobody else is harmed, and nothing stops the switch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, Rootless
from harness.addresses import free_port
from harness.app import App
from harness.lingering import LINGERING
from harness.waiting import wait_until

from appswitch.address import Address
from appswitch.switch import naming

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for programs of other users")
MANY = 4200  # more than the switch remembers of threads, and of connections on their way half as many

# A server that accepts one connection for each line of its input, in blocking accept(2), and says whom it served.
ON_DEMAND = """
import socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], 80))
listener.listen()
for line in sys.stdin:
    print("accepting", flush=True)
    connection, peer = listener.accept()
    connection.sendall(b"hello")
    connection.close()
    print("served", peer[0], flush=True)
"""
CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 80), 5)
print("connected", flush=True)
connection.settimeout(5)
print(connection.recv(9).decode(), flush=True)
"""
# What a launcher does, by hand: any user may do it. `attach` keeps a copy of the notification descriptor.
LAUNCHER = """
import ctypes, http.client, json, os, select, socket, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
run = os.environ["AX_RUN_DIR"]

class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(run + "/rest.sock")

def attach(number):
    connection = Connection("localhost")
    connection.request("POST", "/v1/apps", json.dumps({"command": ["x"]}), {"Content-Type": "application/json"})
    token = bytes.fromhex(json.loads(connection.getresponse().read())["token"])
    connection.close()
    guest = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    guest.connect(run + "/attach.sock")
    guest.send(struct.pack("=4sIII32s", b"AXL1", 1, 0, 0xC000003E, token))
    guest.recv(1 << 16)
    program = struct.pack("=" + "HBBI" * 4,
        0x20, 0, 0, 0,  0x15, 0, 1, number,  6, 0, 0, 0x7FC00000,  6, 0, 0, 0x7FFF0000)
    code = ctypes.create_string_buffer(program)
    fprog = struct.pack("=H6xQ", 4, ctypes.addressof(code))
    libc.prctl(38, 1, 0, 0, 0)
    listener = libc.syscall(317, 1, 8, fprog)
    assert listener >= 0, ctypes.get_errno()
    socket.send_fds(guest, [struct.pack("=4sI", b"AXL1", 0)], [listener])
    assert guest.recv(2000) == struct.pack("=4sI", b"AXL1", 0)
    return listener
"""


def python(code: str, *arguments: object) -> list[str]:
    """The words that run ``code``."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def switch_of(daemon: Daemon) -> int:
    """The pid of the daemon's switch."""
    return next(p for p in daemon.processes() if b"appswitch.switch" in Path(f"/proc/{p}/cmdline").read_bytes())


def say(app: App, line: str = "") -> None:
    """A line of input."""
    assert app.process.stdin is not None
    app.process.stdin.write(line.encode() + b"\n")
    app.process.stdin.flush()


@contextlib.contextmanager
def on_demand(daemon: Daemon, ip: str, **more: Any) -> Iterator[App]:
    """`ON_DEMAND`, listening."""
    with daemon.spawn(*python(ON_DEMAND, ip), ip=ip, listening=80, stdin=subprocess.PIPE, **more) as app:
        yield app
        assert app.process.stdin is not None
        app.process.stdin.close()


@pytest.fixture
def own() -> Iterator[Daemon]:
    """A daemon of the test's own: what breaks it breaks no other test. Killed when the test fails."""
    with Daemon() as daemon:
        yield daemon
        if not _answers(daemon):
            daemon.strict = False
            pytest.fail(f"the switch does not answer any more: {daemon.kill()}")


def _answers(daemon: Daemon) -> bool:
    return daemon.rest("GET", "/v1/sockets")[0] == 200


# --- one app's numbers are not another's harm ------------------------------------------------------------------------


def test_accept_waits_however_many_others_call(daemon: Daemon, addresses: Any) -> None:
    """A call that waits is not forgotten when thousands of other threads have called since."""
    ip, other = addresses.v4(), addresses.v4()
    with on_demand(daemon, ip) as server:
        say(server)
        server.wait_for("accepting")
        daemon.run(
            *python(
                "import socket, threading\n"
                f"for _ in range({MANY}):\n"
                "    one = threading.Thread(target=lambda: socket.socket().getsockname())\n"
                "    one.start(); one.join()\n"
            ),
            ip=other,
        )
        assert daemon.run(*python(CLIENT, ip), ip=other).stdout == "connected\nhello\n"


@root
def test_connections_on_their_way_are_not_crowded_out(daemon: Daemon, addresses: Any) -> None:
    """TCP connections that another app makes, and nobody accepts, do not cost a third one its own."""
    flood = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (9000, 9000))
listener = socket.socket()
listener.bind((sys.argv[1], 99))
listener.listen()
kept = []
for _ in range(8100):
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex((sys.argv[1], 99))
    kept.append(one)
"""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 9000, "too few descriptors: raise `ulimit -Hn`"
    ip, client, crowd = addresses.v4(), addresses.v4(), addresses.v4()
    patient = CLIENT.replace("settimeout(5)", "settimeout(30)")
    with on_demand(daemon, ip) as server, daemon.spawn(*python(patient, ip), ip=client, transport="tcp") as waiting:
        waiting.wait_for("connected")
        daemon.run(*python(flood, crowd), ip=crowd, transport="tcp")
        say(server)
        server.wait_for("served")
        assert waiting.wait() == 0
        assert waiting.stdout == "connected\nhello\n"


def test_calls_that_timed_out_are_forgotten(daemon: Daemon, ip: str) -> None:
    """accept(2) with SO_RCVTIMEO, again and again behind one that waits, leaves nothing in the switch's memory."""
    statm = f"/proc/{switch_of(daemon)}/statm"
    code = """
import os, socket, struct, sys, threading
listener = socket.socket()
listener.bind((sys.argv[1], 80))
listener.listen()
where = []
def wait():
    where.append(threading.get_native_id())
    listener.accept()
threading.Thread(target=wait, daemon=True).start()  # before the others, and for ever
while not where or "seccomp" not in open(f"/proc/self/task/{where[0]}/wchan").read():
    pass
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 0, 1))
def try_again():
    for _ in range(100):
        try:
            listener.accept()
        except BlockingIOError:
            pass
def round():
    threads = [threading.Thread(target=try_again) for _ in range(100)]
    [one.start() for one in threads]
    [one.join() for one in threads]
    return int(open(sys.argv[2]).read().split()[1]) * 4
first = round()
print(round() - first, flush=True)
os._exit(0)
"""
    assert int(daemon.run(*python(code, ip, statm), ip=ip, timeout=50).stdout) < 4000  # KiB for 10,000 calls


@root
def test_live_listeners_are_never_taken_for_dead(daemon: Daemon, ip: str) -> None:
    """sock_diag may leave a socket out of a long list while others come and go: that alone proves nothing."""
    count = 2000
    many = f"""
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({count} + 100, {count} + 100))
kept = []
for port in range(10000, 10000 + {count}):
    one = socket.socket()
    one.bind((sys.argv[1], port))
    one.listen()
    kept.append(one)
print("listening", flush=True)
sys.stdin.read()
"""
    churn = "import socket\nwhile True:\n    kept = [socket.socket(socket.AF_UNIX) for _ in range(300)]\n    del kept\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= count + 100, "too few descriptors: raise `ulimit -Hn`"
    with daemon.spawn(*python(many, ip), ip=ip, stdin=subprocess.PIPE) as app, App(python(churn), os.environ) as others:
        app.wait_for("listening", 30)
        for _ in range(40):
            daemon.get("sockets")  # the switch looks for dead ones
        assert sum(row["service_ip"] == ip for row in daemon.get("servers")) == count
        others.kill()
        assert app.process.stdin is not None
        app.process.stdin.close()


# --- lost wake-ups ---------------------------------------------------------------------------------------------------


def test_connection_behind_a_stranger_is_accepted(daemon: Daemon, addresses: Any) -> None:
    """Somebody of the host connects to the port that leads to an app, and is sent away: who came after is served."""
    ip, other = addresses.v4(), addresses.v4()
    with on_demand(daemon, ip) as server:
        say(server)
        daemon.run(*python(CLIENT, ip), ip=other, transport="tcp")  # opens the port
        host, port = daemon.servers(80, ip)[0]["actual"][0].rsplit(":", 1)
        with (
            socket.create_connection((host, int(port)), 5),
            daemon.spawn(*python(CLIENT, ip), ip=other) as client,
        ):
            client.wait_for("connected")
            say(server)
            assert client.wait() == 0, server
            assert client.stdout == "connected\nhello\n"


# --- sockets that outlive their app ----------------------------------------------------------------------------------

_PASS = """
import os, socket, sys
made = [socket.socket() for _ in range(2)]
if sys.argv[2] == "used":
    [one.getsockname() for one in made]
way = socket.socket(socket.AF_UNIX)
way.connect(sys.argv[1])
socket.send_fds(way, [b"x"], [one.fileno() for one in made])
way.recv(1)
os._exit(0)
"""
_TAKE = """
import socket, sys
way = socket.socket(socket.AF_UNIX)
way.bind(sys.argv[1])
way.listen()
print("up", flush=True)
connection, _ = way.accept()
_, taken, _, _ = socket.recv_fds(connection, 1, 4)
connection.send(b"y")
print("got", flush=True)
for line in sys.stdin:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=taken.pop())
    one.settimeout(5)
    try:
        exec(line)
    except OSError as error:
        print("refused", type(error).__name__, flush=True)
    kept = one
"""


@contextlib.contextmanager
def heir(daemon: Daemon, ip: str, ended: str, how: str) -> Iterator[App]:
    """An app that holds sockets of another one, which has ended. Each line that it is told is done with one of them."""
    with tempfile.TemporaryDirectory(prefix="axt-") as place, ExitStack() as stack:
        path = f"{place}/way"
        app = stack.enter_context(daemon.spawn(*python(_TAKE, path), ip=ip, stdin=subprocess.PIPE))
        app.wait_for("up")
        with daemon.spawn("sleep", "100", ip=ended) as filler:
            wait_until(lambda: any(row["app"]["ips"] == [ended] for row in daemon.get("apps")), "the filler")
            daemon.run(*python(_PASS, path, how), ip=ended)
            app.wait_for("got")
            filler.stop()
        wait_until(lambda: not any(row["app"]["ips"] == [ended] for row in daemon.get("apps")), "both to be forgotten")
        yield app
        assert app.process.stdin is not None
        app.process.stdin.close()


def test_socket_of_an_ended_app_is_not_the_next_apps(own: Daemon) -> None:
    """A notification descriptor's number comes again: who holds an old app's socket does not become the new app."""
    server = ON_DEMAND.replace("(sys.argv[1], 80)", "('127.0.0.1', 80)")
    with ExitStack() as stack:
        app = stack.enter_context(heir(own, "10.0.0.1", "10.0.0.2", "unused"))
        with own.spawn(*python(server), ip="10.0.0.3", stdin=subprocess.PIPE) as victim:
            own.wait_listening(80)
            say(victim)
            say(app, "one.connect(('127.0.0.1', 80)); print('reached', one.recv(9), flush=True)")
            app.wait_for("re")
            say(app, "one.bind(('10.0.0.3', 81)); one.listen(); print('reached', flush=True)")
            wait_until(lambda: app.stdout.count("re") == 2 or not app.running(), lambda: str(app))
            assert "reached" not in app.stdout
            assert victim.process.stdin is not None
            victim.kill()
            victim.process.stdin.close()


def test_address_of_an_ended_app_is_nobodys(own: Daemon) -> None:
    """Its sockets, held by another app, cannot listen there: the address may be another user's by now."""
    with heir(own, "10.0.0.1", "10.0.0.2", "used") as app:
        say(app, "one.bind(('10.0.0.2', 80)); one.listen(); print('reached', flush=True)")
        app.wait_for("re")
        assert "reached" not in app.stdout
        assert not own.get("servers")


# --- launchers that are not ours -------------------------------------------------------------------------------------


def test_filter_of_ones_own(own: Daemon) -> None:
    """A launcher may install another filter than it was given: calls that we do not know are the kernel's."""
    code = LAUNCHER + "attach(39)\nassert libc.syscall(39) == os.getpid()\nprint('done', flush=True)\n"
    switch = switch_of(own)
    with App(python(code), own.environment()) as app:
        assert app.wait(10) == 0, app
        assert app.stdout == "done\n"
    assert switch_of(own) == switch


@root
def test_attach_socket_serves_others(own: Daemon) -> None:
    """One user's connections that say nothing leave room for everybody else's launchers."""
    with ExitStack() as stack:
        os.seteuid(12345)
        try:
            for _ in range(300):
                one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                one.connect(str(own.run_dir / "attach.sock"))
        finally:
            os.seteuid(0)
        own.run("true")


# --- never wait ------------------------------------------------------------------------------------------------------


def test_log_that_nobody_reads() -> None:
    """Standard error may be a full pipe: lines are lost, calls are not."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    daemon = Daemon()
    environment = daemon.environment() | {"AXT_DAEMON": daemon.id}
    command = daemon.command("daemon", "--rest-port", "0")
    with os.fdopen(reader, "rb"), tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=writer, start_new_session=True)
        os.close(writer)
        try:
            wait_until(lambda: os.pread(out.fileno(), 9, 0) == b"ax daemon", "the daemon's ready line", 20)
            for _ in range(100):
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knock:
                    knock.settimeout(5)
                    knock.connect(str(daemon.run_dir / "attach.sock"))
                    knock.send(b"AXL1" + b"\1\0\0\0" * 3 + bytes(32))  # a token that nobody knows: one line
                    assert knock.recv(2000)
            process.terminate()
            assert process.wait(20) == 0
        finally:
            if process.poll() is None:
                for pid in daemon.processes():
                    os.kill(pid, 9)
                process.wait()
            daemon._remove()


_LINGER = f"""
import os, signal, sys
{LINGERING}
# Left to the daemon alone.
listeners = []
for number in range(20):
    listener, one = lingering()
    listeners.append(listener)
    this, that = socket.socketpair()
    way = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.kill(int(sys.argv[2]), signal.SIGSTOP)  # until it has the last descriptor
    way.connect(os.path.join(sys.argv[1], ("delegate.sock", "attach.sock")[number % 2]))
    # By itself, in a queue of one that is sent, behind so many that it is lost, and in what is never read.
    sent = ([one], [that], [this] * 100 + [one], [one])[number // 2 % 4]
    if that in sent:
        socket.send_fds(this, [b"x"], [one.fileno()])
    if number // 2 % 4 == 3:
        way.send(b"nonsense")
    socket.send_fds(way, [b"nonsense"], [each.fileno() for each in sent])
    for each in (one, this, that):
        each.close()
    os.kill(int(sys.argv[2]), signal.SIGCONT)
    try:
        way.recv(1000)
    except ConnectionResetError:
        pass
print("done", flush=True)
"""


def test_sockets_that_linger(own: Daemon) -> None:
    """Their last descriptor is the switch's, which closes it at once."""
    with App(python(_LINGER, own.run_dir, switch_of(own)), own.environment()) as confederate:
        assert confederate.wait(20) == 0, confederate
    own.run("true", timeout=20)


# --- names that are not ours -----------------------------------------------------------------------------------------


@root
def test_forged_name(own: Daemon) -> None:
    """Who reaches a service's socket file by itself, with a name as the switch makes them, is not served."""
    with own.spawn(*python(SERVE_ALL), ip="10.0.0.1", listening=80, labels="zone=one") as server:
        (file,) = (own.run_dir / "s").iterdir()
        code = """
import socket, sys
one = socket.socket(socket.AF_UNIX)
one.connect(sys.argv[1])
one.bind(bytes.fromhex(sys.argv[2]))
one.settimeout(3)
try:
    print(one.recv(9))
except TimeoutError:
    print(b"")
except ConnectionResetError:
    print(b"")
"""
        name = _a_name()
        words = python(code, file, name.hex())
        assert own.run(*words, ip="10.0.0.2", labels="zone=two").stdout == "b''\n"
        assert not server.stdout


SERVE_ALL = """
import select, socket
listener = socket.socket()
listener.bind(("10.0.0.1", 80))
listener.listen()
while True:
    select.select([listener], [], [], None)
    select.select([], [], [], 0.2)  # the other end gets its name meanwhile
    listener.setblocking(False)
    try:
        connection, peer = listener.accept()
    except BlockingIOError:
        continue
    print("served", peer, flush=True)
    connection.sendall(b"hello")
"""


def _a_name() -> bytes:
    """A connection's name, as the switch makes them."""
    return naming.connection(1, 2, Address(b"\4\4\4\4", 1028), Address(b"\5\5\5\5", 80))


def test_view_survives_forged_names(own: Daemon) -> None:
    """Anybody on the host may bind abstract names: they are not shown, and break nothing."""
    name = _a_name()
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as broken,
        socket.socket(socket.AF_UNIX) as good,
    ):
        listener.bind(b"\0axt-" + own.id.encode())
        listener.listen()
        broken.bind(naming.MAGIC + b"07" * ((len(name) - len(naming.MAGIC)) // 2))  # addresses of seven bytes
        good.bind(name)
        for one in (broken, good):
            one.connect(listener.getsockname())
        with listener.accept()[0], listener.accept()[0]:
            assert own.rest("GET", "/v1/connections") == (200, {"connections": []})


# --- what root may and the app may not -------------------------------------------------------------------------------


@root
@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_congestion_control_that_is_not_allowed(daemon: Daemon, transport: str) -> None:
    """tcp(7): only net.ipv4.tcp_allowed_congestion_control is everybody's."""
    sysctl = Path("/proc/sys/net/ipv4")
    allowed = (sysctl / "tcp_allowed_congestion_control").read_text().split()
    available = (sysctl / "tcp_available_congestion_control").read_text().split()
    forbidden = [name for name in available if name not in allowed]
    if not forbidden:
        pytest.skip(f"this kernel allows everybody all that it has ({available}): none is left to be refused")
    code = """
import os, socket, sys
os.setresgid(12345, 12345, 12345)
os.setresuid(12345, 12345, 12345)
try:
    socket.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, sys.argv[1].encode())
except PermissionError:
    print("refused")
"""
    assert daemon.run(*python(code, forbidden[0]), transport=transport).stdout == "refused\n"


@root
def test_memory_of_the_switch_stays_there(own: Daemon) -> None:
    """MSG_ZEROCOPY with the first data would pin the switch's own buffer, and what is written there next."""
    sender = """
import socket, sys
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
print("sent", one.sendto(b"A" * 100000, 0x20000000 | 0x4000000, ("127.0.0.1", int(sys.argv[1]))), flush=True)
sys.stdin.read()
"""
    other = """
import socket
listener = socket.socket()
listener.bind(("10.0.0.1", 80))
listener.listen()
kept = []
for _ in range(20):
    kept.append(socket.socket())
    kept[-1].sendto(b"S" * 100000, 0x20000000, ("10.0.0.1", 80))
"""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        words = python(sender, listener.getsockname()[1])
        with own.spawn(*words, options=["--no-new-netns"], transport="tcp", stdin=subprocess.PIPE) as app:
            app.wait_for("sent")
            size = int(app.stdout.split()[1])
            own.run(*python(other), ip="10.0.0.1")
            with listener.accept()[0] as connection:
                connection.settimeout(5)
                data = b""
                while len(data) < size:
                    data += connection.recv(1 << 16)
            assert data == b"A" * size
            assert app.process.stdin is not None
            app.process.stdin.close()


@root
@pytest.mark.parametrize("host", ["", "127.0.0.1:"])
def test_exposed_port_of_another_user(daemon: Daemon, rootless: Rootless, addresses: Any, host: str) -> None:
    """SO_REUSEPORT shares a port among sockets of one user: not with another user's app."""
    code = """
import socket
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("0.0.0.0", 80))
try:
    listener.listen()
except OSError as error:
    print("refused", error.errno, flush=True)
else:
    print("listening", flush=True)
    listener.accept()
"""
    port = free_port("0.0.0.0")
    ip, other = addresses.v4(), addresses.v4()
    words = ["run", "--ip", other, "--expose", f"80:{host}{port}", "--", "/usr/bin/python3", "-c", code]
    command = [rootless.python, "-m", "appswitch.cli", *words]
    environment = daemon.environment() | rootless.environment()
    with daemon.spawn(*python(code), ip=ip, options=["--expose", f"80:{port}"], listening=80) as first:
        with App(command, environment, cwd=rootless.home, prepare=rootless.become) as second:
            wait_until(lambda: second.stdout or not second.running(), lambda: str(second))
            assert second.stdout == "refused 98\n", second
        first.kill()
