"""What a proxy at the endpoint gets, step by step: nothing before it has accepted, and nothing that another one has.

The endpoint, its guests and the loop are the real ones; the proxy is whatever a test, or hypothesis, makes it say.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.switch.fake import FakeSwitch, address

from appswitch._kernel import Fd
from appswitch.delegate import messages
from appswitch.delegate.errors import Reason
from appswitch.delegate.metadata import Metadata
from appswitch.resources import Proxy
from appswitch.routing.route import REFUSED, Delegate, Flow
from appswitch.switch import guest as module
from appswitch.switch.delegation import Delegation
from appswitch.switch.endpoint import Endpoint
from appswitch.switch.gates import stranger
from appswitch.switch.guest import Guest
from appswitch.switch.held import Held
from appswitch.switch.turns import AT_ONCE

HERE, THERE = address("10.1.0.5:40000"), address("10.1.0.1:80")


class Peer:
    """Somebody at the endpoint."""

    def __init__(self, world: World) -> None:
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.connect(world.path)
        self.link.setblocking(False)
        self.has: dict[int, list[int]] = {}  # descriptors that have come, by connection
        self.heard: list[messages.FromDaemon] = []

    def say(self, message: messages.ToDaemon, *fds: int) -> None:
        socket.send_fds(self.link, [messages.encode(message)], fds)

    def read(self) -> messages.FromDaemon | None:
        """The next packet, if there is one."""
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(self.link, messages.MAX_PACKET + 1, 4)
            except ConnectionResetError:
                continue
            except BlockingIOError:
                return None
            if not packet:
                return None
            message = messages.decode_from_daemon(packet, len(fds))
            if isinstance(message, messages.Handover):
                self.has[message.connection] = fds
            self.heard.append(message)
            return message

    def close(self) -> None:
        self.link.close()
        for fd in (fd for fds in self.has.values() for fd in fds):
            os.close(fd)
        self.has = {}


class World:
    """A switch with an endpoint, on which the proxy "one" is configured."""

    def __init__(self, **spec: Any) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.path = str(Path(self.place.name, "delegate.sock"))
        self.fake = FakeSwitch()
        self.fake.proxies.put(Proxy(name="one", **spec))
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.listener.bind(self.path)
        self.listener.listen()
        self.delegation = Delegation(self.fake)  # type: ignore[arg-type]
        self.fake.delegation = self.delegation  # type: ignore[attr-defined]
        self.endpoint = self.delegation.endpoint = Endpoint(self.fake, self.listener, own_uid=0)  # type: ignore[arg-type]
        self.mark = os.eventfd(0, os.EFD_NONBLOCK)
        self.fake.loop.watch(self.mark, select.EPOLLIN, self._marked)
        self.peers: list[Peer] = []
        self.apps: list[socket.socket] = []
        self.connections = 0  # that "one" was to have

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.run()
        self.fake.loop.unwatch(self.mark)
        os.close(self.mark)
        self.listener.close()
        for app in self.apps:
            app.close()
        for fd, _, _ in self.fake.holding.settled:
            fd.close()
        self.fake.close()
        self.place.cleanup()

    def run(self) -> None:
        """The loop, until nothing is to be done: the mark comes after everything that is ready before it."""
        epoll = self.fake.loop._epoll
        while True:
            os.eventfd_write(self.mark, 1)
            self.fake.loop.run()
            if not select.select([epoll], [], [], 0)[0]:
                return

    def end(self, peer: Peer) -> None:
        """Of one that has many connections: a moment later nobody waits for it any more."""
        peer.close()
        self.run()
        self.fake.run(lambda: self.ended == self.connections)

    @property
    def ended(self) -> int:
        """Connections that somebody has, or nobody any more; each in one way."""
        holding, counts = self.fake.holding, self.delegation.counts("one")
        return len(holding.settled) + len(holding.refused) + counts.taken

    def _marked(self, _events: int) -> None:
        os.eventfd_read(self.mark)
        self.fake.loop.stop()

    def peer(self) -> Peer:
        self.peers.append(Peer(self))
        self.run()
        return self.peers[-1]

    def proxy(self, capacity: int = 0) -> Peer:
        peer = self.peer()
        peer.say(messages.Hello("one", capacity))
        self.run()
        assert isinstance(peer.read(), messages.Welcome)
        return peer

    @property
    def guest(self) -> Guest | None:
        return self.endpoint.guest("one")

    def connection(self, server_side: bool = False) -> bool:
        """One that "one" is to have; whether it is asked."""
        self.connections += 1
        app, end = socket.socketpair()
        self.apps.append(app)
        flow = Flow(stranger(HERE.ip), THERE)
        held = Held(flow, HERE, THERE, unix=True, zone="", since=0.0)
        verdict = Delegate(self.fake.proxies.by_name["one"], (), server_side, THERE, REFUSED)
        fd = Fd(end.detach())
        asked = self.endpoint.send(fd, held, verdict)
        if not asked:
            self.delegation.failed(fd, held, verdict)
        self.run()
        return asked

    def too_late(self, number: int) -> None:
        assert self.guest is not None
        self.guest._too_late(self.guest.pending[number])
        self.run()

    @property
    def counts(self) -> dict[str, int]:
        counts = self.delegation.counts("one")
        return {name: getattr(counts, name) for name in counts.__slots__ if getattr(counts, name)}


@pytest.fixture
def world() -> Iterator[World]:
    before = descriptors()
    one = World(on_failure="open")
    yield one
    one.close()
    del one
    assert descriptors() == before


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def said(peer: Peer, world: World, message: messages.ToDaemon) -> messages.FromDaemon | None:
    """What is answered."""
    peer.say(message)
    world.run()
    return peer.read()


@pytest.mark.parametrize("server_side", [False, True])
def test_asked_accepted_handed_over_received(world: World, server_side: bool) -> None:
    proxy = world.proxy()
    world.connection(server_side)
    asked = proxy.read()
    assert isinstance(asked, messages.Ask)
    assert asked.metadata.direction == ("server" if server_side else "client")
    assert said(proxy, world, messages.Verdict(1, messages.Action.ACCEPT)) == messages.Handover(1)
    assert len(proxy.has[1]) == 1 + server_side
    assert world.counts == {}
    assert not world.fake.holding.settled
    assert said(proxy, world, messages.Received(1)) is None
    assert world.counts == {"taken": 1}
    assert len(world.fake.holding.settled) == server_side, "what the server accepts"
    os.write(proxy.has[1][-1], b"from the proxy")
    assert world.apps[0].recv(100) == b"from the proxy"


@pytest.mark.parametrize(
    "action", [messages.Action.PASS, messages.Action.DROP, messages.Action.NEXT, messages.Action.FAIL]
)
def test_whatever_else_it_says_it_has_nothing(world: World, action: messages.Action) -> None:
    proxy = world.proxy()
    world.connection()
    proxy.read()
    assert said(proxy, world, messages.Verdict(1, action)) is None
    assert said(proxy, world, messages.Verdict(1, messages.Action.ACCEPT)) is None
    assert proxy.has == {}
    assert len(world.fake.holding.settled) + len(world.fake.holding.refused) == 1


def test_too_late(world: World) -> None:
    """It is told so, and its answer crosses with that."""
    proxy = world.proxy()
    world.connection()
    proxy.read()
    world.too_late(1)
    assert proxy.read() == messages.Withdrawn(1, Reason.TIMEOUT)
    assert said(proxy, world, messages.Verdict(1, messages.Action.ACCEPT)) is None
    assert (world.counts, len(world.fake.holding.settled)) == ({"failed": 1}, 1)


def test_the_timer_is_the_configured_one() -> None:
    world = World(on_failure="open", timeout=0.01)
    try:
        proxy = world.proxy()
        world.connection()
        world.fake.run(lambda: world.fake.holding.settled)
        proxy.read()
        assert proxy.read() == messages.Withdrawn(1, Reason.TIMEOUT)
    finally:
        world.close()


@pytest.mark.parametrize("on_failure", ["open", "closed"])
@pytest.mark.parametrize("step", ["asked", "accepted", "sent"])
def test_it_dies_half_way(on_failure: Literal["open", "closed"], step: str) -> None:
    """Nothing is lost, not even descriptors that were on their way."""
    world = World(on_failure=on_failure)
    try:
        proxy = world.proxy()
        world.connection()
        if step != "asked":
            proxy.say(messages.Verdict(1, messages.Action.ACCEPT))
        if step == "sent":
            world.run()
        proxy.close()
        world.run()
        assert world.counts == {"failed": 1}
        settled, refused = world.fake.holding.settled, world.fake.holding.refused
        assert (len(settled), len(refused)) == ((1, 0) if on_failure == "open" else (0, 1))
        if settled:
            world.apps[0].sendall(b"still whole")
            assert os.read(settled[0][0].fileno(), 100) == b"still whole"
    finally:
        world.close()


@pytest.mark.parametrize("way", ["goes", "is cut off", "is configured no longer"])
def test_what_it_has_confirmed_is_its_own(world: World, way: str) -> None:
    """Though the switch reads that only when it ends the conversation."""
    proxy = world.proxy()
    world.connection()
    proxy.read()
    assert said(proxy, world, messages.Verdict(1, messages.Action.ACCEPT)) == messages.Handover(1)
    if way == "is cut off":
        proxy.link.send(b"nonsense")
    proxy.say(messages.Received(1))
    if way == "goes":
        proxy.link.close()
    elif way == "is configured no longer":
        world.fake.proxies.remove("one")
        world.endpoint.reconcile()
        world.fake.proxies.put(Proxy(name="one"))
        with pytest.raises(BrokenPipeError):
            proxy.say(messages.Done(1))
    world.run()
    assert (world.fake.holding.settled, world.fake.holding.refused) == ([], [])
    os.write(proxy.has[1][0], b"x")
    assert world.apps[0].recv(1) == b"x"


def test_it_gives_back_what_it_has_accepted(world: World) -> None:
    proxy = world.proxy()
    world.connection()
    proxy.read()
    assert said(proxy, world, messages.Verdict(1, messages.Action.ACCEPT)) == messages.Handover(1)
    assert said(proxy, world, messages.Verdict(1, messages.Action.FAIL)) is None
    assert (world.counts, len(world.fake.holding.settled)) == ({"failed": 1}, 1)
    assert said(proxy, world, messages.Received(1)) is None
    assert world.counts == {"failed": 1}


def stuffed(world: World, proxy: Peer) -> int:
    """So many questions until it is sent no more; it reads none."""
    for count in range(1, 5000):
        world.connection()
        assert world.guest is not None
        if len(world.guest._unsent) > 2:
            return count
    raise AssertionError("it never was full")


def test_one_that_does_not_read_what_it_has_accepted(world: World) -> None:
    """There is no room for the descriptors: when its time is over it has none, and another one has the connection."""
    proxy = world.proxy()
    world.connection()
    proxy.read()
    last = stuffed(world, proxy) + 1
    proxy.say(messages.Verdict(1, messages.Action.ACCEPT))
    world.run()
    world.too_late(1)
    world.too_late(last)  # it was never asked about this one, and is told nothing
    heard = []
    while (message := proxy.read()) is not None:
        heard.append(message)
        world.run()
    assert proxy.has == {}
    assert [one for one in heard if isinstance(one, messages.Withdrawn)] == [messages.Withdrawn(1, Reason.TIMEOUT)]
    assert not any(isinstance(one, messages.Ask) and one.metadata.connection == last for one in heard)
    assert world.counts == {"failed": 2}
    world.end(proxy)


def test_it_cannot_answer_what_it_was_not_asked_yet(world: World) -> None:
    proxy = world.proxy()
    last = stuffed(world, proxy)
    for message in (
        messages.Verdict(last, messages.Action.ACCEPT),
        messages.Verdict(last, messages.Action.PASS),
        messages.Received(last),
        messages.Done(last),
    ):
        proxy.say(message)
    world.run()
    assert world.guest is not None
    assert last in world.guest.pending
    assert world.fake.holding.settled == []
    world.end(proxy)


def test_words_about_nothing_are_a_flood(world: World) -> None:
    proxy = world.proxy()
    world.connection()
    for _ in range(module.STRAYS + 1):
        proxy.say(messages.Done(99))
    world.run()
    assert world.guest is None
    assert world.counts == {"failed": 1}
    assert isinstance(proxy.read(), messages.Ask)
    refused = proxy.read()
    assert isinstance(refused, messages.Refused)
    assert refused.reason is Reason.MALFORMED


def test_a_thousand_of_one_that_goes_do_not_hold_up_the_others(world: World) -> None:
    proxy = world.proxy()
    for _ in range(3 * AT_ONCE):
        world.connection()
    proxy.close()
    world.run()
    assert world.ended < world.connections
    world.end(proxy)


def test_another_capacity_holds_at_once(world: World) -> None:
    proxy = world.proxy(5)
    assert [world.connection() for _ in range(2)] == [True, True]
    world.fake.proxies.put(Proxy(name="one", on_failure="open", capacity=2))
    world.endpoint.reconcile()
    assert not world.connection()
    proxy.read()
    said(proxy, world, messages.Verdict(1, messages.Action.PASS))
    assert world.connection()


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_is_told_which_one_this_is(world: World, version: int) -> None:
    peer = world.peer()
    packet = messages.encode(messages.Hello("one"), version)
    peer.link.send(packet)
    world.run()
    answer = peer.link.recv(2000)
    assert answer[:5] == b"AXD" + bytes((version, 3))
    assert messages.decode_from_daemon(answer) == messages.Refused(
        Reason.VERSION, f"this daemon speaks version 2 of the protocol: a message of version {version}"
    )
    assert peer.link.recv(1) == b""


def test_no_descriptors_to_take_a_guest_is_no_reason_to_spin(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    paused = []
    monkeypatch.setattr(world.fake.loop, "pause", paused.append)
    full = socket.socket.accept
    monkeypatch.setattr(socket.socket, "accept", lambda _sock: _raise(OSError(24, "EMFILE")))
    world.endpoint._on_peer()
    monkeypatch.setattr(socket.socket, "accept", full)
    assert paused == [world.listener.fileno()]


def _raise(problem: OSError) -> None:
    raise problem


# -- offers of apps


def offered(world: World, both: bool = False) -> tuple[Peer, socket.socket]:
    """An app, and the other end of what it has offered."""
    app = world.peer()
    end, other = socket.socketpair()
    world.apps.append(other)
    direction: Literal["client", "server"] = "server" if both else "client"
    metadata = Metadata(connection=0, direction=direction, source=HERE, destination=THERE, proxy="one")
    with end:
        app.say(messages.Offer(metadata), *[end.fileno()] * (1 + both))
    world.run()
    return app, other


@pytest.mark.parametrize("both", [False, True])
def test_an_offer(world: World, both: bool) -> None:
    proxy = world.proxy()
    app, other = offered(world, both)
    assert isinstance(proxy.read(), messages.Ask)
    assert said(proxy, world, messages.Verdict(1, messages.Action.ACCEPT)) == messages.Handover(1)
    assert app.read() == messages.Taken(1)
    said(proxy, world, messages.Received(1))
    assert len(proxy.has[1]) == 1 + both
    os.write(proxy.has[1][0], b"hello")
    assert other.recv(10) == b"hello"
    assert world.counts == {"taken": 1}


@pytest.mark.parametrize("shut", [False, True])
def test_an_app_that_takes_its_offer_back(world: World, shut: bool) -> None:
    """Nobody but it has its sockets then, whatever the proxy says."""
    proxy = world.proxy()
    app, other = offered(world)
    proxy.read()
    if shut:  # as `delegate.client` does: it may still read what was said before
        app.link.shutdown(socket.SHUT_RDWR)
        proxy.say(messages.Verdict(1, messages.Action.ACCEPT))
        assert world.guest is not None
        world.guest._read()  # before the switch sees that the app has gone
    else:
        app.close()
    world.run()
    assert proxy.read() == messages.Withdrawn(1, Reason.GONE)
    said(proxy, world, messages.Verdict(1, messages.Action.ACCEPT))
    assert proxy.has == {}
    assert app.heard == []
    other.setblocking(False)
    assert other.recv(1) == b"", "nobody has the other end any more"


def test_an_offer_that_is_not_taken(world: World) -> None:
    proxy = world.proxy()
    app, _ = offered(world)
    proxy.read()
    said(proxy, world, messages.Verdict(1, messages.Action.PASS))
    answer = app.read()
    assert isinstance(answer, messages.Refused)
    assert answer.reason is Reason.DECLINED


# -- whatever a proxy does

NUMBERS = st.integers(1, 12)


class Proxies(RuleBasedStateMachine):
    """Each connection ends in one way, and a proxy has descriptors of none that it did not accept in time."""

    def __init__(self) -> None:
        super().__init__()
        self.before = descriptors()
        self.world = World(on_failure="open")
        self.peer: Peer | None = None
        self.accepted: set[int] = set()

    def teardown(self) -> None:
        self.gone()
        self.world.close()
        del self.world
        assert descriptors() == self.before

    @precondition(lambda self: self.peer is None)
    @rule(capacity=st.sampled_from([0, 2]))
    def comes(self, capacity: int) -> None:
        self.peer = self.world.proxy(capacity)

    @rule()
    def connection(self) -> None:
        self.world.connection()

    @precondition(lambda self: self.peer)
    @rule(number=NUMBERS, action=st.sampled_from(messages.Action))
    def answers(self, number: int, action: messages.Action) -> None:
        if action is messages.Action.ACCEPT:
            self.accepted.add(number)
        self.say(messages.Verdict(number, action))

    @precondition(lambda self: self.peer)
    @rule(number=NUMBERS)
    def confirms(self, number: int) -> None:
        self.say(messages.Received(number))

    @precondition(lambda self: self.peer)
    @rule(number=NUMBERS)
    def is_done(self, number: int) -> None:
        self.say(messages.Done(number))

    @precondition(lambda self: self.peer)
    @rule()
    def reads(self) -> None:
        assert self.peer is not None
        self.peer.read()

    @precondition(lambda self: self.peer)
    @rule()
    def sends_a_descriptor(self) -> None:
        assert self.peer is not None
        with contextlib.suppress(BrokenPipeError):
            self.peer.say(messages.Done(1), self.peer.link.fileno())
        self.world.run()

    @rule(number=NUMBERS)
    def time_is_over(self, number: int) -> None:
        guest = self.world.guest
        if guest is not None and number in guest.pending and guest.pending[number].phase is not module.Phase.SENT:
            self.world.too_late(number)

    @precondition(lambda self: self.peer)
    @rule()
    def gone(self) -> None:
        if self.peer is not None:
            self.peer.close()
            self.peer = None
        self.world.run()

    @invariant()
    def has_only_what_it_accepted(self) -> None:
        if self.peer is not None:
            assert set(self.peer.has) <= self.accepted

    @invariant()
    def every_connection_is_somewhere(self) -> None:
        guest = self.world.guest
        assert self.world.ended + (len(guest.pending) if guest is not None else 0) == self.world.connections

    def say(self, message: messages.ToDaemon) -> None:
        assert self.peer is not None
        with contextlib.suppress(BrokenPipeError):  # it was cut off
            self.peer.say(message)
        self.world.run()


Proxies.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestProxies = Proxies.TestCase
