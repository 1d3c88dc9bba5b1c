"""Egress rules: deny wins, then allow, then the default."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appswitch.address import ip_bytes
from appswitch.model import Egress, EgressRule
from appswitch.routing.egress import allows, compile_rules

NONE: frozenset[str] = frozenset()


def egress(default: str, *rules: str, error: str = "EACCES") -> Egress:
    """Rules as ``+10.0.0.0/8`` or ``-name``."""
    made = []
    for rule in rules:
        what = rule[1:]
        kind = {"network": what} if "/" in what else {"name": what}
        made.append(EgressRule(allow=rule[0] == "+", **kind))
    return Egress(default=default, rules=tuple(made), error=error)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rules", "to", "names", "allowed"),
    [
        (egress("allow"), "10.0.0.1", NONE, True),
        (egress("deny"), "10.0.0.1", NONE, False),
        (egress("deny", "+10.0.0.0/8"), "10.255.255.255", NONE, True),
        (egress("deny", "+10.0.0.0/8"), "11.0.0.0", NONE, False),
        (egress("deny", "+10.0.0.0/8", "-10.1.0.0/16"), "10.1.2.3", NONE, False),
        (egress("allow", "-10.1.0.0/16"), "10.1.2.3", NONE, False),
        (egress("allow", "-10.1.0.0/16", "+10.1.2.3/32"), "10.1.2.3", NONE, False),
        (egress("deny", "+0.0.0.0/0"), "10.1.2.3", NONE, True),
        (egress("deny", "+0.0.0.0/0"), "fd00::1", NONE, False),
        (egress("deny", "+fd00::/8"), "fd12::1", NONE, True),
        (egress("deny", "+example.com"), "10.1.2.3", frozenset({"example.com"}), True),
        (egress("deny", "+example.com"), "10.1.2.3", frozenset({"example.org"}), False),
        (egress("deny", "+10.0.0.0/8", "-example.com"), "10.1.2.3", frozenset({"example.com"}), False),
        (egress("allow", "-*.example.com"), "10.1.2.3", frozenset({"*.example.com"}), False),
    ],
)
def test_order(rules: Egress, to: str, names: frozenset[str], allowed: bool) -> None:
    assert allows(compile_rules(rules), ip_bytes(to), names) is allowed


def test_what_a_denied_call_fails_with() -> None:
    assert compile_rules(egress("deny")).error == errno.EACCES
    assert compile_rules(egress("deny", error="ECONNREFUSED")).error == errno.ECONNREFUSED


def test_whether_names_matter() -> None:
    assert not compile_rules(egress("deny", "+10.0.0.0/8")).names
    assert compile_rules(egress("deny", "+example.com")).names


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_a_network_holds_its_addresses(ip: int, bits: int) -> None:
    mask = (2**32 - 1) ^ (2 ** (32 - bits) - 1)
    network = ".".join(map(str, (ip & mask).to_bytes(4, "big")))
    rules = compile_rules(egress("deny", f"+{network}/{bits}"))
    assert allows(rules, ip.to_bytes(4, "big"), NONE)
    if bits:
        assert not allows(rules, (ip ^ 1 << 31).to_bytes(4, "big"), NONE)
