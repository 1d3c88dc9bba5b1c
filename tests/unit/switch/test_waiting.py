"""Who connects to a service that is not there yet: parked, or a guest in the waiting room, with real sockets."""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.switch.fake import PATIENCE, FakeSwitch, Named, address

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.resources import BackendSpec, Policy, Selector
from appswitch.routing.route import Balanced, Wait
from appswitch.switch import waiting as module
from appswitch.switch.apps import App
from appswitch.switch.call import LATER, Outcome
from appswitch.switch.connecting import NONBLOCK, Attempt
from appswitch.switch.sockets import Socket
from appswitch.switch.waiting import Waiting

LATE = {AF_INET: "10.9.0.5:80", AF_INET6: "[fd00::9:5]:80"}
TCP_USER_TIMEOUT = 18


class Room:
    """A switch with nothing but those who wait, and clients that call connect(2) in this process."""

    def __init__(self, fake: FakeSwitch, wait: float = 30.0) -> None:
        self.fake = fake
        self.waiting = Waiting(fake)  # type: ignore[arg-type] # a switch
        fake.table.on_change = self.waiting.look_again
        self.clients: list[socket.socket] = []
        self.attempts: list[Attempt] = []
        for number, network in enumerate(("10.9.0.5/32", "fd00::9:5/128")):
            fake.reference(f"late{number}", network, BackendSpec(labels={"role": "late"}), wait=wait)

    def connect(self, app: App, family: int = AF_INET, status: int = NONBLOCK) -> Outcome:
        """The app's connect(2) with the next of ``clients``."""
        client = socket.socket(family, socket.SOCK_STREAM | (socket.SOCK_NONBLOCK if status else 0))
        self.clients.append(client)
        fd = Fd(os.dup(client.fileno()))
        call: Any = Named(tid=os.getpid(), app=app, int32=lambda _: client.fileno())
        sock = Socket(_kernel.cookie(fd), app, family, unix=False)
        self.attempts.append(Attempt(call, fd, sock, status, reply=False))
        raw = sockaddr.encode(family, address(LATE[family]))
        path = self.fake.flows.find(app, family, raw, os.getpid())
        assert isinstance(path.verdict, Wait)
        return self.waiting.connect(self.attempts[-1], raw, path, path.verdict)

    def come(self) -> None:
        """Somebody listens."""
        self.fake.listen(self.fake.app(9, "10.0.0.9", role="late"), 80)

    def error(self, client: socket.socket) -> int:
        """What a client hears that polls."""
        assert select.select([], [client], [], PATIENCE)[1], "nothing was heard"
        return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        for fd, *_ in self.fake.holding.settled:
            fd.close()
        for client in self.clients:
            client.close()


@pytest.fixture
def room(fake: FakeSwitch) -> Iterator[Room]:
    one = Room(fake)
    yield one
    one.close()


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_a_guest_is_led_to_the_service_that_comes(fake: FakeSwitch, room: Room, family: int) -> None:
    app = fake.app(1, "10.0.0.1")
    assert room.connect(app, family) == -errno.EINPROGRESS
    (client,) = room.clients
    where = room.attempts[0].sock.actual
    assert _kernel.connect(room.attempts[0].fd, where) == errno.EALREADY
    assert select.select([], [client], [], 0)[1] == []
    assert len(room.waiting) == 1
    room.come()
    fake.run(lambda: fake.holding.settled)
    ((end, held, verdict),) = fake.holding.settled
    assert room.error(client) == 0
    client.sendall(b"hello")
    assert select.select([end.fileno()], [], [], PATIENCE)[0]
    assert os.read(end.fileno(), 10) == b"hello"
    os.write(end.fileno(), b"world")
    assert select.select([client], [], [], PATIENCE)[0]
    assert client.recv(10) == b"world"
    assert isinstance(verdict, Balanced)
    assert (held.to, held.cookie) == (address(LATE[family]), _kernel.cookie(room.attempts[0].fd))
    assert not held.unix
    assert len(room.waiting) == 0


def test_the_apps_own_timeout_is_given_back(fake: FakeSwitch, room: Room) -> None:
    assert room.connect(fake.app(1, "10.0.0.1")) == -errno.EINPROGRESS
    (client,) = room.clients
    assert client.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == 30_000
    room.come()
    fake.run(lambda: fake.holding.settled)
    assert client.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == 0


def test_nobody_comes(fake: FakeSwitch) -> None:
    room = Room(fake, wait=0.05)
    assert room.connect(fake.app(1, "10.0.0.1")) == -errno.EINPROGRESS
    assert room.error(room.clients[0]) == errno.ETIMEDOUT
    fake.run(lambda: len(room.waiting) == 0)
    assert not fake.holding.settled
    room.close()


def test_what_comes_too_late_changes_nothing(fake: FakeSwitch) -> None:
    room = Room(fake, wait=0.05)
    room.connect(fake.app(1, "10.0.0.1"))
    assert room.error(room.clients[0]) == errno.ETIMEDOUT
    room.come()
    fake.run(lambda: len(room.waiting) == 0)
    done: list[bool] = []
    fake.loop.after(0.02, lambda: done.append(True))
    fake.run(lambda: done)
    assert not fake.holding.settled
    room.close()


def test_changes_that_are_about_others_change_nothing(fake: FakeSwitch, room: Room) -> None:
    room.connect(fake.app(1, "10.0.0.1"))
    looks: list[int] = []
    look = room.waiting._look_at_guests
    room.waiting._look_at_guests = lambda: (looks.append(1), look())[1]  # type: ignore[method-assign, func-returns-value]
    for number in range(5):
        fake.listen(fake.app(20 + number, f"10.0.1.{number}"), 80)
    fake.run(lambda: looks)
    assert len(looks) == 1, "changes are gathered"
    assert len(room.waiting) == 1


def test_who_waits_is_looked_at_some_at_a_time(fake: FakeSwitch, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 2)
    app = fake.app(1, "10.0.0.1")
    for _ in range(5):
        room.connect(app)
    turns: list[int] = []
    go_on = room.waiting._go_on
    monkeypatch.setattr(room.waiting, "_go_on", lambda: (go_on(), turns.append(len(room.waiting)))[0])
    room.come()
    fake.run(lambda: turns)
    assert turns[0] >= 3, "not all of them in one go"
    room.waiting.look_again()
    room.waiting.look_again()
    fake.run(lambda: len(fake.holding.settled) == 5 and room.waiting._round is None)
    assert turns[-1] == 0
    assert all(one - other <= 2 for one, other in itertools.pairwise(turns))


def test_whose_app_has_ended_is_reset(fake: FakeSwitch, room: Room) -> None:
    app = fake.app(1, "10.0.0.1")
    room.connect(app)
    room.come()
    app.ended = True
    fake.run(lambda: len(room.waiting) == 0)
    fake.run(lambda: _is_reset(room.clients[0]))
    assert not fake.holding.settled


def _is_reset(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError as error:
        return error.errno in (errno.ECONNRESET, errno.EPIPE)


def test_an_app_has_so_many_guests_and_no_more(fake: FakeSwitch, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PER_APP", 2)
    one, other = fake.app(1, "10.0.0.1"), fake.app(2, "10.0.0.2")
    assert [room.connect(one) for _ in range(3)] == [-errno.EINPROGRESS] * 2 + [-errno.EAGAIN]
    assert room.connect(other) == -errno.EINPROGRESS
    monkeypatch.setattr(module, "LIMIT", 3)
    assert room.connect(other) == -errno.EAGAIN
    room.come()
    fake.run(lambda: len(fake.holding.settled) == 3)
    assert not room.waiting._by_app


def test_a_port_that_comes_again_is_one_guest(fake: FakeSwitch, room: Room) -> None:
    app = fake.app(1, "10.0.0.1")
    room.connect(app)
    ((source, guest),) = room.waiting._guests.items()
    target: Any = Named(source=source, cookie=guest.cookie, user_timeout=bytes(4))
    call: Any = Named(tid=1, int32=lambda _: 0)
    verdict = Wait(guest.client, 30.0, "late")
    room.waiting._register(room.attempts[0]._replace(call=call), guest.raw, target, guest.client, verdict, (0, ""))
    assert len(room.waiting) == 1
    assert room.waiting._by_app == {1: 1}


def test_whose_socket_is_closed_has_no_place(fake: FakeSwitch, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """close(2) is not reported, and who tries again and again would fill the room with sockets of the past."""
    monkeypatch.setattr(module, "PER_APP", 3)
    monkeypatch.setattr(module, "LOOK", 0.0)
    app = fake.app(1, "10.0.0.1")
    for _ in range(3):
        room.connect(app)
    kept = room.attempts[1]
    for one in (0, 2):
        room.clients[one].close()
        room.attempts[one].fd.close()
    assert room.connect(app) == -errno.EAGAIN, "one look proves nothing"
    assert room.connect(app) == -errno.EINPROGRESS
    assert {guest.cookie for guest in room.waiting._guests.values()} == {
        kept.sock.cookie, _kernel.cookie(room.attempts[-1].fd)
    }  # fmt: skip
    assert room.waiting._by_app == {1: 2}


def test_who_may_not_is_not_connected_first(fake: FakeSwitch, room: Room) -> None:
    """A policy that came meanwhile: the client's attempt fails, it does not succeed and end."""
    app = fake.app(1, "10.0.0.1")
    room.connect(app)
    fake.policies.put(Policy(name="no", action="deny", to=(Selector(labels={"role": "late"}),)))
    room.come()
    fake.run(lambda: len(room.waiting) == 0)
    assert room.error(room.clients[0]) == errno.ECONNRESET
    assert not fake.holding.settled
    assert [(row.verdict, row.rule) for row in fake.rows] == [("waiting", ""), ("denied", "no")]


def test_who_asked_is_who_is_judged(fake: FakeSwitch, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not whoever has the number of its thread when the service comes."""
    monkeypatch.setattr(module.procfs, "identity", lambda _tid: (7, "/bin/right"))
    room.connect(fake.app(1, "10.0.0.1"))
    monkeypatch.setattr(module.procfs, "identity", lambda _tid: (8, "/bin/wrong"))
    fake.policies.put(Policy(name="no", action="deny", from_=(Selector(executables=("/bin/wrong",)),)))
    room.come()
    fake.run(lambda: fake.holding.settled)
    ((_, held, verdict),) = fake.holding.settled
    assert isinstance(verdict, Balanced)
    assert (held.flow.client.uid, held.flow.client.executable) == (7, "/bin/right")


def test_without_descriptors_nobody_is_forgotten(fake: FakeSwitch, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    app = fake.app(1, "10.0.0.1")
    for _ in range(3):
        room.connect(app)
    refusals = [2]
    reusable = module._reusable

    def short(family: int) -> Fd:
        if refusals[0]:
            refusals[0] -= 1
            raise OSError(errno.EMFILE, "too many")
        return reusable(family)

    monkeypatch.setattr(module, "_reusable", short)
    monkeypatch.setattr(module, "AGAIN", 0.001)
    room.come()
    fake.run(lambda: len(fake.holding.settled) == 3)
    assert len(room.waiting) == 0


# -- blocking calls


@pytest.mark.parametrize(("own", "seconds", "outcome"), [(0, 30.0, -errno.ETIMEDOUT), (3, 3.0, -errno.EINPROGRESS)])
def test_a_blocking_call_is_parked(fake: FakeSwitch, room: Room, own: int, seconds: float, outcome: int) -> None:
    """As long as the service's wait or the socket's SO_SNDTIMEO, whichever is shorter."""
    app = fake.app(1, "10.0.0.1")
    make = socket.socket

    def limited(*words: Any) -> socket.socket:
        one = make(*words)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", own, 0))
        return one

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", limited)
        assert room.connect(app, status=0) == LATER
    ((_, _, events, _, limit, late),) = fake.parking.parked
    assert (events, limit) == (0, seconds)
    assert late() == outcome
    assert [row.verdict for row in fake.rows] == ["waiting", "timed out"]
    assert len(room.waiting) == 1


def test_a_parked_call_is_looked_at_when_something_changes(fake: FakeSwitch, room: Room) -> None:
    app = fake.app(1, "10.0.0.1")
    room.connect(app, status=0)
    (parked,) = fake.parking.parked
    again = parked[3]
    attempt = room.attempts[0]
    fetched = Fd(os.dup(room.clients[0].fileno()))
    attempt.call.fetch = lambda: (fetched, attempt.sock.cookie, 0)  # type: ignore[method-assign]
    fake.sockets.identify = lambda _fd, _cookie, _app: attempt.sock
    assert again() is None, "still nobody"
    room.come()
    fake.run(lambda: fake.parking.retried)
    assert fake.parking.retried == [parked]
    fake.sockets.identify = lambda _fd, _cookie, _app: None
    assert again() == -errno.EBADF, "it is another socket by now"
