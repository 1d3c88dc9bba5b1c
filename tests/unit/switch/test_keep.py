"""What is given to the keeper, and what comes back from it: sd_notify(3), sd_listen_fds(3)."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from harness.waiting import wait_until

from appswitch import parent
from appswitch._kernel import Fd, Reflex, Sock
from appswitch.model import AppSpec
from appswitch.switch import keep as module
from appswitch.switch.apps import Origin
from appswitch.switch.keep import Keep, _sealed, recovered
from appswitch.switch.loop import Loop

SPEC = AppSpec(id=0xABC, uid=1000, gid=1000, node="n", cluster="c", command=("sleep", "1"), created=1.5)
ORIGIN = Origin(pid=12, started="34", attached=5.5)


@pytest.fixture
def loop() -> Iterator[Loop]:
    with mmap.mmap(-1, 80) as journal:
        one = Loop(Reflex({}, Sock, {}), journal)
        one.after(20, lambda: pytest.fail("the loop was not stopped"))
        yield one
        one.close()


class Keeper:
    """The other end of $NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def receive(self) -> tuple[str, list[Fd]]:
        message, fds, _, _ = socket.recv_fds(self.socket, 4096, 8)
        return message.decode(), [Fd(fd) for fd in fds]

    def empty(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    one = Keeper(tmp_path / "n")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
    yield one
    one.socket.close()


@pytest.fixture
def keep(loop: Loop, keeper: Keeper) -> Iterator[Keep]:
    one = Keep(loop)
    yield one
    assert one._socket is not None
    one._socket.close()


def listener() -> Fd:
    return Fd(os.open("/dev/null", os.O_RDONLY))


def test_without_a_keeper_nothing_is_kept(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    keep = Keep(loop)
    keep.ready()
    keep.app(SPEC, ORIGIN, listener())
    assert not keep._queue


def test_ready(keep: Keep, keeper: Keeper) -> None:
    keep.ready()
    assert keeper.receive() == ("READY=1", [])


def test_an_app_is_kept_with_its_notifier_and_what_it_asked_for(keep: Keep, keeper: Keeper) -> None:
    given = listener()
    keep.app(SPEC, ORIGIN, given)
    given.close()
    message, (spec,) = keeper.receive()
    assert message == "FDSTORE=1\nFDNAME=spec-00000abc"
    assert msgspec.msgpack.decode(os.pread(spec.fileno(), 4096, 0), type=AppSpec) == SPEC
    with pytest.raises(PermissionError):
        os.pwrite(spec.fileno(), b"x", 0)
    assert fcntl.fcntl(spec.fileno(), fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL
    message, (notifier,) = keeper.receive()
    assert message == "FDSTORE=1\nFDNAME=app-00000abc"
    assert Path(f"/proc/self/fd/{notifier.fileno()}").readlink() == Path("/dev/null")
    assert keeper.empty()


def test_the_namespace_of_an_app_is_kept_before_it(keep: Keep, keeper: Keeper) -> None:
    keep.app(SPEC, ORIGIN, listener(), (listener(), listener()))
    names = [keeper.receive()[0] for _ in range(4)]
    assert names == [
        "FDSTORE=1\nFDPOLL=0\nFDNAME=net-00000abc",
        "FDSTORE=1\nFDPOLL=0\nFDNAME=user-00000abc",
        "FDSTORE=1\nFDNAME=spec-00000abc",
        "FDSTORE=1\nFDNAME=app-00000abc",
    ]


def test_an_app_is_forgotten(keep: Keep, keeper: Keeper) -> None:
    keep.forget_app("00000abc")
    assert keeper.receive() == ("FDSTOREREMOVE=1\nFDNAME=app-00000abc", [])
    assert keeper.receive() == ("FDSTOREREMOVE=1\nFDNAME=spec-00000abc", [])
    assert keeper.receive() == ("FDSTOREREMOVE=1\nFDNAME=net-00000abc", [])
    assert keeper.receive() == ("FDSTOREREMOVE=1\nFDNAME=user-00000abc", [])


def test_the_journal_is_kept_without_a_look_at_its_state(keep: Keep, keeper: Keeper) -> None:
    keep.record("journal", listener())
    message, fds = keeper.receive()
    assert message == "FDSTORE=1\nFDPOLL=0\nFDNAME=journal"
    assert len(fds) == 1


def test_another_keeper_is_told_everything_again(
    loop: Loop, keep: Keep, keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one dies: another is started, and what is kept at that time goes to it."""
    started = list[int]()
    monkeypatch.setattr(parent, "start_keeper", lambda _spawn: started.append(1) or 0)
    monkeypatch.setenv("AX_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("AX_KEEPER_PID", "1")
    (tmp_path / "daemon.pid").write_text(f"{os.getpid()}\n")
    dies = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (tmp_path / "daemon.pid").write_text(f"{dies.pid}\n")
    given, other, door = listener(), listener(), listener()
    keep.ready()
    keep.app(SPEC, ORIGIN, given)
    keep.listener("door-1-inside", other)
    keep.listener("door-2-inside", door)
    keep.forget("door-1-inside")
    other.close()
    keep.watch()
    keeper.socket.close()
    (tmp_path / "n").unlink()
    dies.communicate(b"\n")
    (tmp_path / "daemon.pid").write_text(f"{os.getpid()}\n")
    keep.forget_app("00000def")  # to nobody
    successor = list[Keeper]()
    heard = list[str]()

    def look() -> None:
        if started and not successor:
            successor.append(Keeper(tmp_path / "n"))
        while successor and not successor[0].empty():
            said = successor[0].receive()[0].split("\n")[-1]
            heard.extend([said] if said else [])  # what says nothing asks whether anybody is there
        loop.stop() if len(heard) == 4 else loop.after(0.005, look)

    loop.after(0, look)
    loop.run()
    assert heard == ["READY=1", "FDNAME=spec-00000abc", "FDNAME=app-00000abc", "FDNAME=door-2-inside"]
    assert started == [1]
    assert keep._pidfd is not None
    loop.unwatch(keep._pidfd)
    keep._pidfd.close()
    successor[0].socket.close()


@pytest.mark.parametrize("heard", [True, False], ids=["hears us", "does not hear us"])
def test_a_keeper_that_is_another_by_now_is_told_everything(
    loop: Loop, keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """Who has started us died before it was watched, and the pid file names its successor, who has nothing of ours."""
    monkeypatch.setattr(parent, "start_keeper", lambda _spawn: 0)
    monkeypatch.setenv("AX_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("AX_KEEPER_PID", "1" if heard else str(os.getpid()))
    (tmp_path / "daemon.pid").write_text(f"{os.getpid()}\n")
    keep = Keep(loop)
    kept = listener()
    keep.again("door-1-inside", kept)
    if not heard:
        keeper.socket.close()
        (tmp_path / "n").unlink()
        keeper = Keeper(tmp_path / "n")
    keep.watch()
    loop.watch(keeper.socket.fileno(), select.EPOLLIN, lambda _events: loop.stop())
    loop.run()
    told = []
    while not keeper.empty():
        told.append(keeper.receive()[0].split("\n")[-1])
    assert told == ["", "FDNAME=door-1-inside"]
    for fd in (keep._pidfd, keep._socket):
        assert fd is not None
        loop.unwatch(fd.fileno())
        fd.close()
    keeper.socket.close()


def test_a_slow_keeper_gets_everything_in_order_later(keep: Keep, keeper: Keeper, loop: Loop) -> None:
    for number in range(200):
        keep.forget_app(f"{number:08x}")
    assert keep._queue
    heard: list[str] = []

    def listen(_events: int) -> None:
        heard.append(keeper.receive()[0])
        if len(heard) == 800:
            loop.stop()

    loop.watch(keeper.socket.fileno(), select.EPOLLIN, listen)
    loop.run()
    kinds = ("app", "spec", "net", "user")
    assert heard == [f"FDSTOREREMOVE=1\nFDNAME={kind}-{n:08x}" for n in range(200) for kind in kinds]
    assert not keep._queue
    keep.ready()  # at once, again
    assert keeper.receive() == ("READY=1", [])


def test_a_keeper_that_is_gone_is_not_missed(keep: Keep, keeper: Keeper) -> None:
    keeper.socket.close()
    keep.ready()
    keep.app(SPEC, ORIGIN, listener())
    assert not keep._queue


# --- what comes back ------------------------------------------------------------------------------------------------

SUCCESSOR = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
from appswitch.switch.keep import recovered
kept = recovered()
def link(fd):
    return os.readlink(f"/proc/self/fd/{fd.fileno()}")
print([(spec.appid, spec.command, tuple(origin), link(fd), len(home)) for spec, origin, fd, home in kept.apps])
print(kept.journal is not None and os.pread(kept.journal.fileno(), 10, 0))
print(sorted(kept.orphans))
print([name for name in os.environ if name.startswith("LISTEN_")])
def inherited(fd):
    try:
        return os.get_inheritable(fd)
    except OSError:
        return None
print([inherited(fd) for fd in range(3, 3 + int(sys.argv[2]))])
"""


def memory(data: bytes) -> Fd:
    fd = Fd(os.memfd_create("test"))
    os.write(fd.fileno(), data)
    return fd


def successor(kept: list[tuple[str, Fd]], other_pid: int = 0) -> list[str]:
    """What a process that gets these descriptors recovers: a line for each print of it."""
    names = ":".join(name for name, _ in kept)
    high = [Fd(fcntl.fcntl(fd.fileno(), fcntl.F_DUPFD, 100)) for _, fd in kept]
    moves = " ".join(f"{3 + n}<&{fd.fileno()} {fd.fileno()}<&-" for n, fd in enumerate(high))
    done = subprocess.run(
        [
            "/bin/bash",
            "-c",
            f'exec "$@" {moves}',
            "sh",
            sys.executable,
            "-c",
            SUCCESSOR,
            str(other_pid),
            str(len(kept)),
        ],
        env={**os.environ, "LISTEN_FDS": str(len(kept)), "LISTEN_FDNAMES": names},
        pass_fds=[fd.fileno() for fd in high],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_successor_gets_back_what_was_kept() -> None:
    of_an_older_version = memory(msgspec.msgpack.encode(msgspec.structs.replace(SPEC, id=1)))
    other = msgspec.structs.replace(SPEC, id=0xDEF, command=("true",))
    apps, journal, orphans, environment, inheritable = successor(
        [
            ("spec-00000abc", _sealed(SPEC, ORIGIN)),
            ("journal", memory(b"some calls")),
            ("app-00000abc", listener()),
            ("spec-00000def", memory(msgspec.msgpack.encode(other))),
            ("app-00000123", listener()),
            ("net-00000abc", listener()),
            ("spec-00000001", of_an_older_version),
            ("app-00000001", listener()),
        ]
    )
    assert apps == str(
        [
            ("00000abc", ("sleep", "1"), tuple(ORIGIN), "/dev/null", 1),
            ("00000001", ("sleep", "1"), (0, "", 0.0), "/dev/null", 0),
        ]
    )
    assert journal == "b'some calls'"
    assert orphans == "['00000123', '00000def']"
    assert environment == "[]"
    # An app's spec was read; what belongs to nobody is closed, too. The rest is not inherited by programs.
    assert inheritable == "[None, False, False, None, None, False, None, False]"


def test_descriptors_for_another_process_are_not_touched() -> None:
    apps, journal, orphans, _, inheritable = successor([("journal", memory(b"some calls"))], other_pid=1)
    assert (apps, journal, orphans) == ("[]", "False", "[]")
    assert inheritable == "[True]"


def test_nothing_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert recovered()[:5] == ([], None, [], None, {})
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "0")
    monkeypatch.setenv("LISTEN_FDNAMES", "")
    assert recovered()[:5] == ([], None, [], None, {})
    assert "LISTEN_PID" not in os.environ


def test_a_keeper_that_does_not_read_costs_so_many_messages_and_no_more(
    loop: Loop, keep: Keep, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE", 8)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not read
    for _ in range(1000):
        keep.app(SPEC, ORIGIN, Fd(os.open("/dev/null", os.O_RDONLY)))
        keep.forget_app(SPEC.appid)
    assert len(keep._queue) == 8
    # Closed by other threads where a test before has started them: native/kernel/patience.c.
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 8, "the others to be closed")  # noqa: PTH208

    def drain(_events: int) -> None:
        keeper.receive()
        if not keep._queue and keeper.empty():
            loop.stop()

    loop.watch(keeper.socket.fileno(), select.EPOLLIN, drain)
    loop.run()
    keep.ready()
    assert keeper.receive() == ("READY=1", [])
