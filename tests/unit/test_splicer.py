"""The splicer against a switch, apps and remote servers that these tests play themselves."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import os
import platform
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.waiting import wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appswitch.kernel import bpf

SPLICER = Path(os.environ.get("AX_SPLICER") or Path(str(files("appswitch"))) / "_bin" / "ax-splice")
DEADLINE = 20  # seconds
HELLO, PAIR, QUERY, CLOSED, REFUSED, ROW, END = range(1, 8)
REQUEST, RECORD = struct.Struct("=IIQ"), struct.Struct("=IIQQQ")
CHUNK = 64 << 10
PIPE_BYTES = 256 << 10
NR_SPLICE = {"x86_64": 275, "aarch64": 76}[platform.machine()]


class Record(NamedTuple):
    """What the switch is told."""

    kind: int
    value: int
    id: int
    there: int
    back: int


class Splicer:
    """One process, and the switch's end of its control socket."""

    def __init__(self, descriptors: int | None = None, prepare: Callable[[], None] | None = None) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(DEADLINE)
        self.heard: list[Record] = []
        self.numbers = itertools.count(1)

        def at_birth() -> None:
            os.dup2(theirs.fileno(), 3)
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
            if prepare is not None:
                prepare()

        self.process = subprocess.Popen([SPLICER], stdin=subprocess.DEVNULL, close_fds=False, preexec_fn=at_birth)
        theirs.close()
        assert self.hear() == Record(HELLO, 1, 0, 0, 0)
        self.baseline = self.descriptors()

    def ask(self, packet: bytes, *fds: int) -> None:
        socket.send_fds(self.control, [packet], fds)

    def pair(self, one: socket.socket, two: socket.socket, *, keep: bool = False) -> int:
        """Both are given away, unless we keep copies."""
        number = next(self.numbers)
        self.ask(REQUEST.pack(PAIR, 0, number), one.fileno(), two.fileno())
        if not keep:
            one.close()
            two.close()
        return number

    def hear(self) -> Record:
        if not self.heard:
            packet = self.control.recv(1 << 16)
            assert packet, "the splicer has ended"
            self.heard += [Record(*fields) for fields in RECORD.iter_unpack(packet)]
        return self.heard.pop(0)

    def hear_of(self, number: int) -> Record:
        record = self.hear()
        assert record.id == number
        return record

    def query(self, value: int = 7) -> dict[int, tuple[int, int]]:
        self.ask(REQUEST.pack(QUERY, value, 0))
        rows = list(iter(self.hear, Record(END, value, 0, 0, 0)))
        assert all(row.kind == ROW and row.value == value for row in rows)
        assert len(rows) == len({row.id for row in rows})
        return {row.id: (row.there, row.back) for row in rows}

    def descriptors(self, like: str = "") -> int:
        place = Path(f"/proc/{self.process.pid}/fd")
        return sum(like in str(link.readlink()) for link in place.iterdir())

    def sleeps(self) -> bool:
        """Whether it has not run at all between two looks."""
        looks = set()
        for _ in range(2):
            looks.add(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0])
            select.select([], [], [], 0.03)
        return len(looks) == 1

    def rss(self) -> int:
        """Bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE)
        self.control.close()


@pytest.fixture
def splicer() -> Iterator[Splicer]:
    one = Splicer()
    yield one
    assert one.process.poll() is None
    one.end()
    assert one.process.returncode == -signal.SIGTERM


def unix_ends() -> tuple[socket.socket, socket.socket]:
    """The app's, and ours."""
    app, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    app.settimeout(DEADLINE)
    return app, ours


def tcp_ends() -> tuple[socket.socket, socket.socket]:
    """Ours, and that of the remote server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        remote, _ = listener.accept()
    remote.settimeout(DEADLINE)
    return ours, remote


class Link:
    """An app and a remote server, joined by the splicer."""

    def __init__(self, splicer: Splicer, *, keep: bool = False) -> None:
        self.app, near = unix_ends()
        far, self.remote = tcp_ends()
        self.number = splicer.pair(near, far, keep=keep)
        self.kept = (near, far)

    def close(self) -> None:
        for one in (self.app, self.remote, *self.kept):
            one.close()

    def echo(self, message: bytes = b"hello") -> None:
        for one, other in ((self.app, self.remote), (self.remote, self.app)):
            one.sendall(message)
            assert take(other, len(message)) == message


@pytest.fixture
def link(splicer: Splicer) -> Iterator[Link]:
    one = Link(splicer)
    yield one
    one.close()


def take(end: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    data = bytearray()
    while len(data) < size:
        got = end.recv(size - len(data))
        assert got, f"the end after {len(data)} of {size} bytes"
        data += got
    return bytes(data)


def take_all(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(CHUNK), b""))


def fill(end: socket.socket) -> int:
    """Write until nothing has been taken for a while. The number of bytes."""
    written, data = 0, bytes(range(256)) * 256
    end.setblocking(False)
    while select.select([], [end], [], 0.3)[1]:
        try:
            written += end.send(data[written % 256 :])
        except BlockingIOError:
            continue
    end.settimeout(DEADLINE)
    return written


def filled(size: int) -> bytes:
    """What `fill` has written."""
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def reset(end: socket.socket) -> None:
    """Close with an RST."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    end.close()


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 16 << 10, CHUNK, CHUNK + 1, 150_000])
def test_bytes_go_both_ways(splicer: Splicer, link: Link, size: int) -> None:
    for _ in range(3):
        link.echo(os.urandom(size))
    assert splicer.query() == {link.number: (3 * size, 3 * size)}


def test_what_was_written_before_the_pair_was_made(splicer: Splicer) -> None:
    app, near = unix_ends()
    far, remote = tcp_ends()
    app.sendall(b"GET / HTTP/1.1\r\n\r\n")
    app.shutdown(socket.SHUT_WR)
    number = splicer.pair(near, far)
    assert take_all(remote) == b"GET / HTTP/1.1\r\n\r\n"
    remote.close()
    assert take_all(app) == b""
    assert splicer.hear_of(number) == Record(CLOSED, 0, number, 18, 0)
    app.close()


SIZE = 100 << 20


def stream(source: socket.socket, seed: int, sums: dict[str, str]) -> None:
    block, digest = os.urandom(1 << 20), hashlib.blake2b()
    for number in range(SIZE >> 20):
        piece = number.to_bytes(4, "big") + block[4 + number + seed :] + block[: number + seed]
        digest.update(piece)
        source.sendall(piece)
    source.shutdown(socket.SHUT_WR)
    sums[f"sent {seed}"] = digest.hexdigest()


def checksum(sink: socket.socket, seed: int, sums: dict[str, str]) -> None:
    digest, buffer = hashlib.blake2b(), bytearray(1 << 20)
    while got := sink.recv_into(buffer):
        digest.update(memoryview(buffer)[:got])
    sums[f"got {seed}"] = digest.hexdigest()


def both_ways(link: Link) -> None:
    """100 MiB each way, at the same time."""
    sums: dict[str, str] = {}
    work = [(stream, link.app, 0), (checksum, link.remote, 0), (stream, link.remote, 1), (checksum, link.app, 1)]
    threads = [threading.Thread(target=what, args=(end, seed, sums)) for what, end, seed in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sums["got 0"] == sums["sent 0"]
    assert sums["got 1"] == sums["sent 1"]
    assert sums["got 0"] != sums["got 1"]


def test_much_goes_both_ways_at_once(splicer: Splicer, link: Link) -> None:
    both_ways(link)
    assert splicer.hear_of(link.number) == Record(CLOSED, 0, link.number, SIZE, SIZE)


def test_many_pairs_at_once(splicer: Splicer) -> None:
    links = [Link(splicer) for _ in range(500)]
    for round_ in range(3):
        for link in links:
            link.app.sendall(f"{round_} there {link.number}".encode().ljust(32))
            link.remote.sendall(f"{round_} back {link.number}".encode().ljust(32))
        for link in links:
            assert take(link.remote, 32).split() == [b"%d" % round_, b"there", b"%d" % link.number]
            assert take(link.app, 32).split() == [b"%d" % round_, b"back", b"%d" % link.number]
    assert splicer.query() == {link.number: (96, 96) for link in links}
    for link in links:
        link.close()
    ended = {splicer.hear() for _ in links}
    assert ended == {Record(CLOSED, 0, link.number, 96, 96) for link in links}
    assert splicer.query() == {}


def test_tcp_to_tcp(splicer: Splicer) -> None:
    near, app = tcp_ends()
    far, remote = tcp_ends()
    splicer.pair(near, far)
    app.sendall(b"x" * 300_000)
    assert len(take(remote, 300_000)) == 300_000
    remote.close()
    assert app.recv(1) == b""
    app.close()


def test_answers_are_not_held_back(splicer: Splicer) -> None:
    one = Link(splicer, keep=True)
    one.echo()
    assert one.kept[1].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    one.close()


# --- the end of one direction ----------------------------------------------------------------------------------------


def test_the_app_ends_first(splicer: Splicer, link: Link) -> None:
    link.app.sendall(b"request")
    link.app.shutdown(socket.SHUT_WR)
    assert take_all(link.remote) == b"request"
    link.remote.sendall(b"answer" * 50_000)
    link.remote.close()
    assert take_all(link.app) == b"answer" * 50_000
    assert splicer.hear_of(link.number) == Record(CLOSED, 0, link.number, 7, 300_000)


def test_the_remote_ends_first(splicer: Splicer, link: Link) -> None:
    link.remote.sendall(b"greeting")
    link.remote.shutdown(socket.SHUT_WR)
    assert take_all(link.app) == b"greeting"
    link.app.sendall(b"late" * 50_000)
    link.app.close()
    assert take_all(link.remote) == b"late" * 50_000
    assert splicer.hear_of(link.number) == Record(CLOSED, 0, link.number, 200_000, 8)


def test_what_was_written_before_a_close_arrives(splicer: Splicer, link: Link) -> None:
    size = fill(link.app)
    link.app.close()
    assert take_all(link.remote) == filled(size)
    record = splicer.hear_of(link.number)
    assert record == Record(CLOSED, 0, link.number, size, 0)


def test_what_a_closed_app_has_written_does_not_wait_for_ever(splicer: Splicer) -> None:
    """The kernel's own patience with sockets that nobody holds is bounded, too: tcp(7), tcp_orphan_retries."""
    link = Link(splicer, keep=True)
    link.echo()
    tcp = link.kept[1]
    fill(link.app)
    assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
    link.app.close()
    wait_until(lambda: tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000, "a bound")
    link.close()


def test_a_remote_that_closes_at_once_is_heard_to_the_end(splicer: Splicer, link: Link) -> None:
    size = fill(link.remote)
    link.remote.close()
    assert take_all(link.app) == filled(size)
    link.app.close()
    assert splicer.hear_of(link.number) == Record(CLOSED, 0, link.number, 0, size)


def test_when_the_app_has_closed_the_remote_is_told_and_then_refused(splicer: Splicer, link: Link) -> None:
    link.app.close()
    assert link.remote.recv(1) == b""
    assert splicer.hear_of(link.number) == Record(CLOSED, 0, link.number, 0, 0)  # nobody waits for the remote

    def refused() -> bool:
        try:
            link.remote.send(b"anybody?")
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False

    wait_until(refused, "a reset")


def test_the_app_may_stop_to_listen_and_go_on_writing(splicer: Splicer, link: Link) -> None:
    link.app.shutdown(socket.SHUT_RD)
    link.remote.sendall(b"unwanted" * 100_000)
    link.app.sendall(b"wanted")
    assert take(link.remote, 6) == b"wanted"
    link.remote.close()
    link.app.close()
    record = splicer.hear_of(link.number)
    assert (record.kind, record.there) == (CLOSED, 6)


# --- resets ----------------------------------------------------------------------------------------------------------


def test_a_reset_of_the_remote_ends_the_app_after_what_came_before(splicer: Splicer, link: Link) -> None:
    link.remote.sendall(b"last words")
    wait_until(lambda: splicer.query()[link.number] == (0, 10), "they have been carried")
    reset(link.remote)
    assert take_all(link.app) == b"last words"
    assert splicer.hear_of(link.number) == Record(CLOSED, errno.ECONNRESET, link.number, 0, 10)
    with pytest.raises(BrokenPipeError):
        link.app.send(b"x")


def test_a_reset_does_not_overtake_what_the_app_has_not_read_yet(splicer: Splicer, link: Link) -> None:
    size = fill(link.remote)
    link.remote.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    link.remote.close()
    data = take_all(link.app)
    assert data == filled(len(data))
    assert CHUNK < len(data) <= size  # what had not left the remote is lost
    assert splicer.hear_of(link.number) == Record(CLOSED, errno.ECONNRESET, link.number, 0, len(data))


def test_an_app_that_only_writes_hears_of_a_reset(splicer: Splicer, link: Link) -> None:
    fill(link.remote)  # the app reads nothing of it
    reset(link.remote)

    def refused() -> bool:
        try:
            link.app.send(b"x" * 1000)
        except BrokenPipeError:
            return True
        return False

    wait_until(refused, "EPIPE")
    link.app.close()
    record = splicer.hear_of(link.number)
    assert (record.kind, record.value) == (CLOSED, errno.ECONNRESET)


def test_a_reset_after_the_end_of_the_stream(splicer: Splicer, link: Link) -> None:
    link.remote.shutdown(socket.SHUT_WR)
    assert link.app.recv(1) == b""
    reset(link.remote)
    record = splicer.hear_of(link.number)
    assert record.kind == CLOSED
    assert record.value in (errno.EPIPE, errno.ECONNRESET)
    with pytest.raises(BrokenPipeError):
        link.app.send(b"x")


def test_an_app_that_closes_with_unread_data_resets_the_remote(splicer: Splicer, link: Link) -> None:
    link.remote.sendall(b"unread")
    select.select([link.app], [], [], DEADLINE)
    link.app.close()
    with pytest.raises(ConnectionResetError):
        link.remote.recv(1)
    assert splicer.hear_of(link.number) == Record(CLOSED, errno.ECONNRESET, link.number, 0, 6)


def test_a_reset_by_the_app_does_not_wait_for_a_remote_that_does_not_read(splicer: Splicer, link: Link) -> None:
    link.remote.sendall(b"unread")
    select.select([link.app], [], [], DEADLINE)
    fill(link.app)
    link.app.close()
    record = splicer.hear_of(link.number)
    assert (record.kind, record.value) == (CLOSED, errno.ECONNRESET)


# --- slow readers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", ["app", "remote"])
def test_a_slow_reader_slows_the_writer_and_costs_no_memory(splicer: Splicer, link: Link, slow: str) -> None:
    reader, writer = (link.app, link.remote) if slow == "app" else (link.remote, link.app)
    before = splicer.rss()
    size = fill(writer)
    assert splicer.rss() - before < 1 << 20
    wait_until(splicer.sleeps, "no busy loop")
    back = b"the other way is free" * 1000
    reader.sendall(back)
    assert take(writer, len(back)) == back
    assert take(reader, size) == filled(size)
    link.echo()


def test_many_small_writes_fill_the_slots_of_a_pipe(splicer: Splicer, link: Link) -> None:
    """A pipe that is full in slots says the same as an empty socket."""
    fill_size = fill(link.remote)
    take(link.app, fill_size)
    pieces = [bytes([n % 251]) * (n % 7 + 1) for n in range(20_000)]
    link.app.setblocking(False)
    sent = 0
    for piece in pieces:
        try:
            link.app.sendall(piece)
        except BlockingIOError:
            break
        sent += len(piece)
    wait_until(splicer.sleeps, "no busy loop")
    assert take(link.remote, sent) == b"".join(pieces)[:sent]
    link.app.setblocking(True)
    link.echo()


def test_others_go_on_beside_a_slow_one(splicer: Splicer, link: Link) -> None:
    fill(link.remote)
    fill(link.app)
    other = Link(splicer)
    other.echo()
    other.close()
    assert splicer.hear_of(other.number) == Record(CLOSED, 0, other.number, 5, 5)


def test_one_that_is_fast_does_not_starve_others(splicer: Splicer, link: Link) -> None:
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            link.app.sendall(bytes(1 << 20))
        link.app.close()

    threads = [threading.Thread(target=write), threading.Thread(target=take_all, args=(link.remote,))]
    for thread in threads:
        thread.start()
    other = Link(splicer)
    for _ in range(50):
        other.echo()
    other.close()
    over.set()
    for thread in threads:
        thread.join(DEADLINE)
    assert splicer.hear_of(other.number).kind == CLOSED


# --- urgent data: RFC 6093 says in line ------------------------------------------------------------------------------


def test_urgent_data_goes_in_line(splicer: Splicer, link: Link) -> None:
    link.remote.sendall(b"before")
    link.remote.send(b"!", socket.MSG_OOB)
    link.remote.sendall(b"after")
    assert take(link.app, 12) == b"before!after"
    link.echo()


def test_urgent_data_in_a_stream(splicer: Splicer, link: Link) -> None:
    pieces = [bytes([n]) * 100_000 for n in range(40)]

    def write() -> None:
        for piece in pieces:
            link.remote.sendall(piece)
            link.remote.send(b"!", socket.MSG_OOB)

    writer = threading.Thread(target=write)
    writer.start()
    assert take(link.app, 40 * 100_001) == b"".join(piece + b"!" for piece in pieces)
    writer.join()


# --- descriptors -----------------------------------------------------------------------------------------------------


def test_it_holds_nothing_that_it_does_not_need(splicer: Splicer) -> None:
    place = Path(f"/proc/{splicer.process.pid}")
    assert splicer.baseline == 5  # three standard ones, control, epoll
    assert (place / "cwd").readlink() == Path("/")
    limits = (place / "limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3] == line.split()[4]


def test_nothing_leaks(splicer: Splicer) -> None:
    def most(link: Link) -> None:
        link.app.sendall(os.urandom(200_000))
        take(link.remote, 200_000)

    endings: list[Callable[[Link], object]] = [
        lambda link: link.app.close(),
        lambda link: link.remote.close(),
        lambda link: reset(link.remote),
        lambda link: (fill(link.remote), reset(link.remote), link.app.close()),
        lambda link: (fill(link.app), link.app.close(), reset(link.remote)),
        lambda link: (link.remote.shutdown(socket.SHUT_WR), link.app.close()),
        lambda link: (link.app.shutdown(socket.SHUT_WR), reset(link.remote)),
    ]
    before = splicer.rss()
    for ending in endings * 3:
        link = Link(splicer)
        most(link)
        ending(link)
        link.close()
        assert splicer.hear_of(link.number).kind == CLOSED
    pipes = splicer.descriptors("pipe:")
    assert splicer.descriptors() == splicer.baseline + pipes
    assert pipes <= 8
    assert splicer.rss() - before < 1 << 20


def test_idle_pairs_hold_no_pipe(splicer: Splicer) -> None:
    links = [Link(splicer) for _ in range(100)]
    for link in links:
        link.echo(os.urandom(150_000))
    wait_until(splicer.sleeps, "nothing to do")
    assert splicer.descriptors("pipe:") <= 64
    assert splicer.descriptors("socket:") == 1 + 2 * len(links)
    for link in links:
        link.close()


def test_copies_that_others_keep_do_no_harm(splicer: Splicer) -> None:
    link = Link(splicer, keep=True)
    link.echo()
    link.app.close()
    assert link.remote.recv(1) == b""
    assert splicer.hear_of(link.number) == Record(CLOSED, 0, link.number, 5, 5)
    link.remote.close()  # an event for whoever has forgotten to look away
    Link(splicer).close()
    assert splicer.hear().kind == CLOSED
    link.close()


# --- limits ----------------------------------------------------------------------------------------------------------


def test_without_descriptors_a_pair_is_refused_and_closed() -> None:
    splicer = Splicer(descriptors=16)
    links = [Link(splicer) for _ in range(10)]
    refused = {splicer.hear_of(link.number) for link in links[5:]}
    assert {(record.kind, record.value) for record in refused} == {(REFUSED, errno.EMFILE)}
    for link in links[5:]:
        assert link.app.recv(1) == b""
        assert link.remote.recv(1) == b""
    for link in links[:5]:
        link.echo()
    links[0].close()
    assert splicer.hear_of(links[0].number).kind == CLOSED
    again = Link(splicer)
    again.echo()
    for link in (*links, again):
        link.close()
    splicer.end()


def test_without_descriptors_for_pipes_it_copies() -> None:
    splicer = Splicer(descriptors=7)
    link = Link(splicer)
    both_ways(link)
    assert splicer.hear_of(link.number) == Record(CLOSED, 0, link.number, SIZE, SIZE)
    assert splicer.descriptors("pipe:") == 0
    link.close()
    splicer.end()


def without_splice(length: int | None) -> Callable[[], None]:
    """Let splice(2) fail with EINVAL; with ``length`` only unless that is its argument: seccomp(2)."""
    code = bpf.Assembler()
    code.load(bpf.NR)
    code.jump_if(bpf.JEQ_K, NR_SPLICE, None, "allow")
    code.load(bpf.arg_low(4))
    code.jump_if(bpf.JEQ_K, 0 if length is None else length, "allow", None)
    code.ret(bpf.RET_ERRNO | errno.EINVAL)
    code.label("allow")
    code.ret(bpf.RET_ALLOW)
    program = code.program()

    def install() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        memory = ctypes.create_string_buffer(program, len(program))
        fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert libc.prctl(22, 2, fprog, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

    return install


@pytest.mark.parametrize("length", [None, PIPE_BYTES], ids=["at all", "into a socket"])
def test_where_splice_is_refused_it_copies(length: int | None) -> None:
    splicer = Splicer(prepare=without_splice(length))
    link = Link(splicer)
    both_ways(link)
    assert splicer.hear_of(link.number) == Record(CLOSED, 0, link.number, SIZE, SIZE)
    link.close()
    slow = Link(splicer)
    size = fill(slow.remote)
    assert take(slow.app, size) == filled(size)
    slow.close()
    splicer.end()


# --- control ---------------------------------------------------------------------------------------------------------


def test_a_query_of_many(splicer: Splicer) -> None:
    assert splicer.query(1) == {}
    links = [Link(splicer) for _ in range(300)]
    for link in links[::2]:
        link.app.sendall(b"x" * link.number)
        take(link.remote, link.number)
    expected = {link.number: (0 if link.number % 2 == 0 else link.number, 0) for link in links}
    assert splicer.query(2**32 - 1) == expected
    for link in links:
        link.close()


def test_pairs_outlive_the_switch() -> None:
    splicer = Splicer()
    links = [Link(splicer) for _ in range(3)]
    links[0].echo()
    splicer.control.close()
    for link in links:
        link.echo(os.urandom(100_000))
    links.pop().close()
    links.pop().close()
    links[0].echo()
    assert splicer.process.poll() is None
    assert splicer.descriptors("socket:") == 2
    links[0].close()
    assert splicer.process.wait(DEADLINE) == 0


def test_what_a_switch_has_asked_before_it_died_is_done() -> None:
    """Even when it has not read all that it was told, which makes its end a reset: unix(7)."""
    splicer = Splicer()
    os.kill(splicer.process.pid, signal.SIGSTOP)
    splicer.ask(b"garbage")
    os.kill(splicer.process.pid, signal.SIGCONT)
    select.select([splicer.control], [], [], DEADLINE)
    os.kill(splicer.process.pid, signal.SIGSTOP)
    links = [Link(splicer) for _ in range(40)]
    splicer.control.close()
    os.kill(splicer.process.pid, signal.SIGCONT)
    for link in links:
        link.echo()
        link.close()
    assert splicer.process.wait(DEADLINE) == 0


def test_without_pairs_it_ends_with_the_switch() -> None:
    splicer = Splicer()
    splicer.control.close()
    assert splicer.process.wait(DEADLINE) == 0


def test_a_switch_that_does_not_read_is_not_waited_for(splicer: Splicer, link: Link) -> None:
    for number in range(3000):
        splicer.ask(REQUEST.pack(99, 0, number))
    others = [Link(splicer) for _ in range(50)]
    for other in others:
        other.echo()
        other.close()
    link.echo(os.urandom(200_000))
    wait_until(splicer.sleeps, "no busy loop")
    assert [splicer.hear_of(number).value for number in range(3000)] == [errno.EPROTO] * 3000
    closed = {splicer.hear() for _ in others}
    assert closed == {Record(CLOSED, 0, other.number, 5, 5) for other in others}
    assert splicer.query() == {link.number: (200_000, 200_000)}


def test_a_switch_that_never_reads_is_heard_no_more_at_some_point(splicer: Splicer, link: Link) -> None:
    splicer.control.setblocking(False)
    asked = 0
    while select.select([], [splicer.control], [], 0.5)[1]:
        for _ in range(100):
            try:
                splicer.ask(REQUEST.pack(99, 0, asked))
            except BlockingIOError:
                break
            asked += 1
        assert asked < 100_000
    wait_until(splicer.sleeps, "no busy loop")
    link.echo()
    splicer.control.settimeout(DEADLINE)
    assert [splicer.hear().id for _ in range(asked)] == list(range(asked))
    assert splicer.query() == {link.number: (5, 5)}


BAD = {
    "empty": (b"", 0),
    "short": (REQUEST.pack(PAIR, 0, 5)[:-1], 2),
    "long": (REQUEST.pack(PAIR, 0, 5) + b"x", 2),
    "unknown": (REQUEST.pack(4, 0, 5), 0),
    "unknown with descriptors": (REQUEST.pack(4, 0, 5), 2),
    "pair of none": (REQUEST.pack(PAIR, 0, 5), 0),
    "pair of one": (REQUEST.pack(PAIR, 0, 5), 1),
    "pair of three": (REQUEST.pack(PAIR, 0, 5), 3),
    "pair of many": (REQUEST.pack(PAIR, 0, 5), 200),
    "query with descriptors": (REQUEST.pack(QUERY, 0, 5), 2),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_request_is_refused(splicer: Splicer, bad: str) -> None:
    packet, count = BAD[bad]
    reader, writer = os.pipe()
    splicer.ask(packet, *[writer] * count)
    os.close(writer)
    record = splicer.hear()
    assert (record.kind, record.value) == (REFUSED, errno.EPROTO)
    assert record.id == (5 if len(packet) >= REQUEST.size else 0) or bad == "short"
    assert os.read(reader, 1) == b""  # the descriptors are closed
    os.close(reader)
    assert splicer.descriptors() == splicer.baseline


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(packet=st.binary(max_size=64), count=st.integers(0, 4))
def test_random_requests_do_no_harm(splicer: Splicer, packet: bytes, count: int) -> None:
    splicer.ask(packet, *[0] * count)
    asked = len(packet) == REQUEST.size and packet.startswith(struct.pack("=I", QUERY)) and count == 0
    assert splicer.hear().kind == (END if asked else REFUSED)
    assert splicer.descriptors() == splicer.baseline


def test_what_is_no_stream_is_refused(splicer: Splicer) -> None:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for error, other in ((errno.ESOCKTNOSUPPORT, datagrams.fileno()), (errno.ENOTSOCK, 0)):
        for swap in (False, True):
            app, near = unix_ends()
            fds = (near.fileno(), other)
            splicer.ask(REQUEST.pack(PAIR, 0, 8), *(reversed(fds) if swap else fds))
            near.close()
            assert splicer.hear() == Record(REFUSED, error, 8, 0, 0)
            assert app.recv(1) == b""
            app.close()
    datagrams.close()
    assert splicer.descriptors() == splicer.baseline


def test_a_socket_that_is_not_connected_ends_with_its_error(splicer: Splicer) -> None:
    app, near = unix_ends()
    number = splicer.pair(near, socket.socket())
    record = splicer.hear_of(number)
    assert (record.kind, record.value) == (CLOSED, errno.ENOTCONN)
    assert app.recv(1) == b""
    app.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(number: signal.Signals) -> None:
    def ignore() -> None:
        signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})

    splicer = Splicer(prepare=ignore)
    link = Link(splicer)
    link.echo()
    splicer.process.send_signal(number)
    assert splicer.process.wait(DEADLINE) == -number
    assert link.remote.recv(1) == b""
    link.close()
    splicer.end()


def test_by_hand_it_says_who_starts_it() -> None:
    done = subprocess.run([SPLICER], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert done.stderr == "ax-splice: it is started by the switch\n"


def test_a_socket_that_lingers_holds_nobody_up(splicer: Splicer, link: Link) -> None:
    """Sent along with an app's bytes it has nobody else: its close(2) would take ten minutes, and everybody's time."""
    hostile = Link(splicer)
    sockets = []
    splicer.process.send_signal(signal.SIGSTOP)  # else it may be faster, and who lingers is this test
    for _ in range(3):
        near, far = tcp_ends()
        fill(near)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
        socket.send_fds(hostile.app, [b"x"], [near.fileno()])
        near.close()
        sockets.append(far)
    splicer.process.send_signal(signal.SIGCONT)
    assert take(hostile.remote, 3) == b"xxx"
    link.echo()
    hostile.close()
    for far in sockets:
        far.close()
    wait_until(splicer.sleeps, "nothing to do")
