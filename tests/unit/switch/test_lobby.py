"""Where held connections wait: no client is left there for ever, and nothing is kept of those that have come."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch, Named

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_UNIX
from appswitch.resources import BackendSpec
from appswitch.switch import holding, naming
from appswitch.switch import lobby as module
from appswitch.switch.connecting import Attempt
from appswitch.switch.holding import Holding
from appswitch.switch.lobby import Lobby
from appswitch.switch.sockets import Socket


@pytest.fixture
def lobby(fake: FakeSwitch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lobby:
    monkeypatch.chdir(tmp_path)  # its name is relative
    return Lobby(fake.loop, fake.keep, {}, lambda *_: None)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Neither for us nor for anybody in this process. What is closed meanwhile can be had again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with suppress(OSError):
            while True:
                kept.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for fd in kept:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connect(name: bytes) -> Fd:
    fd = _kernel.socket(AF_UNIX, socket.SOCK_STREAM, 0)
    assert _kernel.connect_unix(fd, name, naming.LOBBY) == 0
    return fd


def test_one_that_had_room_is_taken_though_no_descriptor_is_left(lobby: Lobby) -> None:
    assert lobby.has_room()
    name = naming.bell()
    client = connect(name)
    with no_descriptors_left():
        end = lobby.take(name)
        assert end is not None, "the descriptor that was kept back for it"
        assert not lobby.has_room(), "and the next one hears of that before it is connected"
    os.write(client.fileno(), b"x")
    assert os.read(end.fileno(), 1) == b"x"
    assert lobby.has_room()


@pytest.mark.parametrize("header", [b"", b"PROXY"], ids=["plain", "header"])
def test_a_client_without_room_is_told_so_and_not_left_connected_to_nobody(
    fake: FakeSwitch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    app = fake.app(1, "10.0.0.1")
    fake.vservice("web", "10.9.0.1", "80", BackendSpec(external="192.0.2.7:80"))
    held = Holding(fake)  # type: ignore[arg-type] # a switch
    assert held.lobby.has_room()
    held.lobby._spare = None
    fd = _kernel.socket(AF_UNIX, socket.SOCK_STREAM, 0)
    sock = Socket(_kernel.cookie(fd), app, AF_INET, unix=True)
    call: Any = Named(tid=os.getpid(), app=app, id=0)
    to = sockaddr.encode(AF_INET, naming.Address(bytes((10, 9, 0, 1)), 80))
    path = fake.flows.find(app, AF_INET, to, os.getpid())
    with no_descriptors_left():
        outcome = held.connect(Attempt(call, fd, sock, 0, reply=True), path, None, header)
    assert outcome == -errno.ENOBUFS
    assert not sock.named, "it may try again"
    assert isinstance(_kernel.getpeername(fd), int), "and is connected to nobody"


def test_nothing_is_kept_of_who_has_come(fake: FakeSwitch, lobby: Lobby) -> None:
    to = lobby.address(AF_INET)
    arrived: list[Fd] = []
    for count in range(1, 4):
        client = _kernel.socket(AF_INET, socket.SOCK_STREAM, 0)
        assert _kernel.connect(client, sockaddr.encode(AF_INET, to)) in (0, errno.EINPROGRESS)
        source = _kernel.getsockname(client)
        assert isinstance(source, bytes)
        lobby.expect(sockaddr.decode(source), arrived.append)
        assert len(lobby) == 1
        fake.run(lambda count=count: len(arrived) == count)
        assert len(lobby) == 0


def test_who_never_comes_is_forgotten_the_oldest_first(lobby: Lobby, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXPECTED", 3)
    for port in (1, 2, 3, 1, 4):
        lobby.expect(naming.Address(b"\x7f\0\0\1", port), lambda _fd: None)
    assert [port for _, port in lobby._expected] == [3, 1, 4]


def test_an_app_holds_so_many_and_no_more(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "PER_APP", 2)
    app = fake.app(1, "10.0.0.1")
    fake.vservice("web", "10.9.0.1", "80", BackendSpec(external="192.0.2.7:80"))
    one = Holding(fake)  # type: ignore[arg-type] # a switch
    decided: list[Any] = []
    monkeypatch.setattr(one, "settle", lambda _fd, held, _verdict: decided.append(held))
    verdict = fake.balanced(app, "10.9.0.1:80")
    held: Any = Named(flow=fake.flow(app, "10.9.0.1:80"), path=None, _replace=lambda **_: held)
    for _ in range(3):
        one.hold(_kernel.socket(AF_UNIX, socket.SOCK_STREAM, 0), held, verdict.cluster.peek)
    assert len(fake.peeking.held) == 2
    assert len(decided) == 1, "the third is decided without its first bytes"
