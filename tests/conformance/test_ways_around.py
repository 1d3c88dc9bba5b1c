"""What would lead around the switch is refused, or leads nowhere: never a silent bypass."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Addresses, Daemon, free_port

PROGRAMS = Path(__file__).resolve().parent / "programs"
REFUSED = ("ENOSYS", "EPERM", "EACCES", "SIGSYS", "SIGKILL")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program that calls by other doors, compiled."""
    program = tmp_path_factory.mktemp("foreign") / "foreign"
    subprocess.run(["cc", "-Wall", "-Wextra", "-o", program, PROGRAMS / "foreign.c"], check=True, timeout=60)
    return str(program)


def _told(output: str) -> dict[str, str]:
    return dict(line.split(": ") for line in output.splitlines())


def test_io_uring_is_not_there(daemon: Daemon, foreign: str) -> None:
    """ENOSYS: programs fall back to what they did before io_uring."""
    told = _told(daemon.run(foreign).stdout)
    assert {told[name] for name in ("io_uring_setup", "io_uring_enter", "io_uring_register")} == {"ENOSYS"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="there is no other door on this architecture")
def test_other_architectures_are_refused(daemon: Daemon, foreign: str) -> None:
    """32-bit and x32 calls: the filter looks at the architecture first."""
    told = _told(daemon.run(foreign).stdout)
    doors = [name for name in told if name.startswith(("int 0x80", "x32"))]
    assert len(doors) == 9
    assert {name: told[name] for name in doors if told[name] not in REFUSED} == {}


CONNECT = """
import errno, socket, sys
try:
    one = socket.socket(socket.AF_INET, int(sys.argv[3]), int(sys.argv[4]))
except OSError as error:
    print("no socket", errno.errorcode[error.errno])
    sys.exit()
one.settimeout(3)
print(errno.errorcode.get(one.connect_ex((sys.argv[1], int(sys.argv[2]))), "connected"))
"""


def test_multipath_tcp_is_tcp_or_refused(daemon: Daemon, addresses: Addresses) -> None:
    """IPPROTO_MPTCP reaches what TCP reaches, or is not there."""
    ip = addresses.v4()
    serve = "import socket; s = socket.create_server(('', 80)); s.accept()[0].sendall(b'x'); s.accept()"
    with daemon.spawn(sys.executable, "-c", serve, ip=ip, listening=80):
        told = daemon.run(sys.executable, "-c", CONNECT, ip, "80", "1", "262").stdout.strip()
    assert told in ("connected", "no socket EPROTONOSUPPORT", "no socket ENOPROTOOPT")


RACE = """
import ctypes, errno, os, socket, struct, sys, threading
# One thread connects while another rewrites the address between an app's service (refused or not) and the host's.
libc = ctypes.CDLL(None, use_errno=True)
good, bad = (
    struct.pack("=H", socket.AF_INET) + struct.pack("!H", int(port)) + socket.inet_aton(sys.argv[1]) + bytes(8)
    for port in sys.argv[2:4]
)
address = ctypes.create_string_buffer(good, 16)
stop = False
def rewrite():
    while not stop:
        ctypes.memmove(address, bad, 16)
        ctypes.memmove(address, good, 16)
thread = threading.Thread(target=rewrite)
thread.start()
wrong = 0
for _ in range(300):
    one = socket.socket()
    if libc.connect(one.fileno(), address, 16) == 0 and one.getpeername()[1] != int(sys.argv[2]):
        wrong += 1
    one.close()
stop = True
thread.join()
print("wrong", wrong)
"""


def test_rewritten_address_leads_nowhere_else(daemon: Daemon, addresses: Addresses) -> None:
    """A connection goes where its name says, however often the address is rewritten meanwhile."""
    ip = addresses.v4()
    serve = "import socket\ns = socket.create_server(('', 80), backlog=200)\nwhile True: s.accept()[0].close()"
    with daemon.spawn(sys.executable, "-c", serve, ip=ip, listening=80):
        assert daemon.run(sys.executable, "-c", RACE, ip, "80", "81", timeout=50).stdout.strip() == "wrong 0"


OPEN = "for n in /proc/self/fd/*; do case ${n##*/} in 0|1|2) ;; *) readlink $n;; esac; done; true"


def test_nothing_of_ours_is_left_open_in_the_app(daemon: Daemon) -> None:
    """The launcher's sockets, its notification descriptor and its token are gone after exec."""
    left = daemon.run("sh", "-c", OPEN).stdout
    assert "socket:" not in left
    assert "seccomp" not in left
    assert "pipe:" not in left


def test_namespace_of_the_app_is_empty(daemon: Daemon) -> None:
    """lo, up, and nothing else: no way out but the switch's."""
    assert daemon.run("cat", "/proc/net/dev").stdout.count(":") == 1
    flags = daemon.run("cat", "/sys/class/net/lo/flags", check=False)
    assert daemon.run("ip", "-o", "link").stdout.count("LOOPBACK,UP") == 1, flags


def test_daemon_directory_is_not_the_apps(daemon: Daemon) -> None:
    """Listening sockets of apps lie where only the switch may connect."""
    for path in daemon.run_dir.iterdir():
        if path.is_dir():
            assert path.stat().st_mode & 0o077 == 0, path


def test_unattached_program_is_not_reached(daemon: Daemon, addresses: Addresses) -> None:
    """A plain program of the host is not an app: a virtual address is nothing to it."""
    ip = addresses.v4()
    port = free_port()
    serve = f"import socket; s = socket.create_server(('', {port})); s.accept()"
    with daemon.spawn(sys.executable, "-c", serve, ip=ip, listening=port):
        told = subprocess.run(
            ["unshare", "--net", sys.executable, "-c", CONNECT, ip, str(port), "1", "6"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    assert told.stdout.strip() == "ENETUNREACH"
