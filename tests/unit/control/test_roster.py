"""Who is called what and where: found in the same time, however many apps there are."""

from __future__ import annotations

import ipaddress
import random
import time

import msgspec
import pytest

from appswitch.control.access import Caller
from appswitch.control.claims import Claims
from appswitch.control.pools import Pools
from appswitch.control.problems import ProblemError
from appswitch.control.resources.catalog import Catalog
from appswitch.control.roster import Either, Roster
from appswitch.model import AppSpec, Expose

POOL = [ipaddress.ip_network("10.128.0.0/9")]


def app(id: int, uid: int = 1000, **more: object) -> AppSpec:
    plain = AppSpec(id=id, uid=uid, gid=0, node="n", cluster="c", command=("x",), created=float(id))
    return msgspec.structs.replace(plain, **more)


def test_what_is_asked_is_what_a_list_would_say() -> None:
    draw = random.Random(7)
    roster, living = Roster(), dict[int, AppSpec]()
    waiting: set[int] = set()
    for number in range(1, 400):
        if living and draw.random() < 0.4:
            gone = draw.choice(list(living))
            roster.drop(gone)
            del living[gone]
            waiting.discard(gone)
        one = app(
            number,
            draw.choice((1000, 1001)),
            name=draw.choice(("a", "b", None)),
            ips=draw.choice(((), ("10.0.0.1",), ("10.0.0.2", "fd00::1"))),
            proxy=draw.choice(("p", None)),
            expose=draw.choice(((), (Expose(internal=80, host_port=40000 + number % 3),))),
        )
        roster.put(one, waiting=True)
        waiting.add(number)
        living[number] = one
        if draw.random() < 0.5:
            roster.put(one, waiting=False)
            waiting.discard(number)
        apps = list(living.values())
        assert list(roster) == apps
        for name in ("a", "b", "c"):
            assert roster.owners_of_name(name) == {a.uid for a in apps if a.name == name}
            for uid in (1000, 1001):
                first = next((a for a in apps if a.name == name and a.uid == uid and a.ips), None)
                assert roster.named(name, uid) == first
        for ip in ("10.0.0.1", "fd00::1"):
            assert roster.owners_of_address(ip) == {a.uid for a in apps if ip in a.ips}
        assert roster.owners_led_by("p") == {a.uid for a in apps if a.proxy == "p"}
        assert set(roster.host_ports()) == {e.host_port for a in apps for e in a.expose}
        assert set(roster.taken) == {ipaddress.ip_address(ip) for a in apps for ip in a.ips}
        for uid in (1000, 1001):
            assert roster.waiting(uid) == sum(living[a].uid == uid for a in waiting)
    roster.drop(12345)
    for one in list(roster):
        roster.drop(one.id)
    assert not any(len(getattr(roster, name)) for name in ("_apps", "_host_ports", "_waiting", "_waiting_of", "taken"))
    assert not any(getattr(roster, name)._by_key for name in ("_names", "_ips", "_proxies"))


def test_several_collections_as_one() -> None:
    one = Either({1: "x"}, {2, 3}, ())
    assert (len(one), sorted(one), 1 in one, 3 in one, 4 in one) == (3, [1, 2, 3], True, True, False)


def test_the_ten_thousandth_waits_no_longer_than_the_first() -> None:
    """The time of one registration at 10,000 apps is that at 500, not twenty times as long."""

    def claims() -> tuple[Claims, Roster]:
        roster = Roster()
        return Claims(pools := Pools(POOL), POOL, Catalog(pools), roster), roster

    caller = Caller(uid=1000, gid=1000, admin=False, writes=True, sees_all=False)
    one, roster = claims()
    numbers = iter(range(1, 1 << 20))

    def register(name: str) -> None:
        ips = one.addresses(name, (), caller)
        roster.put(app(next(numbers), name=name, ips=ips), waiting=True)

    def fastest() -> float:
        took = []
        for _ in range(40):
            begun = time.perf_counter()
            for _ in range(5):
                register(f"app-{len(roster)}")
                register("many")
            took.append(time.perf_counter() - begun)
        return min(took)

    while len(roster) < 500:
        register(f"app-{len(roster)}")
    few = fastest()
    while len(roster) < 10_000:
        register(f"app-{len(roster)}")
    assert fastest() < 4 * few
    assert len(roster.taken) > 9_000
    with pytest.raises(ProblemError):
        one.addresses("many", (), msgspec.structs.replace(caller, uid=1001))
