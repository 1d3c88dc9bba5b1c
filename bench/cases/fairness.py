"""What an app that connects without a pause does to another's connects: with AppSwitch, and on plain loopback.

The processors are busy in both, and the kernel's scheduler decides who runs; what AppSwitch adds to that is its part.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator

from bench.cases import Run
from bench.pairing import Figure, Target, ratios, take_turns
from bench.processes import Process

RATE, SECONDS = 100, 2  # of who is measured
THREADS = (1, 32)
TARGET = Target(at_most=3.0)


def measure(run: Run) -> Iterator[Figure]:
    """The 99th percentile of socket(2) and connect(2), beside the greedy app and without it."""
    for place in ("direct", "unix"):
        with contextlib.ExitStack() as stack:
            other, greedy = (_client(run, stack, place) for _ in range(2))
            for threads in THREADS:
                results = take_turns({"calm": _beside(other), "greedy": _beside(other, greedy, threads)}, run.few)
                calm, busy = ([turn["p99"] for turn in results[name]] for name in ("calm", "greedy"))
                medians = [statistics.median(t["p50"] for t in results[name]) / 1000 for name in ("greedy", "calm")]
                yield Figure(
                    name=f"fairness.{place}.{threads}",
                    what=f"p99 of a connect beside {threads} threads that connect, to that without (p50: "
                    f"{medians[0]:.0f}, {medians[1]:.0f} us)",
                    unit="x",
                    samples=ratios(busy, calm),
                    target=TARGET if place == "unix" else None,
                    sides={"greedy": statistics.median(busy) / 1000, "calm": statistics.median(calm) / 1000},
                    side_unit="us",
                    steady=False,
                )


def _beside(other: Process, greedy: Process | None = None, threads: int = 0) -> Callable[[], dict[str, float]]:
    def turn() -> dict[str, float]:
        if greedy is not None:
            greedy.ask(f"greedy {threads}")
        answer: dict[str, float] = other.ask(f"pace {RATE} {SECONDS}")
        if greedy is not None:
            greedy.ask("calm")
        return answer

    return turn


def _client(run: Run, stack: contextlib.ExitStack, place: str) -> Process:
    """With a server of its own."""
    load, node = run.programs["load"], run.node
    if place == "direct":
        server = stack.enter_context(Process([load, "serve", "127.0.0.1", "0"], dict(os.environ)))
        return stack.enter_context(Process([load, "client", "127.0.0.1", server.line()], dict(os.environ)))
    host = node.fresh_ip()
    serving = node.run(host, place, [load, "serve", host, "80"])
    stack.enter_context(Process(serving, node.environment)).line()
    words = node.run(node.fresh_ip(), place, [load, "client", host, "80"])
    return stack.enter_context(Process(words, node.environment))
