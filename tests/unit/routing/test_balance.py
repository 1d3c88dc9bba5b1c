"""Who is chosen: the ladder, each algorithm, and that no history of events makes a choice that may not be."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appswitch.resources import LbType, Limits, Outlier
from appswitch.routing import picking
from appswitch.routing.balance import NO_ROOM, VIEWS, Balancer, Candidate
from appswitch.routing.health import SPARE

LBTYPES: tuple[LbType, ...] = get_args(LbType)
every = pytest.mark.parametrize("lbtype", LBTYPES)


def candidate(key: Hashable, weight: int = 1, priority: int = 0, locality: str = "", index: int = 0) -> Candidate:
    return Candidate(key, weight, priority, locality, index)


def equals(keys: Sequence[Hashable]) -> tuple[Candidate, ...]:
    return tuple(candidate(key) for key in keys)


class Chooser:
    """A balancer with a clock that stands and seeded dice."""

    def __init__(self, lbtype: LbType, limits: Limits | None = None, **outlier: float) -> None:
        self.balancer = Balancer(lbtype, Outlier(**outlier), limits or Limits())  # type: ignore[arg-type]
        self.dice = random.Random(1)
        self.now = 0.0

    def __call__(self, candidates: tuple[Candidate, ...], key: bytes = b"", **more: object) -> Hashable:
        chosen = self.balancer.choose(candidates, now=self.now, draw=self.dice.randrange, key=key, **more)  # type: ignore[arg-type]
        return chosen.key if isinstance(chosen, Candidate) else chosen

    def count(self, candidates: tuple[Candidate, ...], times: int, **more: object) -> Counter[Hashable]:
        return Counter(self(candidates, f"client {number}".encode(), **more) for number in range(times))

    def eject(self, *keys: Hashable) -> None:
        for key in keys:
            for _ in range(3):
                self.balancer.failed(key, self.now)


def chi_square(count: Counter[Hashable], shares: dict[str, float]) -> float:
    total = sum(count.values())
    return sum((count[key] - total * share) ** 2 / (total * share) for key, share in shares.items())


# -- the ladder


@every
def test_nobody(lbtype: LbType) -> None:
    choose = Chooser(lbtype)
    assert choose(()) is None
    assert choose((candidate("a", 0),)) is None
    assert choose(equals("ab"), exclude=("a", "b")) is None


@every
def test_weight_zero_gets_nothing(lbtype: LbType) -> None:
    assert Chooser(lbtype).count((candidate("a", 0), candidate("b")), 50) == {"b": 50}


@every
def test_the_callers_candidate_comes_back(lbtype: LbType) -> None:
    some = tuple(candidate(key, index=number) for number, key in enumerate("abc"))
    chosen = Balancer(lbtype, Outlier(), Limits()).choose(some, now=0.0, draw=lambda n: n - 1, key=b"k")
    assert isinstance(chosen, Candidate)
    assert some[chosen.index] is chosen


@every
def test_priorities_fail_over_and_back(lbtype: LbType) -> None:
    some = (candidate("a", priority=1), candidate("b", priority=1), candidate("c", priority=3), candidate("d", 0))
    choose = Chooser(lbtype, max_ejected_percent=100)
    assert choose.count(some, 50).keys() == {"a", "b"}
    choose.eject("a")
    assert choose.count(some, 50).keys() == {"b"}
    choose.eject("b")
    assert choose.count(some, 50).keys() == {"c"}
    choose.now = 30.0
    assert choose.count(some, 50).keys() == {"a", "b"}


@every
def test_the_clients_locality_is_preferred_within_a_priority(lbtype: LbType) -> None:
    some = (
        candidate("a", locality="east"),
        candidate("b", locality="east"),
        candidate("c", locality="west"),
        candidate("d", priority=1, locality="north"),
    )
    choose = Chooser(lbtype)
    assert choose.count(some, 60, locality="east").keys() == {"a", "b"}
    assert choose.count(some, 60, locality="west").keys() == {"c"}
    assert choose.count(some, 60, locality="north").keys() == {"a", "b", "c"}
    assert choose.count(some, 60).keys() == {"a", "b", "c"}
    choose.eject("c")
    assert choose.count(some, 60, locality="west").keys() == {"a", "b"}


@every
def test_an_attempt_is_made_rather_than_none(lbtype: LbType) -> None:
    some = (candidate("a"), candidate("b"), candidate("c", priority=1))
    choose = Chooser(lbtype, max_ejected_percent=100)
    choose.eject("a", "b", "c")
    assert choose.count(some, 50).keys() == {"a", "b"}
    assert choose.count(some, 50, exclude=["a", "b"]).keys() == {"c"}


@every
def test_who_failed_this_connection_is_not_tried_again(lbtype: LbType) -> None:
    some = (candidate("a", locality="x"), candidate("b"), candidate("c", priority=1), candidate("d", priority=2))
    choose = Chooser(lbtype)
    tried: list[Hashable] = []
    for _ in some:
        tried.append(choose(some, b"client", locality="x", exclude=tried))
    assert tried == ["a", "b", "c", "d"]
    assert choose(some, b"client", exclude=tried) is None


@every
def test_full_backends_get_nothing(lbtype: LbType) -> None:
    choose = Chooser(lbtype, Limits(connections=2))
    some = equals("abc")
    for _ in range(6):
        key = choose(some, b"client")
        choose.balancer.started(key)
        choose.balancer.established(key)
    assert choose(some, b"client") is NO_ROOM
    assert choose(some, b"client", exclude=("a",)) is NO_ROOM
    assert choose(some, b"client", exclude="abc") is None
    choose.balancer.ended("b")
    assert choose(some, b"client") == "b"


@every
def test_a_failed_attempt_makes_room(lbtype: LbType) -> None:
    choose = Chooser(lbtype, Limits(pending=1))
    choose.balancer.started("a")
    assert choose(equals("a")) is NO_ROOM
    choose.balancer.failed("a", 0.0)
    assert choose(equals("a")) == "a"
    choose.balancer.started("a")
    choose.balancer.cancelled("a")
    assert choose(equals("a")) == "a"


# -- the algorithms


@pytest.mark.parametrize("lbtype", ["Random", "LeastConnections"])
def test_drawn_evenly(lbtype: LbType) -> None:
    count = Chooser(lbtype).count(equals("abcd"), 4000)
    assert chi_square(count, dict.fromkeys("abcd", 0.25)) < 16.3  # p = 0.001 with three degrees of freedom


@pytest.mark.parametrize("lbtype", ["RingHash", "Maglev"])
def test_without_a_key_hashing_draws(lbtype: LbType) -> None:
    choose, some = Chooser(lbtype), equals("abcd")
    count = Counter(choose(some) for _ in range(4000))
    assert chi_square(count, dict.fromkeys("abcd", 0.25)) < 16.3


def test_round_robin_goes_round() -> None:
    choose, some = Chooser("RoundRobin"), equals("abcd")
    turns = [choose(some) for _ in range(12)]
    assert turns == turns[:4] * 3
    assert set(turns) == set("abcd")


def test_round_robin_begins_anywhere() -> None:
    firsts = {
        Balancer("RoundRobin", Outlier(), Limits()).choose(equals("abc"), now=0.0, draw=lambda n, d=d: d)
        for d in range(3)
    }
    assert len(firsts) == 3


def test_round_robin_is_fair_to_who_stays_while_others_come_and_go() -> None:
    choose, dice = Chooser("RoundRobin"), random.Random(3)
    count: Counter[Hashable] = Counter()
    for turn in range(3000):
        guests = [f"guest {turn + number}" for number in range(dice.randrange(3))]
        order = [*"abc", *guests]
        dice.shuffle(order)
        count[choose(equals(order))] += 1
    assert max(count[key] for key in "abc") - min(count[key] for key in "abc") <= 2
    assert sum(count[key] for key in "abc") >= 2900  # who is there for a moment is not first


def test_round_robin_after_failures_stays_even() -> None:
    """The second attempts of connections that "a" fails do not all go to the same one."""
    choose, some = Chooser("RoundRobin", consecutive_failures=0), equals("abc")
    count: Counter[Hashable] = Counter()
    for _ in range(300):
        key = choose(some)
        count[choose(some, exclude=("a",)) if key == "a" else key] += 1
    assert count == {"b": 150, "c": 150}


@pytest.mark.parametrize(
    ("weights", "sequence"),
    [
        ({"a": 5, "b": 1, "c": 1}, "aabacaa" * 2),  # the example in nginx's own commit
        ({"a": 1, "b": 1, "c": 1}, "abcabc"),
        ({"a": 3, "b": 0, "c": 1}, "aacaaaca"),
        ({"a": 1}, "aaa"),
    ],
)
def test_smooth_weights(weights: dict[str, int], sequence: str) -> None:
    choose = Chooser("Weighted")
    some = tuple(candidate(key, weight) for key, weight in weights.items())
    assert "".join(str(choose(some)) for _ in sequence) == sequence


def test_a_canary_gets_exactly_its_share() -> None:
    some = (candidate("stable", 90), candidate("canary", 10))
    assert Chooser("Weighted").count(some, 1000) == {"stable": 900, "canary": 100}


def test_weights_hold_while_others_come_and_go() -> None:
    choose = Chooser("Weighted")
    count: Counter[Hashable] = Counter()
    for turn in range(6000):
        guest = (candidate(f"guest {turn // 7}", 2),) if turn % 3 else ()
        count[choose((candidate("a", 3), candidate("b", 1), *guest))] += 1
    assert count["a"] / count["b"] == pytest.approx(3, rel=0.05)
    assert sum(number for key, number in count.items() if str(key).startswith("guest")) > 500


def test_least_connections() -> None:
    choose, some = Chooser("LeastConnections"), equals("abc")
    for key, count in (("a", 2), ("b", 1), ("c", 2)):
        choose.balancer.set_active(key, count)
    assert choose(some) == "b"
    choose.balancer.started("b")
    choose.balancer.started("b")
    assert choose.count(some, 50).keys() == {"a", "c"}  # pending ones count, and ties are drawn
    assert choose(some, exclude=("a", "c")) == "b"


def test_least_connections_of_very_many() -> None:
    keys = range(picking.ALL_LOOKED_AT + 1)
    choose, some = Chooser("LeastConnections"), equals(keys)
    for _ in range(20 * len(keys)):
        choose.balancer.started(choose(some))
    loads = [choose.balancer.pending(key) for key in keys]
    assert sum(loads) == 20 * len(keys)
    assert max(loads) - min(loads) <= 8  # of one that is drawn: about 25


@pytest.mark.parametrize("lbtype", ["RingHash", "Maglev"])
def test_a_client_stays_where_it_is(lbtype: LbType) -> None:
    choose, some = Chooser(lbtype, max_ejected_percent=100), equals("abcde")
    keys = [f"client {number}".encode() for number in range(500)]
    before = {key: choose(some, key) for key in keys}
    assert before == {key: Chooser(lbtype)(some[::-1], key) for key in keys}
    choose.eject("c")
    during = {key: choose(some, key) for key in keys}
    assert "c" not in during.values()
    assert all(during[key] == owner for key, owner in before.items() if owner != "c")
    assert len({during[key] for key, owner in before.items() if owner == "c"}) == 4  # to all the others
    choose.now = 30.0
    assert {key: choose(some, key) for key in keys} == before


@pytest.mark.parametrize("lbtype", ["RingHash", "Maglev"])
def test_the_last_usable_of_many_is_found(lbtype: LbType) -> None:
    choose, some = Chooser(lbtype, max_ejected_percent=100), equals(range(400))
    choose.balancer.choose(some, now=0.0, draw=lambda n: 0)
    choose.eject(*range(398))
    assert choose.count(some, 200).keys() == {398, 399}
    assert choose.count(some, 200, exclude=(398,)).keys() == {399}


# -- what is kept


def test_a_table_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setitem(
        picking.PICKERS, "Maglev", lambda: picking.Hashed(lambda members: made.append(1) or picking.Maglev(members))
    )  # type: ignore[func-returns-value]
    choose, some = Chooser("Maglev"), equals("abc")
    for _ in range(3):
        choose.count(some, 5)
        choose.eject("a")
        choose.count(tuple(some), 5)
        choose.count(equals("ab"), 5)
        choose.now += 1000
    assert len(made) == 2


def test_the_common_choice_looks_at_nobody_but_the_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    choose, some = Chooser("RoundRobin"), equals("abc")
    choose(some)
    monkeypatch.setattr("appswitch.routing.balance.pool_of", None)
    assert choose.count(some, 9) == {"a": 3, "b": 3, "c": 3}
    choose.balancer.started("a")
    choose.balancer.established("a")
    choose.balancer.failed("b", 0.0)
    assert choose.count(some, 9, locality="elsewhere") == {"a": 3, "b": 3, "c": 3}


@every
def test_churn_does_not_grow_it(lbtype: LbType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appswitch.routing.hashing.SLOTS", 13)  # a table is made each time
    choose = Chooser(lbtype, Limits(connections=3))
    for number in range(2 * SPARE):
        key = choose(equals((number, number + 1, number + 2)), b"k", locality=f"somewhere {number}")
        choose.balancer.started(key)
        choose.balancer.failed(key, choose.now)
    balancer = choose.balancer
    assert len(balancer._views) <= VIEWS
    assert len(balancer.rows(0.0)) <= SPARE + 6
    assert len(getattr(balancer._picker, "_tables", ())) <= picking.TABLES


def test_other_settings_keep_what_is_known() -> None:
    choose, some = Chooser("RoundRobin"), equals("ab")
    choose.balancer.set_active("a", 7)
    choose.eject("a")
    choose.balancer.reconfigure("LeastConnections", Outlier(), Limits())
    assert choose.balancer.active("a") == 7
    assert choose.count(some, 10).keys() == {"b"}
    choose.balancer.succeeded("a")
    choose.balancer.set_active("b", 8)
    assert choose(some) == "a"
    choose.balancer.forget("a")
    assert choose.balancer.active("a") == choose.balancer.pending("a") == 0


# -- any history


class Known:
    """The model: what a backend has, written down as the rules say it."""

    def __init__(self) -> None:
        self.pending = self.active = self.streak = self.times = 0
        self.until = self.back = 0.0


class Histories(RuleBasedStateMachine):
    """Events in any order, with any candidates, against the model."""

    keys = st.sampled_from("abcde")
    places = st.sampled_from(["", "x", "y"])

    @initialize(
        lbtype=st.sampled_from(LBTYPES),
        failures=st.integers(0, 3),
        percent=st.sampled_from([0, 50, 100]),
        limits=st.builds(Limits, connections=st.integers(0, 3), pending=st.integers(0, 2)),
    )
    def begin(self, lbtype: LbType, failures: int, percent: int, limits: Limits) -> None:
        outlier = Outlier(consecutive_failures=failures, base_ejection=10, max_ejection=25, max_ejected_percent=percent)
        self.outlier, self.limits = outlier, limits
        self.balancer = Balancer(lbtype, outlier, limits)
        self.now, self.dice = 1000.0, random.Random(0)
        self.known = {key: Known() for key in "abcde"}
        self.candidates: tuple[Candidate, ...] = ()
        self.offer([(key, 1, 0, "") for key in "abcde"])

    @rule(some=st.lists(st.tuples(keys, st.integers(0, 3), st.integers(0, 1), places), unique_by=lambda one: one[0]))
    def offer(self, some: list[tuple[str, int, int, str]]) -> None:
        self.candidates = tuple(Candidate(*one, index) for index, one in enumerate(some))
        self.choose("", set(), b"k")

    @rule(seconds=st.sampled_from([1.0, 10.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(locality=places, exclude=st.sets(keys), key=st.binary(max_size=2))
    def choose(self, locality: str, exclude: set[str], key: bytes) -> None:
        chosen = self.balancer.choose(
            self.candidates, now=self.now, draw=self.dice.randrange, key=key, locality=locality, exclude=exclude
        )
        left = [one for one in self.candidates if one.weight and one.key not in exclude]
        room = [one for one in left if not self.full(one.key)]
        usable = [one for one in room if not self.ejected(one.key)] or room
        level = [one for one in usable if one.priority == min(one.priority for one in usable)]
        allowed = [one for one in level if one.locality == locality] if locality else level
        if not isinstance(chosen, Candidate):
            assert chosen is (NO_ROOM if left else None)
            assert not room
        else:
            assert chosen in (allowed or level)
            self.balancer.started(chosen.key)
            self.known[str(chosen.key)].pending += 1

    @rule(key=keys)
    def established(self, key: str) -> None:
        self.balancer.established(key)
        one = self.known[key]
        one.pending, one.active = max(0, one.pending - 1), one.active + 1
        one.streak, one.until = 0, min(one.until, self.now)

    @rule(key=keys)
    def ended(self, key: str) -> None:
        self.balancer.ended(key)
        self.known[key].active = max(0, self.known[key].active - 1)

    @rule(key=keys)
    def cancelled(self, key: str) -> None:
        self.balancer.cancelled(key)
        self.known[key].pending = max(0, self.known[key].pending - 1)

    @rule(key=keys, active=st.integers(-1, 4))
    def counted(self, key: str, active: int) -> None:
        self.balancer.set_active(key, active)
        self.known[key].active = max(0, active)

    @precondition(lambda self: self.candidates)
    @rule(data=st.data())
    def failed(self, data: st.DataObject) -> None:
        """Only of candidates: who is none has peers of another time."""
        key = data.draw(st.sampled_from([str(one.key) for one in self.candidates]))
        ejected = self.balancer.failed(key, self.now)
        one = self.known[key]
        one.pending = max(0, one.pending - 1)
        assert ejected is self.ejects(key)
        if ejected:
            forgiven = int(max(0.0, self.now - one.back) // 10)
            one.times = min(3, max(0, one.times - forgiven) + 1)
            one.until = one.back = self.now + min(10 * one.times, 25)
            one.streak = self.outlier.consecutive_failures - 1

    def ejects(self, key: str) -> bool:
        one, wanted = self.known[key], self.outlier.consecutive_failures
        if not wanted or self.ejected(key):
            return False
        one.streak += 1
        peers = [str(other.key) for other in self.candidates]
        most = max(1, len(peers) * self.outlier.max_ejected_percent // 100)
        return one.streak >= wanted and sum(self.ejected(other) for other in peers) < most

    def ejected(self, key: Hashable) -> bool:
        return self.known[str(key)].until > self.now

    def full(self, key: Hashable) -> bool:
        one, limits = self.known[str(key)], self.limits
        too_many = limits.connections and one.active + one.pending >= limits.connections
        return bool(too_many or (limits.pending and one.pending >= limits.pending))

    @invariant()
    def counts_agree(self) -> None:
        for key, one in self.known.items():
            assert self.balancer.active(key) == one.active >= 0
            assert self.balancer.pending(key) == one.pending >= 0
        for row in self.balancer.rows(self.now):
            one = self.known[str(row.key)]
            assert row.ejected_for == pytest.approx(max(0.0, one.until - self.now))
            assert (row.state == "ejected") is self.ejected(row.key)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("lbtype", ["RingHash", "Maglev"])
def test_no_table_is_made_for_each_of_many_that_fail(lbtype: LbType, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def make(members: picking.Members) -> picking.Table:
        made.append(members)
        return picking.Ring(members)

    monkeypatch.setitem(picking.PICKERS, lbtype, lambda: picking.Hashed(make))
    balancer = Balancer(lbtype, Outlier(consecutive_failures=0), Limits())
    candidates = tuple(Candidate(("app", n), 1, 0 if n == 0 else 1, "", n) for n in range(20))
    tried: set[object] = set()
    for _ in candidates:
        chosen = balancer.choose(candidates, now=0, draw=lambda _: 0, key=b"x", exclude=tried)
        assert isinstance(chosen, Candidate)
        tried.add(chosen.key)
    assert (len(tried), len(made)) == (20, 1)


@pytest.mark.parametrize("lbtype", ["RingHash", "Maglev"])
def test_very_many_views_of_the_backends_do_not_have_a_table_made_for_each_choice(
    lbtype: LbType,
) -> None:
    balancer = Balancer(lbtype, Outlier(), Limits())
    made: list[int] = []
    picker = balancer._picker
    assert isinstance(picker, picking.Hashed)
    make = picker._make
    picker._make = lambda members: (made.append(1), make(members))[1]
    views = [
        tuple(Candidate(("b", n), 1, 0, "", n) for n in range(12) if n not in (out, other))
        for out in range(12)
        for other in range(out)
    ]
    assert len(views) > 2 * picking.TABLES
    rounds = 40
    for number in range(rounds):
        key = number.to_bytes(4, "big")
        for view in views:
            chosen = balancer.choose(view, now=0.0, draw=lambda _n: 0, key=key)
            assert isinstance(chosen, Candidate)
            assert chosen in view
    assert len(made) == picking.TABLES
    few = views[-3:]
    for number in range(2 * picking.RECENT):  # the others have stayed away
        balancer.choose(few[number % 3], now=0.0, draw=lambda _n: 0, key=b"k")
        balancer._views.clear()
    assert len(made) == picking.TABLES + 3
    assert len(picker._tables) == picking.TABLES


def test_a_choice_without_a_table_is_as_stable() -> None:
    candidates = tuple(Candidate(("b", n), 1, 0, "", n) for n in range(8))
    pool = picking.Pool(candidates, candidates, [])
    chosen = {point: picking._without_table(pool, point, ()) for point in range(200)}
    for point, one in chosen.items():
        assert one is not None
        assert picking._without_table(pool, point, ()) == one
        other = picking._without_table(pool, point, {one.key})
        assert other is not None
        assert other != one
    assert picking._without_table(pool, 1, {one.key for one in candidates}) is None


# -- choices made in advance


@given(
    lbtype=st.sampled_from(LBTYPES),
    weights=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    before=st.integers(1, 20),
    led=st.integers(0, 40),
    key=st.binary(max_size=2),
)
def test_what_is_planned_is_what_would_be_chosen(
    lbtype: LbType, weights: list[int], before: int, led: int, key: bytes
) -> None:
    """By turns: each one that is planned, in that order, and afterwards whoever would have been next."""
    some = tuple(
        candidate(name, weight, index=at) for at, (name, weight) in enumerate(zip("abcdef", weights, strict=False))
    )
    asked, planned = Chooser(lbtype), Chooser(lbtype)
    for choose in (asked, planned):
        for _ in range(before):
            choose(some, key)
    plan = planned.balancer.plan(some, now=0.0, key=key)
    if plan is None:
        assert lbtype == "LeastConnections"
        return
    if plan.drawn:
        assert lbtype == "Random" or not key
        assert plan.turns == some
        return
    turns = [plan.turns[at % len(plan.turns)].key for at in range(led)]
    assert turns == [asked(some, key) for _ in range(led)]
    plan.took(led)
    assert [planned(some, key) for _ in range(12)] == [asked(some, key) for _ in range(12)]


@every
def test_nothing_is_planned_while_somebody_is_ejected_or_may_be_full(lbtype: LbType) -> None:
    choose = Chooser(lbtype)
    choose(equals("ab"), b"k")
    choose.eject("a")
    assert choose.balancer.plan(equals("ab"), now=choose.now, key=b"k") is None
    limited = Chooser(lbtype, Limits(connections=5))
    limited(equals("ab"), b"k")
    assert limited.balancer.plan(equals("ab"), now=0.0, key=b"k") is None
    assert Chooser(lbtype).balancer.plan((), now=0.0) is None


def test_weights_without_a_common_measure_are_not_planned() -> None:
    some = (candidate("a", 997), candidate("b", 991))
    choose = Chooser("Weighted")
    choose(some)
    assert choose.balancer.plan(some, now=0.0) is None
