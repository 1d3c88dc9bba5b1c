"""Closing what policies forbid: the connections of this very process, found in /proc a few descriptors at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from tests.unit.switch.fake import FakeSwitch, address

from appswitch.model import ConnectionRow
from appswitch.resources import Policy, Selector
from appswitch.switch import kill
from appswitch.switch.connections import Established

Killed = list[tuple[ConnectionRow, ...]]


class Links:
    """Connections between apps 1 and 2, 1 and 3, ...: each a pair of sockets of this process."""

    def __init__(self, fake: FakeSwitch, count: int) -> None:
        fake.app(1, "10.0.0.1")
        self.pairs = [socket.socketpair() for _ in range(count)]
        self.rows: list[Established] = []
        for number, (client, _) in enumerate(self.pairs, 2):
            fake.app(number, f"10.0.0.{number}", name=f"app{number}")
            self.rows.append(
                Established(
                    number, os.fstat(client.fileno()).st_ino, 1, number, address("10.0.0.1:40000"),
                    address(f"10.0.0.{number}:80"), "unix",
                )
            )  # fmt: skip

    def ended(self) -> list[bool]:
        """Which of them have been shut down, at both ends."""
        found = []
        for pair in self.pairs:
            for end in pair:
                end.setblocking(False)
            found.append(all(_ended(end) for end in pair))
        return found


def _ended(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except BlockingIOError:
        return False


@pytest.fixture
def links(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> Iterator[Links]:
    one = Links(fake, 3)
    monkeypatch.setattr(kill, "established", lambda _switch: iter(one.rows))
    yield one
    for pair in one.pairs:
        for end in pair:
            end.close()


def run(fake: FakeSwitch) -> tuple[ConnectionRow, ...]:
    """What was killed."""
    killed: Killed = []
    kill.kill_forbidden(fake, killed.append, _unexpected)  # type: ignore[arg-type] # a switch
    fake.run(lambda: killed)
    (rows,) = killed
    return rows


def _unexpected(problem: Exception) -> None:
    raise problem


def deny(fake: FakeSwitch, *names: str) -> None:
    fake.policies.put(Policy(name="no", action="deny", to=(Selector(names=names),)))


def test_what_is_allowed_is_not_looked_for(fake: FakeSwitch, links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "sockets_of_all", lambda: pytest.fail("/proc was read"))
    assert run(fake) == ()
    assert links.ended() == [False] * 3


@pytest.mark.parametrize("batch", [1, 256])
def test_what_is_forbidden_is_closed_and_nothing_else(
    fake: FakeSwitch, links: Links, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(kill, "BATCH", batch)
    _only_this_process(monkeypatch)
    deny(fake, "app2", "app4")
    assert sorted((row.client_app, row.server_app, row.server) for row in run(fake)) == [
        (1, 2, "10.0.0.2:80"), (1, 4, "10.0.0.4:80"),
    ]  # fmt: skip
    assert links.ended() == [True, False, True]


def test_between_two_batches_others_have_their_turn(
    fake: FakeSwitch, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    turns: list[int] = []
    there = iter([(os.getpid(), 10**6 + number, 0) for number in range(10)])

    def sockets() -> Iterator[tuple[int, int, int]]:
        for one in there:
            batches.append(len(turns))
            yield one

    monkeypatch.setattr(kill, "BATCH", 4)
    monkeypatch.setattr(kill, "sockets_of_all", sockets)
    deny(fake, "app2")

    def turn() -> None:
        turns.append(1)
        fake.loop.after(0, turn)

    fake.loop.after(0, turn)
    assert run(fake) == ()
    assert [batches.count(turn) for turn in sorted(set(batches))] == [4, 4, 2]


def test_a_descriptor_that_is_another_by_now_is_left_alone(
    fake: FakeSwitch, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its link and the shutdown it was closed, and its number is another socket's."""
    deny(fake, "app2")
    wanted = links.rows[0].inode
    other = links.pairs[1][0].fileno()
    monkeypatch.setattr(kill, "sockets_of_all", lambda: iter([(os.getpid(), other, wanted), (2**22 + 1, 3, wanted)]))
    assert run(fake) == ()
    assert links.ended() == [False] * 3


def test_a_directory_is_read_as_it_is_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with a million descriptors must not have the loop wait for a list of them."""
    looked: list[str] = []
    readlink = os.readlink
    monkeypatch.setattr(kill.os, "readlink", lambda path: (looked.append(path), readlink(path))[1])
    monkeypatch.setattr(kill.os, "listdir", lambda _path: pytest.fail("a whole list"))
    steps = kill._descriptors(os.getpid())
    first = next(steps)
    assert first[0] == os.getpid()
    assert len(looked) == 1
    steps.close()
    assert (os.getpid(), -1, 0) in kill.sockets_of_all(), "each process is a step, also one that has nothing open"


def test_a_mistake_in_the_middle_is_told(fake: FakeSwitch, links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked is answered."""

    def broken() -> Iterator[tuple[int, int, int]]:
        yield os.getpid(), -1, 0
        raise RuntimeError("in /proc")

    told: list[str] = []
    monkeypatch.setattr(kill, "BATCH", 1)
    monkeypatch.setattr(kill, "sockets_of_all", broken)
    deny(fake, "app2")
    kill.kill_forbidden(
        fake,  # type: ignore[arg-type] # a switch
        lambda rows: pytest.fail(f"killed {rows}"),
        lambda problem: told.append(repr(problem)),
    )
    fake.run(lambda: told)
    assert told == ["RuntimeError('in /proc')"]
    assert links.ended() == [False] * 3


def _only_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptors = kill._descriptors
    monkeypatch.setattr(kill, "_descriptors", lambda pid: descriptors(pid) if pid == os.getpid() else iter(()))
