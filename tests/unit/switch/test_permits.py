"""Addresses that names of egress rules stand for, and for how long."""

from __future__ import annotations

import pytest

from appswitch.address import ip_bytes
from appswitch.switch.permits import LIMIT, Permits


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_until_the_answer_expires(clock: Clock) -> None:
    permits = Permits(clock)
    permits.add("example.com", ("10.0.0.1", "fd00::1"), 60)
    clock.now += 59
    assert permits.names(ip_bytes("10.0.0.1")) == permits.names(ip_bytes("fd00::1")) == {"example.com"}
    clock.now += 2
    assert not permits.names(ip_bytes("10.0.0.1"))


def test_a_shorter_answer_takes_nothing_away(clock: Clock) -> None:
    permits = Permits(clock)
    permits.add("a", ("10.0.0.1",), 60)
    permits.add("a", ("10.0.0.1",), 5)
    permits.add("b", ("10.0.0.1",), 5)
    clock.now += 30
    assert permits.names(ip_bytes("10.0.0.1")) == {"a"}


def test_mapped_addresses_are_those_that_they_hold(clock: Clock) -> None:
    permits = Permits(clock)
    permits.add("a", ("::ffff:10.0.0.1",), 60)
    assert permits.names(ip_bytes("10.0.0.1")) == {"a"}


def test_bounded(clock: Clock) -> None:
    permits = Permits(clock)
    addresses = tuple(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(LIMIT + 10))
    permits.add("a", addresses, 60)
    assert not permits.names(ip_bytes(addresses[0]))
    assert permits.names(ip_bytes(addresses[-1])) == {"a"}
