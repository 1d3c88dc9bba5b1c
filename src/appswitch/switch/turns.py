"""Many things that have to be done at once, and must not hold up everybody's calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appswitch.switch.loop import Loop

AT_ONCE, PAUSE = 32, 0.001  # things that are done in one go; seconds between two


def in_turn(loop: Loop, left: Sequence[Callable[[], None]]) -> None:
    """Do the first ones now and the others soon. One that fails stops none of them."""
    for one in left[:AT_ONCE]:
        try:
            one()
        except Exception as problem:
            loop.on_fault(problem)
    if left[AT_ONCE:]:
        loop.after(PAUSE, lambda: in_turn(loop, left[AT_ONCE:]))
