"""Calls that come before the switch knows what is configured: after a crash its apps are there first, control later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from appswitch.switch.journal import Journal

Serve = Callable[[tuple[int, ...]], None]  # what is done with a notification


class Early:
    """Keeps notifications back from `wait` until `begin`, in the journal as well. Each thread has at most one."""

    def __init__(self, journal: Journal, on_fault: Callable[[Exception], None]) -> None:
        self._journal = journal
        self._on_fault = on_fault
        self._kept: deque[tuple[Serve, tuple[int, ...], int]] | None = None

    def wait(self) -> None:
        """Nothing may be decided from now on."""
        self._kept = deque()

    def guard(self, serve: Serve) -> Serve:
        """``serve``, but not before `begin`."""

        def later(notification: tuple[int, ...]) -> None:
            if self._kept is None:
                serve(notification)
            else:
                self._kept.append((serve, notification, self._journal.enter(notification)))

        return serve if self._kept is None else later

    def again(self, serve: Serve, notification: tuple[int, ...], slot: int) -> None:
        """One that an earlier switch has left in ``slot`` of the journal: it stays there until it is served."""
        if self._kept is None:
            self._serve(serve, notification, slot)
        else:
            self._kept.append((serve, notification, slot))

    def begin(self) -> bool:
        """The configuration is complete. Whether that was waited for."""
        kept, self._kept = self._kept, None
        for one in kept or ():
            self._serve(*one)
        return kept is not None

    def _serve(self, serve: Serve, notification: tuple[int, ...], slot: int) -> None:
        try:
            serve(notification)
        except Exception as problem:  # as the loop does: one app's call is not another's
            self._on_fault(problem)
        finally:
            self._journal.leave(slot)
