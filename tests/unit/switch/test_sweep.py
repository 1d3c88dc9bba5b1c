"""What has gone is forgotten; nobody waits while that is found out, however many sockets there are."""

from __future__ import annotations

import itertools
import os
import select
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch

from appswitch import _kernel
from appswitch.address import Address
from appswitch.kernel.sockaddr import AF_INET
from appswitch.switch import sweep as module
from appswitch.switch.bind import claim
from appswitch.switch.memory import Memory, fresh_memory
from appswitch.switch.services import Services
from appswitch.switch.sockets import LISTENING, Socket, Sockets
from appswitch.switch.sweep import Sweep


@pytest.fixture
def switch(fake: FakeSwitch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Real tables of sockets and services; nothing may ask for a list on a call's way."""
    monkeypatch.chdir(tmp_path)
    one: Any = fake
    one.sockets = Sockets({}, {}, Memory(fresh_memory()))
    one.services = Services(fake.table, one.sockets, {})
    one.close_service = one.services.close
    one.sweep = Sweep(one)
    monkeypatch.setattr(_kernel, "dump_unix", lambda *_: pytest.fail("a list of all Unix sockets"))
    return one


def listener(switch: Any, port: int, app_id: int = 1) -> tuple[socket.socket, Any]:
    """A socket of an app's that listens, in this process."""
    app = switch.apps.get(app_id) or switch.app(app_id, f"10.0.0.{app_id}")
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fd = _kernel.Fd(os.dup(ours.fileno()))
    sock = switch.sockets.add(fd, app, AF_INET, unix=True)
    assert claim(switch, sock, fd, Address(bytes(4), port)) == 0
    service = switch.services.open(app, sock, fd, sock.bound, 16)
    sock.phase = LISTENING
    return ours, service


def test_a_listener_is_asked_for_by_its_name_alone(switch: Any) -> None:
    ours, service = listener(switch, 80)
    clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(17)]
    for client in clients:
        client.connect(service.name)
    assert switch.sweep.alive(service), "also with a full queue"
    assert select.select([ours], [], [], 0)[0]
    accepted = [ours.accept()[0] for _ in range(16)]
    assert len(accepted) == 16, "and nothing was put into it"
    ours.close()
    assert not switch.sweep.alive(service)
    assert not switch.services.by_id
    for one in (*clients, *accepted):
        one.close()


def test_a_port_is_free_again_when_its_socket_has_gone(switch: Any) -> None:
    app = switch.app(1, "10.0.0.1")

    def bound() -> tuple[socket.socket, int]:
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fd = _kernel.Fd(os.dup(ours.fileno()))
        return ours, claim(switch, switch.sockets.add(fd, app, AF_INET, unix=True), fd, Address(bytes(4), 80))

    first, error = bound()
    assert error == 0
    second, error = bound()
    assert error < 0
    first.close()
    third, error = bound()
    assert error == 0
    assert [one.bound.port for one in app.bound[80]] == [80]
    second.close()
    third.close()


def test_what_has_gone_is_forgotten_and_what_is_there_is_not(switch: Any) -> None:
    app = switch.app(1, "10.0.0.1")
    kept = [socket.socket(family, socket.SOCK_STREAM) for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)]
    for one in kept[1:]:
        one.bind(("127.0.0.1" if one.family == socket.AF_INET else "::1", 0))
        one.listen()
    living = {_kernel.cookie(one.fileno()) for one in kept}
    known = switch.sockets
    for cookie in [*living, *range(1 << 60, (1 << 60) + 3 * module.SLICE)]:
        known.by_cookie[cookie] = Socket(cookie, app, AF_INET, unix=cookie not in living)
    known.born[1 << 61] = 2
    sizes: list[int] = []
    pipe = os.pipe()
    os.write(pipe[1], b"x")
    switch.loop.watch(pipe[0], select.EPOLLIN, lambda _events: sizes.append(len(known.by_cookie)))
    done: list[bool] = []
    switch.sweep.then(lambda: done.append(True))
    switch.run(lambda: done)
    assert known.by_cookie.keys() == living
    assert not known.born
    steps = {one - other for one, other in itertools.pairwise(sizes)}
    assert max(steps) <= module.SLICE, "others have their turn in between"
    switch.loop.unwatch(pipe[0])
    for fd in pipe:
        os.close(fd)
    for one in kept:
        one.close()


def test_who_asks_during_a_look_gets_another_one(switch: Any) -> None:
    app = switch.app(1, "10.0.0.1")
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    cookie = _kernel.cookie(one.fileno())
    switch.sockets.by_cookie[cookie] = Socket(cookie, app, AF_INET, unix=True)
    order: list[str] = []
    begin = switch.sweep._begin

    def begun() -> None:
        begin()
        if not order and switch.sweep._look is not None and not switch.sweep._waiting:
            switch.sweep._begin = begin
            one.close()
            switch.sweep.then(lambda: order.append("second"))

    switch.sweep._begin = begun
    switch.sweep.then(lambda: order.append("first"))
    switch.run(lambda: len(order) == 2)
    assert order == ["first", "second"]
    assert cookie not in switch.sockets.by_cookie


def test_listeners_are_looked_at_some_at_a_time(switch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTENERS", 2)
    there = [listener(switch, 80 + number) for number in range(5)]
    asked: list[int] = []
    alive = switch.sweep.alive
    monkeypatch.setattr(switch.sweep, "alive", lambda service: (asked.append(service.id), alive(service))[1])
    for ours, _ in there[:3]:
        ours.close()
    switch.sweep.regularly()
    assert len(asked) == 2
    switch.run(lambda: switch.sweep._pass is None)
    assert asked == [service.id for _, service in there]
    assert list(switch.services.by_id.values()) == [service for _, service in there[3:]]
    for ours, _ in there[3:]:
        ours.close()
