"""The service table: what stands where, and that nothing is left when everything has gone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appswitch.address import ANY4, ANY6, LOOPBACK4, LOOPBACK6, Address
from appswitch.routing.table import Endpoint, Member, Table

IP4, OTHER4, IP6 = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), b"\xfd" + bytes(14) + b"\1"
IPS = (IP4, IP6)
LABELS = frozenset({("zone", "default")})


def endpoint(ip: bytes, port: int = 80, *, id: int = 1, app_id: int = 1, dual: bool = False) -> Endpoint:
    return Endpoint(id, app_id, Address(ip, port), dual, LABELS)


@pytest.mark.parametrize(
    ("bound", "dual", "covered"),
    [
        (ANY4, False, {IP4, OTHER4}),
        (ANY6, True, {IP4, OTHER4, IP6}),
        (ANY6, False, {IP6}),
        (IP4, False, {IP4}),
        (IP6, False, {IP6}),
        (LOOPBACK4, False, set()),
    ],
)
def test_covers(bound: bytes, dual: bool, covered: set[bytes]) -> None:
    assert {ip for ip in (IP4, OTHER4, IP6) if endpoint(bound, dual=dual).covers(ip)} == covered


@pytest.mark.parametrize(
    ("bound", "dual", "places"),
    [
        (ANY4, False, {IP4}),
        (ANY6, True, {IP4, IP6}),
        (ANY6, False, {IP6}),
        (IP6, False, {IP6}),
        (LOOPBACK4, False, set()),
        (LOOPBACK6, False, set()),
    ],
)
def test_a_listener_stands_under_the_addresses_it_covers(bound: bytes, dual: bool, places: set[bytes]) -> None:
    table, one = Table(), endpoint(bound, dual=dual)
    table.add(one, IPS)
    assert table.by_address == {Address(ip, 80): (one,) for ip in places}
    assert table.by_app == {(1, 80): (one,)}


def test_listeners_of_one_address_are_kept_in_order() -> None:
    table = Table()
    first, second = endpoint(IP4, id=1), endpoint(IP4, id=2, app_id=2)
    table.add(first, IPS)
    table.add(second, IPS)
    assert table.by_address[Address(IP4, 80)] == (first, second)
    table.remove(first, IPS)
    assert table.by_address == {Address(IP4, 80): (second,)}
    assert table.by_app == {(2, 80): (second,)}


def test_removing_what_is_not_there_harms_nobody() -> None:
    table, one = Table(), endpoint(IP4)
    table.add(one, IPS)
    table.remove(endpoint(IP4, id=9), IPS)
    table.remove(endpoint(IP4, 81, id=9), IPS)
    assert table.by_address == {Address(IP4, 80): (one,)}


def test_an_address_is_owned_until_its_last_app_goes() -> None:
    table = Table()
    first, second = Member(1, "a", IPS, LABELS), Member(2, "a", (IP4,), frozenset({("tier", "db"), ("zone", "b")}))
    table.join(first)
    table.join(second)
    assert set(table.by_name["a"]) == {1, 2}
    assert [member.id for member in table.labelled({"tier": "db", "zone": "b"})] == [2]
    assert list(table.labelled({"tier": "db", "zone": "default"})) == []
    table.leave(1)
    assert table.by_ip == {IP4: {2: second}}
    table.leave(2)
    assert table.by_ip == table.by_name == table.by_label == table.members == {}


def test_every_change_has_its_version() -> None:
    table, one, seen = Table(), endpoint(IP4), {0}
    for change in (
        lambda: table.join(Member(1, "", IPS, LABELS)),
        lambda: table.add(one, IPS),
        lambda: table.remove(one, IPS),
        lambda: table.leave(1),
    ):
        change()
        assert table.version not in seen
        seen.add(table.version)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([ANY4, ANY6, IP4, IP6, LOOPBACK4]), st.integers(1, 3), st.integers(1, 2), st.booleans()
        ),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_all_that_came_can_go_in_any_order(listeners: list[tuple[bytes, int, int, bool]], chance) -> None:  # type: ignore[no-untyped-def]
    table = Table()
    there = [endpoint(ip, port, id=n, app_id=app, dual=dual) for n, (ip, port, app, dual) in enumerate(listeners)]
    for one in there:
        table.add(one, IPS)
    chance.shuffle(there)
    while there:
        table.remove(there.pop(), IPS)
        left = {one.id for one in there}
        assert {one.id for row in table.by_app.values() for one in row} == left
        assert {one.id for row in table.by_address.values() for one in row} <= left
    assert table.by_address == table.by_app == {}
