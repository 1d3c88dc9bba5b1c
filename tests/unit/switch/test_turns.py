"""Many things in turn: all of them, in their order, and not all in one go."""

from __future__ import annotations

import pytest
from tests.unit.switch.fake import FakeSwitch

from appswitch.switch.turns import AT_ONCE, in_turn


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, 3 * AT_ONCE + 1])
def test_all_are_done_and_others_come_between(fake: FakeSwitch, count: int) -> None:
    done = list[int]()
    in_turn(fake.loop, [lambda n=n: done.append(n) for n in range(count)])  # type: ignore[misc]
    assert done == list(range(min(count, AT_ONCE)))
    fake.run(lambda: len(done) == count)
    assert done == list(range(count))


def test_one_that_fails_stops_none(fake: FakeSwitch) -> None:
    faults, done = list[Exception](), list[int]()
    fake.loop.on_fault = faults.append
    in_turn(fake.loop, [lambda: done.append(1), lambda: done.append(1 // 0), lambda: done.append(2)])
    assert (done, [type(fault) for fault in faults]) == ([1, 2], [ZeroDivisionError])
