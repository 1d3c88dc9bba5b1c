"""Which of a dead switch's descriptors are connections that nobody else has."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address, ip_bytes
from appswitch.kernel.sockaddr import AF_INET, AF_UNIX
from appswitch.switch import estate, naming
from appswitch.switch.descriptors import duplicate, twin
from appswitch.switch.estate import Descriptor

CLIENT, SERVER = Address(ip_bytes("10.0.0.1"), 4000), Address(ip_bytes("10.0.0.2"), 80)
LISTENER = naming.listener(naming.Listener(2, AF_INET, SERVER, 0, 1))


class Given:
    """A stub of `estate._Given`."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.switches = (os.getpid(),)

    def __call__(self) -> bool:
        return self.answer


def accepted(path: bytes) -> tuple[Fd, Fd]:
    """The server's end of a connection, and the client's."""
    listener, client = (_kernel.socket(AF_UNIX, socket.SOCK_STREAM, 0) for _ in range(2))
    assert _kernel.bind_unix(listener, path) == 0
    assert _kernel.listen(listener, 1) == 0
    assert _kernel.connect_unix(client, naming.connection(1, 2, CLIENT, SERVER), path) == 0
    taken = _kernel.accept(listener)
    assert not isinstance(taken, int)
    return taken[0], client


def look(*fds: Fd) -> list[Descriptor]:
    """As `take` finds them in a process, here in our own."""
    found = [estate._look(os.getpid(), fd, fd.fileno()) for fd in fds]
    assert None not in found
    return [one for one in found if one is not None]


def is_ours(*fds: Fd, answered: bool = False, led: bool = False) -> bool:
    return estate._is_ours(look(*fds), Given(answered), led)  # type: ignore[arg-type] # a stub


def again(fd: Fd) -> Fd:
    """As `_kernel.give` does it while it is being given."""
    number = os.dup(fd.fileno())
    os.set_inheritable(number, True)
    return Fd(number)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def of_the_lobby() -> tuple[Fd, Fd]:
    return accepted(naming.LOBBY)


def of_a_listener() -> tuple[Fd, Fd]:
    return accepted(LISTENER)


def test_one_that_was_accepted_is_ours() -> None:
    fd, _client = of_the_lobby()
    assert is_ours(fd)
    assert is_ours(fd, answered=True), "that some call was answered says nothing of it"


@pytest.mark.parametrize("make", [of_the_lobby, of_a_listener])
def test_what_was_borrowed_of_an_app_is_not(make: Callable[[], tuple[Fd, Fd]]) -> None:
    fd, _client = make()
    pidfd = _kernel.pidfd_open(os.getpid(), 0)
    borrowed = _kernel.fetch(pidfd, fd.fileno())
    assert not isinstance(borrowed, int)
    assert not is_ours(borrowed[0])
    assert _kernel.set_ours(borrowed[0], 1) == 0
    assert is_ours(borrowed[0])


def test_one_that_is_being_given_is_ours_until_the_call_is_answered() -> None:
    fd, _client = of_the_lobby()
    second = again(fd)
    assert is_ours(fd, second)
    assert not is_ours(fd, second, answered=True)


def test_one_that_is_noted_as_led_is_being_given_as_well() -> None:
    fd, _client = of_the_lobby()
    assert is_ours(fd, led=True)
    assert not is_ours(fd, led=True, answered=True)


def test_one_of_an_apps_own_queue_was_taken_for_a_call() -> None:
    fd, _client = of_a_listener()
    assert is_ours(fd)
    assert not is_ours(fd, answered=True)


def test_one_that_was_sent_may_be_somebody_elses() -> None:
    fd, _client = of_the_lobby()
    away = twin(fd)
    assert away is not None
    assert not is_ours(fd, away)
    assert not is_ours(away)


@pytest.mark.parametrize("seconds", [0, 5])
def test_a_tcp_connection_that_is_being_closed(seconds: int) -> None:
    listener = _kernel.socket(AF_INET, socket.SOCK_STREAM, 0)
    assert _kernel.listen(listener, 1) == 0
    own = _kernel.getsockname(listener)
    assert not isinstance(own, int)
    client = _kernel.socket(AF_INET, socket.SOCK_STREAM, 0)
    assert _kernel.connect(client, own) in (0, errno.EINPROGRESS)
    taken = _kernel.accept(listener)
    assert not isinstance(taken, int)
    assert is_ours(taken[0])
    linger = b"".join(number.to_bytes(4, "little") for number in (1, seconds))
    assert _kernel.setsockopt(taken[0], socket.SOL_SOCKET, socket.SO_LINGER, linger) == 0
    assert not is_ours(taken[0])


def test_only_a_switchs_connections_are_believed() -> None:
    fd, _client = of_a_listener()
    given = Given(False)
    given.switches = (1,)
    assert not estate._is_ours(look(fd), given, False)  # type: ignore[arg-type] # a stub


def test_other_sockets_are_nothing() -> None:
    _fd, client = of_the_lobby()
    pair = socket.socketpair()
    elsewhere, _other = accepted(b"\0appswitch-test-" + secrets.token_hex(8).encode())
    with pair[0], pair[1]:
        others = [client, elsewhere, *(Fd(os.dup(one.fileno())) for one in pair)]
        assert [estate._look(os.getpid(), fd, fd.fileno()) for fd in others] == [None] * 4


def test_an_end_of_a_pair_is_one_if_it_is_noted() -> None:
    fd, _other = (Fd(end.detach()) for end in socket.socketpair())
    assert estate._look(os.getpid(), fd, fd.fileno()) is None
    _kernel.set_ours(fd, 1)
    one = estate._look(os.getpid(), fd, fd.fileno(), pair=True)
    assert one is not None
    given: estate._Given = Given(True)  # type: ignore[assignment] # a stub
    assert estate._is_ours([one], given, False)
    second = estate._look(os.getpid(), again(fd), fd.fileno(), pair=True)
    assert second is not None
    assert not estate._is_ours([one, second], given, False), "it was given"


def test_a_number_that_another_file_has_meanwhile() -> None:
    """Its process has ended, and another one has its pid: a pidfd never means that one."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    pidfd = _kernel.pidfd_open(pid, 0)
    os.waitpid(pid, 0)
    assert estate._pid(pidfd) == -1
    assert estate._numbers(-1) == []
    assert isinstance(_kernel.fetch(pidfd, 0), int)
    estate.end(duplicate(pidfd))
    assert all(isinstance(_kernel.fetch(pidfd, number), int) for number in itertools.islice(itertools.count(), 3))
