"""A scratch socket answers as a real one: values, ranges and errors are the kernel's own."""

from __future__ import annotations

import errno
import os
import socket
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel.sockaddr import AF_INET, AF_INET6, AF_UNIX
from appswitch.model import AppSpec
from appswitch.switch import options
from appswitch.switch.apps import App, Origin
from appswitch.switch.options import Scratch
from appswitch.switch.reflexes import Reflexes, fresh
from appswitch.switch.sockets import CONNECTED, FINISHING, LISTENING, NEW, Socket

STREAM = int(socket.SOCK_STREAM)
IP, SOL, TCP, IPV6, MPTCP = 0, 1, 6, 41, 284
NODELAY, MAXSEG, CORK, KEEPIDLE, INFO, CONGESTION, FASTOPEN, WINDOW_CLAMP = 1, 2, 3, 4, 11, 13, 23, 10
ROOM = 256


def int_of(value: int) -> bytes:
    return struct.pack("i", value)


QUESTIONS = [
    (AF_INET, TCP, NODELAY, int_of(1)),
    (AF_INET, TCP, NODELAY, int_of(-1)),
    (AF_INET, TCP, NODELAY, b"\1"),
    (AF_INET, TCP, NODELAY, b""),
    (AF_INET, TCP, CORK, int_of(1)),
    (AF_INET, TCP, MAXSEG, int_of(1000)),
    (AF_INET, TCP, MAXSEG, int_of(1)),
    (AF_INET, TCP, KEEPIDLE, int_of(0)),
    (AF_INET, TCP, KEEPIDLE, int_of(100)),
    (AF_INET, TCP, KEEPIDLE, int_of(40000)),
    (AF_INET, TCP, CONGESTION, b"no-such-thing"),
    (AF_INET, TCP, 18, int_of(5000)),
    (AF_INET, IP, 1, int_of(0x10)),
    (AF_INET, IP, 2, int_of(300)),
    (AF_INET, IP, 2, int_of(64)),
    (AF_INET, IP, 2, b"\x40"),
    (AF_INET, IP, 10, int_of(9)),
    (AF_INET6, IPV6, 26, int_of(1)),
    (AF_INET6, IPV6, 26, b"\1"),
    (AF_INET6, IPV6, 16, int_of(256)),
    (AF_INET6, IPV6, 67, int_of(0x20)),
    (AF_INET6, TCP, NODELAY, int_of(1)),
    (AF_INET6, IP, 1, int_of(0x10)),
]


@pytest.mark.parametrize(("family", "level", "name", "value"), QUESTIONS)
def test_scratch_answers_as_a_real_socket(family: int, level: int, name: int, value: bytes) -> None:
    scratch = Scratch()
    with socket.socket(family) as sock:
        before = _kernel.getsockopt(sock.fileno(), level, name, ROOM)
        error = _kernel.setsockopt(sock.fileno(), level, name, value)
        after = _kernel.getsockopt(sock.fileno(), level, name, ROOM)
        short = _kernel.getsockopt(sock.fileno(), level, name, 1)
    for _ in range(2):  # asked of the kernel, then remembered
        assert scratch.set(family, (level, name), value) == error
        assert answer(scratch.get(family, (level, name), None, ROOM)) == before
        assert answer(scratch.get(family, (level, name), value, ROOM)) == after
        assert answer(scratch.get(family, (level, name), value, 1)) == short


def answer(given: options.Answer) -> bytes | int:
    error, value = given
    assert not (error and value)
    return error or value


def test_questions_are_asked_once_and_leave_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, made = Scratch(), []
    monkeypatch.setattr(
        options, "_kernel", SimpleNamespace(**{name: getattr(_kernel, name) for name in ("setsockopt", "getsockopt")})
    )

    def make(*arguments: int) -> Fd:
        fd = _kernel.socket(*arguments)
        made.append(fd.fileno())
        return fd

    options._kernel.socket = make  # type: ignore[attr-defined]
    for _ in range(3):
        scratch.set(AF_INET, (TCP, NODELAY), int_of(1))
        scratch.get(AF_INET, (TCP, NODELAY), int_of(1), 4)
        scratch.get(AF_INET, (TCP, NODELAY), None, 4)
    assert len(made) == 3
    assert len(set(made)) == 1  # each was closed before the next was made


def test_strange_questions_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scratch, "LIMIT", 4)
    scratch = Scratch()
    for value in range(20):
        scratch.set(AF_INET, (TCP, NODELAY), int_of(value))
        scratch.get(AF_INET, (TCP, NODELAY), int_of(value), 4)
        assert len(scratch._set) <= 4
        assert len(scratch._get) <= 4


# --- calls ----------------------------------------------------------------------------------------------------------


class FakeCall:
    """A call of setsockopt(2) or getsockopt(2) whose memory is a dictionary of bytes by address."""

    VALUE, LENGTH = 0x1000, 0x2000
    fd: Fd | None = None

    def __init__(self, sock: Socket, level: int, name: int, memory: dict[int, bytes], length: int = 0) -> None:
        self.sock, self.app = sock, sock.app
        self.args = (3, level & 0xFFFFFFFF, name & 0xFFFFFFFF, self.VALUE, length & 0xFFFFFFFF)
        self.memory = memory

    def fetch(self) -> tuple[Fd, int, int]:
        return self.fd or _kernel.socket(AF_UNIX, STREAM, 0), self.sock.cookie, os.O_RDWR

    def int32(self, index: int) -> int:
        return int(struct.unpack("i", struct.pack("I", self.args[index]))[0])

    def read(self, address: int, size: int) -> bytes:
        assert len(self.memory[address]) >= size
        return self.memory[address][:size]

    def read_int(self, address: int) -> int:
        return int(struct.unpack("i", self.read(address, 4))[0])

    def write(self, address: int, data: bytes) -> None:
        self.memory[address] = data


class World:
    """A switch with one Unix socket in the place of a TCP one."""

    fd: Fd | None = None  # that socket, where its state matters

    def __init__(self, family: int) -> None:
        spec = AppSpec(id=1, uid=0, gid=0, node="n", cluster="c", command=("x",), created=0.0)
        app = App(spec, Fd(os.open("/dev/null", os.O_RDONLY)), Origin(1))
        self.sock = Socket(1, app, family, unix=True)
        known = SimpleNamespace(identify=lambda fd, cookie, app: self.sock, keep=lambda sock: None)
        self.reflex = fresh("x86_64")
        self.switch: Any = SimpleNamespace(sockets=known, scratch=Scratch(), reflexes=Reflexes(self.reflex))

    def set(self, level: int, name: int, value: bytes, length: int | None = None) -> int:
        size = len(value) if length is None else length
        call: Any = FakeCall(self.sock, level, name, {FakeCall.VALUE: value}, size)
        return options.setsockopt(self.switch, call)

    def get(self, level: int, name: int, room: int = ROOM) -> bytes | int:
        call: Any = FakeCall(self.sock, level, name, {FakeCall.LENGTH: int_of(room)}, FakeCall.LENGTH)
        call.fd = self.fd
        outcome = options.getsockopt(self.switch, call)
        if outcome:
            return outcome
        value = call.memory.get(FakeCall.VALUE, b"")
        assert call.memory[FakeCall.LENGTH] == int_of(len(value))
        return bytes(value)


@pytest.fixture
def world() -> World:
    return World(AF_INET)


@pytest.fixture
def world6() -> World:
    return World(AF_INET6)


@pytest.mark.parametrize(("family", "level", "name", "value"), QUESTIONS)
def test_a_unix_socket_answers_as_a_real_socket(family: int, level: int, name: int, value: bytes) -> None:
    world = World(family)
    with socket.socket(family) as sock:
        fd = sock.fileno()
        steps = (
            (world.get(level, name), _kernel.getsockopt(fd, level, name, ROOM)),
            (world.set(level, name, value), -_kernel.setsockopt(fd, level, name, value)),
            (world.get(level, name), _kernel.getsockopt(fd, level, name, ROOM)),
        )
    for ours, real in steps:
        assert ours == real or (isinstance(real, int) and ours == -real)


@pytest.mark.parametrize("level", [IP, TCP, IPV6, MPTCP, 17, 255, 271, -1])
@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_options_that_nobody_knows(family: int, level: int) -> None:
    world = World(family)
    with socket.socket(family) as sock:
        read = _kernel.getsockopt(sock.fileno(), level, 9999, 4)
        written = _kernel.setsockopt(sock.fileno(), level, 9999, int_of(1))
    assert isinstance(read, int)
    assert world.get(level, 9999, 4) == -read
    assert world.set(level, 9999, int_of(1)) == -written


def test_negative_lengths(world: World) -> None:
    assert world.set(TCP, NODELAY, int_of(1), length=-1) == -errno.EINVAL
    assert world.get(TCP, NODELAY, room=-1) == -errno.EINVAL
    assert world.sock.options == {}


def test_what_failed_is_not_remembered(world: World) -> None:
    assert world.set(TCP, KEEPIDLE, int_of(0)) == -errno.EINVAL
    assert world.sock.options == {}
    assert world.set(TCP, KEEPIDLE, int_of(9)) == 0
    assert world.sock.options == {(TCP, KEEPIDLE): int_of(9)}


def test_what_the_switch_may_and_apps_may_not_never_reaches_a_socket(world: World) -> None:
    for level, name in ((IP, 19), (IP, 3), (IP, 16), (IP, 64), (TCP, 19), (TCP, 14), (TCP, INFO), (IP, 80)):
        assert world.set(level, name, int_of(1)) == -errno.ENOPROTOOPT, (level, name)
    assert world.switch.scratch._set == {}


def test_reuseport(world: World) -> None:
    assert world.get(SOL, 15) == int_of(0)
    assert world.set(SOL, 15, b"\1", length=1) == -errno.EINVAL
    assert world.set(SOL, 15, int_of(2)) == 0
    assert world.get(SOL, 15) == int_of(1)
    assert world.get(SOL, 15, room=2) == b"\1\0"
    assert world.set(SOL, 15, int_of(0)) == 0
    assert world.sock.reuseport is False


def test_it_looks_like_tcp(world6: World) -> None:
    assert world6.get(SOL, 39) == int_of(AF_INET6)
    assert world6.get(SOL, 38) == int_of(TCP)


def test_nothing_is_told_of_the_peers_process(world: World) -> None:
    with socket.socket() as sock:
        for option in (17, 59, 77):
            real = _kernel.getsockopt(sock.fileno(), SOL, option, 64)
            assert world.get(SOL, option, 64) == (real if isinstance(real, bytes) else -real), option
    for option in (16, 34, 76):
        assert world.set(SOL, option, int_of(1)) == -errno.EOPNOTSUPP


@pytest.mark.parametrize(
    ("level", "name", "value", "phase", "late"),
    [
        (IPV6, 26, int_of(1), NEW, False),
        (IPV6, 26, int_of(1), LISTENING, True),
        (IPV6, 26, int_of(0), CONNECTED, True),
        (TCP, FASTOPEN, int_of(5), LISTENING, False),
        (TCP, FASTOPEN, int_of(5), CONNECTED, True),
        (TCP, WINDOW_CLAMP, int_of(0), NEW, False),
        (TCP, WINDOW_CLAMP, int_of(0), CONNECTED, True),
        (TCP, WINDOW_CLAMP, int_of(9000), CONNECTED, False),
        (TCP, NODELAY, int_of(1), CONNECTED, False),
    ],
)
def test_some_options_have_their_time(
    world6: World, level: int, name: int, value: bytes, phase: int, late: bool
) -> None:
    world6.sock.phase = phase
    assert (world6.set(level, name, value) == -errno.EINVAL) == late


def test_congestion_control_is_chosen_among_those_allowed(world: World) -> None:
    world.switch.scratch.congestion = frozenset({b"reno"})
    assert world.set(TCP, CONGESTION, b"reno") == 0
    assert world.get(TCP, CONGESTION) == b"reno".ljust(16, b"\0")
    current = (next(iter(Scratch().congestion - {b"reno"}), b"cubic")).ljust(9, b"\0")
    assert world.set(TCP, CONGESTION, current) in (-errno.EPERM, -errno.ENOENT)
    assert world.set(TCP, CONGESTION, b"no-such-thing") == -errno.ENOENT
    assert world.sock.options == {(TCP, CONGESTION): b"reno"}


@pytest.mark.parametrize(("phase", "state"), [(NEW, 7), (LISTENING, 10), (CONNECTED, 1), (FINISHING, 1)])
def test_tcp_info_tells_the_state(world: World, phase: int, state: int) -> None:
    with socket.socket() as sock:
        real = _kernel.getsockopt(sock.fileno(), TCP, INFO, ROOM)
    assert isinstance(real, bytes)
    world.sock.phase = phase
    info = world.get(TCP, INFO)
    assert isinstance(info, bytes)
    assert info[0] == state
    assert len(info) == len(real)
    if phase == NEW:
        assert info[:8] == real[:8]


def test_tcp_info_tells_that_the_peer_has_finished(world: World) -> None:
    ours, theirs = socket.socketpair()
    world.sock.phase, world.fd = CONNECTED, Fd(ours.detach())
    with theirs:
        for state in (1, 8):
            info = world.get(TCP, INFO)
            assert isinstance(info, bytes)
            assert info[0] == state
            theirs.shutdown(socket.SHUT_WR)


def test_tcp_info_is_cut_anywhere(world: World) -> None:
    world.sock.phase = CONNECTED
    whole = world.get(TCP, INFO)
    assert isinstance(whole, bytes)
    for room in range(100):
        assert world.get(TCP, INFO, room) == whole[:room]


def test_a_connection_over_ipv6_has_the_mtu_of_loopback(world6: World) -> None:
    with (
        socket.create_server(("::1", 0), family=AF_INET6) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
    ):
        real = _kernel.getsockopt(client.fileno(), IPV6, 24, 4)
    assert world6.get(IPV6, 24) == -errno.ENOTCONN
    world6.sock.phase = CONNECTED
    assert world6.get(IPV6, 24) == real
    assert isinstance(real, bytes)
    assert world6.get(IPV6, 24, room=2) == real[:2]


def test_a_connection_over_ipv4_has_the_mtu_of_loopback(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        real = _kernel.getsockopt(client.fileno(), IP, 14, 4)
    world.sock.phase = CONNECTED
    assert world.get(IP, 14) == real
