"""The memory of a daemon that has nothing to do."""

from __future__ import annotations

from collections.abc import Iterator

from bench.cases import Run
from bench.node import Node, pss_kib, with_children
from bench.pairing import Figure, Target

TARGET = Target(at_most=120.0)


def measure(_run: Run) -> Iterator[Figure]:
    """Of a fresh daemon: proportional set size, so that what its processes share counts once."""
    with Node() as node:
        node.status()  # it has answered a request: what is imported late is there
        processes = with_children(node.pids["keeper"])
        names = {pid: name for name, pid in node.pids.items()}
        sides = {names.get(pid, str(pid)): pss_kib(pid) / 1024 for pid in processes}
        yield Figure(
            name="footprint.idle",
            what="idle daemon, all its processes (PSS)",
            unit="MB",
            samples=(sum(sides.values()),),
            target=TARGET,
            grain=2.0,
            sides=sides,
            side_unit="MB",
        )
