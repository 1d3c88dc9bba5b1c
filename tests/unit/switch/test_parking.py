"""Calls that wait: each gets its one reply, whatever becomes of its attempt."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch, Named

from appswitch._kernel import Fd
from appswitch.switch.call import Outcome
from appswitch.switch.parking import Parking


def test_a_wait_that_fails_for_our_reasons_is_answered(fake: FakeSwitch) -> None:
    journal: Any = Named(enter=lambda _notification: 0, leave=lambda _slot: None)
    parking = Parking(fake.loop, journal)
    answers: list[Outcome] = []
    call: Any = Named(tid=7, app=fake.app(1), notification=(), answer=answers.append)

    def short() -> Outcome | None:
        raise OSError(errno.EMFILE, "too many")

    parked = parking.park(call, Fd(os.open("/dev/null", os.O_RDONLY)), 0, short, None, 0)
    with pytest.raises(OSError, match="too many"):
        parking.retry(parked)
    parking.on_fault = lambda _call, problem: -(getattr(problem, "errno", 0) or errno.EIO)
    parking.retry(parked)
    assert answers == [-errno.EMFILE]
    assert len(parking) == 0
