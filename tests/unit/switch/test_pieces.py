"""Long work between other work."""

from __future__ import annotations

import os
import select
from collections.abc import Generator

import pytest
from tests.unit.switch.fake import FakeSwitch

from appswitch.switch.pieces import every, in_pieces

# --- pieces


def test_the_result_comes_when_all_pieces_are_done(fake: FakeSwitch) -> None:
    found: list[object] = []

    def work() -> Generator[None, None, str]:
        for _ in range(3):
            found.append("piece")
            yield
        return "done"

    in_pieces(fake.loop, work(), found.append, found.append)
    assert found == ["piece"]
    fake.run(lambda: len(found) == 4)
    assert found == ["piece"] * 3 + ["done"]


@pytest.mark.parametrize("at", [0, 2])
def test_what_is_raised_is_told_instead(fake: FakeSwitch, at: int) -> None:
    found: list[object] = []

    def work() -> Generator[None, None, str]:
        for number in range(3):
            if number == at:
                raise RuntimeError("no")
            yield
        return "done"

    in_pieces(fake.loop, work(), found.append, lambda problem: found.append(repr(problem)))
    fake.run(lambda: found)
    assert found == ["RuntimeError('no')"]


def test_events_have_their_turn_between_pieces(fake: FakeSwitch) -> None:
    """A piece takes much longer than the pause between two: a descriptor that is ready is looked at all the same."""
    ours, theirs = os.pipe()
    turns: list[str] = []

    def work() -> Generator[None, None, None]:
        for _ in range(4):
            turns.append("piece")
            os.write(theirs, b"x")
            yield

    def heard(_events: int) -> None:
        os.read(ours, 1)
        turns.append("event")

    fake.loop.watch(ours, select.EPOLLIN, heard)
    in_pieces(fake.loop, work(), lambda _: turns.append("done"), lambda problem: pytest.fail(repr(problem)))
    fake.run(lambda: "done" in turns)
    os.close(ours)
    os.close(theirs)
    assert turns == ["piece", "event"] * 4 + ["done"]


def test_timers_that_are_always_due_do_not_keep_events_away(fake: FakeSwitch) -> None:
    ours, theirs = os.pipe()
    seen: list[int] = []
    rounds = 0

    def again() -> None:
        nonlocal rounds
        rounds += 1
        if not seen and rounds < 10_000:
            fake.loop.after(0, again)
        else:
            fake.loop.stop()

    def heard(events: int) -> None:
        seen.append(events)
        os.read(ours, 1)

    fake.loop.watch(ours, select.EPOLLIN, heard)
    os.write(theirs, b"x")
    fake.loop.after(0, again)
    fake.loop.run()
    os.close(ours)
    os.close(theirs)
    assert seen == [select.EPOLLIN]


def test_every() -> None:
    assert list(every(2, iter(range(5)))) == [[0, 1], [2, 3], [4]]
    assert list(every(2, [])) == []
