"""Calls that come before the switch knows what is configured: after a crash its apps are there first, control later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Serve = Callable[[tuple[int, ...]], None]  # what is done with a notification


class Early:
    """Keeps notifications back from `wait` until `begin`. Each thread has at most one."""

    def __init__(self, on_fault: Callable[[Exception], None]) -> None:
        self._on_fault = on_fault
        self._kept: deque[tuple[Serve, tuple[int, ...]]] | None = None

    def wait(self) -> None:
        """Nothing may be decided from now on."""
        self._kept = deque()

    def guard(self, serve: Serve) -> Serve:
        """``serve``, but not before `begin`."""

        def later(notification: tuple[int, ...]) -> None:
            if self._kept is None:
                serve(notification)
            else:
                self._kept.append((serve, notification))

        return serve if self._kept is None else later

    def begin(self) -> None:
        """The configuration is complete."""
        kept, self._kept = self._kept, None
        for serve, notification in kept or ():
            try:
                serve(notification)
            except Exception as problem:  # as the loop does: one app's call is not another's
                self._on_fault(problem)
