"""Calls that come before the configuration wait for it, in their order, and one that fails stops nobody."""

from __future__ import annotations

from typing import Any

from appswitch.switch.early import Early

Notification = tuple[int, ...]


class Journal:
    """What waits, by slot."""

    def __init__(self) -> None:
        self.slots: dict[int, Notification] = {}

    def enter(self, notification: Notification) -> int:
        self.slots[notification[0]] = notification
        return notification[0]

    def leave(self, slot: int) -> None:
        self.slots.pop(slot, None)


JOURNAL: Any = Journal()


def test_nothing_is_in_the_way_of_a_switch_that_has_no_predecessor() -> None:
    def serve(_notification: Notification) -> None: ...

    assert Early(JOURNAL, lambda _problem: None).guard(serve) is serve


def test_calls_wait_for_the_configuration() -> None:
    early, served = Early(JOURNAL, lambda _problem: None), list[Notification]()
    early.wait()
    serve = early.guard(served.append)
    serve((1,))
    serve((2,))
    early.again(served.append, (7,), 5)
    assert served == []
    assert JOURNAL.slots == {1: (1,), 2: (2,)}, "who dies now leaves them to a successor"
    early.begin()
    serve((3,))
    early.again(served.append, (8,), 6)
    assert served == [(1,), (2,), (7,), (3,), (8,)]
    assert JOURNAL.slots == {}


def test_a_fault_in_one_call_is_told_and_the_others_are_served() -> None:
    faults, served = list[Exception](), list[Notification]()
    early = Early(JOURNAL, faults.append)
    early.wait()

    def fail(_notification: Notification) -> None:
        raise RuntimeError

    early.guard(fail)((1,))
    early.guard(served.append)((2,))
    early.begin()
    assert served == [(2,)]
    assert [type(fault) for fault in faults] == [RuntimeError]


def test_a_second_configuration_changes_nothing() -> None:
    early = Early(JOURNAL, lambda _problem: None)
    early.begin()
    early.begin()
