"""Calls that come before the configuration wait for it, in their order, and one that fails stops nobody."""

from __future__ import annotations

from appswitch.switch.early import Early

Notification = tuple[int, ...]


def test_nothing_is_in_the_way_of_a_switch_that_has_no_predecessor() -> None:
    def serve(_notification: Notification) -> None: ...

    assert Early(lambda _problem: None).guard(serve) is serve


def test_calls_wait_for_the_configuration() -> None:
    early, served = Early(lambda _problem: None), list[Notification]()
    early.wait()
    serve = early.guard(served.append)
    serve((1,))
    serve((2,))
    assert served == []
    early.begin()
    serve((3,))
    assert served == [(1,), (2,), (3,)]


def test_a_fault_in_one_call_is_told_and_the_others_are_served() -> None:
    faults, served = list[Exception](), list[Notification]()
    early = Early(faults.append)
    early.wait()

    def fail(_notification: Notification) -> None:
        raise RuntimeError

    early.guard(fail)((1,))
    early.guard(served.append)((2,))
    early.begin()
    assert served == [(2,)]
    assert [type(fault) for fault in faults] == [RuntimeError]


def test_a_second_configuration_changes_nothing() -> None:
    early = Early(lambda _problem: None)
    early.begin()
    early.begin()
