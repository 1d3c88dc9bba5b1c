"""A configuration that comes in several parts is one change: nothing is ever decided by half of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch, Named

from appswitch import wire
from appswitch.resources import Policy
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


def test_a_change_is_one_part(switch: Any) -> None:
    configure(switch, wire.Configure(seq=1, reset=True, policies=(NOBODY, OTHER)))
    configure(switch, wire.Configure(seq=2, remove=(("Policy", "nobody"),)))
    assert names(switch) == {"other"}
