"""The launcher against a switch that these tests play themselves."""

from __future__ import annotations

import errno
import os
import platform
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

LAUNCHER = Path(str(files("appswitch"))) / "_bin" / "ax-launch"
TOKEN = bytes(range(32))
ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET: SECCOMP_RET_ALLOW
FORBID_TCP = 1
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NOBODY = 12345  # an unprivileged uid and gid
DEADLINE = 20  # seconds

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@dataclass
class Hello:
    """The first packet of a launcher."""

    magic: bytes
    version: int
    landlock_abi: int
    arch: int
    token: bytes


@dataclass
class Result:
    """How a launcher, or the program that it became, ended."""

    status: int
    out: str
    err: str


class FakeSwitch:
    """The other end of the attach socket, one step of the dialogue at a time."""

    def __init__(self, place: Path) -> None:
        self.path = place / "attach.sock"
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening.bind(str(self.path))
        self.path.chmod(0o666)
        self.listening.listen()
        self.listening.settimeout(DEADLINE)
        self.peer: socket.socket | None = None
        self.listener = -1

    def accept(self) -> Hello:
        """Let one launcher in and hear who it is."""
        if self.peer:
            self.peer.close()
        self.peer, _ = self.listening.accept()
        self.peer.settimeout(DEADLINE)
        return Hello(*struct.unpack("=4sIII32s", self.peer.recv(1024)))

    def send(self, packet: bytes) -> None:
        assert self.peer
        self.peer.send(packet)

    def program(self, flags: int = 0, insns: bytes = ALLOW_ALL) -> None:
        self.send(struct.pack("=4sIIIII", b"AXL1", 0, flags, 0, len(insns) // 8, 0) + insns)

    def refuse(self, status: int, message: str) -> None:
        self.send(struct.pack("=4sIIIII", b"AXL1", status, 0, 0, 0, 0) + message.encode())

    def receive_listener(self) -> None:
        assert self.peer
        packet, fds, _, _ = socket.recv_fds(self.peer, 1024, 1)
        assert packet == struct.pack("=4sI", b"AXL1", 0)
        (self.listener,) = fds

    def acknowledge(self, status: int = 0, message: str = "") -> None:
        self.send(struct.pack("=4sI", b"AXL1", status) + message.encode())

    def serve(self, flags: int = 0) -> Hello:
        """The whole dialogue with one launcher."""
        hello = self.accept()
        self.program(flags)
        self.receive_listener()
        self.acknowledge()
        return hello

    def listener_events(self, timeout: float = 0) -> int:
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        return sum(event for _, event in poll.poll(timeout * 1000))

    def close(self) -> None:
        self.listening.close()
        if self.peer:
            self.peer.close()
        if self.listener >= 0:
            os.close(self.listener)


class Launch:
    """One launcher process. ``options`` come after --attach and --token-fd; ``prefix`` is what starts the launcher."""

    def __init__(
        self,
        path: Path | str,
        *command: str,
        options: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
        binary: Path = LAUNCHER,
        token: bytes = TOKEN,
    ) -> None:
        token_fd, writer = os.pipe()
        os.write(writer, token)
        os.close(writer)
        words = [*prefix, str(binary), "--attach", str(path), "--token-fd", str(token_fd), *options, "--", *command]
        self.process = subprocess.Popen(
            words,
            pass_fds=[token_fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(token_fd)

    def end(self) -> Result:
        """Wait for its end."""
        try:
            out, err = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            pytest.fail(f"the launcher hangs; stdout {out!r}, stderr {err!r}")
        return Result(self.process.returncode, out, err)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name that every user may enter, with a copy of the launcher."""
    with tempfile.TemporaryDirectory(prefix="axt-") as name:
        path = Path(name)
        path.chmod(0o755)
        shutil.copy(LAUNCHER, path / "ax-launch")
        yield path


@pytest.fixture
def switch(place: Path) -> Iterator[FakeSwitch]:
    """A switch that listens."""
    one = FakeSwitch(place)
    yield one
    one.close()


@contextmanager
def explained(launch: Launch) -> Iterator[None]:
    """Where the dialogue breaks off, what the launcher has said is the reason."""
    try:
        yield
    except (OSError, AssertionError, struct.error) as error:
        launch.process.kill()
        pytest.fail(f"{error!r}: {launch.end()}")


@pytest.fixture
def run(switch: FakeSwitch) -> Callable[..., Result]:
    """Run a program as an app: launcher and switch agree, and the program ends."""

    def run_it(*command: str, flags: int = 0, **how: Any) -> Result:
        launch = Launch(switch.path, *command, **how)
        with explained(launch):
            switch.serve(flags)
        return launch.end()

    return run_it


@pytest.fixture
def fail(switch: FakeSwitch) -> Callable[..., str]:
    """Run a launcher that gets its filter and must not come to use it; returns what it says."""

    def fail_it(**how: Any) -> str:
        launch = Launch(switch.path, "true", **how)
        with explained(launch):
            switch.accept()
            switch.program()
        result = launch.end()
        assert (result.status, result.out, result.err.count("\n")) == (125, "", 1), result
        assert result.err.startswith("ax run: ")
        return result.err

    return fail_it


def unprivileged(*more: str) -> tuple[str, ...]:
    """The prefix that makes root nobody; an ordinary user is that already."""
    if os.geteuid() != 0:
        return ()
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *more)


def status_of_self(field: str) -> tuple[str, ...]:
    """A command that prints one field of its own /proc/self/status."""
    return ("sed", "-n", rf"s/^{field}:\s*//p", "/proc/self/status")


# ---- the dialogue


def test_says_who_it_is(switch: FakeSwitch) -> None:
    launch = Launch(switch.path, "true")
    hello = switch.accept()
    assert (hello.magic, hello.version, hello.token) == (b"AXL1", 1, TOKEN)
    assert hello.arch == AUDIT_ARCH[platform.machine()]
    assert 0 <= hello.landlock_abi < 100
    switch.program()
    switch.receive_listener()
    switch.acknowledge()
    assert launch.end() == Result(0, "", "")


def test_the_listener_hangs_up_when_the_program_ends(switch: FakeSwitch) -> None:
    launch = Launch(switch.path, "true")
    switch.accept()
    switch.program()
    switch.receive_listener()
    assert switch.listener_events() == 0, "the launcher waits for the acknowledgement"
    switch.acknowledge()
    launch.end()
    assert switch.listener_events(DEADLINE) & select.POLLHUP


def test_waits_for_the_acknowledgement(switch: FakeSwitch) -> None:
    launch = Launch(switch.path, "echo", "ran")
    switch.accept()
    switch.program()
    switch.receive_listener()
    switch.acknowledge(errno.EPERM, "another app has attached with this token")
    assert launch.end() == Result(125, "", "ax run: another app has attached with this token\n")


def test_a_program_that_comes_again_is_ignored(switch: FakeSwitch) -> None:
    """From a switch that has succeeded another one: docs/design/attach.md."""
    launch = Launch(switch.path, "true")
    with explained(launch):
        switch.accept()
        switch.program()
        switch.receive_listener()
        switch.program()
        switch.acknowledge()
        assert launch.end().status == 0


def test_a_rejected_token_is_told(switch: FakeSwitch) -> None:
    launch = Launch(switch.path, "true")
    switch.accept()
    switch.refuse(errno.EPERM, "no such token: is it “expired”?")
    assert launch.end() == Result(125, "", "ax run: no such token: is it “expired”?\n")


@pytest.mark.parametrize(
    "packet",
    [
        b"HTTP/1.1 400 Bad Request",
        b"AXL1",
        struct.pack("=4sIIIII", b"AXL1", 0, 0, 0, 2, 0) + ALLOW_ALL,
        struct.pack("=4sIIIII", b"AXL1", 0, 0, 0, 0, 0),
        struct.pack("=4sIIIII", b"AXL1", 0, 0, 0, 0xFFFFFFFF, 0) + ALLOW_ALL,
        struct.pack("=4sIIIII", b"AXL1", 0, 0, 0, 5000, 0) + ALLOW_ALL * 5000,
    ],
    ids=["other protocol", "short", "half a program", "no program", "huge count", "too long"],
)
def test_a_broken_answer_is_told(switch: FakeSwitch, packet: bytes) -> None:
    launch = Launch(switch.path, "true")
    switch.accept()
    switch.send(packet)
    result = launch.end()
    assert result.status == 125
    assert "of one version?" in result.err


@pytest.mark.parametrize("steps", [("accept",), ("accept", "program"), ("accept", "program", "receive_listener")])
def test_a_switch_that_hangs_up_is_told(switch: FakeSwitch, steps: tuple[str, ...]) -> None:
    launch = Launch(switch.path, "true")
    for step in steps:
        getattr(switch, step)()
    assert switch.peer
    switch.peer.close()
    result = launch.end()
    assert result.status == 125
    assert result.err.startswith("ax run: the daemon hung up")
    assert result.err.count("\n") == 1


def test_no_daemon(place: Path) -> None:
    result = Launch(place / "nothing.sock", "true").end()
    assert result.status == 125
    assert "is `ax daemon` running" in result.err
    assert "No such file or directory" in result.err


def test_a_path_of_107_bytes_is_the_longest(place: Path) -> None:
    name = str(place / "x").ljust(107, "x")
    assert "No such file" in Launch(name, "true").end().err
    assert "choose a shorter AX_RUN_DIR" in Launch(name + "x", "true").end().err


def test_a_short_token_is_told(switch: FakeSwitch) -> None:
    result = Launch(switch.path, "true", token=b"short").end()
    assert result == Result(125, "", "ax run: the attach token could not be read: too short\n")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--attach", "/x", "true"],
        ["--attach", "/x", "--token-fd", "3"],
        ["--attach", "/x", "--token-fd", "-1", "true"],
        ["--attach", "/x", "--token-fd", "3x", "true"],
        ["--attach"],
        ["--surprise", "true"],
        ["--attach", "/x", "--token-fd", "3", "--interface", "eth0", "true"],
        ["--attach", "/x", "--token-fd", "3", "--address", "10.0.0.1/8", "true"],
        ["--attach", "/x", "--token-fd", "3", "--resolv-conf", "/x", "true"],
    ],
)
def test_wrong_usage_is_one_line(words: list[str]) -> None:
    done = subprocess.run([LAUNCHER, *words], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 125
    assert done.stderr.startswith("ax run: ")
    assert done.stderr.count("\n") == 1


# ---- the program


def test_exit_status_and_output_are_the_programs(run: Callable[..., Result]) -> None:
    assert run("sh", "-c", "echo out; echo err >&2; exit 7") == Result(7, "out\n", "err\n")


def test_death_by_signal_is_the_programs(run: Callable[..., Result]) -> None:
    assert run("sh", "-c", "kill -KILL $$").status == -9


def test_arguments_that_look_like_options_are_the_programs(run: Callable[..., Result]) -> None:
    assert run("echo", "--new-netns", "--", "x").out == "--new-netns -- x\n"


def test_command_not_found(run: Callable[..., Result]) -> None:
    assert run("no-such-command") == Result(127, "", "ax run: no-such-command: command not found\n")


def test_interpreter_not_found(run: Callable[..., Result], place: Path) -> None:
    script = place / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert run(str(script)) == Result(127, "", f"ax run: {script}: its interpreter or loader does not exist\n")


def test_not_executable(run: Callable[..., Result], place: Path) -> None:
    (place / "file").write_text("text\n")
    assert run(str(place / "file")) == Result(126, "", f"ax run: {place}/file: Permission denied\n")


def test_a_directory_is_not_executable(run: Callable[..., Result], place: Path) -> None:
    assert run(str(place)) == Result(126, "", f"ax run: {place}: Permission denied\n")


def test_it_leaves_no_descriptor(run: Callable[..., Result]) -> None:
    command = (sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))")
    assert run(*command, options=("--new-netns",)).out == "['0', '1', '2', '3']\n"  # 3: the listing itself


def test_signal_dispositions_and_mask_are_left_alone(run: Callable[..., Result]) -> None:
    prefix = ("sh", "-c", "trap '' USR1 HUP; exec \"$@\"", "sh")
    ignored = 1 << 9 | 1 << 0  # beside what this process was started with
    assert int(run(*status_of_self("SigIgn"), prefix=prefix).out, 16) & ~_ignored_here() == ignored & ~_ignored_here()


def _ignored_here() -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("SigIgn:"))


@pytest.mark.parametrize(("flags", "expected"), [(FORBID_TCP, errno.EACCES), (0, errno.ECONNREFUSED)])
def test_landlock_forbids_tcp(switch: FakeSwitch, flags: int, expected: int) -> None:
    program = "import socket; print(socket.socket().connect_ex(('127.0.0.1', 1)))"
    launch = Launch(switch.path, sys.executable, "-c", program, options=("--new-netns",))
    hello = switch.serve(flags)
    result = launch.end()
    if hello.landlock_abi < 4:
        expected = errno.ECONNREFUSED  # older than Linux 6.7, or without Landlock: nothing is forbidden
    assert result == Result(0, f"{expected}\n", "")


def test_nested_is_refused(switch: FakeSwitch) -> None:
    inner = f"head -c 32 /dev/zero | {LAUNCHER} --attach {switch.path} --token-fd 0 -- true"
    launch = Launch(switch.path, "sh", "-c", inner)
    switch.serve()
    switch.accept()
    switch.program()
    result = launch.end()
    assert result.status == 125
    assert result.err.endswith("supervisor (nested ax run?)\n")


# ---- the namespace


def test_without_new_netns_the_network_is_the_hosts(run: Callable[..., Result]) -> None:
    assert run("readlink", "/proc/self/ns/net").out.strip() == str(Path("/proc/self/ns/net").readlink())


def test_new_netns_has_lo_up_and_nothing_else(run: Callable[..., Result]) -> None:
    result = run("ip", "-o", "address", options=("--new-netns",))
    assert [line.split()[1:4:2] for line in result.out.splitlines()] == [["lo", "127.0.0.1/8"], ["lo", "::1/128"]]


def test_interface_and_its_addresses(run: Callable[..., Result]) -> None:
    addresses = ("10.1.2.3/24", "2001:db8::5/64")
    options = ("--new-netns", "--interface", "eth0", "--address", addresses[0], "--address", addresses[1])
    link, *lines = run("sh", "-c", "ip -o link show eth0; ip -o address show eth0", options=options).out.splitlines()
    assert ",UP" in link
    assert {line.split()[3] for line in lines} >= set(addresses)
    assert "tentative" not in next(line for line in lines if addresses[1] in line)


def test_addresses_without_an_interface_are_los(run: Callable[..., Result]) -> None:
    options = ("--new-netns", "--address", "10.1.2.3/32", "--address", "2001:db8::5/128")
    lines = run("ip", "-o", "address", options=options).out.splitlines()
    assert [line.split()[1:4:2] for line in lines] == [
        ["lo", "127.0.0.1/8"],
        ["lo", "10.1.2.3/32"],
        ["lo", "2001:db8::5/128"],
        ["lo", "::1/128"],
    ]
    assert "tentative" not in lines[2]


@pytest.mark.parametrize("interface", [(), ("--interface", "eth0")])
def test_datagrams_to_any_address_stay_in_the_namespace(run: Callable[..., Result], interface: tuple[str, ...]) -> None:
    program = "ip rule; ip route show table 6664; ip -6 rule; ip -6 route show table 6664"
    options = ("--new-netns", *interface, "--address", "10.1.2.3/32", "--address", "2001:db8::5/128")
    lines = [line.strip() for line in run("sh", "-c", program, options=options).out.splitlines()]
    assert lines.count("1000:\tfrom all ipproto udp lookup 6664") == 2
    assert "local default dev lo proto static scope host src 10.1.2.3" in lines
    assert any(line.startswith("local default dev lo proto static src 2001:db8::5 ") for line in lines)


# What programs get from a namespace with nothing but lo, and from ours. UDP to one address is what differs: it arrives.
ROUTES = """
import errno, socket, sys
def attempt(what, call):
    try:
        print(what, call() or "ok")
    except OSError as err:
        print(what, errno.errorcode[err.errno])
own4, own6, *elsewhere = sys.argv[1:]
for to in elsewhere:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    for broadcast in (0, 1):
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, broadcast)
            attempt(f"sendto {to} {broadcast}", lambda: one.sendto(b"x", (to, 9)))
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(family, kind) as one:
            attempt(f"connect {to} {kind}", lambda: one.connect((to, 9)))
        with socket.socket(family, kind) as one:
            attempt(f"bind {to} {kind}", lambda: one.bind((to, 9)))
"""
MANY = "224.0.0.1", "239.1.2.3", "255.255.255.255", "ff02::1", "ff05::2", "fe80::1"


def test_datagrams_to_many_fail_as_without_routes(run: Callable[..., Result]) -> None:
    command = (sys.executable, "-c", ROUTES, "10.1.2.3", "2001:db8::5", *MANY)
    bare = ("unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c")
    script = 'ip link set lo up; ip addr add 10.1.2.3/32 dev lo; ip addr add 2001:db8::5/128 dev lo; exec "$@"'
    expected = subprocess.run([*bare, script, "sh", *command], capture_output=True, text=True, check=True).stdout
    options = ("--new-netns", "--address", "10.1.2.3/32", "--address", "2001:db8::5/128")
    assert run(*command, options=options).out == expected
    assert "sendto 224.0.0.1 0 ENETUNREACH" in expected
    assert "sendto 255.255.255.255 1 ENETUNREACH" in expected


def test_only_datagrams_are_led_to_lo(run: Callable[..., Result]) -> None:
    command = (sys.executable, "-c", ROUTES, "10.1.2.3", "2001:db8::5", "192.0.2.1", "2001:db8::9")
    options = ("--new-netns", "--address", "10.1.2.3/32", "--address", "2001:db8::5/128")
    lines = run(*command, options=options).out.splitlines()
    for to in ("192.0.2.1", "2001:db8::9"):
        assert f"sendto {to} 0 1" in lines
        assert f"connect {to} 2 ok" in lines
        assert f"connect {to} 1 ENETUNREACH" in lines
        assert f"bind {to} 2 EADDRNOTAVAIL" in lines


@pytest.mark.parametrize("own", [("10.1.2.3", "2001:db8::5"), ()])
def test_datagrams_come_from_the_apps_address(run: Callable[..., Result], own: tuple[str, ...]) -> None:
    program = """
import socket, sys
for family, to in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::9")):
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.connect((to, 9))
        print(one.getsockname()[0])
"""
    options = [word for ip in own for word in ("--address", f"{ip}/128" if ":" in ip else f"{ip}/32")]
    out = run(sys.executable, "-c", program, options=("--new-netns", *options)).out.split()
    assert out == list(own or ("127.0.0.1", "::1"))


@pytest.mark.parametrize("name", ["a", "fifteen-letters", "ten-letter-peer", "1234567890-peer"])
def test_interface_names_up_to_the_longest(run: Callable[..., Result], name: str) -> None:
    options = ("--new-netns", "--interface", name)
    assert "UP" in run("ip", "-o", "link", "show", name, options=options).out


@pytest.mark.parametrize("name", ["", "sixteen-letters!", "a/b", "lo"])
def test_wrong_interface_names(fail: Callable[..., str], name: str) -> None:
    assert f"--interface {name}: " in fail(options=("--new-netns", "--interface", name))


@pytest.mark.parametrize("address", ["10.1.2.3", "10.1.2.3/33", "10.1.2.3/", "10.1.2/8", "::1/129", "/8", "x" * 200])
def test_wrong_addresses(fail: Callable[..., str], address: str) -> None:
    said = fail(options=("--new-netns", "--interface", "eth0", "--address", address))
    assert f"--address {address}: not an address with a prefix length" in said


# ---- resolv.conf


@pytest.fixture
def resolv_conf(place: Path) -> Path:
    path = place / "resolv.conf"
    path.write_text("nameserver 127.0.0.53\n")
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("who", [(), ("unprivileged",)])
def test_resolv_conf(run: Callable[..., Result], place: Path, resolv_conf: Path, who: tuple[str, ...]) -> None:
    before = Path("/etc/resolv.conf").read_bytes()
    program = "cat /etc/resolv.conf; echo x 2>/dev/null >>/etc/resolv.conf || echo read-only; id -u"
    options = ("--new-netns", "--resolv-conf", str(resolv_conf))
    prefix = unprivileged() if who else ()
    uid = NOBODY if who and os.geteuid() == 0 else os.geteuid()
    result = run("sh", "-c", program, options=options, prefix=prefix, binary=place / "ax-launch")
    assert result == Result(0, f"nameserver 127.0.0.53\nread-only\n{uid}\n", "")
    assert Path("/etc/resolv.conf").read_bytes() == before
    assert str(resolv_conf) not in Path("/proc/self/mountinfo").read_text()


# A resolv.conf of the test's own: over /etc a directory with what the script puts there.
ETC = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)), "sh", "-ec")


@pytest.mark.parametrize("link", ["real/stub.conf", "/etc/real/stub.conf"])
def test_resolv_conf_that_is_a_link(run: Callable[..., Result], resolv_conf: Path, link: str) -> None:
    script = f'mount -t tmpfs x /etc; mkdir /etc/real; >/etc/real/stub.conf; ln -s {link} /etc/resolv.conf; exec "$@"'
    options = ("--new-netns", "--resolv-conf", str(resolv_conf))
    program = "cat /etc/resolv.conf; readlink /etc/resolv.conf"
    result = run("sh", "-c", program, options=options, prefix=(*ETC, script, "sh"))
    assert result == Result(0, f"nameserver 127.0.0.53\n{link}\n", "")


@pytest.mark.parametrize("make", [":", "ln -s nowhere /etc/resolv.conf"])
def test_no_resolv_conf(fail: Callable[..., str], resolv_conf: Path, make: str) -> None:
    script = f'mount -t tmpfs x /etc; {make}; exec "$@"'
    said = fail(options=("--new-netns", "--resolv-conf", str(resolv_conf)), prefix=(*ETC, script, "sh"))
    assert "/etc/resolv.conf cannot be replaced: No such file or directory; make one" in said


def test_a_resolv_conf_that_is_not_there(fail: Callable[..., str], place: Path) -> None:
    said = fail(options=("--new-netns", "--resolv-conf", str(place / "none")))
    assert f"--dns-override: {place}/none cannot be put in place of /etc/resolv.conf: No such file" in said


# ---- users


@as_root
def test_setuser(run: Callable[..., Result]) -> None:
    result = run("sh", "-c", "id -u; id -g; id -G", options=("--new-netns", "--setuser", f"{NOBODY}:2:3,4"))
    assert result == Result(0, f"{NOBODY}\n2\n2 3 4\n", "")


@as_root
def test_setuser_without_more_groups(run: Callable[..., Result]) -> None:
    assert run("sh", "-c", "id -G", options=("--setuser", f"{NOBODY}:2")).out == "2\n"


@as_root
@pytest.mark.parametrize("text", ["", "1", "1:", "1:2:", "1:2:3,", "1:2,3", "root:0", "4294967295:0", "-1:0", "1:2:3 "])
def test_setuser_takes_numbers_only(switch: FakeSwitch, text: str) -> None:
    launch = Launch(switch.path, "true", options=("--setuser", text))
    switch.serve()
    assert launch.end() == Result(125, "", f"ax run: --setuser {text}: not UID:GID[:G1,G2...]\n")


def test_setuser_needs_root(switch: FakeSwitch, place: Path) -> None:
    options = ("--setuser", "0:0")
    launch = Launch(switch.path, "true", options=options, prefix=unprivileged(), binary=place / "ax-launch")
    switch.serve()
    result = launch.end()
    assert result.status == 125
    assert "only root can" in result.err


def test_a_user_without_rights_gets_a_namespace_too(run: Callable[..., Result], place: Path) -> None:
    options = ("--new-netns", "--interface", "eth0", "--address", "10.1.2.3/24")
    program = "id -u; ip -o -4 address | awk '{print $2, $4}'; cat /proc/self/uid_map /proc/self/setgroups"
    result = run("sh", "-c", program, options=options, prefix=unprivileged(), binary=place / "ax-launch")
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()
    assert result.out.split() == [*f"{uid} lo 127.0.0.1/8 eth0 10.1.2.3/24 {uid} {uid} 1 deny".split()]


def test_a_user_without_rights_and_without_a_namespace(run: Callable[..., Result], place: Path) -> None:
    """The daemon of the same user must own what it looks into, so there is a user namespace all the same."""
    result = run("cat", "/proc/self/uid_map", prefix=unprivileged(), binary=place / "ax-launch")
    uid = str(NOBODY if os.geteuid() == 0 else os.geteuid())
    assert result.out.split() == [uid, uid, "1"]


@as_root
def test_root_keeps_the_way_to_more_privileges(run: Callable[..., Result]) -> None:
    assert run(*status_of_self("NoNewPrivs"), options=("--new-netns",)).out == "0\n"


@as_root
def test_root_of_a_container_without_cap_sys_admin(run: Callable[..., Result]) -> None:
    prefix = ("setpriv", "--bounding-set", "-sys_admin,-net_admin")
    result = run("sh", "-c", "id -u; ip -o -4 address | awk '{print $4}'", options=("--new-netns",), prefix=prefix)
    assert result == Result(0, "0\n127.0.0.1/8\n", "")


def test_forbidden_user_namespaces_are_named(fail: Callable[..., str], place: Path) -> None:
    # The sysctl belongs to the user namespace of whoever writes it: the machine's own is not touched.
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    prefix = (*unprivileged(), "unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh")
    said = fail(options=("--new-netns",), prefix=prefix, binary=place / "ax-launch")
    assert "sysctl -w user.max_user_namespaces=" in said
    assert "--no-new-netns" in said
