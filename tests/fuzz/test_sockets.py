"""The daemon's own sockets, with packets that nobody meant: it cuts off who sends them, and goes on with all others."""

from __future__ import annotations

import array
import contextlib
import math
import os
import socket
import struct
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from fuzz.seeds import TO_SWITCH
from fuzz.test_targets import inputs
from harness import Daemon, wait_until
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appswitch import wire

DEADLINE = 10.0  # seconds
MAGIC = b"AXL1"
NOT_DAMAGING = ("Forget", "Permit", "Follow", "Kill", "Explain", "Query", "Check")
bounded = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def hostile() -> Iterator[Daemon]:
    """A daemon that is sent what it should not be sent. In the end it must be as clean as any other."""
    with Daemon() as one:
        yield one


@pytest.fixture(autouse=True)
def goes_on(hostile: Daemon) -> Iterator[None]:
    """The same processes serve afterwards, and no table differs from the kernel's."""
    before = set(hostile.processes())
    yield
    assert hostile.run("echo", "served").stdout == "served\n"
    assert set(hostile.processes()) == before, f"a process of the daemon was started again\n{hostile.output[-3000:]}"
    assert hostile.differences() == []
    assert "Traceback" not in hostile.output, hostile.output[-3000:]


def connected(hostile: Daemon, name: str, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.settimeout(DEADLINE)
    sock.connect(str(hostile.run_dir / name))
    return sock


class Control:
    """A second control: it is greeted like the first."""

    def __init__(self, hostile: Daemon) -> None:
        self.sock = connected(hostile, "switch.sock", socket.SOCK_STREAM)
        self._unframer = wire.Unframer()
        self._bodies: list[bytes] = []
        assert isinstance(self.receive(), wire.Welcome)

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def receive(self) -> wire.ToControl | None:
        """The next message; None when the switch has cut us off."""
        while not self._bodies:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:  # it had not read all that we sent
                return None
            if not data:
                return None
            self._bodies = self._unframer.feed(data)
        return wire.decode_to_control(self._bodies.pop(0))

    def send(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def asks(self, seq: int = 4711) -> bool:
        """Whether a question is still answered."""
        self.send(wire.frame(wire.Query(seq, "stats")))
        while (message := self.receive()) is not None:
            if isinstance(message, wire.Rows) and message.seq == seq:
                return True
        return False

    def cut_off(self) -> bool:
        """Whether nothing more comes."""
        while self.receive() is not None:
            pass
        return True


# --- switch.sock


def harmless(body: bytes) -> bool:
    """A message that configures or registers something would be obeyed: whoever may connect is control."""
    try:
        return type(wire.decode_to_switch(body)).__name__ in NOT_DAMAGING
    except msgspec.MsgspecError:
        return True


@bounded
@given(inputs("channel").filter(harmless))
@example(b"")
@example(b"\x83\xa4type\xa5Query\xa3seq\x01\xa1z" + b"\x91" * 100_000 + b"\xc0")
def test_a_frame_is_answered_or_its_sender_cut_off(hostile: Daemon, body: bytes) -> None:
    with Control(hostile) as one:
        one.send(len(body).to_bytes(4, "big") + body)
        try:
            wire.decode_to_switch(body)
        except msgspec.MsgspecError:
            assert one.cut_off()
        else:
            assert one.asks()


@bounded
@given(st.sampled_from([one for one in TO_SWITCH if type(one).__name__ in NOT_DAMAGING]), st.data())
def test_torn_frames(hostile: Daemon, message: wire.ToSwitch, data: st.DataObject) -> None:
    """Piece by piece, and then the end in the middle of the next."""
    stream = wire.frame(message)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=4)))
    with Control(hostile) as one:
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            one.send(stream[begin:end])
        assert one.asks()
        one.send(stream[: cuts[0] if cuts else 3])
        one.sock.shutdown(socket.SHUT_WR)
        assert one.cut_off()


@pytest.mark.parametrize("size", [wire.MAX_FRAME + 1, 0xFFFFFFFF])
def test_huge_frames_are_refused_by_their_head(hostile: Daemon, size: int) -> None:
    with Control(hostile) as one:
        one.send(size.to_bytes(4, "big") + b"x" * 1000)
        assert one.cut_off()


def test_a_frame_that_never_ends_costs_no_more_than_it_has(hostile: Daemon) -> None:
    with Control(hostile) as one, Control(hostile) as other:
        one.send(wire.MAX_FRAME.to_bytes(4, "big") + b"x" * (1 << 20))
        assert other.asks()


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_a_registration_for_an_odd_time(hostile: Daemon, seconds: float) -> None:
    """The loop sorts its timers by time: one that is no number must not come between them."""
    app = msgspec.structs.replace(TO_SWITCH[0].app, id=0xF0000001, ips=())  # type: ignore[union-attr]
    with Control(hostile) as one:
        one.send(wire.frame(wire.Register(1, app, os.urandom(32), seconds)))
        assert one.cut_off()
    with Control(hostile) as one:
        assert one.asks()


# --- attach.sock: any user may connect


HELLO = struct.Struct("=4sIII32s")
hellos = st.builds(
    HELLO.pack,
    st.sampled_from([MAGIC, b"AXL2", bytes(4)]),
    st.sampled_from([0, 1, 2, 2**32 - 1]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 0xC000003E, 0x40000003]) | st.integers(0, 2**32 - 1),
    st.binary(min_size=32, max_size=32),
)
packets = st.one_of(
    hellos,
    st.binary(max_size=5000),
    st.tuples(hellos, st.binary(max_size=10)).map(b"".join),
    st.tuples(hellos, st.integers(0, HELLO.size)).map(lambda one: one[0][: one[1]]),
    st.just(struct.pack("=4sI", MAGIC, 0)),
)


def send_with(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendmsg([data], rights)


@bounded
@given(st.lists(st.tuples(packets, st.integers(0, 20)), min_size=1, max_size=3))
def test_launchers_that_are_none(hostile: Daemon, said: list[tuple[bytes, int]]) -> None:
    """Every packet, with and without descriptors: who has no token gets a refusal or nothing, and the end."""
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        with connected(hostile, "attach.sock", socket.SOCK_SEQPACKET) as sock:
            for data, count in said:
                send_with(sock, data, [null] * count)
            with contextlib.suppress(ConnectionResetError):
                while answer := sock.recv(4096):
                    assert answer.startswith(MAGIC)
                    assert int.from_bytes(answer[4:8], "little") != 0, "refused"
    finally:
        os.close(null)


def test_a_registered_app_whose_launcher_hands_over_something_else(hostile: Daemon) -> None:
    """Not a notification descriptor, none at all, too many: the token is used up, and the app is gone."""
    pipe = os.pipe()
    try:
        for count in (0, 1, 2, 16):
            status, told = hostile.rest("POST", "/v1/apps", {"command": ["x"]})
            assert status == 201, told
            with connected(hostile, "attach.sock", socket.SOCK_SEQPACKET) as sock:
                sock.send(HELLO.pack(MAGIC, 1, 0, 0xC000003E, bytes.fromhex(told["token"])))
                assert sock.recv(1 << 16)[4:8] == bytes(4), "it is offered the filter"
                send_with(sock, struct.pack("=4sI", MAGIC, 0), [pipe[0]] * count)
                with contextlib.suppress(ConnectionResetError):
                    while sock.recv(4096):
                        pass
            path = f"/v1/apps/{told['appid']}"
            wait_until(lambda path=path: hostile.rest("GET", path)[0] == 404, "the app to be gone")
    finally:
        for one in pipe:
            os.close(one)


def test_launchers_that_say_nothing(hostile: Daemon) -> None:
    """So many that no more are let in; as soon as they go, others are."""
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connected(hostile, "attach.sock", socket.SOCK_SEQPACKET))
        assert hostile.run("echo", "among them").stdout == "among them\n"


# --- notify.sock, dns.sock, delegate.sock


@bounded
@given(st.binary(max_size=3000) | st.sampled_from([b"READY=1", b"FDSTORE=1\nFDNAME=app-x", b"FDSTOREREMOVE=1"]),
       st.integers(0, 20))  # fmt: skip
def test_strangers_at_the_keepers_socket(hostile: Daemon, data: bytes, count: int) -> None:
    """They may be root: what they say is ignored, and their descriptors are closed."""
    null = os.open("/dev/null", os.O_RDONLY)
    keeper = f"/proc/{hostile.pid}/fd"
    before = len(os.listdir(keeper))  # noqa: PTH208 - to be counted
    try:
        with connected(hostile, "notify.sock", socket.SOCK_DGRAM) as sock:
            send_with(sock, data, [null] * count)
        wait_until(lambda: len(os.listdir(keeper)) <= before, f"descriptors of the keeper closed after {data!r}")  # noqa: PTH208
    finally:
        os.close(null)


@bounded
@given(inputs("delegation"), st.integers(0, 20))
def test_proxies_that_are_none(hostile: Daemon, data: bytes, count: int) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        with connected(hostile, "delegate.sock", socket.SOCK_SEQPACKET) as sock:
            send_with(sock, data, [null] * count)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(1 << 17):
                    pass
    finally:
        os.close(null)


@bounded
@given(st.binary(max_size=300) | st.builds(
    msgspec.msgpack.encode,
    st.builds(wire.NameServer, st.integers(0, 2**32), st.text(max_size=20) | st.just("192.0.2.1")),
), st.integers(0, 4))  # fmt: skip
def test_sockets_for_dns_that_are_none(hostile: Daemon, data: bytes, count: int) -> None:
    """Only the switch sends there; root can."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, contextlib.ExitStack() as stack:
        sock = stack.enter_context(connected(hostile, "dns.sock", socket.SOCK_DGRAM))
        send_with(sock, data, [udp.fileno()] * count)
