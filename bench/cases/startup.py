"""`ax run true` beside `true`: what the command costs whoever types it."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from bench.cases import Run
from bench.node import ax
from bench.pairing import Figure, Target, differences, take_turns

TARGET = Target(at_most=150.0)


def measure(run: Run) -> Iterator[Figure]:
    """With a daemon that runs already. What differs is the command line, the registration and the launcher."""
    with_ax = _timed([*ax(), "run", "--no-start-daemon", "--", "true"], run.node.environment)
    results = take_turns({"direct": _timed(["true"], os.environ), "ax": with_ax}, run.turns)
    yield Figure(
        name="startup.run_true",
        what="`ax run true` more than `true`",
        unit="ms",
        samples=differences(results["ax"], results["direct"]),
        target=TARGET,
        grain=10.0,
        yardstick=tuple(results["direct"]),
        sides={side: statistics.median(results[side]) for side in ("ax", "direct")},
        side_unit="ms",
    )


def _timed(words: Sequence[str], environment: Mapping[str, str]) -> Callable[[], float]:
    def once() -> float:
        start = time.perf_counter()
        subprocess.run(words, env=dict(environment), check=True, stdin=subprocess.DEVNULL)
        return (time.perf_counter() - start) * 1000

    return once
