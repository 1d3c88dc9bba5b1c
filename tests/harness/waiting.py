"""Waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

STEP = 0.01  # seconds between two looks at a condition


class DeadlineError(AssertionError):
    """A condition did not come true in time."""


def wait_until(condition: Callable[[], T], what: str | Callable[[], str], timeout: float = 10.0) -> T:
    """Look at ``condition`` until it returns something true; return that. Raises `DeadlineError` naming ``what``."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise DeadlineError(f"not within {timeout:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(STEP)
