"""appswitch._kernel, without a notification: what needs one is tried by the conformance tests."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.descriptors import is_open

from appswitch import _kernel
from appswitch._kernel import Fd, Reflex, Sock
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.kernel.procfs import registrations
from appswitch.switch import naming

ME = os.getpid()
ADD, DEL = 1, 2
UNIX, INET, INET6, STREAM = (int(n) for n in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM))
LISTEN, ALL = 1 << 10, 0xFFF
NOBODY = 2**22 + 1  # more than any pid
DEADLINE = 20  # seconds that something which must not wait may take before it is stopped


def abstract() -> bytes:
    return b"\0appswitch-test-" + secrets.token_hex(8).encode()


def listening(name: bytes, backlog: int = 5) -> Fd:
    """A blocking one."""
    fd = _kernel.socket(UNIX, STREAM, 0)
    assert _kernel.bind_unix(fd, name) == 0
    assert _kernel.listen(fd, backlog) == 0
    return fd


@contextmanager
def no_waiting() -> Iterator[None]:
    """A call that waits is interrupted, and fails."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    rest = signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *rest)
        signal.signal(signal.SIGALRM, before)


# --- Fd -------------------------------------------------------------------------------------------------------------


def test_a_descriptor_is_closed_once() -> None:
    fd = Fd(os.dup(0))
    number = fd.fileno()
    fd.close()
    assert not is_open(number)
    other = os.open("/dev/null", os.O_RDONLY)
    assert os.dup2(other, number) == number  # somebody else has the number now
    fd.close()
    del fd
    assert is_open(number)
    os.close(number)
    if other != number:
        os.close(other)


def test_a_descriptor_is_closed_when_its_object_goes() -> None:
    fd = Fd(os.dup(0))
    number = fd.fileno()
    assert is_open(number)
    del fd
    assert not is_open(number)


def test_a_descriptor_that_was_detached_is_not_closed() -> None:
    fd = Fd(os.dup(0))
    number = fd.detach()
    with pytest.raises(ValueError, match="the descriptor is closed"):
        fd.fileno()
    fd.close()
    del fd
    assert is_open(number)
    os.close(number)


def test_a_closed_descriptor_is_good_for_nothing() -> None:
    fd = _kernel.socket(UNIX, STREAM, 0)
    fd.close()
    for use in (fd.fileno, fd.detach, lambda: _kernel.cookie(fd), lambda: _kernel.listen(fd, 1)):
        with pytest.raises(ValueError, match="the descriptor is closed"):
            use()


@pytest.mark.parametrize("number", [-1, -(2**31)])
def test_no_descriptor_is_negative(number: int) -> None:
    with pytest.raises(ValueError, match="not negative"):
        Fd(number)
    with pytest.raises(ValueError, match="not a descriptor"):
        _kernel.cookie(number)


@pytest.mark.parametrize("bad", [None, "3", 2**40, 2**70, 1.5])
def test_what_is_no_descriptor_is_refused(bad: object) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        _kernel.cookie(bad)  # type: ignore[arg-type]


def test_a_descriptor_knows_its_number() -> None:
    fd = Fd(os.dup(0))
    assert repr(fd) == f"<Fd {fd.fileno()}>"
    fd.close()
    assert repr(fd) == "<Fd -1>"


FUNCTIONS = [name for name in dir(_kernel) if callable(getattr(_kernel, name)) and name[0].islower()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_counts_its_arguments(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name} takes \d+ arguments, 12 given$"):
        getattr(_kernel, name)(*[0] * 12)


def test_the_stub_names_what_there_is() -> None:
    import ast

    stub = Path(__file__).parents[3] / "src" / "appswitch" / "_kernel.pyi"
    told = {node.name for node in ast.parse(stub.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert told == set(FUNCTIONS)


# --- sockets --------------------------------------------------------------------------------------------------------


def test_sockets_are_not_inherited_by_programs() -> None:
    with_flags = _kernel.socket(UNIX, STREAM | int(socket.SOCK_NONBLOCK), 0)
    assert not os.get_inheritable(with_flags.fileno())
    assert _kernel.status_flags(with_flags) == os.O_RDWR | os.O_NONBLOCK
    with pytest.raises(OSError, match=os.strerror(errno.EAFNOSUPPORT)):
        _kernel.socket(255, STREAM, 0)


def test_status_flags_are_set() -> None:
    fd = _kernel.socket(UNIX, STREAM, 0)
    assert _kernel.status_flags(fd) == os.O_RDWR
    assert _kernel.set_status_flags(fd, os.O_NONBLOCK) == 0
    assert _kernel.status_flags(fd) == os.O_RDWR | os.O_NONBLOCK


def test_a_socket_has_one_cookie_whatever_its_number() -> None:
    fd, other = _kernel.socket(UNIX, STREAM, 0), _kernel.socket(UNIX, STREAM, 0)
    copy = Fd(os.dup(fd.fileno()))
    assert _kernel.cookie(copy) == _kernel.cookie(fd) > 0
    assert _kernel.cookie(other) != _kernel.cookie(fd)
    with open("/dev/null") as null:  # noqa: PTH123 - a descriptor is wanted
        assert _kernel.cookie(null.fileno()) == -errno.ENOTSOCK


def test_errors_of_calls_are_values() -> None:
    fd = _kernel.socket(UNIX, STREAM, 0)
    assert _kernel.getpeername(fd) == errno.ENOTCONN
    assert _kernel.getsockname(0 if not is_socket(0) else 1) == errno.ENOTSOCK
    assert _kernel.accept(_kernel.socket(UNIX, int(socket.SOCK_DGRAM), 0)) in (errno.EAGAIN, errno.EOPNOTSUPP)
    assert _kernel.shutdown(fd, 9) == errno.EINVAL
    assert _kernel.send(fd, b"x", int(socket.MSG_NOSIGNAL)) == -errno.ENOTCONN
    assert _kernel.getsockopt(fd, 1, 9999, 4) == errno.ENOPROTOOPT
    assert _kernel.setsockopt(fd, 1, 2, b"\1") == errno.EINVAL
    assert _kernel.bind(fd, b"\1\0" + bytes(200)) == errno.EINVAL


def is_socket(number: int) -> bool:
    return _kernel.cookie(number) >= 0


def test_names_longer_than_sun_path_are_our_own_mistake() -> None:
    fd = _kernel.socket(UNIX, STREAM, 0)
    assert _kernel.bind_unix(fd, b"\0" + secrets.token_hex(53).encode() + b"x") == 0
    for call in (
        lambda: _kernel.bind_unix(fd, bytes(109)),
        lambda: _kernel.connect_unix(fd, b"", bytes(109)),
        lambda: _kernel.connect_unix(fd, bytes(109), b""),
        lambda: _kernel.join(0, 0, fd, 0, bytes(109), b"", 0),
    ):
        with pytest.raises(ValueError, match="name too long"):
            call()


def test_options_are_read_and_set() -> None:
    fd = _kernel.socket(INET, STREAM, 0)
    assert _kernel.getsockopt(fd, 6, 1, 4) == bytes(4)
    assert _kernel.setsockopt(fd, 6, 1, struct.pack("i", 1)) == 0
    assert _kernel.getsockopt(fd, 6, 1, 4) == struct.pack("i", 1)
    assert _kernel.getsockopt(fd, 6, 1, 2) == b"\1\0"
    assert _kernel.getsockopt(fd, 6, 1, 0) == _kernel.getsockopt(fd, 6, 1, -5) == b""


def test_a_connection_and_its_names() -> None:
    name, own = abstract(), abstract()
    server, client = listening(name), _kernel.socket(UNIX, STREAM, 0)
    assert _kernel.connect_unix(client, own, name) == 0
    accepted = _kernel.accept(server)
    assert not isinstance(accepted, int)
    connection, peer = accepted
    assert sockaddr.unix_name(peer) == own
    for fd, mine, theirs in ((client, own, name), (connection, name, own)):
        raw, other = _kernel.getsockname(fd), _kernel.getpeername(fd)
        assert not isinstance(raw, int)
        assert not isinstance(other, int)
        assert (sockaddr.unix_name(raw), sockaddr.unix_name(other)) == (mine, theirs)
    assert os.get_inheritable(connection.fileno()), "by that it is known for ours: switch/estate.py"
    assert _kernel.status_flags(connection) == os.O_RDWR
    assert _kernel.send(client, b"hello", 0) == 5
    assert os.read(connection.fileno(), 9) == b"hello"


def test_connecting_without_a_name() -> None:
    name = abstract()
    server, client = listening(name), _kernel.socket(UNIX, STREAM, 0)
    assert _kernel.connect_unix(client, b"", name) == 0
    accepted = _kernel.accept(server)
    assert not isinstance(accepted, int)
    assert sockaddr.unix_name(accepted[1]) == b""


def test_a_name_that_is_taken() -> None:
    name = abstract()
    server, client = listening(name), _kernel.socket(UNIX, STREAM, 0)
    assert _kernel.connect_unix(client, name, name) == errno.EADDRINUSE
    assert _kernel.join(0, 0, client, os.O_RDWR, name, name, 0) == errno.EADDRINUSE
    assert _kernel.accept(server) == errno.EAGAIN


def test_accept_never_waits_on_a_blocking_file() -> None:
    server = listening(abstract())
    with no_waiting():
        assert _kernel.accept(server) == errno.EAGAIN
    assert _kernel.status_flags(server) == os.O_RDWR


def test_accept_after_shutdown() -> None:
    server = listening(abstract())
    assert not _kernel.is_shut(server)
    _kernel.shutdown(server, socket.SHUT_RD)
    with no_waiting():
        assert _kernel.accept(server) == errno.EINVAL
    assert _kernel.is_shut(server)


def test_connect_never_waits_for_a_full_queue() -> None:
    name = abstract()
    server = listening(name, backlog=0)
    first, second, third = (_kernel.socket(UNIX, STREAM, 0) for _ in range(3))
    raw = UNIX.to_bytes(2, "little") + name
    with no_waiting():
        assert _kernel.connect(first, raw) == 0
        assert _kernel.connect(second, raw) == errno.EAGAIN
        assert _kernel.connect_unix(second, b"", name) == errno.EAGAIN
        assert _kernel.join(0, 0, third, os.O_RDWR, abstract(), name, 0) == errno.EAGAIN
    assert [_kernel.status_flags(fd) for fd in (first, second, third)] == [os.O_RDWR] * 3
    assert not isinstance(_kernel.accept(server), int)


def test_connect_to_nobody() -> None:
    client = _kernel.socket(UNIX, STREAM, 0)
    assert _kernel.connect_unix(client, b"", abstract()) == errno.ECONNREFUSED
    assert _kernel.connect_unix(client, b"", b"/nonexistent/path") == errno.ENOENT


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_NONBLOCK])
def test_join_without_a_reply_connects_and_leaves_everything_else(flags: int) -> None:
    name, own = abstract(), abstract()
    server, client = listening(name), _kernel.socket(UNIX, STREAM, 0)
    _kernel.set_status_flags(client, flags)
    assert _kernel.join(0, 0, client, flags, own, name, 0) == 0
    assert _kernel.status_flags(client) == flags
    accepted = _kernel.accept(server)
    assert not isinstance(accepted, int)
    assert sockaddr.unix_name(accepted[1]) == own
    assert _kernel.send(client, b"x", 0) == 1


def test_a_join_whose_caller_is_gone_closes_its_descriptor() -> None:
    name = abstract()
    server, client = listening(name), _kernel.socket(UNIX, STREAM, 0)
    assert _kernel.join(server, 1, client, os.O_RDWR, abstract(), name, 1) == -1
    with pytest.raises(ValueError, match="closed"):
        client.fileno()
    accepted = _kernel.accept(server)
    assert not isinstance(accepted, int)
    assert os.read(accepted[0].fileno(), 1) == b""


def test_what_others_connected_is_told_from_what_the_switch_did() -> None:
    """Without a notifier both come back to Python: as nobody's, or as a connection that could not be handed over."""
    name, own = abstract(), naming.connection(1, 2, Address(b"\x0a\0\0\1", 40000), Address(b"\x0a\0\0\2", 80))
    server, notifier = listening(name), os.open("/dev/null", os.O_RDONLY)
    outcomes = []
    try:
        for pid in (0, ME):
            for _ in range(16):
                _kernel.trust(pid)
            client = _kernel.socket(UNIX, STREAM, 0)
            assert _kernel.connect_unix(client, own, name) == 0
            given = _kernel.accept_give(
                notifier, 1, ME, Fd(os.dup(server.fileno())), 0, 0, INET, int(socket.SOCK_NONBLOCK)
            )
            assert not isinstance(given, int)
            connection, peer, error = given
            outcomes.append((sockaddr.unix_name(peer), error))
            assert _kernel.status_flags(connection) == os.O_RDWR
            client.close()
        assert _kernel.accept_give(notifier, 1, ME, server, 0, 0, INET, 0) == -errno.EAGAIN
    finally:
        os.close(notifier)
        for _ in range(16):
            _kernel.trust(0)
    assert outcomes[0] == (b"", 0)
    assert outcomes[1][0] == own
    assert outcomes[1][1] != 0


def test_is_shut_sees_the_reading_side_only() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not _kernel.is_shut(ours.fileno())
        ours.shutdown(socket.SHUT_WR)
        assert not _kernel.is_shut(ours.fileno())
        assert _kernel.is_shut(theirs.fileno())
        theirs.shutdown(socket.SHUT_WR)
        assert _kernel.is_shut(ours.fileno())


OPTIONS = [
    (socket.SO_KEEPALIVE, struct.pack("i", 1)),
    (socket.SO_OOBINLINE, struct.pack("i", 1)),
    (socket.SO_PRIORITY, struct.pack("i", 3)),
    (socket.SO_RCVLOWAT, struct.pack("i", 7)),
    (socket.SO_LINGER, struct.pack("ii", 1, 4)),
    (socket.SO_RCVTIMEO, struct.pack("qq", 5, 0)),
    (socket.SO_SNDTIMEO, struct.pack("qq", 6, 0)),
    (socket.SO_RCVBUF, struct.pack("i", 40000)),
    (socket.SO_SNDBUF, struct.pack("i", 30000)),
]


@pytest.mark.parametrize(("origin", "family"), list(itertools.product([UNIX, INET], repeat=2)))
@pytest.mark.parametrize(("option", "value"), OPTIONS)
def test_what_was_set_is_inherited(origin: int, family: int, option: int, value: bytes) -> None:
    """And nothing else: sizes of buffers are other ones in another family."""
    source, target = _kernel.socket(origin, STREAM, 0), _kernel.socket(family, STREAM, 0)
    fresh = {name: _kernel.getsockopt(target, 1, name, 16) for name, _ in OPTIONS}
    assert _kernel.setsockopt(source, 1, option, value) == 0
    _kernel.inherit(source, target)
    now = {name: _kernel.getsockopt(target, 1, name, 16) for name, _ in OPTIONS}
    assert now.pop(option) == _kernel.getsockopt(source, 1, option, 16) != fresh.pop(option)
    assert now == fresh


KNOWS_NOTHING = Reflex({}, Sock, {})

# --- waiting and notifiers ------------------------------------------------------------------------------------------


def test_wait_tells_events_and_clears_the_call_in_hand() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, select.epoll() as epoll, mmap.mmap(-1, 80) as journal:
        journal[:] = b"x" * 80
        assert _kernel.epoll_watch(epoll.fileno(), ADD, ours.fileno(), select.EPOLLIN, 2**35 + 7) == 0
        assert _kernel.wait(epoll.fileno(), 0, journal, KNOWS_NOTHING) is None
        assert journal[:] == bytes(80)
        theirs.send(b"x")
        assert _kernel.wait(epoll.fileno(), -1, journal, KNOWS_NOTHING) == (2**35 + 7, select.EPOLLIN)
        assert _kernel.epoll_watch(epoll.fileno(), ADD, ours.fileno(), 0, 0) == errno.EEXIST
        assert _kernel.epoll_watch(epoll.fileno(), DEL, ours.fileno(), 0, 0) == 0
        assert _kernel.wait(epoll.fileno(), 0, journal, KNOWS_NOTHING) is None
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            _kernel.wait(ours.fileno(), 0, journal, KNOWS_NOTHING)


def test_wait_lets_signal_handlers_run() -> None:
    class HandlerError(Exception):
        pass

    def handler(*_: object) -> None:
        raise HandlerError

    before = signal.signal(signal.SIGUSR1, handler)
    me = threading.get_ident()
    go = threading.Event()
    sender = threading.Thread(target=lambda: go.wait() and signal.pthread_kill(me, signal.SIGUSR1))
    sender.start()
    try:
        with select.epoll() as epoll, mmap.mmap(-1, 80) as journal, pytest.raises(HandlerError):  # noqa: PT012 - from go.set() on it may come
            go.set()
            _kernel.wait(epoll.fileno(), DEADLINE * 1000, journal, KNOWS_NOTHING)
    finally:
        go.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/status"])
def test_other_files_are_no_notifiers(path: str) -> None:
    with open(path) as file:  # noqa: PTH123 - a descriptor is wanted
        fd = file.fileno()
        assert not _kernel.is_notifier(fd)
        assert not _kernel.still_valid(fd, 1)
        assert _kernel.reply(fd, 1, 0, 0) != 0
        assert _kernel.reply_continue(fd, 1) != 0
        assert _kernel.add_fd(fd, 1, fd, -1, 0, 1) < 0
        assert _kernel.sync_wake_up(fd) != 0


# --- memory of others -----------------------------------------------------------------------------------------------


def test_a_call_that_is_not_waited_for_is_not_read() -> None:
    buffer = ctypes.create_string_buffer(b"secret")
    with open("/dev/null") as null:  # noqa: PTH123 - no notifier
        fd = null.fileno()
        assert _kernel.read_argument(fd, 1, ME, ctypes.addressof(buffer), 6) == errno.ENOENT
        assert _kernel.read_argument(fd, 1, ME, 0, 6) == errno.ENOENT
        length = ctypes.c_int(6)
        assert (
            _kernel.write_result(fd, 1, ME, ctypes.addressof(buffer), ctypes.addressof(length), b"other!")
            == errno.ENOENT
        )
        with pytest.raises(ValueError, match="negative size"):
            _kernel.read_argument(fd, 1, ME, 0, -1)
    assert buffer.value == b"secret"


def test_memory_is_written_where_it_is_mapped() -> None:
    buffer = ctypes.create_string_buffer(b"before", 16)
    assert _kernel.vm_write(ME, ctypes.addressof(buffer), b"after!!")
    assert buffer.raw == b"after!!".ljust(16, b"\0")
    assert not _kernel.vm_write(ME, 8, b"x")
    assert not _kernel.vm_write(ME, 2**64 - 16, b"x")
    assert not _kernel.vm_write(NOBODY, ctypes.addressof(buffer), b"x")
    assert _kernel.vm_write(ME, 8, b"")  # nothing is written nowhere


# --- descriptors of others ------------------------------------------------------------------------------------------


def test_fetching_a_descriptor() -> None:
    pidfd = _kernel.pidfd_open(ME, 0)
    fd = _kernel.socket(UNIX, STREAM | int(socket.SOCK_NONBLOCK), 0)
    fetched = _kernel.fetch(pidfd, fd.fileno())
    assert not isinstance(fetched, int)
    copy, cookie, flags = fetched
    assert copy.fileno() != fd.fileno()
    assert (cookie, flags) == (_kernel.cookie(fd), os.O_RDWR | os.O_NONBLOCK)
    assert not os.get_inheritable(copy.fileno())
    number = fd.fileno()
    fd.close()
    assert _kernel.fetch(pidfd, number) == errno.EBADF
    with open("/dev/null") as null:  # noqa: PTH123 - no socket
        other = _kernel.fetch(pidfd, null.fileno())
        assert not isinstance(other, int)
        assert other[1] == -errno.ENOTSOCK


def test_fetching_a_descriptor_and_an_address() -> None:
    pidfd, fd = _kernel.pidfd_open(ME, 0), _kernel.socket(UNIX, STREAM, 0)
    buffer = ctypes.create_string_buffer(b"\2\0", 16)
    number, at = fd.fileno(), ctypes.addressof(buffer)
    for length, expected in ((-1, errno.EINVAL), (129, errno.EINVAL), (128, errno.ENOENT), (16, errno.ENOENT)):
        fetched = _kernel.fetch_sockaddr(pidfd, number, fd, 1, ME, at, length)
        assert not isinstance(fetched, int)
        assert fetched[1:] == (_kernel.cookie(fd), os.O_RDWR, expected)
    fd.close()
    assert _kernel.fetch_sockaddr(pidfd, number, pidfd, 1, ME, at, 16) == errno.EBADF


def test_nobody_has_no_pidfd() -> None:
    with pytest.raises(ProcessLookupError):
        _kernel.pidfd_open(NOBODY, 0)


def test_a_file_that_nobody_else_holds_is_gone() -> None:
    fd = _kernel.socket(UNIX, STREAM, 0)
    number = fd.fileno()
    assert _kernel.open_elsewhere(fd) is False
    assert not is_open(number)
    with pytest.raises(ValueError, match="closed"):
        fd.fileno()


@pytest.mark.parametrize("family", [UNIX, INET, INET6])
def test_a_file_that_somebody_else_holds_lives_on(family: int) -> None:
    fd = _kernel.socket(family, STREAM, 0)
    copy = Fd(os.dup(fd.fileno()))
    assert _kernel.open_elsewhere(fd) is True
    assert _kernel.open_elsewhere(copy) is False


def test_only_what_is_owned_is_closed() -> None:
    fd = _kernel.socket(UNIX, STREAM, 0)
    with pytest.raises(TypeError, match="an Fd"):
        _kernel.open_elsewhere(fd.fileno())  # type: ignore[arg-type]
    assert is_open(fd.fileno())


CHILD = """
import os, select, socket, sys
epoll, ours, theirs = select.epoll(), *socket.socketpair()
free = os.dup(0); os.close(free)
epoll.register(ours, select.EPOLLIN)
print(epoll.fileno(), ours.fileno(), free, flush=True)
for line in sys.stdin:
    print(*[f"{fd}:{events}" for fd, events in epoll.poll(0)], flush=True)
"""


class Child:
    """A process with an epoll in which a socket of its own is registered."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self.pid = process.pid
        self.epoll, self.registered, self.free = map(int, self._out.readline().split())

    def poll(self) -> dict[int, int]:
        """What its epoll says."""
        print(file=self._in, flush=True)
        return {int(data): int(events) for data, events in (one.split(":") for one in self._out.readline().split())}


@pytest.fixture
def child() -> Iterator[Child]:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Child(process)
        process.communicate()
    assert process.returncode == 0


def test_registrations_of_another_process_are_seen(child: Child) -> None:
    assert _kernel.epoll_has(child.pid, child.epoll, child.registered)
    assert not _kernel.epoll_has(child.pid, child.epoll, child.free)
    assert not _kernel.epoll_has(child.pid, child.registered, child.registered)
    assert not _kernel.epoll_has(NOBODY, child.epoll, child.registered)


def test_a_file_is_registered_in_another_process_under_its_number(child: Child) -> None:
    pidfd = _kernel.pidfd_open(child.pid, 0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = ours.fileno(), os.fstat(ours.fileno()).st_ino
        here = Path("/proc/self/fd").iterdir
        numbers = sorted(path.name for path in here())
        assert _kernel.epoll_add_at(pidfd, child.epoll, child.free, ours.fileno(), select.EPOLLIN, 4711) == 0
        assert _kernel.epoll_has(child.pid, child.epoll, child.free)
        ((events, data),) = registrations(child.pid, child.epoll, child.free)
        assert (events & select.EPOLLIN, data) == (select.EPOLLIN, 4711)
        assert (ours.fileno(), os.fstat(ours.fileno()).st_ino) == before
        assert sorted(path.name for path in here()) == numbers
        assert child.poll() == {}
        theirs.send(b"x")
        assert child.poll() == {4711: select.EPOLLIN}


@pytest.mark.parametrize("which", ["epoll", "registered"])
def test_numbers_of_both_tables_may_coincide(child: Child, which: str) -> None:
    """A number of the child's that is in use here, too, or that its epoll has in our table."""
    pidfd = _kernel.pidfd_open(child.pid, 0)
    number = getattr(child, which)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert _kernel.epoll_add_at(pidfd, child.epoll, number, ours.fileno(), select.EPOLLIN, 4711) == 0
        theirs.send(b"x")
        assert child.poll() == {4711: select.EPOLLIN}
        error = _kernel.epoll_add_at(pidfd, child.epoll, number, ours.fileno(), select.EPOLLIN, 1)
        assert error == errno.EEXIST


def test_what_cannot_be_registered(child: Child) -> None:
    pidfd = _kernel.pidfd_open(child.pid, 0)
    fd = _kernel.socket(UNIX, STREAM, 0)
    assert _kernel.epoll_add_at(pidfd, 999, 10, fd, select.EPOLLIN, 1) == errno.EBADF
    assert _kernel.epoll_add_at(pidfd, child.registered, 10, fd, select.EPOLLIN, 1) == errno.EINVAL


# --- sock_diag ------------------------------------------------------------------------------------------------------


def unix_row(fd: Fd, states: int) -> tuple[int, int, int, int, int, int, bytes] | None:
    rows = [row for row in _kernel.dump_unix(states) if row[0] == _kernel.cookie(fd)]
    return rows[0] if rows else None


def test_a_named_unix_socket_is_found() -> None:
    name, own = abstract(), abstract()
    server, client = listening(name, backlog=9), _kernel.socket(UNIX, STREAM, 0)
    inode = os.fstat(server.fileno()).st_ino
    found = unix_row(server, LISTEN)
    assert found is not None
    assert found[1:5] == (inode, STREAM, 10, 0)
    assert found[6] == name
    _kernel.connect_unix(client, own, name)
    found, other = unix_row(server, LISTEN), unix_row(client, ALL)
    assert found is not None
    assert other is not None
    assert found[4] == 1  # waits to be accepted
    assert (other[2], other[3], other[6]) == (STREAM, 1, own)
    assert unix_row(client, LISTEN) is None
    server.close()
    assert name not in {row[6] for row in _kernel.dump_unix(ALL)}


def test_both_ends_of_a_pair_are_each_others_peers() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        mine, other = os.fstat(ours.fileno()).st_ino, os.fstat(theirs.fileno()).st_ino
        peers = {row[1]: row[5] for row in _kernel.dump_unix(ALL)}
    assert (peers[mine], peers[other]) == (other, mine)


def tcp_rows(family: int, states: int) -> dict[int, tuple[object, ...]]:
    """By cookie."""
    return {row[0]: row[1:] for row in _kernel.dump_inet(family, 6, states)}


@pytest.mark.parametrize(("family", "host"), [(INET, "127.0.0.1"), (INET6, "::1")])
def test_tcp_sockets_are_found_by_both_ends(family: int, host: str) -> None:
    ip = socket.inet_pton(family, host)
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((host, port)) as client:
            own = client.getsockname()[1]
            inode, client_inode = os.fstat(server.fileno()).st_ino, os.fstat(client.fileno()).st_ino
            listener = tcp_rows(family, LISTEN)[_kernel.cookie(server.fileno())]
            assert listener[:7] == (inode, family, 10, ip, port, bytes(len(ip)), 0)
            connection = tcp_rows(family, 1 << 1)[_kernel.cookie(client.fileno())]
            assert connection[:7] == (client_inode, family, 1, ip, own, ip, port)
            assert _kernel.cookie(client.fileno()) not in tcp_rows(family, LISTEN)


@pytest.mark.parametrize(("family", "host"), [(INET, "127.0.0.1"), (INET6, "::1")])
def test_what_tcp_has_counted(family: int, host: str) -> None:
    def counted(sock: socket.socket) -> tuple[int, ...]:
        rows = {row[0]: row[1:] for row in _kernel.dump_tcp_info(family, 1 << 1)}
        return rows[_kernel.cookie(sock.fileno())]

    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
        server.accept()[0] as accepted,
    ):
        sent, received, rtt, retransmits = counted(client)
        assert (sent, received, retransmits) == (0, 0, 0), "neither SYN nor ACK is a byte of anybody's"
        assert 0 < rtt < 10_000_000, "microseconds, from the handshake on"
        client.sendall(bytes(1000))
        assert len(accepted.recv(1000, socket.MSG_WAITALL)) == 1000
        accepted.sendall(bytes(70))
        assert len(client.recv(70, socket.MSG_WAITALL)) == 70
        assert counted(client)[:2] == counted(accepted)[1::-1] == (1000, 70)
        listener = _kernel.cookie(server.fileno())
        assert listener not in {row[0] for row in _kernel.dump_tcp_info(family, 1 << 1)}
        assert listener in {row[0] for row in _kernel.dump_tcp_info(family, LISTEN)}


def test_a_dump_that_the_kernel_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        _kernel.dump_tcp_info(0, ALL)
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        _kernel.dump_inet(0, 6, ALL)
