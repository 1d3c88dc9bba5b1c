"""Bad input: each gets a clear message or the errno that Linux gives, and the daemon goes on."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Addresses, App, Daemon, free_port, wait_until

FAILED = 125  # exit status when ax itself fails; 126 and 127 as env(1) has them


@pytest.fixture(autouse=True)
def goes_on(daemon: Daemon) -> Iterator[None]:
    """Whatever a test did, the daemon serves afterwards, and has lost nobody."""
    processes = set(daemon.processes())
    yield
    assert daemon.run("echo", "served").stdout == "served\n"
    assert set(daemon.processes()) == processes, f"a process of the daemon was started again\n{daemon.output[-3000:]}"


@pytest.mark.parametrize(
    "ip",
    [
        "1.2.3",
        "10.0.0.256",
        "10.0.0.1/24",
        "10.0.0.01",
        "host.example",
        "",
        " ",
        "::g",
        "10.0.0.1:80",
        "1" * 5000,
        "-1",
    ],
)
def test_unknown_ip_forms(daemon: Daemon, ip: str) -> None:
    """The message names the option, and the exit status says that it was ax that failed."""
    done = daemon.ax("run", f"--ip={ip}", "--", "true")
    assert done.returncode == FAILED
    assert "--ip" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "ip", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "127.0.0.1", "::1", "fe80::1"]
)
def test_addresses_that_no_app_can_have(daemon: Daemon, ip: str) -> None:
    """Wildcards, multicast, broadcast, loopback, link-local."""
    done = daemon.ax("run", "--ip", ip, "--", "true")
    assert done.returncode == FAILED
    assert ip in done.stderr


def test_two_addresses_of_one_kind(daemon: Daemon, addresses: Addresses) -> None:
    """At most one IPv4 and one IPv6 address."""
    done = daemon.ax("run", "--ip", addresses.v4(), "--ip", addresses.v4(), "--", "true")
    assert done.returncode == FAILED
    assert "--ip" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--name", "has space"],
        ["--name", "x" * 300],
        ["--name", ""],
        ["--labels", "novalue"],
        ["--labels", "=value"],
        ["--expose", "80:"],
        ["--expose", "80:0.0.0.0"],
        ["--expose", "eighty:80"],
        ["--expose", "80:70000"],
        ["--expose", "0:80"],
        ["--expose", "80:1.2.3:80"],
        ["--transport", "udp"],
        ["--user", "no-such-user-here"],
        ["--nonesuch"],
        ["--name", "10"],
        ["--name", "localhost"],
        ["--name", "a.b"],
        ["--expose", "80:8080", "--expose", "81:127.0.0.1:8080/tcp"],
        ["--expose", "80:8080/sctp"],
        ["--egress", "perhaps"],
        ["--egress-allow", "10.0.0.1/8"],
        ["--egress-deny", "http://example.com"],
        ["--egress-allow", "a..b"],
        ["--egress-allow", "10.0.0.0/8", "--egress-deny", "10.0.0.0/8"],
        ["--host-port", "70000"],
        ["--host-port", "80:1,80:2"],
        ["--dns-override", "--no-new-netns"],
        ["--interface", "a/b", "--ip", "10.9.9.9"],
        ["--interface", "eth0"],
        ["--interface", "x" * 40, "--ip", "10.9.9.9"],
    ],
    ids=" ".join,
)
def test_bad_options(daemon: Daemon, options: list[str]) -> None:
    """One line of explanation, no traceback, and nothing is registered."""
    done = daemon.ax("run", *options, "--", "true")
    assert done.returncode == FAILED
    assert done.stderr
    assert "Traceback" not in done.stderr
    daemon.wait_idle()


def test_no_command(daemon: Daemon) -> None:
    """`ax run` alone says what is missing."""
    done = daemon.ax("run", "--")
    assert done.returncode == FAILED
    assert "command" in done.stderr


@pytest.mark.parametrize("program", ["/no/such/program", "no-such-program-anywhere", "", "./nothing"])
def test_program_that_does_not_exist(daemon: Daemon, program: str) -> None:
    """127, as of env(1) and the shell."""
    done = daemon.run(program, check=False)
    assert done.returncode == 127
    assert "Traceback" not in done.stderr
    if program:
        assert program in done.stderr


def test_program_that_cannot_be_executed(daemon: Daemon, tmp_path: Path) -> None:
    """126: not executable, a directory."""
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    for one in (plain, tmp_path):
        done = daemon.run(str(one), check=False)
        assert done.returncode == 126, done
        assert str(one) in done.stderr
    daemon.wait_idle()


def test_daemon_that_is_not_there(daemon: Daemon, tmp_path: Path) -> None:
    """A clear message that names where it was looked for."""
    for words in (("run", "--no-start-daemon", "--", "true"), ("get", "apps")):
        done = daemon.ax(*words, env={"AX_RUN_DIR": str(tmp_path)})
        assert done.returncode not in (0, -6, -11)
        assert str(tmp_path) in done.stderr
        assert "Traceback" not in done.stderr


def test_port_in_use(daemon: Daemon, addresses: Addresses) -> None:
    """--expose of a host port that somebody has: listen(2) says so, as it would on the host itself."""
    port = free_port("0.0.0.0")
    with socket.create_server(("0.0.0.0", port)):
        serve = "import socket; s = socket.create_server(('', 80)); s.accept()"
        done = daemon.run(
            sys.executable, "-c", serve, ip=addresses.v4(), options=["--expose", f"80:{port}"], check=False, timeout=20
        )
    assert done.returncode != 0
    assert "Address already in use" in done.stderr


def test_second_daemon_in_the_same_directory(daemon: Daemon) -> None:
    """It says that there is one, and leaves it alone."""
    done = daemon.ax("daemon", "--rest-port", "0", timeout=20)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert str(daemon.run_dir) in done.stderr + done.stdout


def _register(daemon: Daemon) -> tuple[str, list[str]]:
    status, answer = daemon.rest("POST", "/v1/apps", {"command": ["true"], "netns": "new"})
    assert status in (200, 201), answer
    return answer["token"], [str(one) for one in answer["launcher"]]


def _launch(daemon: Daemon, token: bytes, options: list[str], *command: str, uid: int = 0) -> App:
    import appswitch

    launcher = os.environ.get("AX_LAUNCHER") or str(Path(appswitch.__file__).parent / "_bin" / "ax-launch")
    reader, writer = os.pipe()
    os.write(writer, token)
    os.close(writer)
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
    app = App(
        [*user, launcher, *options, "--token-fd", str(reader), "--", *command], daemon.environment(), keep=(reader,)
    )
    os.close(reader)
    return app


def test_second_attach_with_a_used_token(daemon: Daemon) -> None:
    """A token lets one launcher in, once."""
    token, options = _register(daemon)
    raw = bytes.fromhex(token)
    with _launch(daemon, raw, options, "echo", "first") as first:
        assert first.wait() == 0, first
        assert first.stdout == "first\n"
    with _launch(daemon, raw, options, "echo", "second") as second:
        assert second.wait() == FAILED, second
        assert second.stdout == ""
        assert second.stderr


def test_attach_with_a_token_of_ones_own(daemon: Daemon) -> None:
    """A made-up token, an empty one, a long one."""
    _, options = _register(daemon)
    for raw in (bytes(32), b"", b"x" * 1000):
        with _launch(daemon, raw, options, "echo", "in") as one:
            assert one.wait() == FAILED, one
            assert one.stdout == ""


def test_token_of_another_user(daemon: Daemon) -> None:
    """Who may attach is decided by who registered (SO_PEERCRED), not by the token alone."""
    token, options = _register(daemon)
    with _launch(daemon, bytes.fromhex(token), options, "echo", "in", uid=12345) as other:
        assert other.wait() == FAILED, other
        assert other.stdout == ""


GARBAGE = [b"", b"\0", b"\xff" * 4, bytes(32), bytes(70000), b"GET / HTTP/1.1\r\n\r\n", struct.pack(">I", 1 << 31)]


@pytest.mark.parametrize("kind", ["attach.sock", "rest.sock"])
def test_garbage_at_the_doors(daemon: Daemon, kind: str) -> None:
    """Nonsense, half a message, a descriptor too many, a hang-up at any time."""
    stream = socket.SOCK_SEQPACKET if kind == "attach.sock" else socket.SOCK_STREAM
    path = str(daemon.run_dir / kind)
    for data in GARBAGE:
        for with_descriptors in (False, True):
            with socket.socket(socket.AF_UNIX, stream) as one, socket.socket(socket.AF_UNIX) as passed:
                one.settimeout(2)
                one.connect(path)
                try:
                    if with_descriptors:
                        socket.send_fds(one, [data or b"x"], [passed.fileno()] * 20)
                    elif data:
                        one.sendall(data)
                except OSError:
                    continue  # it hung up first
    with socket.socket(socket.AF_UNIX, stream) as silent:
        silent.connect(path)
        assert daemon.run("echo", "beside a silent one").stdout == "beside a silent one\n"


def test_many_silent_ones_at_the_doors(daemon: Daemon) -> None:
    """A hundred connections that say nothing keep nobody out."""
    held = []
    for kind, stream in (("attach.sock", socket.SOCK_SEQPACKET), ("rest.sock", socket.SOCK_STREAM)):
        for _ in range(100):
            one = socket.socket(socket.AF_UNIX, stream)
            one.settimeout(2)
            held.append(one)
            try:
                one.connect(str(daemon.run_dir / kind))
            except OSError:
                break
    assert daemon.run("echo", "in").stdout == "in\n"
    for one in held:
        one.close()


def test_switch_channel_is_closed_to_others(daemon: Daemon) -> None:
    """Only the daemon's user may speak to the switch itself."""
    assert (daemon.run_dir / "switch.sock").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/apps", {}),
        ("/v1/apps", {"command": []}),
        ("/v1/apps", {"command": "true"}),
        ("/v1/apps", {"command": ["true"], "ips": ["nonsense"]}),
        ("/v1/apps", {"command": ["true"], "ips": "10.0.0.1"}),
        ("/v1/apps", {"command": ["true"], "unknown": 1}),
        ("/v1/apps", {"command": ["true"], "labels": {"k": 1}}),
        ("/v1/apps", {"command": ["true"], "expose": ["1:2:3:4:5"]}),
        ("/v1/apps", [1]),
        ("/v1/apps", None),
        ("/v1/nonesuch", {}),
    ],
)
def test_bad_requests_are_problems(daemon: Daemon, path: str, body: object) -> None:
    """RFC 9457: a status of 4xx and a type that can be told apart."""
    status, answer = daemon.rest("POST", path, body)
    assert 400 <= status < 500
    assert isinstance(answer, dict)
    assert {"type", "title", "status"} <= set(answer)
    assert answer["status"] == status


LIAR = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
for where in (0, 8, 0xffff800000000000, 0x7fffffffffff, 2**64 - 8):
    for length in (0, 1, 16, 28, 128, 129, 2**31 - 1, 2**31, 2**32 - 1):
        for call in (libc.connect, libc.bind, libc.accept, libc.getsockname, libc.getpeername):
            one = socket.socket()
            call(one.fileno(), ctypes.c_void_p(where), ctypes.c_void_p(length))
            one.close()
        one = socket.socket()
        libc.setsockopt(one.fileno(), 6, 13, ctypes.c_void_p(where), ctypes.c_int(length & 0x7fffffff))
        libc.getsockopt(one.fileno(), 6, 11, ctypes.c_void_p(where), ctypes.c_void_p(where))
        libc.sendto(one.fileno(), ctypes.c_void_p(where), 10, 0x20004000, ctypes.c_void_p(where), ctypes.c_uint(length))
        libc.sendmsg(one.fileno(), ctypes.c_void_p(where), 0x20004000)
        one.close()
print("still here")
"""


def test_app_that_lies_in_its_pointers(daemon: Daemon) -> None:
    """EFAULT or EINVAL for it, nothing for anybody else."""
    assert daemon.run("/usr/bin/python3", "-c", LIAR).stdout == "still here\n"


FUZZ = """
import ctypes, mmap, os, random, socket, signal, sys
random.seed(int(sys.argv[1]))
libc = ctypes.CDLL(None, use_errno=True)
memory = mmap.mmap(-1, 1 << 20)  # with room around what is written to
room = (ctypes.c_char * 4096).from_buffer(memory, 1 << 19)
at = ctypes.addressof(room)
calls = (41, 42, 43, 288, 49, 50, 51, 52, 54, 55, 44, 46, 48)  # those that are looked at, by their x86-64 numbers
values = (0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 28, 41, 255, -1, 2**31 - 1, -2**31, 2**32, 2**63 - 1, at, at + 4090, 8)
fds = [socket.socket() for _ in range(4)] + [socket.socketpair()[0], socket.socket(socket.AF_INET6)]
for one in fds:
    one.setblocking(False)
numbers = [one.fileno() for one in fds]
signal.setitimer(signal.ITIMER_REAL, 20)
for turn in range(3000):
    kind = random.choice((b"\\2\\0\\0\\x50\\x7f\\0\\0\\1", b"\\x0a\\0\\0\\x50", b"\\1\\0/x", bytes(8)))
    room.raw = kind.ljust(4096, b"\\0")
    words = [random.choice(values) for _ in range(6)]
    if random.random() < 0.9:
        words[0] = random.choice(numbers)
    number = random.choice(calls)
    if number == 41:
        words[0], words[1] = random.choice((2, 10, 1, 16)), random.choice((1, 2, 2048 + 1, 3))
        result = libc.syscall(41, *(ctypes.c_long(word) for word in words[:3]))
        if result >= 0:
            os.close(result)
        continue
    if number in (43, 288):  # never wait
        words[3] = 2048
    libc.syscall(ctypes.c_long(number), *(ctypes.c_long(word) for word in words))
print("done")
"""


@pytest.mark.parametrize("seed", range(4))
def test_random_calls(daemon: Daemon, seed: int, addresses: Addresses) -> None:
    """Three thousand calls with arguments out of a hat."""
    done = daemon.run("/usr/bin/python3", "-c", FUZZ, str(seed), ip=addresses.v4(), check=False, timeout=40)
    assert done.stdout == "done\n", done


def test_killed_at_any_time(daemon: Daemon, addresses: Addresses) -> None:
    """An app that is killed at any point of its life leaves nothing."""
    ip = addresses.v4()
    busy = (
        "import socket\n"
        "s = socket.create_server(('', 80), backlog=50)\n"
        "print('up', flush=True)\n"
        "while True:\n"
        "    c = socket.create_connection(s.getsockname()); d, _ = s.accept(); c.close(); d.close()\n"
    )
    for delay in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
        with daemon.spawn("/usr/bin/python3", "-c", busy, ip=ip) as app:
            try:
                app.process.wait(delay)
            except subprocess.TimeoutExpired:
                app.kill()
    daemon.wait_idle()


def test_own_daemon_is_clean_after_all_that(daemon_factory: Callable[..., Daemon], addresses: Addresses) -> None:
    """A daemon that saw a bit of everything ends cleanly: the harness looks at what is left."""
    one = daemon_factory()
    one.run("/usr/bin/python3", "-c", LIAR, ip=addresses.v4())
    one.run("/no/such/program", check=False)
    with one.spawn("sleep", "30", ip=addresses.v4()) as app:
        wait_until(lambda: one.known("apps"), "the app")
        app.kill()
