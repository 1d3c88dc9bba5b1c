"""Passive health and circuit breaking: the rules at the head of the module, one by one."""

from __future__ import annotations

import pytest

from appswitch.resources import Limits, Outlier
from appswitch.routing.health import SPARE, Health

A, B, C, D = "abcd"
NONE = Limits()


def health(*keys: str, limits: Limits = NONE, **outlier: float) -> Health:
    made = Health(Outlier(**outlier), limits)  # type: ignore[arg-type]
    made.offer(keys or (A, B, C, D))
    return made


def fail(one: Health, key: str, now: float, times: int = 3) -> list[bool]:
    return [one.failed(key, now) for _ in range(times)]


def ejected_for(one: Health, key: str, now: float) -> float:
    return next(row.ejected_for for row in one.rows(now) if row.key == key)


def test_the_last_of_so_many_failures_in_a_row_ejects() -> None:
    one = health()
    assert fail(one, A, 100.0) == [False, False, True]
    assert one.ejected == {A: 130.0}


def test_a_success_begins_anew() -> None:
    one = health()
    fail(one, A, 0.0, 2)
    one.established(A)
    assert fail(one, A, 0.0, 2) == [False, False]
    one.succeeded(A)
    assert fail(one, A, 0.0) == [False, False, True]


def test_zero_never_ejects() -> None:
    assert not any(fail(health(consecutive_failures=0), A, 0.0, 100))


def test_it_is_back_when_its_time_is_over_and_not_before() -> None:
    one = health()
    fail(one, A, 0.0)
    one.expire(29.9)
    assert one.ejected
    assert one.next_return == 30.0
    one.expire(30.0)
    assert not one.ejected
    assert one.next_return == float("inf")


def test_on_probation_one_failure_is_enough_and_lasts_longer() -> None:
    one = health()
    fail(one, A, 0.0)
    assert fail(one, A, 31.0, 1) == [True]
    assert ejected_for(one, A, 31.0) == 60.0
    assert fail(one, A, 92.0, 1) == [True]
    assert ejected_for(one, A, 92.0) == 90.0


def test_on_probation_one_success_is_enough() -> None:
    one = health()
    fail(one, A, 0.0)
    one.expire(30.0)
    one.established(A)
    assert fail(one, A, 31.0) == [False, False, True]
    assert ejected_for(one, A, 31.0) == 60.0  # but it is not forgotten


def test_an_ejection_is_bounded_and_forgiven_in_bounded_time() -> None:
    one, now = health(base_ejection=10, max_ejection=35), 0.0
    lengths = []
    fail(one, A, now, 2)
    for _ in range(8):
        assert fail(one, A, now, 1) == [True]
        lengths.append(ejected_for(one, A, now))
        now += lengths[-1]
    assert lengths == [10, 20, 30, 35, 35, 35, 35, 35]
    now += 40  # as many times base_ejection as it was ejected
    assert fail(one, A, now, 1) == [True]
    assert ejected_for(one, A, now) == 10


def test_each_base_ejection_in_use_forgives_one() -> None:
    one = health(base_ejection=10)
    fail(one, A, 0.0)  # to 10
    fail(one, A, 10.0, 1)  # to 30
    fail(one, A, 30.0, 1)  # to 60: three
    fail(one, A, 79.0, 1)  # 19 s later: two, and this one
    assert ejected_for(one, A, 79.0) == 30


def test_failures_while_ejected_change_nothing() -> None:
    one = health()
    fail(one, A, 0.0)
    assert not any(fail(one, A, 10.0, 10))
    assert ejected_for(one, A, 10.0) == 20.0


def test_a_success_ends_an_ejection() -> None:
    one = health()
    fail(one, A, 0.0)
    version = one.version
    one.succeeded(A)
    assert not one.ejected
    assert one.next_return == float("inf")
    assert one.version != version
    assert fail(one, A, 1.0, 2) == [False, False]


@pytest.mark.parametrize(("percent", "allowed"), [(0, 1), (24, 1), (50, 2), (75, 3), (100, 4)])
def test_at_most_so_many_percent_but_one(percent: int, allowed: int) -> None:
    one = health(max_ejected_percent=percent)
    assert sum(fail(one, key, 0.0)[-1] for key in (A, B, C, D)) == allowed


def test_who_could_not_be_ejected_is_when_there_is_room() -> None:
    one = health(A, B)
    fail(one, A, 0.0)
    assert not any(fail(one, B, 10.0, 5))
    assert fail(one, B, 30.0, 1) == [True]


def test_who_is_offered_no_longer_does_not_count() -> None:
    one = health(A, B)
    fail(one, A, 0.0)
    one.offer((B, C))
    assert fail(one, B, 0.0)[-1]


@pytest.mark.parametrize("times", [{"base_ejection": 0.0}, {"max_ejection": 0.0}])
def test_an_ejection_of_no_length_is_none(times: dict[str, float]) -> None:
    assert not any(fail(health(**times), A, 0.0, 10))


def test_a_connection_is_counted_from_start_to_end() -> None:
    one = health()
    one.started(A)
    one.started(A)
    row = one.rows(0.0)[0]
    assert (row.pending, row.active, row.total) == (2, 0, 2)
    one.established(A)
    one.cancelled(A)
    row = one.rows(0.0)[0]
    assert (row.pending, row.active, row.total) == (0, 1, 2)
    one.ended(A)
    one.ended(A)
    one.cancelled(A)
    one.failed(A, 0.0)
    row = one.rows(0.0)[0]
    assert (row.pending, row.active, row.failures, row.state) == (0, 0, 1, "healthy")


@pytest.mark.parametrize(
    ("limits", "pending", "active", "full"),
    [
        (Limits(), 1000, 1000, False),
        (Limits(connections=2), 0, 1, False),
        (Limits(connections=2), 0, 2, True),
        (Limits(connections=2), 1, 1, True),
        (Limits(pending=2), 1, 9, False),
        (Limits(pending=2), 2, 0, True),
    ],
)
def test_full(limits: Limits, pending: int, active: int, full: bool) -> None:
    one = health(limits=limits)
    one.set_counts(A, active, pending)
    assert (A in one.full) is full
    one.set_counts(A, 0, 0)
    assert not one.full


def test_only_what_changes_who_is_usable_changes_the_version() -> None:
    one = health(limits=Limits(connections=3))
    version = one.version
    one.started(A)
    one.established(A)
    one.ended(A)
    one.failed(A, 0.0)
    one.expire(100.0)
    assert one.version == version
    one.set_counts(A, 3)
    assert one.version != version


def test_other_limits_count_at_once() -> None:
    one = health()
    one.set_counts(A, 5)
    one.reconfigure(Outlier(consecutive_failures=1), Limits(connections=5))
    assert one.full == {A}
    assert fail(one, B, 0.0, 1) == [True]


def test_who_comes_back_is_known_and_who_came_long_ago_is_dropped() -> None:
    one = health(A, B)
    fail(one, A, 0.0)
    for number in range(SPARE // 2):
        one.offer((B, number))  # type: ignore[arg-type]
    assert A in one.ejected
    for number in range(10 * SPARE):
        one.offer((B, number))  # type: ignore[arg-type]
        one.started(number)
    assert A not in one.ejected
    assert B in one.records
    assert len(one.records) <= SPARE + 4


def test_a_small_offer_does_not_drop_a_large_one() -> None:
    many = tuple(range(3 * SPARE))
    one = Health(Outlier(), NONE)
    one.offer(many)
    one.started(0)
    one.offer((A,))
    assert one.records[0].pending == 1


def test_forgotten_is_forgotten() -> None:
    one = health(limits=Limits(connections=1))
    fail(one, A, 0.0)
    one.started(A)
    one.forget([A, "nobody"])
    assert A not in one.records
    assert not one.ejected
    assert not one.full
    one.ended(A)
    one.succeeded(A)
    assert A not in one.records
