"""/proc of this process and of a child."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest

from appswitch import _kernel
from appswitch.kernel import procfs

ME = os.getpid()
NOBODY = 2**22 + 1  # more than any pid: PID_MAX_LIMIT


@pytest.fixture
def pair():  # type: ignore[no-untyped-def]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("cloexec", [True, False])
@pytest.mark.parametrize("blocking", [True, False])
def test_descriptor_flags(pair: tuple[socket.socket, socket.socket], cloexec: bool, blocking: bool) -> None:
    os.set_inheritable(pair[0].fileno(), not cloexec)
    pair[0].setblocking(blocking)
    flags = procfs.descriptor_flags(ME, pair[0].fileno())
    assert bool(flags & procfs.O_CLOEXEC) == cloexec
    assert bool(flags & os.O_NONBLOCK) == (not blocking)
    assert flags & os.O_ACCMODE == os.O_RDWR


def test_flags_of_a_closed_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    number = os.dup(pair[0].fileno())
    os.close(number)
    with pytest.raises(FileNotFoundError):
        procfs.descriptor_flags(ME, number)
    with pytest.raises(FileNotFoundError):
        procfs.descriptor_flags(NOBODY, 0)


def test_numbers_of_a_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    copy = os.dup(pair[0].fileno())
    link = f"socket:[{os.fstat(copy).st_ino}]"
    assert sorted(procfs.numbers_of(ME, link)) == sorted([pair[0].fileno(), copy])
    os.close(copy)
    assert procfs.numbers_of(ME, link) == [pair[0].fileno()]
    assert procfs.numbers_of(ME, "socket:[0]") == []
    assert procfs.numbers_of(NOBODY, link) == []


def test_registrations_of_one_number(pair: tuple[socket.socket, socket.socket]) -> None:
    with select.epoll() as epoll:
        epoll.register(pair[0], select.EPOLLIN | select.EPOLLET)
        epoll.register(pair[1], select.EPOLLOUT)
        ((events, data),) = procfs.registrations(ME, epoll.fileno(), pair[0].fileno())
        assert events & (select.EPOLLIN | select.EPOLLET | select.EPOLLOUT) == select.EPOLLIN | select.EPOLLET
        assert data & 0xFFFFFFFF == pair[0].fileno()
        epoll.unregister(pair[0])
        assert procfs.registrations(ME, epoll.fileno(), pair[0].fileno()) == []


def test_what_is_no_epoll_has_no_registrations(pair: tuple[socket.socket, socket.socket]) -> None:
    assert procfs.registrations(ME, pair[0].fileno(), pair[0].fileno()) == []
    assert procfs.registrations(NOBODY, 0, 0) == []


def test_one_file_may_be_registered_under_two_numbers(pair: tuple[socket.socket, socket.socket]) -> None:
    copy = os.dup(pair[0].fileno())
    try:
        with select.epoll() as epoll:
            epoll.register(pair[0], select.EPOLLIN)
            epoll.register(copy, select.EPOLLOUT)
            ((one, _),) = procfs.registrations(ME, epoll.fileno(), pair[0].fileno())
            ((two, _),) = procfs.registrations(ME, epoll.fileno(), copy)
            assert (one & select.EPOLLIN, two & select.EPOLLIN) == (select.EPOLLIN, 0)
    finally:
        os.close(copy)


def test_the_process_of_a_thread() -> None:
    found: list[tuple[int, int]] = []

    def look() -> None:
        tid = threading.get_native_id()
        found.append((tid, procfs.thread_group(tid)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    ((tid, group),) = found
    assert tid != ME
    assert group == ME


def test_nobody_has_no_process() -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at below
        procfs.thread_group(NOBODY)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("handler", "catches"),
    [
        ("", False),
        ("signal.signal(signal.SIGALRM, lambda *_: None)", True),
        ("signal.signal(signal.SIGRTMAX, lambda *_: None)", True),
        ("signal.signal(signal.SIGALRM, signal.SIG_IGN)", False),
        ("signal.signal(signal.SIGTERM, lambda *_: None)", False),
    ],
)
def test_handlers_of_passing_signals(handler: str, catches: bool) -> None:
    program = f"import signal; {handler}\nprint(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, restore_signals=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        seen = procfs.catches_passing_signals(child.pid)
        child.communicate(b"\n")
    assert child.returncode == 0
    assert seen == catches


def test_a_process_that_is_gone_catches_nothing() -> None:
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL  # but we live
    assert not procfs.catches_passing_signals(NOBODY)


def test_relatives_and_what_they_share() -> None:
    """A child has what its parent had when it was forked, until one of them closes it."""
    reading, writing = os.pipe()
    own = os.open("/dev/null", os.O_RDONLY)
    child = os.fork()
    if not child:
        os.close(own)
        os.write(writing, b"x")
        signal.pause()
    try:
        assert os.read(reading, 1) == b"x"
        assert {child, os.getppid()} <= {*procfs.relatives(os.getpid())}
        assert os.getpid() in procfs.relatives(child)
        assert _kernel.same_file(os.getpid(), reading, child)
        assert not _kernel.same_file(os.getpid(), own, child)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for number in (reading, writing, own):
            os.close(number)
    assert child not in procfs.relatives(os.getpid())
    assert procfs.relatives(child) == []


def test_who_a_process_is() -> None:
    assert procfs.identity(ME) == (os.geteuid(), os.path.realpath("/proc/self/exe"))
    assert procfs.identity(NOBODY) == (-1, "")


@pytest.mark.root
def test_who_has_become_another_user_is_not_root() -> None:
    """setuid(2) makes a process hide its memory, and /proc then says that it is root's: prctl(2), PR_SET_DUMPABLE."""
    told, tell = os.pipe()
    stay, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(12345)
        os.write(tell, b"x")
        os.read(stay, 1)
        os._exit(0)
    try:
        os.read(told, 1)
        assert procfs.identity(child)[0] == 12345
    finally:
        os.write(go, b"x")
        os.waitpid(child, 0)
        for number in (told, tell, stay, go):
            os.close(number)
