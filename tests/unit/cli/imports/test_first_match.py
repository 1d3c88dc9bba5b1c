"""Policies decide what the packet filter decided that they were made of, whatever its rules."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.cli.imports import firewall
from tests.unit.cli.imports.firewall import Firewall

from appswitch.cli.imports import iptables, nft, translate
from appswitch.cli.imports.documents import Names
from appswitch.cli.imports.packetfilter import Base
from appswitch.cli.imports.policies import UIDS
from appswitch.cli.imports.report import Report
from appswitch.resources import Policy

SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def imported(bases: list[Base]) -> tuple[list[Policy], Report]:
    report = Report()
    found = translate.resources(bases, Names(), report)
    return [one for one in found if isinstance(one, Policy)], report


def differences(wall: Firewall, policies: list[Policy], *, users: bool, errors: bool) -> list[str]:
    found = []
    for packet in firewall.packets(users=users):
        wanted, got = wall.judge(packet), firewall.decide(policies, packet)
        if (wanted == "accept") != (got == "accept") or (errors and wanted != got):
            found.append(f"{packet}: {wanted}, and policies say {got}")
    return found[:3]


@SLOW
@given(firewall.firewalls(users=False))
def test_who_may_come_in(wall: Firewall) -> None:
    policies, report = imported(iptables.read(wall.iptables("INPUT"), "x"))
    assert report.left_out == ()
    assert all(policy.direction == "ingress" for policy in policies)
    assert differences(wall, policies, users=False, errors=True) == []


@SLOW
@given(firewall.firewalls(users=True))
def test_who_may_go_out(wall: Firewall) -> None:
    """Of users, who cannot all be said: then the rule is reported."""
    policies, report = imported(iptables.read(wall.iptables("OUTPUT"), "x"))
    assert all(policy.direction == "egress" for policy in policies)
    assert all(one.why == UIDS for one in report.left_out)
    if not report.left_out:
        assert differences(wall, policies, users=True, errors=False) == []


@SLOW
@given(firewall.firewalls(users=True), st.sampled_from(("input", "output")))
def test_nftables_reads_the_same(wall: Firewall, hook: str) -> None:
    first = imported(nft.read(wall.nft(hook), "x"))[0]
    other = imported(iptables.read(wall.iptables(hook.upper()), "x"))[0]
    assert first == other


@pytest.mark.parametrize("users", [False, True])
def test_the_judges_differ_where_they_should(users: bool) -> None:
    """The test above could pass because nothing is ever compared."""
    packets = firewall.packets(users=users)
    closed = Firewall("DROP", {firewall.MAIN: (), firewall.ONE: (), firewall.TWO: ()})
    assert {closed.judge(packet) for packet in packets} == {"ETIMEDOUT"}
    assert {firewall.decide([], packet) for packet in packets} == {"accept"}
