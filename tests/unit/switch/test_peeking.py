"""Connections that are held for their first bytes: looked at, never consumed, and always let go."""

from __future__ import annotations

import mmap
import socket
from collections.abc import Callable, Iterator

import pytest

from appswitch import _kernel
from appswitch._kernel import Fd, Reflex, Sock
from appswitch.resources import Peek
from appswitch.routing.l7 import UNKNOWN, Peeked
from appswitch.switch import peeking as module
from appswitch.switch.loop import Loop
from appswitch.switch.peeking import Peeking

REQUEST = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
LONG = Peek(milliseconds=60_000)


class Held:
    """One connection that is held: ``client`` is the app's end."""

    def __init__(self) -> None:
        self.loop = Loop(Reflex({}, Sock, {}), mmap.mmap(-1, 80))
        self.loop.on_fault = self._fault
        self.peeking = Peeking(self.loop)
        self.client, server = socket.socketpair()
        self.fd = Fd(server.detach())
        self.peeked: list[Peeked] = []

    def start(self, peek: Peek = LONG) -> None:
        self.peeking.start(self.fd, peek, self._done)

    def _fault(self, problem: Exception) -> None:
        raise problem

    def _done(self, fd: Fd, peeked: Peeked) -> None:
        assert fd is self.fd
        self.peeked.append(peeked)
        self.loop.stop()

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Until it is let go, or something else is the case."""
        late = self.loop.after(20, lambda: pytest.fail("nothing happened"))

        def look() -> None:
            if until():
                self.loop.stop()
            else:
                self.loop.after(0.001, look)

        self.loop.after(0, look)
        self.loop.run()
        late.cancel()

    def close(self) -> None:
        self.client.close()
        self.fd.close()
        self.loop.close()


@pytest.fixture
def held() -> Iterator[Held]:
    one = Held()
    yield one
    one.close()


def test_what_is_there_already_is_seen_and_stays(held: Held) -> None:
    held.client.sendall(REQUEST)
    held.start()
    held.run()
    (peeked,) = held.peeked
    assert (peeked.protocol, peeked.attributes["http.path"]) == ("http", "/x")
    assert _kernel.peek(held.fd, 100) == REQUEST
    assert len(held.peeking) == 0


def test_what_comes_in_parts_is_put_together(held: Held) -> None:
    held.start()
    for part in (REQUEST[:3], REQUEST[3:20], REQUEST[20:]):
        assert held.peeked == []
        held.client.sendall(part)
        held.run(until=lambda: True)
    if not held.peeked:
        held.run()
    assert held.peeked[0].protocol == "http"


def test_who_says_nothing_is_let_go_at_the_deadline(held: Held) -> None:
    held.start(Peek(milliseconds=1))
    held.run()
    assert held.peeked == [UNKNOWN]


def test_half_a_request_counts_at_the_deadline(held: Held) -> None:
    held.client.sendall(REQUEST[:20])
    held.start(Peek(milliseconds=20))
    held.run()
    assert held.peeked[0].protocol == "http"


def test_who_has_closed_is_let_go_at_once(held: Held) -> None:
    held.client.close()
    held.start()
    held.run()
    assert held.peeked == [UNKNOWN]


def test_who_has_shut_down_is_judged_by_what_came(held: Held) -> None:
    held.client.sendall(REQUEST[:20])
    held.client.shutdown(socket.SHUT_WR)
    held.start()
    held.run()
    assert held.peeked[0].protocol == "http"


def test_no_more_than_the_bound_is_looked_at(held: Held) -> None:
    held.client.sendall(b"GET /" + b"x" * 5000)
    held.start(Peek(bytes=1000, milliseconds=60_000))
    held.run()
    assert len(held.peeked) == 1


def test_who_sends_byte_by_byte_is_not_looked_at_for_ever(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    peek = module.l7.peek
    monkeypatch.setattr(module.l7, "peek", lambda data, *, final: (looks.append(len(data)), peek(data, final=final))[1])
    monkeypatch.setattr(module, "LOOKS", 5)
    held.start(Peek(milliseconds=300))

    def drip() -> None:
        if not held.peeked and len(looks) < 100:
            held.client.sendall(b"G" if not looks else b"E")
            held.loop.after(0.0005, drip)

    drip()
    held.run()
    assert len(looks) <= 6


def test_too_many_are_decided_without(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 0)
    held.start()
    assert held.peeked == [UNKNOWN]


def test_strangers_leave_room_for_apps(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRANGERS", 1)
    others = [socket.socketpair() for _ in range(2)]
    ends = [Fd(theirs.detach()) for _, theirs in others]
    decided: list[Peeked] = []

    def done(_fd: Fd, peeked: Peeked) -> None:
        decided.append(peeked)

    held.peeking.start(ends[0], LONG, done, stranger=True)
    held.peeking.start(ends[1], LONG, done, stranger=True)
    assert decided == [UNKNOWN]
    held.start()
    assert held.peeked == []
    others[0][0].sendall(REQUEST)
    held.run(lambda: len(decided) == 2)
    held.peeking.start(ends[1], LONG, done, stranger=True)
    assert len(decided) == 2, "there is room again"
    for ours, _ in others:
        ours.close()
