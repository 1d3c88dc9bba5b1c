"""Drawing addresses."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appswitch.control.pools import Pool, Pools, addresses_of
from appswitch.control.problems import ProblemError
from appswitch.networks import IPAddress, parse_pools

SMALL = ipaddress.ip_network("10.1.0.0/27")  # 10.1.0.16 to 10.1.0.30


def test_what_is_never_drawn() -> None:
    pool = Pool(SMALL)
    assert pool.size == 15
    taken: set[IPAddress] = set()
    for _ in range(15):
        drawn = pool.draw(taken)
        assert drawn is not None
        taken |= addresses_of([drawn])
    assert sorted(map(int, taken)) == [int(SMALL[number]) for number in range(16, 31)]
    assert pool.draw(taken) is None


def test_a_freed_address_is_drawn_late() -> None:
    pool = Pool(SMALL)
    drawn = [pool.draw(()) for _ in range(16)]
    assert len(set(drawn[:15])) == 15
    assert drawn[15] == drawn[0]


def test_addresses_in_use_are_passed_over() -> None:
    pool = Pool(SMALL)
    assert pool.draw(addresses_of(["10.9.9.9", "fd00::1", "10.1.0.2"])) == "10.1.0.16"
    assert pool.draw(addresses_of(["10.1.0.17", "10.1.0.18"])) == "10.1.0.19"


def test_a_new_control_begins_behind_the_highest() -> None:
    assert Pool(SMALL).draw(addresses_of(["10.1.0.16", "10.1.0.20"])) == "10.1.0.21"
    assert Pool(SMALL).draw(addresses_of(["10.1.0.30"])) == "10.1.0.16"


def test_one_address_of_each_version_and_the_next_pool() -> None:
    pools = Pools(parse_pools("10.1.0.0/27,fd00::/64,10.2.0.0/27"))
    assert pools.draw(()) == ("10.1.0.16", "fd00::10")
    full = addresses_of(f"10.1.0.{number}" for number in range(16, 31))
    assert pools.draw(full) == ("10.2.0.16", "fd00::11")
    full |= addresses_of(f"10.2.0.{number}" for number in range(16, 31))
    with pytest.raises(ProblemError, match=r"no IPv4 address is left in 10.1.0.0/27, 10.2.0.0/27: give one") as caught:
        pools.draw(full)
    assert caught.value.slug == "pool-exhausted"
    assert ipaddress.ip_address("10.2.0.1") in pools
    assert ipaddress.ip_address("10.3.0.1") not in pools


def test_a_large_pool_is_drawn_from_at_once() -> None:
    assert Pool(ipaddress.ip_network("fd00::/8")).draw(()) == "fd00::10"


@given(st.lists(st.booleans(), max_size=100), st.data())
def test_no_address_is_drawn_twice(begins: list[bool], data: st.DataObject) -> None:
    pool = Pool(SMALL)
    living: list[str] = []
    for begin in begins:
        if begin:
            drawn = pool.draw(addresses_of(living))
            assert (drawn is None) == (len(living) == pool.size)
            assert drawn not in living
            living += [drawn] if drawn else []
        elif living:
            living.remove(data.draw(st.sampled_from(living)))
