"""Short connections on one host: socket, connect, accept, one round trip, close."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from bench.cases import Run
from bench.node import Node
from bench.pairing import Figure, Target, ratios, take_turns
from bench.processes import Process
from bench.programs import pair, places, yardstick

CONNECTIONS = 150  # a turn
WHAT = "connect, accept, round trip, close"
PHASES = ("socket", "connect", "exchange")
TARGET = Target(at_most=2.5)
CLIENTS, WORKERS, EACH = 4, 4, 250


def measure(run: Run) -> Iterator[Figure]:
    """One client, one server, both blocking. A turn's sample is the median of its connections."""
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            subjects = {
                place.name: _turn(run.node, stack.enter_context(pair(run.programs, place, cpus)))
                for place in places(run.node)
            }
            measured = stack.enter_context(yardstick(cpus))
            subjects["yardstick"] = lambda measured=measured: {"total": measured()}  # type: ignore[misc]
            results = take_turns(subjects, run.turns)
        direct, yard = results.pop("direct"), results.pop("yardstick")
        for name, turns in results.items():
            whole = _figure(f"connection.{name}.{pin}", WHAT, "total", turns, direct, name)
            yield msgspec.structs.replace(whole, steady=pin == "pinned")
            for phase in PHASES:  # whose part it is depends on who is awake
                part = _figure(f"connection.{name}.{pin}.{phase}", f"of it: {phase}", phase, turns, direct)
                yield msgspec.structs.replace(part, steady=False)
            yield Figure(
                name=f"connection.{name}.{pin}.switch",
                what="switch: processor time for each connection",
                unit="us",
                samples=tuple(turn["switch"] for turn in turns),
                yardstick=tuple(turn["total"] for turn in yard),
                steady=pin == "pinned",
                grain=1.0,
            )


def _turn(node: Node, client: Process) -> Callable[[], dict[str, float]]:
    def turn() -> dict[str, float]:
        before = node.switch_cpu()
        answer: dict[str, Any] = client.ask(f"connect {CONNECTIONS}")
        medians = {name: statistics.median(values) / 1000 for name, values in answer.items()}
        return medians | {"switch": (node.switch_cpu() - before) / 1000 / CONNECTIONS}

    return turn


def _figure(
    name: str, what: str, key: str, turns: list[dict[str, float]], direct: list[dict[str, float]], place: str = ""
) -> Figure:
    ours, base = [turn[key] for turn in turns], [turn[key] for turn in direct]
    return Figure(
        name=name,
        what=what,
        unit="x",
        samples=ratios(ours, base),
        target=TARGET if place == "unix" else None,
        sides={"ax": statistics.median(ours), "direct": statistics.median(base)},
        side_unit="us",
    )


def measure_parallel(run: Run) -> Iterator[Figure]:
    """Connections a second, of some clients at a time to as many workers on one listening socket."""
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            subjects = {
                place.name: _rate(stack.enter_context(pair(run.programs, place, cpus, WORKERS)))
                for place in places(run.node)
            }
            results = take_turns(subjects, run.turns)
        direct = results.pop("direct")
        for name, rates in results.items():
            yield Figure(
                name=f"parallel.{name}.{pin}",
                what=f"connections a second, {CLIENTS} clients, {WORKERS} workers",
                unit="x",
                samples=ratios(rates, direct),
                steady=pin == "pinned",
                lower_is_better=False,
                sides={"ax": statistics.median(rates), "direct": statistics.median(direct)},
                side_unit="/s",
            )


def _rate(client: Process) -> Callable[[], float]:
    return lambda: CLIENTS * EACH / (client.ask(f"parallel {CLIENTS} {EACH}")["took"] / 1e9)
