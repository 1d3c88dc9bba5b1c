"""What may wait, and what is said when no more may: docs/load.md. Bounds of one module are tested with that module."""

from __future__ import annotations

import errno
import os
import resource
import socket
from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch, Named, address

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel.sockaddr import AF_INET, AF_UNIX
from appswitch.resources import Peek
from appswitch.routing.l7 import UNKNOWN, Peeked
from appswitch.switch import descriptors, doors, parking, peeking
from appswitch.switch.apps import App
from appswitch.switch.call import Failed
from appswitch.switch.descriptors import Reserve, share
from appswitch.switch.doors import Doors
from appswitch.switch.parking import Parking
from appswitch.switch.peeking import Peeking

LIMIT = 400  # descriptors that we may have, in some of these tests


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (LIMIT, LIMIT))


def null() -> Fd:
    return Fd(os.open("/dev/null", os.O_RDONLY))


class Calls:
    """Calls that are parked, each of a thread of its own."""

    def __init__(self, fake: FakeSwitch) -> None:
        journal: Any = Named(enter=lambda _notification: 0, leave=lambda _slot: None)
        self.parking = Parking(fake.loop, journal)
        self._tid = 0

    def park(self, app: App, fd: Fd | None = None) -> int:
        """0 or an errno."""
        self._tid += 1
        call: Any = Named(tid=self._tid, app=app, notification=())
        try:
            self.parking.park(call, fd or null(), 0, lambda: None, None, 0)
        except Failed as failed:
            return failed.error
        return 0


def test_calls_of_one_app_that_wait(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PER_APP", 3)
    calls = Calls(fake)
    one, other = fake.app(1), fake.app(2)
    assert [calls.park(one) for _ in range(4)] == [0, 0, 0, errno.ENOBUFS]
    assert calls.park(other) == 0, "another app's wait"
    calls.parking.leave(1)
    assert calls.park(one) == 0, "one that has ended makes room"
    calls.parking.forget(one)
    assert len(calls.parking) == 1
    calls.parking.forget(other)


def test_nothing_waits_with_one_of_the_last_descriptors(fake: FakeSwitch, few: None) -> None:
    reserve, low = Reserve(), null()
    kept = [null() for _ in range(LIMIT - low.fileno())]
    calls, app = Calls(fake), fake.app(1)
    high = next(fd for fd in kept if fd.fileno() == LIMIT * 3 // 4)
    assert not reserve.touched(low)
    assert reserve.touched(high)
    assert not reserve.touched(high.fileno() - 1)
    assert calls.park(app, high) == errno.ENOBUFS
    assert calls.park(app, low) == 0
    calls.parking.forget(app)


def test_a_share_of_few_descriptors_is_small(few: None) -> None:
    assert (share(4096, 4), share(10, 4)) == (LIMIT // 4, 10)


def test_the_limit_is_raised_as_far_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def allowed_up_to(most: int) -> list[int]:
        asked: list[int] = []

        def setrlimit(_which: int, limits: tuple[int, int]) -> None:
            asked.append(limits[0])
            if limits[0] > most:
                raise ValueError("not allowed to raise maximum limit")

        monkeypatch.setattr(resource, "getrlimit", lambda _which: (1024, 4096))
        monkeypatch.setattr(resource, "setrlimit", setrlimit)
        descriptors.raise_limit()
        return asked

    assert allowed_up_to(1 << 20) == [descriptors.WANTED]
    assert allowed_up_to(4096) == [descriptors.WANTED, 4096]


def test_connections_that_are_held_for_their_first_bytes(
    fake: FakeSwitch, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peeking, "LIMIT", 3)
    monkeypatch.setattr(peeking, "STRANGERS", 1)
    told: list[Peeked] = []
    one, pairs = Peeking(fake.loop), [socket.socketpair() for _ in range(5)]
    for number, (ours, _) in enumerate(pairs):
        one.start(Fd(os.dup(ours.fileno())), Peek(), lambda _fd, what: told.append(what), stranger=number < 2)
    assert len(one) == 3
    assert told == [UNKNOWN, UNKNOWN], "a second stranger, and one more than may be held at all"
    for pair in pairs:
        for end in pair:
            end.close()
    fake.run(lambda: len(told) == 5)


def test_doors_of_one_app(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "INSIDE", 2)
    gates: Any = Named(judges=False)
    ports = [range(21000, 21100)]
    one = Doors(fake.loop, ports, lambda _: None, lambda _: None, lambda _: None, gates)
    greedy, other = fake.app(1, "10.0.0.1"), fake.app(2, "10.0.0.2")
    services = [fake.listen(greedy, 80 + number) for number in range(3)]
    opened = [one.inside(service, AF_INET) for service in services]
    assert [isinstance(where, int) for where in opened] == [False, False, True]
    assert opened[2] == errno.ENOBUFS
    assert one.inside(services[0], AF_INET) == opened[0], "the door that is there"
    its = fake.listen(other, 80)
    assert not isinstance(one.inside(its, AF_INET), int), "another app's"
    one.close(services[0])
    assert not isinstance(one.inside(services[2], AF_INET), int), "one that is closed makes room"
    for service in (*services, its):
        one.close(service)
    assert not one._inside


def test_stand_ins_of_one_app(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    from appswitch.switch import relay

    monkeypatch.setattr(relay, "PER_APP", 2)
    app: Any = Named(home=Named(socket=lambda *_: pytest.fail("one more")), stand_ins={1: 1, 2: 1})
    far: Any = Named(peers={}, datagram=Named(app=app))
    one = relay.Relay(fake, fake.loop)  # type: ignore[arg-type] # a switch
    assert one._peer(far, address("10.0.0.9:53"), b"") is None


def test_a_socket_of_ours_is_not_taken_for_another(fake: FakeSwitch) -> None:
    """`is_listed` is right about a number that is used again."""
    one = socket.socket(AF_UNIX, socket.SOCK_STREAM)
    inode, cookie = os.fstat(one.fileno()).st_ino, _kernel.cookie(one.fileno())
    assert _kernel.is_listed(inode, cookie)
    assert not _kernel.is_listed(inode, cookie + 1)
    one.close()
    assert not _kernel.is_listed(inode, cookie)
    found: list[int] = []
    there = _kernel.list_begin(AF_UNIX, 0xFFF)
    with socket.socket(AF_UNIX, socket.SOCK_STREAM):
        while (more := _kernel.list_more(there)) is not None:
            found += more
    assert cookie not in found
    assert len(found) > 0
