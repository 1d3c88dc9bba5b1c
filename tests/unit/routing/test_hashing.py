"""Consistent hashing: shares by weight, few keys that move, the same in every process."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appswitch.routing import hashing
from appswitch.routing.hashing import Maglev, Members, Ring, Table, digest, identity, rendezvous

KEYS = [digest(f"key {number}".encode()) for number in range(10_000)]
TABLES = [Ring, Maglev]
both = pytest.mark.parametrize("make", TABLES)


def members(count: int, weight: int = 1) -> Members:
    return tuple(((number, b"\x0a\0\0\1", 80), weight) for number in range(count))


def owners(table: Table) -> list[Hashable]:
    return [table.owners[table.slot(key)] for key in KEYS]


def moved(one: Table, other: Table) -> float:
    """The share of keys whose owner is another one."""
    return sum(a != b for a, b in zip(owners(one), owners(other), strict=True)) / len(KEYS)


def test_a_digest_is_the_same_everywhere() -> None:
    assert digest(b"10.0.0.1") == 0xE6034DE146F68E53  # what is changed here moves every user's keys
    program = "from appswitch.routing.hashing import Maglev; print(Maglev(((('a', 80), 1), (('b', 80), 2))).owners)"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in "12"
    }
    assert len(outputs) == 1


def test_identities_of_all_kinds() -> None:
    keys: list[Hashable] = ["a", b"a", 1, ("1", 1), (1, 1), "\udc80", "\0"]
    assert len({identity(key) for key in keys}) == len(keys)


@both
@given(st.permutations(list(members(7))))
@settings(max_examples=10, deadline=None)
def test_the_order_of_backends_does_not_matter(make: type[Table], order: list[tuple[Hashable, int]]) -> None:
    assert make(tuple(order)).owners == make(members(7)).owners  # type: ignore[call-arg]


@pytest.mark.parametrize(("make", "off"), [(Ring, 0.35), (Maglev, 0.02)])
def test_slots_are_shared_by_weight(make: type[Table], off: float) -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    table = make(tuple(weights.items()))  # type: ignore[call-arg]
    count = Counter(owners(table) if make is Ring else table.owners)
    total = sum(count.values())
    for key, weight in weights.items():
        assert count[key] / total == pytest.approx(weight / 8, rel=off)


def test_equal_backends_have_equal_slots() -> None:
    for count in (1, 3, 16, 17, 100):
        shares = Counter(Maglev(members(count)).owners).values()
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("count", [2, 5, 10, 50])
@pytest.mark.parametrize(("make", "extra"), [(Ring, 0.0), (Maglev, 0.08)])
def test_removing_one_moves_little_more_than_its_own_keys(make: type[Table], extra: float, count: int) -> None:
    before, after = make(members(count)), make(members(count)[1:])  # type: ignore[call-arg]
    own = owners(before).count(members(count)[0][0]) / len(KEYS)
    assert own <= moved(before, after) <= own + extra


@pytest.mark.parametrize("count", [1, 5, 10, 50])
@pytest.mark.parametrize(("make", "extra"), [(Ring, 0.0), (Maglev, 0.08)])
def test_adding_one_moves_little_more_than_what_it_gets(make: type[Table], extra: float, count: int) -> None:
    before, after = make(members(count)), make(members(count + 1))  # type: ignore[call-arg]
    own = owners(after).count(members(count + 1)[-1][0]) / len(KEYS)
    assert own <= moved(before, after) <= own + extra


def test_a_lighter_backend_on_a_ring_moves_only_its_own_keys() -> None:
    heavy = members(5, 10)
    light = (("light", 3),)
    with_it = Ring(heavy + light)
    assert moved(Ring(heavy), with_it) == owners(with_it).count("light") / len(KEYS)


@both
def test_weights_that_are_far_apart(make: type[Table]) -> None:
    table = make((("heavy", 65535), *((number, 1) for number in range(50))))  # type: ignore[call-arg]
    count = Counter(table.owners)
    assert len(count) == 51  # who has a weight has a slot
    assert count["heavy"] > sum(count.values()) / 2


def test_more_backends_than_a_ring_has_room_for_points_move_few_keys() -> None:
    for count in (128, 130, 200):
        assert moved(Ring(members(count)), Ring(members(count + 1))) < 4 / count


@both
def test_neither_grows_without_bound(make: type[Table]) -> None:
    for count in (1, 16, 128, 129, 1025):
        for weight in (1, 65535):
            assert len(make(members(count, weight)).owners) <= 16_384  # type: ignore[call-arg]


def test_more_backends_than_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "SLOTS", 101)
    for weights in ((1,), (1, 2)):
        table = Maglev(tuple((number, weights[number % len(weights)]) for number in range(300)))
        assert len(table.owners) == 101


@given(st.lists(st.tuples(st.integers(), st.integers(1, 65535)), min_size=1, max_size=20, unique_by=lambda one: one[0]))
@settings(max_examples=25, deadline=None)
def test_every_slot_has_an_owner(some: list[tuple[Hashable, int]]) -> None:
    for make in TABLES:
        table = make(tuple(some))
        assert set(table.owners) <= {key for key, _ in some}
        assert all(0 <= table.slot(point) < len(table.owners) for point in (0, 1, 2**63, 2**64 - 1))


def test_rendezvous_moves_only_the_keys_of_who_left() -> None:
    everybody = ["a", "b", "c", "d"]
    for key in KEYS[:500]:
        before = rendezvous(key, everybody)
        assert rendezvous(key, everybody[::-1]) == before
        if before != "a":
            assert rendezvous(key, everybody[1:]) == before
