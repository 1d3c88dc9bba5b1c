"""Descriptors that somebody owns, and those that nobody does; and that control is answered whatever goes wrong."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch, Named

from appswitch import wire
from appswitch._kernel import Fd
from appswitch.switch import owned
from appswitch.switch.channel import Channel
from appswitch.switch.owned import reachable, unowned


def numbers(*roots: object) -> set[int]:
    work = reachable(roots)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: set[int] = end.value
            return found


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def method(self) -> None:
        pass


@pytest.fixture
def fd() -> Iterator[Fd]:
    one = Fd(os.open("/dev/null", os.O_RDONLY))
    yield one
    one.close()


def test_wherever_an_owner_keeps_it(fd: Fd) -> None:
    def generator(held: Fd) -> Iterator[int]:
        yield held.fileno()

    running = generator(fd)
    next(running)
    for way in (
        [fd], {"a": (fd,)}, {fd}, Slotted(fd), Slotted(fd).method, lambda: fd, lambda _events, held=fd: held, running,
    ):  # fmt: skip
        assert numbers(way) == {fd.fileno()}, way
    assert numbers(Slotted(Slotted([lambda: {1: fd}]))) == {fd.fileno()}


def test_all_kinds_of_owners_and_closed_ones(fd: Fd) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, select.epoll() as epoll:
        closed = Fd(os.dup(0))
        closed.close()
        assert numbers([fd, ours, epoll, closed]) == {fd.fileno(), ours.fileno(), epoll.fileno()}


def test_modules_and_classes_own_nothing() -> None:
    """Else everything would be everybody's: a function knows its module."""
    assert numbers(os, Slotted, numbers, os.open) == set()


def test_it_gives_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "BATCH", 10)
    work = reachable([[[number] for number in range(1000, 1100)]])
    assert sum(1 for _ in work) >= 10


def test_what_nobody_owns(fd: Fd) -> None:
    before = unowned(set())
    leaked = os.dup(fd.fileno())
    try:
        now = unowned(set(before))
        assert now == {leaked: "/dev/null"}
        assert unowned({*before, leaked}) == {}
        assert not {0, 1, 2} & before.keys()
    finally:
        os.close(leaked)


# --- control's questions


@pytest.fixture
def asked(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, list[str]]]:
    """A connection to a switch that lacks most parts, and the faults that it has told."""
    monkeypatch.setattr(Channel, "_welcome", lambda _self: wire.Welcome(wire.VERSION, 1, (), ()))
    switch: Any = fake
    switch.reports, switch.nameservers = Named(send=None), None
    faults: list[str] = []
    fake.loop.on_fault = lambda problem: faults.append(repr(problem))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(b"\0appswitch-test-" + os.urandom(8).hex().encode())
    listener.listen()
    listener.setblocking(False)
    channel = Channel(switch, Named(registered={}), listener, os.geteuid())  # type: ignore[arg-type]
    with listener, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(listener.getsockname())
        sock.setblocking(False)
        yield sock, faults
        sock.close()
        fake.run(lambda: not channel._peers)
        fake.loop.unwatch(listener.fileno())


@pytest.mark.parametrize("question", [wire.Query(7, "proxies"), wire.Check(7), wire.Explain(7, 1, "10.0.0.1:80")])
def test_a_mistake_in_the_middle_is_an_answer(
    fake: FakeSwitch, asked: tuple[socket.socket, list[str]], question: wire.ToSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not five seconds without one: and whoever asks next is answered, too."""
    sock, faults = asked
    monkeypatch.setattr("appswitch.switch.channel.explain", lambda *_: {}["no such thing"])
    unframer, told = wire.Unframer(), list[wire.ToControl]()

    def heard() -> bool:
        with contextlib.suppress(BlockingIOError):
            told.extend(wire.decode_to_control(body) for body in unframer.feed(sock.recv(1 << 16)))
        return len(told) >= 3

    sock.send(wire.frame(question) + wire.frame(wire.Query(8, "nonesuch")))
    fake.run(heard)
    answers = {one.seq: one for one in told if isinstance(one, wire.Done)}
    assert answers[7].error == "internal"
    assert "log" in answers[7].detail
    assert answers[8].error == "unknown-query"
    assert len(faults) == 1
