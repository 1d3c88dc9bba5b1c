"""The loop, turned by pipes and socket pairs; time is made, not waited for."""

from __future__ import annotations

import errno
import mmap
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appswitch._kernel import Fd, Reflex, Sock
from appswitch.switch import loop as module
from appswitch.switch.loop import Loop

IN, OUT = select.EPOLLIN, select.EPOLLOUT


@pytest.fixture
def loop() -> Iterator[Loop]:
    journal = mmap.mmap(-1, 80)
    one = Loop(Reflex({}, Sock, {}), journal)
    one.after(20, lambda: pytest.fail("the loop was not stopped"))
    yield one
    one.close()
    journal.close()


class Pair:
    """Two sockets; ``ring`` makes the first readable."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()

    def ring(self) -> None:
        self.theirs.send(b"x")

    def hush(self) -> None:
        self.ours.recv(1)

    @property
    def fd(self) -> int:
        return self.ours.fileno()

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [Pair(), Pair()]
    yield made
    for pair in made:
        pair.close()


class Clock:
    """time, as far as the loop looks at it."""

    def __init__(self) -> None:
        self.now = self.start = float(int(time.monotonic()))

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(module, "time", one)
    return one


def test_events_come_to_the_one_who_watches(loop: Loop, pairs: list[Pair]) -> None:
    seen: list[tuple[str, int]] = []

    def first(events: int) -> None:
        seen.append(("first", events))
        pairs[0].hush()
        pairs[1].ring()

    def second(events: int) -> None:
        seen.append(("second", events))
        loop.stop()

    loop.watch(pairs[0].fd, IN, first)
    loop.watch(pairs[1].fd, IN, second)
    pairs[0].ring()
    loop.run()
    assert seen == [("first", IN), ("second", IN)]


def test_it_is_level_triggered(loop: Loop, pairs: list[Pair]) -> None:
    seen: list[int] = []

    def twice(events: int) -> None:
        seen.append(events)
        if len(seen) == 2:
            loop.stop()

    loop.watch(pairs[0].fd, IN, twice)
    pairs[0].ring()
    loop.run()
    assert seen == [IN, IN]


def test_a_callback_may_unwatch_another_whose_event_is_there(loop: Loop, pairs: list[Pair]) -> None:
    seen: list[str] = []

    def answer(name: str, other: Pair) -> Any:
        def function(_events: int) -> None:
            seen.append(name)
            loop.unwatch(other.fd)
            loop.unwatch(other.fd)  # unknown ones are ignored
            loop.after(0, loop.stop)

        return function

    loop.watch(pairs[0].fd, IN, answer("first", pairs[1]))
    loop.watch(pairs[1].fd, IN, answer("second", pairs[0]))
    pairs[0].ring()
    pairs[1].ring()
    loop.run()
    assert len(set(seen)) == 1


def test_a_callback_may_unwatch_itself(loop: Loop, pairs: list[Pair]) -> None:
    seen: list[int] = []

    def once(events: int) -> None:
        seen.append(events)
        loop.unwatch(pairs[0].fd)
        loop.after(0, loop.stop)

    loop.watch(pairs[0].fd, IN, once)
    pairs[0].ring()
    loop.run()
    assert seen == [IN]


def test_a_number_can_be_watched_again_after_it_was_closed(loop: Loop, pairs: list[Pair]) -> None:
    number = pairs[0].fd
    loop.watch(number, IN, lambda _events: pytest.fail("the old one was called"))
    loop.unwatch(number)
    fresh = Pair()
    pairs[0].close()
    try:
        again = Fd(os.dup2(fresh.fd, number, inheritable=False))
        loop.watch(again, IN, lambda _events: loop.stop())
        fresh.ring()
        loop.run()
        loop.unwatch(again)
        again.close()
    finally:
        fresh.close()


def test_rearm_changes_what_is_waited_for(loop: Loop, pairs: list[Pair]) -> None:
    seen: list[int] = []

    def on_events(events: int) -> None:
        seen.append(events)
        if events & OUT:
            loop.stop()
        loop.rearm(pairs[0].fd, OUT)

    loop.watch(pairs[0].fd, IN, on_events)
    pairs[0].ring()
    loop.run()
    assert seen == [IN, OUT]


def test_what_cannot_be_watched_is_an_error(loop: Loop, pairs: list[Pair]) -> None:
    loop.watch(pairs[0].fd, IN, lambda _events: None)
    with pytest.raises(OSError, match=os.strerror(errno.EEXIST)):
        loop.watch(pairs[0].fd, IN, lambda _events: None)
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        loop.rearm(pairs[1].fd, IN)


# --- files that are not ours to keep --------------------------------------------------------------------------------


def test_a_file_is_watched_after_our_descriptor_is_closed(loop: Loop, pairs: list[Pair]) -> None:
    seen: list[int] = []
    copy = Fd(os.dup(pairs[0].fd))
    loop.watch_file(copy, IN, 7, lambda events: (seen.append(events), loop.stop()))
    copy.close()
    pairs[0].ring()
    loop.run()
    assert seen == [IN]


def test_a_file_is_watched_beside_a_descriptor_with_the_number_of_its_tag(loop: Loop, pairs: list[Pair]) -> None:
    seen: list[str] = []
    loop.watch(pairs[1].fd, IN, lambda _events: (seen.append("descriptor"), loop.stop()))
    copy = Fd(os.dup(pairs[0].fd))
    loop.watch_file(copy, IN, pairs[1].fd, lambda _events: (seen.append("file"), pairs[1].ring()))
    copy.close()
    pairs[0].ring()
    loop.run()
    assert seen == ["file", "descriptor"]


def test_a_file_is_edge_triggered_and_untag_forgets_it(loop: Loop, pairs: list[Pair]) -> None:
    seen: list[int] = []

    def once(events: int) -> None:
        seen.append(events)
        loop.untag(7)
        loop.untag(7)
        pairs[0].ring()  # an edge that nobody hears
        pairs[1].ring()

    copy = Fd(os.dup(pairs[0].fd))
    loop.watch_file(copy, IN, 7, once)
    copy.close()
    loop.watch(pairs[1].fd, IN, lambda _events: loop.after(0, loop.stop) and loop.unwatch(pairs[1].fd))
    pairs[0].ring()
    loop.run()
    assert seen == [IN]


def test_a_listener_is_left_alone_for_a_moment(loop: Loop, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    heard: list[int] = []

    def on_event(events: int) -> None:
        heard.append(events)
        if len(heard) == 1:
            loop.pause(pairs[0].fd)
            loop.after(0, lambda: heard.append(0))
        else:
            loop.stop()

    loop.watch(pairs[0].fd, IN, on_event)
    pairs[0].ring()
    loop.run()
    assert heard == [IN, 0, IN]


def test_who_was_closed_meanwhile_is_not_watched_again(
    loop: Loop, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    loop.watch(pairs[0].fd, IN, lambda _events: None)
    loop.pause(pairs[0].fd)
    loop.unwatch(pairs[0].fd)
    loop.watch(pairs[0].fd, OUT, lambda _events: loop.stop())
    loop.run()


# --- timers ---------------------------------------------------------------------------------------------------------


def test_timers_fire_in_the_order_of_their_times_and_equals_in_that_of_their_making(clock: Clock) -> None:
    journal = mmap.mmap(-1, 80)
    loop, fired = Loop(Reflex({}, Sock, {}), journal), list[str]()
    for name, seconds in (("c", 3.0), ("a", 1.0), ("b1", 2.0), ("b2", 2.0), ("never", 2.5)):
        timer = loop.after(seconds, lambda name=name: fired.append(name))
        if name == "never":
            timer.cancel()
    loop.after(3.0, loop.stop)
    clock.now += 10
    loop.run()
    loop.close()
    journal.close()
    assert fired == ["a", "b1", "b2", "c"]


def test_a_timer_waits_for_its_time(loop: Loop, clock: Clock, pairs: list[Pair]) -> None:
    fired: list[float] = []
    steps = iter([0.5, 0.49, 0.02])

    def pass_time(_events: int) -> None:
        clock.now += next(steps)

    loop.watch(pairs[0].fd, IN, pass_time)
    pairs[0].ring()
    loop.after(1.0, lambda: (fired.append(clock.now), loop.stop()))
    loop.run()
    assert fired == [pytest.approx(clock.start + 1.01)]


def test_timers_that_are_due_all_the_time_let_others_have_their_turn(loop: Loop, pairs: list[Pair]) -> None:
    fired: list[int] = []

    def again() -> None:
        fired.append(1)
        loop.after(0, again)

    loop.after(0, again)
    loop.watch(pairs[0].fd, IN, lambda _events: loop.stop())
    pairs[0].ring()
    loop.run()
    assert len(fired) <= 2


def test_so_many_timers_fire_in_one_go_and_no_more(loop: Loop, clock: Clock, pairs: list[Pair]) -> None:
    fired: list[int] = []
    for number in range(5 * module.BATCH):
        loop.after(1.0, lambda number=number: fired.append(number))
    clock.now += 2
    seen: list[int] = []
    loop.watch(pairs[0].fd, IN, lambda _events: (seen.append(len(fired)), len(seen) == 3 and loop.stop()))
    pairs[0].ring()
    loop.run()
    assert seen == [module.BATCH, 2 * module.BATCH, 3 * module.BATCH]


def test_nobody_wakes_up_for_a_timer_that_was_cancelled(
    loop: Loop, clock: Clock, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, patiences = module._kernel.wait, list[int]()
    monkeypatch.setattr(module._kernel, "wait", lambda *args: (patiences.append(args[1]), wait(*args))[1])
    loop.after(1, lambda: pytest.fail("it was cancelled")).cancel()
    loop.after(2, lambda: pytest.fail("it is not time"))
    loop.watch(pairs[0].fd, IN, lambda _events: loop.stop())
    pairs[0].ring()
    loop.run()
    assert patiences == [2001]


def test_timers_that_were_cancelled_do_not_pile_up(loop: Loop) -> None:
    fired: list[int] = []
    for number in range(4):
        loop.after(0.001 * number, lambda number=number: fired.append(number))  # type: ignore[misc]
        for _ in range(3 * module.CROWDED):
            loop.after(1e9, lambda: None).cancel()
    assert len(loop._timers) <= module.CROWDED + 10
    loop.after(0.005, loop.stop)
    loop.run()
    assert fired == [0, 1, 2, 3]


def test_a_timer_may_cancel_another_that_is_due(loop: Loop) -> None:
    loop.after(0, lambda: victim.cancel() or None)
    victim = loop.after(0, lambda: pytest.fail("it was cancelled"))
    loop.after(0, loop.stop)
    loop.run()


def test_every_comes_again_after_a_fault(loop: Loop, clock: Clock, pairs: list[Pair]) -> None:
    faults: list[Exception] = []
    fired: list[float] = []

    def tick() -> None:
        fired.append(clock.now)
        if len(fired) == 3:
            loop.stop()
        raise ValueError(len(fired))

    def pass_time(_events: int) -> None:
        clock.now += 1.0  # exactly: a timer that is due is due

    loop.on_fault = faults.append
    loop.every(1.0, tick)
    loop.watch(pairs[0].fd, IN, pass_time)
    pairs[0].ring()
    loop.run()
    assert [round(at - clock.start, 3) for at in fired] == [1.0, 2.0, 3.0]
    assert [str(fault) for fault in faults] == ["1", "2", "3"]


def test_a_fault_is_raised_unless_somebody_wants_it(loop: Loop) -> None:
    loop.after(0, list[int]().pop)
    with pytest.raises(IndexError):
        loop.run()


def test_closing_gives_the_epoll_back() -> None:
    with mmap.mmap(-1, 80) as journal:
        loop = Loop(Reflex({}, Sock, {}), journal)
        number = loop._epoll.fileno()
        assert Path(f"/proc/self/fd/{number}").readlink() == Path("anon_inode:[eventpoll]")
        loop.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(number)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300, 3e6])
def test_a_time_that_never_comes_stands_in_nobodys_way(loop: Loop, seconds: float) -> None:
    fired: list[str] = []
    loop.after(seconds, lambda: fired.append("never"))
    loop.after(0.001, lambda: (fired.append("soon"), loop.stop()))
    loop.run()
    assert fired == ["soon"]
