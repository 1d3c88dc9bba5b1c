"""Figures for people."""

from __future__ import annotations

import pytest

from appswitch.cli import units


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"), (1, "1B"), (999, "999B"), (1000, "1.0K"), (1434, "1.4K"), (9.96 * 1024, "10K"), (999 * 1024, "999K"),
        (1000 * 1024, "1.0M"), (-3.1 * 1024**2, "-3.1M"), (5 * 1024**3, "5.0G"), (2.0**70, "1048576P"),
    ],
)  # fmt: skip
def test_sizes(count: float, shown: str) -> None:
    assert units.size(count) == shown


@pytest.mark.parametrize(
    ("each", "shown"), [(0, "0"), (0.04, "0.0"), (12.34, "12.3"), (99.94, "99.9"), (4512.3, "4512")]
)
def test_rates(each: float, shown: str) -> None:
    assert units.rate(each) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0421, "0.042s"), (1.54, "1.5s"), (59.9, "59.9s"), (200, "3m20s"), (18420, "5h07m"), (3599.9, "1h00m")],
)
def test_seconds(value: float, shown: str) -> None:
    assert units.seconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(70, "70us"), (1500, "1.5ms"), (2_100_000, "2.1s")])
def test_microseconds(value: float, shown: str) -> None:
    assert units.microseconds(value) == shown


def test_what_is_not_known() -> None:
    assert units.optional(units.size, 1024, 0) == "1.0K/0"
    assert units.optional(units.size, 1024, None) == ""
