"""Established connections: the switch has nothing to do with them any more, and the figures must show it."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping

from bench.cases import Run
from bench.pairing import Figure, Target, ratios, take_turns
from bench.processes import Process
from bench.programs import pair, places

ROUNDS = 2000  # a turn
MILLISECONDS = 60  # a turn of throughput
ROUND_TRIP = {"unix": Target(at_most=0.9), "tcp": Target(at_most=1.03)}
THROUGHPUT = {"unix": Target(at_least=2.5), "tcp": Target(at_least=0.97)}
DIRECTIONS = {"upload": "client to server, writes of 64 KiB", "download": "server to client, writes of 64 KiB"}


def measure(run: Run) -> Iterator[Figure]:
    """Round trips of 16 bytes (a turn's sample is their median), and throughput one way at a time."""
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            clients = {place.name: stack.enter_context(pair(run.programs, place, cpus)) for place in places(run.node)}
            trips = take_turns({name: _round_trip(client) for name, client in clients.items()}, run.turns)
            yield from _figures(f"{pin}.round_trip", "round trip of 16 bytes", ROUND_TRIP, trips)
            for direction, what in DIRECTIONS.items():
                rates = take_turns({name: _rate(client, direction) for name, client in clients.items()}, run.turns)
                yield from _figures(f"{pin}.{direction}", what, THROUGHPUT, rates)


def _figures(
    name: str, what: str, targets: Mapping[str, Target], results: Mapping[str, list[float]]
) -> Iterator[Figure]:
    direct = results["direct"]
    for transport, target in targets.items():
        ours = results[transport]
        yield Figure(
            name=f"established.{transport}.{name}",
            what=what,
            unit="x",
            samples=ratios(ours, direct),
            target=target,
            steady=name.startswith("pinned"),
            lower_is_better=target.at_most is not None,
            sides={"ax": statistics.median(ours), "direct": statistics.median(direct)},
            side_unit="us" if target.at_most is not None else "GB/s",
        )


def _round_trip(client: Process) -> Callable[[], float]:
    return lambda: statistics.median(client.ask(f"rounds {ROUNDS}")["round"]) / 1000


def _rate(client: Process, direction: str) -> Callable[[], float]:
    def turn() -> float:
        answer = client.ask(f"{direction} {MILLISECONDS}")
        return float(answer["bytes"] / answer["took"])

    return turn
