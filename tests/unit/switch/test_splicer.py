"""The switch's end of the splicer: a real loop, a real process."""

from __future__ import annotations

import errno
import mmap
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.waiting import wait_until

from appswitch._kernel import Fd, Reflex, Sock
from appswitch.switch import splicer as module
from appswitch.switch.loop import Loop
from appswitch.switch.splicer import Pair, Splicer, binary

DEADLINE = 20  # seconds


@pytest.fixture
def loop() -> Iterator[Loop]:
    with mmap.mmap(-1, 80) as journal:
        one = Loop(Reflex({}, Sock, {}), journal)
        one.after(DEADLINE, lambda: pytest.fail("the loop was not stopped"))
        yield one
        one.close()


class Owned(Splicer):
    """A splicer, and what it has told."""

    def __init__(self, loop: Loop, path: str | None = None) -> None:
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.closed: list[tuple[int, int, int, int]] = []
        super().__init__(loop, path or binary(), lambda event, **fields: self.logged.append((event, fields)))
        self.on_closed = lambda *what: self.closed.append(what)
        self.pids: set[int] = set()

    def pair(self, info: object, unix: Fd, tcp: Fd) -> int:
        number = super().pair(info, unix, tcp)
        self.pids.add(self.pid)
        return number


@pytest.fixture
def splicer(loop: Loop) -> Iterator[Owned]:
    one = Owned(loop)
    yield one
    pids = one.pids | {one.pid} - {0}
    one.close()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGCONT)
            os.waitpid(pid, 0)  # without pairs, a process ends
        except (ProcessLookupError, ChildProcessError):
            continue  # reaped by the splicer


class Ends:
    """An app and a remote server; what the switch has of the connection between them."""

    def __init__(self) -> None:
        self.app, near = socket.socketpair()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            far = socket.create_connection(listener.getsockname())
            self.remote, _ = listener.accept()
        for one in (self.app, self.remote):
            one.settimeout(DEADLINE)
        self.given = Fd(near.detach()), Fd(far.detach())

    def close(self) -> None:
        self.app.close()
        self.remote.close()

    def echo(self, message: bytes = b"hello") -> None:
        for one, other in ((self.app, self.remote), (self.remote, self.app)):
            one.sendall(message)
            assert other.recv(len(message), socket.MSG_WAITALL) == message


@pytest.fixture
def ends() -> Iterator[Callable[[], Ends]]:
    made: list[Ends] = []

    def make() -> Ends:
        made.append(Ends())
        return made[-1]

    yield make
    for one in made:
        one.close()


def turn(loop: Loop, condition: Callable[[], object]) -> None:
    """Run the loop until something is so."""

    def look() -> None:
        if condition():
            loop.stop()
        else:
            loop.after(0.005, look)

    look()
    if not condition():
        loop.run()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK", 0.01)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


MakeEnds = Callable[[], Ends]


def queue_pairs(splicer: Splicer, ends: MakeEnds) -> dict[int, Ends]:
    """Made until some wait because a process that was stopped does not read."""
    made: dict[int, Ends] = {}
    while len(splicer._queue) < 20:
        one = ends()
        made[splicer.pair(None, *one.given)] = one
    return made


def test_a_pair_from_its_beginning_to_its_end(loop: Loop, splicer: Owned, ends: MakeEnds) -> None:
    assert splicer.pid == 0
    one = ends()
    number = splicer.pair("whatever", *one.given)
    assert splicer.rows() == [Pair(number, "whatever", 0, 0)]
    assert (len(splicer), splicer.spliced_total) == (1, 1)
    one.echo()
    one.app.sendall(b"more")
    assert one.remote.recv(4, socket.MSG_WAITALL) == b"more"
    one.close()
    turn(loop, lambda: splicer.closed)
    assert splicer.closed == [(number, 9, 5, 0)]
    assert (len(splicer), splicer.spliced_total, splicer.spliced_bytes) == (0, 1, 14)
    assert splicer.rows() == []


def test_descriptors_are_given_away(loop: Loop, splicer: Owned, ends: MakeEnds) -> None:
    one = ends()
    splicer.pair(None, *one.given)
    for fd in one.given:
        with pytest.raises(ValueError, match="closed"):
            fd.fileno()
    one.remote.close()
    assert one.app.recv(1) == b""  # nobody holds a copy


def test_the_process_is_shared_and_inherits_nothing(splicer: Owned, ends: MakeEnds) -> None:
    first, second = ends(), ends()
    splicer.pair(1, *first.given)
    splicer.pair(2, *second.given)
    first.echo()
    second.echo()
    (pid,) = splicer.pids
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    assert sorted(link.partition(":")[0] for link in links) == [*["/dev/null"] * 3, "anon_inode", *["socket"] * 5]
    assert os.getsid(pid) == pid


def test_bytes_are_asked_for_now_and_then(loop: Loop, often: None, splicer: Owned, ends: MakeEnds) -> None:
    one, other = ends(), ends()
    number, quiet = splicer.pair("one", *one.given), splicer.pair("other", *other.given)
    one.echo(b"x" * 1000)
    turn(loop, lambda: splicer.spliced_bytes)
    assert splicer.rows() == [Pair(number, "one", 1000, 1000), Pair(quiet, "other", 0, 0)]
    one.app.sendall(b"y")
    turn(loop, lambda: splicer.rows()[0].up == 1001)
    assert splicer.spliced_bytes == 2001
    assert one.remote.recv(1) == b"y"
    one.close()
    turn(loop, lambda: splicer.closed)
    assert splicer.spliced_bytes == 2001


def test_without_pairs_nothing_is_asked(loop: Loop, often: None, splicer: Owned, ends: MakeEnds) -> None:
    one = ends()
    splicer.pair(None, *one.given)
    turn(loop, lambda: splicer._unanswered)
    one.close()
    turn(loop, lambda: splicer.closed and not splicer._unanswered)
    turn(loop, lambda: splicer._timer is None)


def test_an_error_is_told(loop: Loop, splicer: Owned, ends: MakeEnds) -> None:
    one = ends()
    number = splicer.pair(None, *one.given)
    one.remote.sendall(b"unread")
    select.select([one.app], [], [], DEADLINE)
    one.app.close()
    turn(loop, lambda: splicer.closed)
    assert splicer.closed == [(number, 0, 6, errno.ECONNRESET)]


def test_a_pair_that_is_refused_is_closed(loop: Loop, splicer: Owned, ends: MakeEnds) -> None:
    one = ends()
    number = splicer.pair(None, one.given[0], Fd(os.open(os.devnull, os.O_RDONLY)))
    turn(loop, lambda: splicer.closed)
    assert splicer.closed == [(number, 0, 0, errno.ENOTSOCK)]
    assert one.app.recv(1) == b""


def test_more_pairs_than_the_process_can_be_told_of_at_once(loop: Loop, splicer: Owned, ends: MakeEnds) -> None:
    first = ends()
    splicer.pair(0, *first.given)
    first.echo()
    os.kill(splicer.pid, signal.SIGSTOP)
    others = queue_pairs(splicer, ends)
    os.kill(splicer.pid, signal.SIGCONT)
    turn(loop, lambda: not splicer._queue)
    for other in others.values():
        other.echo()
        other.close()
    turn(loop, lambda: len(splicer.closed) == len(others))
    assert sorted(splicer.closed) == [(number, 5, 5, 0) for number in others]
    assert loop._watched
    assert splicer._process is not None
    assert not splicer._process._wants_to_send


def test_a_process_that_does_not_read_gets_so_many_and_no_more(
    loop: Loop, splicer: Owned, ends: MakeEnds, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ends()
    splicer.pair(None, *first.given)
    first.echo()
    os.kill(splicer.pid, signal.SIGSTOP)
    waiting = queue_pairs(splicer, ends)
    monkeypatch.setattr(module, "QUEUE", len(splicer._queue))
    one = ends()
    with pytest.raises(OSError, match="does not read") as refused:
        splicer.pair(None, *one.given)
    assert refused.value.errno == errno.ENOBUFS
    assert len(splicer) == len(waiting) + 1
    assert one.app.recv(1) == b"", "it is closed"


def test_when_the_process_dies_its_pairs_are_lost_and_others_go_on(loop: Loop, splicer: Owned, ends: MakeEnds) -> None:
    lost = ends()
    number = splicer.pair("lost", *lost.given)
    lost.echo()
    pid = splicer.pid
    os.kill(pid, signal.SIGKILL)
    turn(loop, lambda: splicer.closed)
    assert splicer.closed == [(number, 0, 0, errno.ECONNABORTED)]
    assert lost.app.recv(1) == b""
    assert splicer.logged == [("the splicer ended", {"pid": pid, "status": -signal.SIGKILL, "pairs": 1})]
    assert splicer.pid == 0
    with pytest.raises(ChildProcessError):  # it was reaped
        os.waitpid(pid, os.WNOHANG)
    again = ends()
    splicer.pair("again", *again.given)
    again.echo()
    assert splicer.pid not in (0, pid)
    assert [pair.info for pair in splicer.rows()] == ["again"]


def test_what_it_said_before_it_died_counts(loop: Loop, often: None, splicer: Owned, ends: MakeEnds) -> None:
    one, other = ends(), ends()
    first, second = splicer.pair(1, *one.given), splicer.pair(2, *other.given)
    other.echo()
    turn(loop, lambda: splicer.rows()[1].up == 5)
    one.echo()
    one.close()
    pid = splicer.pid
    place = Path(f"/proc/{pid}/fd")
    wait_until(lambda: sum("socket:" in str(link.readlink()) for link in place.iterdir()) == 3, "the pair has ended")
    os.kill(pid, signal.SIGSTOP)
    for _ in range(3):
        splicer._ask()  # so that it dies with something unread
        splicer._unanswered = False
    os.kill(pid, signal.SIGKILL)
    turn(loop, lambda: len(splicer.closed) == 2)
    assert splicer.closed == [(first, 5, 5, 0), (second, 5, 5, errno.ECONNABORTED)]
    assert splicer.spliced_bytes == 20


def test_pairs_that_the_dead_process_was_not_told_of_go_to_the_next(loop: Loop, splicer: Owned, ends: MakeEnds) -> None:
    first = ends()
    splicer.pair(0, *first.given)
    first.echo()
    pid = splicer.pid
    os.kill(pid, signal.SIGSTOP)
    others = queue_pairs(splicer, ends)
    waiting = len(splicer._queue)
    os.kill(pid, signal.SIGKILL)
    turn(loop, lambda: splicer.pid not in (0, pid) and not splicer._queue)
    splicer.pids.add(splicer.pid)
    assert [number for number, *_ in splicer.closed] == [1, *list(others)[:-waiting]]
    assert {error for *_, error in splicer.closed} == {errno.ECONNABORTED}
    for other in list(others.values())[-waiting:]:
        other.echo()


def test_a_callback_may_make_another_pair(loop: Loop, splicer: Owned, ends: MakeEnds) -> None:
    one, other = ends(), ends()
    splicer.on_closed = lambda *_: splicer.pair("instead", *other.given)
    splicer.pair("first", *one.given)
    os.kill(splicer.pid, signal.SIGKILL)
    turn(loop, lambda: [pair.info for pair in splicer.rows()] == ["instead"])
    other.echo()
    splicer.on_closed = lambda *_: None


def test_a_process_that_cannot_be_started(loop: Loop, ends: MakeEnds, tmp_path: Path) -> None:
    splicer, one = Owned(loop, str(tmp_path / "none")), ends()
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        splicer.pair(None, *one.given)
    assert one.app.recv(1) == b""
    assert descriptors() == before - 2
    assert (len(splicer), splicer.spliced_total, splicer.closed) == (0, 0, [])


def test_a_process_that_ends_at_once(loop: Loop, ends: MakeEnds) -> None:
    splicer, one = Owned(loop, "/bin/true"), ends()
    number = splicer.pair(None, *one.given)
    turn(loop, lambda: splicer.closed)
    assert splicer.closed == [(number, 0, 0, errno.ECONNABORTED)]
    assert splicer.pid == 0


def test_another_version_is_ended(loop: Loop, ends: MakeEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERSION", 2)
    splicer, one = Owned(loop), ends()
    number = splicer.pair(None, *one.given)
    turn(loop, lambda: splicer.closed)
    assert splicer.closed == [(number, 0, 0, errno.ECONNABORTED)]
    assert splicer.logged[0] == ("the splicer is of another version", {"version": 1, "wanted": 2})


def test_pairs_outlive_the_switch(loop: Loop, splicer: Owned, ends: MakeEnds) -> None:
    one = ends()
    before = descriptors()
    splicer.pair(None, *one.given)
    one.echo()
    splicer.close()
    assert descriptors() == before - 2
    assert not loop._watched
    one.echo()
    assert (len(splicer), splicer.pid, splicer.closed) == (0, 0, [])


def test_much_while_the_loop_runs(loop: Loop, often: None, splicer: Owned, ends: MakeEnds) -> None:
    many = [ends() for _ in range(20)]
    data = os.urandom(1 << 20)
    got: dict[int, bool] = {}

    def write(end: socket.socket) -> None:
        end.sendall(data)
        end.shutdown(socket.SHUT_WR)

    def read(number: int, end: socket.socket) -> None:
        got[number] = b"".join(iter(lambda: end.recv(1 << 16), b"")) == data

    for one in many:
        splicer.pair(None, *one.given)
    work = [(write, (end,)) for one in many for end in (one.app, one.remote)]
    work += [(read, (n, end)) for n, end in enumerate(end for one in many for end in (one.app, one.remote))]
    threads = [threading.Thread(target=what, args=arguments) for what, arguments in work]
    for thread in threads:
        thread.start()
    turn(loop, lambda: len(splicer.closed) == 20)
    for thread in threads:
        thread.join(DEADLINE)
    assert got == dict.fromkeys(range(40), True)
    assert {closed[1:] for closed in splicer.closed} == {(1 << 20, 1 << 20, 0)}
    assert splicer.spliced_bytes == 40 << 20
