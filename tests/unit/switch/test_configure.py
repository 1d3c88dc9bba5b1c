"""A configuration that comes in several parts is one change: nothing is ever decided by half of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.switch.fake import FakeSwitch, Named

from appswitch import wire
from appswitch.resources import BackendSpec, Policy, ServicePort, VService
from appswitch.routing.proxies import Proxies
from appswitch.switch.configure import configure

NOBODY = Policy(name="nobody", action="deny", direction="ingress")
OTHER = Policy(name="other", action="deny", direction="ingress")


@pytest.fixture
def switch(fake: FakeSwitch) -> Any:
    one: Any = fake
    one.configuring, one.proxies = [], Proxies()
    one.census = Named(regularly=lambda: None)
    one.gates = Named(reconcile=lambda: None)
    one.delegation = Named(endpoint=None)
    one.begun = []
    one.resume = Named(begin=lambda: None)
    one.early = Named(begin=lambda: one.begun.append(1))
    return one


def names(switch: Any) -> set[str]:
    return set(switch.policies._rules)


def test_a_whole_configuration_replaces_the_old_one_with_its_last_part(switch: Any) -> None:
    configure(switch, wire.Configure(seq=1, reset=True, policies=(NOBODY,)))
    version = switch.table.version
    configure(switch, wire.Configure(seq=2, reset=True, done=False))
    configure(switch, wire.Configure(seq=3, done=False, policies=(OTHER,)))
    assert names(switch) == {"nobody"}, "what was denied is denied as long as the rest has not come"
    assert switch.table.version == version
    configure(switch, wire.Configure(seq=4, policies=(NOBODY,)))
    assert names(switch) == {"nobody", "other"}
    assert switch.table.version > version
    assert len(switch.begun) == 2


def test_one_that_never_became_whole_is_forgotten(switch: Any) -> None:
    configure(switch, wire.Configure(seq=1, reset=True, done=False, policies=(NOBODY,)))
    configure(switch, wire.Configure(seq=1, reset=True, policies=(OTHER,)))
    assert names(switch) == {"other"}
    assert switch.configuring == []


def test_what_a_balancer_knows_outlives_a_new_control(fake: FakeSwitch, switch: Any) -> None:
    service = VService(name="web", ips=("10.9.0.1",), ports=(ServicePort(80, 80),), backends=(BackendSpec(name="x"),))
    gone = VService(name="old", ips=("10.9.0.2",), ports=(ServicePort(80, 80),), backends=(BackendSpec(name="x"),))
    configure(switch, wire.Configure(seq=1, reset=True, vservices=(service, gone), policies=(NOBODY,)))
    balancer = fake.clusters.by_name["VService", "web"][0].default.balancer
    configure(switch, wire.Configure(seq=2, reset=True, vservices=(service,)))
    assert set(fake.clusters.by_name) == {("VService", "web")}
    assert fake.clusters.by_name["VService", "web"][0].default.balancer is balancer
    assert names(switch) == set()


def test_an_address_that_moves_is_no_strangers_any_more(fake: FakeSwitch, switch: Any) -> None:
    one = VService(name="one", ips=("10.9.0.1",), ports=(ServicePort(80, 80),), backends=(), external=True)
    configure(switch, wire.Configure(seq=1, reset=True, vservices=(one,)))
    assert fake.clusters.external
    other = msgspec.structs.replace(one, name="another", external=False)
    configure(switch, wire.Configure(seq=2, reset=True, vservices=(other, msgspec.structs.replace(one, ips=()))))
    assert not fake.clusters.external


def test_a_change_is_one_part(switch: Any) -> None:
    configure(switch, wire.Configure(seq=1, reset=True, policies=(NOBODY, OTHER)))
    configure(switch, wire.Configure(seq=2, remove=(("Policy", "nobody"),)))
    assert names(switch) == {"other"}
