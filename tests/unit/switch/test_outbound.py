"""Backends outside that fail: one after the other, however many, and nobody else waits meanwhile."""

from __future__ import annotations

import errno
import socket
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch, address

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel.sockaddr import AF_UNIX
from appswitch.resources import BackendSpec
from appswitch.routing.route import Outside
from appswitch.switch import holding as module
from appswitch.switch import outbound
from appswitch.switch.held import Held
from appswitch.switch.holding import Holding

MANY = 400  # with a few frames each, more than may nest


class Network:
    """connect(2) fails at once with what the test says; what succeeds goes to the splicer."""

    def __init__(self, fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
        self.error = error
        self.tried = 0
        self.spliced: list[Any] = []
        fake.holding = Holding(fake)  # type: ignore[assignment, arg-type] # the real one
        fake.census.outbound = Counter()  # type: ignore[attr-defined]
        fake.splice = lambda *arguments: self.spliced.append(arguments)  # type: ignore[attr-defined]
        monkeypatch.setattr(outbound, "_kernel", SimpleNamespace(socket=_kernel.socket, connect=self._connect))
        self.fake = fake

    def _connect(self, _fd: Fd, _where: bytes) -> int:
        self.tried += 1
        return self.error


def client() -> tuple[Fd, socket.socket]:
    ours, theirs = socket.socketpair(AF_UNIX, socket.SOCK_STREAM)
    return Fd(ours.detach()), theirs


def settle(fake: FakeSwitch, fd: Fd) -> None:
    app = fake.apps[1]
    flow = fake.flow(app, "10.9.0.1:80")
    held = Held(flow, address("10.0.0.1:4000"), flow.to, unix=True, zone="", since=time.monotonic())
    fake.holding.settle(fd, held, fake.balanced(app, "10.9.0.1:80"))


def test_very_many_that_fail_at_once_do_not_nest(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.app(1, "10.0.0.1")
    backends = [BackendSpec(external=f"192.0.2.{n % 250 + 1}:{n + 1}") for n in range(MANY)]
    fake.vservice("web", "10.9.0.1", "80", *backends)
    network = Network(fake, monkeypatch, errno.ENETUNREACH)
    fd, theirs = client()
    settle(fake, fd)
    assert network.tried == module.TURN, "others have their turn before it goes on"
    fake.run(lambda: theirs.recv(1) == b"" if network.tried == MANY else False)
    (row,) = fake.rows
    assert (row.verdict, row.error) == ("refused", "ENETUNREACH")
    assert not fake.census.outbound  # type: ignore[attr-defined]
    theirs.close()


def test_the_one_that_answers_gets_it(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.app(1, "10.0.0.1")
    fake.vservice("web", "10.9.0.1", "80", *(BackendSpec(external=f"192.0.2.1:{n + 1}") for n in range(5)))
    network = Network(fake, monkeypatch, errno.ENETUNREACH)
    fd, theirs = client()
    connect = network._connect
    monkeypatch.setattr(
        outbound._kernel, "connect", lambda *a: errno.EISCONN if network.tried >= 6 else _third(network, connect(*a))
    )
    settle(fake, fd)
    fake.run(lambda: network.spliced)
    assert fake.rows[-1].verdict == "allowed"
    theirs.close()


def _third(network: Network, error: int) -> int:
    """Two fail; the third is on its way, and there when it is looked at."""
    if network.tried == 3:
        network.tried = 6
        return errno.EINPROGRESS
    return error


def test_one_address_outside_that_fails_at_once(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    app = fake.app(1, "10.0.0.1")
    network = Network(fake, monkeypatch, errno.ENETUNREACH)
    fd, theirs = client()
    flow = fake.flow(app, "192.0.2.9:80")
    held = Held(flow, address("10.0.0.1:4000"), flow.to, unix=True, zone="", since=time.monotonic())
    fake.holding.settle(fd, held, Outside(flow.to, ()))
    assert network.tried == 1
    assert theirs.recv(1) == b""
    assert fake.rows[-1].error == "ENETUNREACH"
    theirs.close()
