"""Many connections leave nothing behind in the switch: neither memory nor descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bench.cases import Run
from bench.node import Node, descriptors, pss_kib
from bench.pairing import Figure, Target, trend
from bench.processes import Process
from bench.programs import Place, pair

WARM_UP = 40_000  # connections until tables and free lists have the size that they keep
STEPS = 10
TARGETS = {"memory": Target(at_most=1024.0), "descriptors": Target(at_most=0.0)}
TURN = 2_000  # connections at a time


def measure(run: Run) -> Iterator[Figure]:
    """Of either transport, on a node of its own. Of memory the trend: a table that has found its size is no leak."""
    for transport in ("unix", "tcp"):
        with Node() as node, pair(run.programs, Place(transport, node), os.sched_getaffinity(0)) as client:
            _connect(client, WARM_UP)
            seen = [_look(node)]
            for _ in range(STEPS):
                _connect(client, run.growth // STEPS)
                seen.append(_look(node))
        memory, files = [kib for kib, _ in seen], [count for _, count in seen]
        for name, values, grown, unit in (
            ("memory", memory, trend(memory), "KiB"),
            ("descriptors", files, files[-1] - files[0], "more"),
        ):
            yield Figure(
                name=f"growth.{transport}.{name}",
                what=f"switch: {name} after {run.growth} connections",
                unit=unit,
                samples=(float(grown),),
                target=TARGETS[name],
                grain=TARGETS[name].at_most or 0.5,
                sides={"before": float(values[0]), "after": float(values[-1])},
                side_unit=unit if name == "memory" else "",
            )


def _connect(client: Process, count: int) -> None:
    for done in range(0, count, TURN):
        client.ask(f"connect {min(TURN, count - done)}")


def _look(node: Node) -> tuple[int, int]:
    """KiB and descriptors, after the switch has looked which sockets are gone: listing them makes it look."""
    node.get("sockets")
    switch = node.pids["switch"]
    return pss_kib(switch), descriptors(switch)
