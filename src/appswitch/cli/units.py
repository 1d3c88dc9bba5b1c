"""Figures for people: short, and always with the same units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_SIZES = ("B", "K", "M", "G", "T", "P")  # powers of 1024, as top(1) and ls -h write them


def size(count: float) -> str:
    """Bytes: 0, 512B, 1.4K, 23M, -3.1M."""
    sign, left = ("-" if count < 0 else ""), abs(count)
    for unit in _SIZES:
        if round(left) < 1000 or unit == _SIZES[-1]:
            break
        left /= 1024
    if left == 0:
        return "0"
    digits = 1 if unit != "B" and left < 9.95 else 0
    return f"{sign}{left:.{digits}f}{unit}"


def rate(a_second: float) -> str:
    """Events a second: 0, 0.5, 12.3, 4512."""
    return "0" if not a_second else f"{a_second:.1f}" if a_second < 100 else f"{a_second:.0f}"


def seconds(value: float) -> str:
    """0.042s, 1.5s, 3m20s, 5h07m."""
    if value < 60:
        return f"{value:.3f}s" if value < 1 else f"{value:.1f}s"
    minutes, left = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{left:02}s"


def microseconds(value: float) -> str:
    """70us, 1.5ms, 2.1s."""
    if value < 1000:
        return f"{value:.0f}us"
    return f"{value / 1000:.1f}ms" if value < 1_000_000 else seconds(value / 1_000_000)


def optional(show: Callable[[Any], str], *values: Any) -> str:
    """Several with a slash between them; nothing where one is not known."""
    return "" if None in values else "/".join(map(show, values))
