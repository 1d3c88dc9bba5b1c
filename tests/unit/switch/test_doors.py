"""Bells: whoever polls a listener is told of what waits elsewhere, also when descriptors are short for a moment."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch, Named, address

from appswitch._kernel import Fd
from appswitch.address import Address, ip_bytes
from appswitch.kernel.sockaddr import AF_INET
from appswitch.switch import doors as module
from appswitch.switch.descriptors import duplicate
from appswitch.switch.doors import Doors
from appswitch.switch.exposure import Opening
from appswitch.switch.naming import Connection


def test_a_bell_is_rung_when_there_are_descriptors_again(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    gates: Any = Named(judges=False)
    dead: list[object] = []
    doors = Doors(fake.loop, [range(0)], lambda _service: None, dead.append, lambda _service: None, gates, fake.keeping)
    service = fake.listen(fake.app(1, "10.0.0.1"), 80)
    arrival: Any = Named()
    service.returned.append(arrival)
    refusals, real = [3], module._kernel.socket

    def short(*arguments: int) -> Fd:
        if refusals[0]:
            refusals[0] -= 1
            raise OSError(errno.EMFILE, "too many")
        return real(*arguments)

    monkeypatch.setattr(module._kernel, "socket", short)
    monkeypatch.setattr(module._kernel, "connect_unix", lambda *_: 0)
    monkeypatch.setattr(module, "RING_AGAIN", 0.001)
    doors.ring(service)
    doors.ring(service)
    assert not service.rung
    assert refusals == [1]
    fake.run(lambda: service.rung)
    assert not dead


def test_no_bell_is_rung_for_what_was_taken_meanwhile(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    gates: Any = Named(judges=False)
    doors = Doors(fake.loop, [range(0)], lambda _: None, lambda _: None, lambda _: None, gates, fake.keeping)
    service = fake.listen(fake.app(1, "10.0.0.1"), 80)
    asked: list[int] = []

    def short(*_: int) -> Fd:
        asked.append(1)
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(module._kernel, "socket", short)
    monkeypatch.setattr(module, "RING_AGAIN", 0.001)
    doors.ring(service)
    fake.run(lambda: not doors._unrung)
    assert asked == [1]


def test_nothing_is_kept_of_connections_that_have_arrived(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    gates: Any = Named(judges=False)
    doors = Doors(fake.loop, [range(0)], lambda _: None, lambda _: None, lambda _: None, gates, fake.keeping)
    monkeypatch.setattr(module, "EXPECTED_LIMIT", 3)
    link = Connection(1, 2, address("10.0.0.1:4000"), address("10.0.0.2:80"))
    door = address("127.0.0.1:40000")

    def sources() -> list[int]:
        return [source.port for source, _ in doors._expected]

    for port in (1, 2, 3, 1, 4):  # the same port again: the first connection from there was given up
        doors.expect(address(f"127.0.0.1:{port}"), door, link)
    assert sources() == [3, 1, 4], "of those that are on their way the oldest is forgotten"
    for port in (3, 1):
        assert doors._forget((address(f"127.0.0.1:{port}"), door)) == link
    assert doors._forget((address("127.0.0.1:3"), door)) is None
    assert sources() == [4]
    assert [source.port for source, _ in doors._by_client[1]] == [4]
    doors.forget_client(1)
    assert not doors._expected
    assert not doors._by_client


def test_a_closed_doors_port_is_free_though_the_keeper_still_has_it(fake: FakeSwitch) -> None:
    """A server that closes its exposed socket and listens again is not to wait for another process."""
    gates: Any = Named(judges=False, comers=fake.comers)
    doors = Doors(fake.loop, [range(0)], lambda _: None, lambda _: None, lambda _: None, gates, fake.keeping)
    service = fake.listen(fake.app(1, "10.0.0.1"), 80)
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    expose: Any = Named(host_ip=None)
    opening = Opening(expose, Address(ip_bytes("127.0.0.1"), port), AF_INET)
    assert doors.expose(service, opening) == 0
    keepers = duplicate(service.doors[0].fd)
    doors.close(service)
    assert doors.expose(service, opening) == 0
    with socket.create_connection(("127.0.0.1", port), 20):
        doors.close(service)
    keepers.close()
