"""What may wait, and what is said when no more may: docs/load.md. Bounds of one module are tested with that module."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch, Named, address

from appswitch import _kernel, wire
from appswitch._kernel import Fd
from appswitch.kernel.sockaddr import AF_INET, AF_INET6, AF_UNIX
from appswitch.model import FlowRow
from appswitch.resources import Peek
from appswitch.routing.l7 import UNKNOWN, Peeked
from appswitch.switch import (
    attach,
    channel,
    core,
    descriptors,
    doors,
    guest,
    parking,
    peeking,
    relay,
    strays,
)
from appswitch.switch.apps import App
from appswitch.switch.call import Failed
from appswitch.switch.descriptors import Reserve, share
from appswitch.switch.doors import Doors
from appswitch.switch.parking import Parking
from appswitch.switch.peeking import Peeking
from appswitch.switch.pending import Phase
from appswitch.switch.services import Arrival

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
    one = Doors(fake.loop, ports, lambda _: None, lambda _: None, lambda _: None, gates, fake.keeping)
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
    monkeypatch.setattr(relay, "PER_APP", 2)
    app: Any = Named(home=Named(socket=lambda *_: pytest.fail("one more")), stand_ins={1: 1, 2: 1})
    far: Any = Named(peers={}, datagram=Named(app=app))
    one = relay.Relay(fake, fake.loop)  # type: ignore[arg-type] # a switch
    assert one._peer(far, address("10.0.0.9:53"), b"") is None


def test_stand_ins_of_one_socket(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was silent longest goes first."""
    monkeypatch.setattr(relay, "PEERS", 2)
    fake.datagrams.steady = {}
    home = Named(socket=lambda family, kind: _kernel.socket(family, kind, 0))
    app: Any = Named(home=home, stand_ins=Counter(), spec=Named(appid="x"))
    datagram: Any = Named(app=app, bound=address("127.0.0.1:5353"), cookie=1)
    one = relay.Relay(fake, fake.loop)  # type: ignore[arg-type] # a switch
    far = relay._Far(datagram, None, AF_INET, _kernel.socket(AF_INET, socket.SOCK_DGRAM, 0), None)
    peers = [address(f"127.0.9.{number}:20053") for number in range(1, 5)]
    for peer in (*peers[:2], peers[0], *peers[2:]):
        assert one._peer(far, peer, b"") is not None
    assert list(far.peers) == peers[2:]
    assert set(app.stand_ins) == {(peer, 5353) for peer in peers[2:]}
    for peer in peers[2:]:
        one._drop(far, peer)


def test_strays_of_one_app_in_a_second(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strays, "HEARD", 20)
    one = strays.Strays(fake)  # type: ignore[arg-type] # a switch
    monkeypatch.setattr(strays._kernel, "receive", lambda _ear: (b"", b"", b""))
    monkeypatch.setattr(strays, "parse", lambda _message: "stray")
    led: list[object] = []
    monkeypatch.setattr(one, "_lead", lambda app, _stray: led.append(app.id))
    greedy, other, ear = fake.app(1), fake.app(2), null()
    for _ in range(4):
        one._hear(greedy, ear)
    one._hear(other, ear)
    assert Counter(led) == {1: 20, 2: strays.BURST}


def test_connections_that_wait_for_a_service(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "OVERFLOW", 2)
    switch: Any = fake
    switch.doors = Named(ring=lambda _service: None)
    switch.sweep = Named(alive=lambda _service: True)
    service = fake.listen(fake.app(1, "10.0.0.1"), 80)
    service.backlog = 3
    arrival = Arrival(null(), address("10.0.0.2:4000"), address("10.0.0.1:80"), unix=True)

    def offered(patient: bool) -> int:
        count = 0
        while core.Switch.offer(switch, service, arrival, patient):
            count += 1
        return count

    assert offered(False) == 3 + 1, "as many as listen(2) has said, and one more as the kernel has it"
    assert offered(True) == 2, "who believes to be connected may be one of so many more"
    service.returned.clear()
    switch.reserve = Named(touched=lambda _fd: True)
    assert offered(True) == 0, "with one of the last descriptors nobody waits"


def test_what_a_proxy_may_be_behind(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    place: Any = Named(failed=lambda *_: None, left=lambda _guest: None, taken=lambda *_: None)
    one = guest.Guest(fake, place, ours)  # type: ignore[arg-type] # a switch
    monkeypatch.setattr(guest, "UNANSWERED", 3)
    monkeypatch.setattr(guest, "UNSENT", 2)
    monkeypatch.setattr(guest, "TAKEN", 2)
    pending: Any = Named(phase=Phase.SENT, settled=lambda: None)
    assert not one.full
    one.pending = dict.fromkeys(range(3), pending)
    assert one.full, "it has not answered"
    for number in range(3):
        one._received(number)
    assert (one.active, list(one._taken)) == (2, [1, 2]), "of one that never tells of an end, the oldest are forgotten"
    assert not one.full
    one._unsent.extend((b"", b""))
    assert one.full, "it does not read"
    one.close()
    theirs.close()


@pytest.mark.parametrize("uid", [0, 1000])
def test_launchers_at_a_time(fake: FakeSwitch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(attach, "LIMIT", 4)
    monkeypatch.setattr(attach, "LIMIT_OF_ONE", 2)
    monkeypatch.setattr(attach, "_UCRED", Named(size=12, unpack=lambda _raw: (1, uid, 0)))
    switch: Any = fake
    switch.config = Named(arch="x86_64")
    most = 4 if uid == 0 else 2
    with socket.socket(AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "a"))
        listener.listen(16)
        one = attach.Attach(switch, None, listener)  # type: ignore[arg-type] # nothing is kept
        clients = [socket.socket(AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(6)]
        for client in clients:
            client.connect(str(tmp_path / "a"))
            one._on_guest()
        assert len(one._guests) == most
        assert one._guests_of == {uid: most}
        assert [client.recv(1) for client in clients[most:]] == [b""] * (6 - most), "the others are hung up on"
        for there in list(one._guests):
            there.leave()
        assert not one._guests_of
        for client in clients:
            client.close()


def test_what_control_may_be_behind(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_PENDING", 1 << 20)
    monkeypatch.setattr(channel, "MAX_PENDING_FLOWS", 1 << 16)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    closed: list[object] = []
    switch: Any = fake
    peer = channel._Peer(switch, ours, lambda *_: None, closed.append)
    row = FlowRow(time=0.0, proto="tcp", verdict="allowed", client_app=1, server_app=2, client="a", server="b")
    for _ in range(20_000):
        peer.send(wire.FlowSeen(row=row))
    assert len(peer._pending) < (1 << 16) + 1000, "who looks at flows misses some"
    assert not closed
    peer.send(wire.AppGone(app_id=1))
    assert not closed, "everything else has to arrive"
    for _ in range(60_000):
        peer.send(wire.AppGone(app_id=1))
    assert closed == [peer], "or control is cut off, and comes again for everything"
    assert not peer._pending
    theirs.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_tcp_connection_is_found_by_its_addresses(host: str) -> None:
    """`is_connected` is right about addresses that are used again, and about what is no address."""
    family = AF_INET6 if ":" in host else AF_INET
    with (
        socket.create_server(("", 0), family=family, dualstack_ipv6=family == AF_INET6) as listening,
        socket.socket(family) as client,
    ):
        client.connect((host, listening.getsockname()[1]))
        own, peer = _kernel.getsockname(client.fileno()), _kernel.getpeername(client.fileno())
        cookie = _kernel.cookie(client.fileno())
        assert isinstance(own, bytes)
        assert isinstance(peer, bytes)
        assert _kernel.is_connected(cookie, own, peer)
        assert not _kernel.is_connected(cookie + 1, own, peer)
        assert not _kernel.is_connected(cookie, peer, own)
        for nothing in (b"", b"\x02", bytes(200)):
            assert not _kernel.is_connected(cookie, own, nothing)
            assert not _kernel.is_connected(cookie, nothing, peer)
        served, _ = listening.accept()
        served.close()
        assert _kernel.is_connected(cookie, own, peer)
    assert not _kernel.is_connected(cookie, own, peer)


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
