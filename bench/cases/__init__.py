"""What is measured. A case is a function that yields figures, or raises UnavailableError with a reason."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Set
from typing import NamedTuple

from bench.node import Node
from bench.pairing import Figure
from bench.programs import Programs

FEW = 9


class Run(NamedTuple):
    """What all cases share. The node's daemon is an ordinary one, without AX_TIMING."""

    programs: Programs
    node: Node
    turns: int
    growth: int  # connections of the growth case
    realtime: bool = False  # nobody interrupts what is pinned

    @property
    def few(self) -> int:
        """Turns of what takes long, or differs little between them."""
        return min(self.turns, FEW)

    def pins(self) -> Iterator[tuple[str, Set[int]]]:
        """``pinned``: switch, client and server on one processor. ``free``: wherever the scheduler puts them.

        The switch is moved on each step; what is started during it is to be given its processors.
        """
        everywhere = os.sched_getaffinity(0)
        for name, cpus in (("pinned", {max(everywhere)}), ("free", everywhere)):
            self.node.pin_switch(cpus)
            with self._undisturbed(name == "pinned" and self.realtime):
                yield name, cpus

    @contextlib.contextmanager
    def _undisturbed(self, wanted: bool) -> Iterator[None]:
        """SCHED_RR for the switch, for us, and for what we start meanwhile: sched(7).

        Not for what is free: the real-time scheduler spreads over processors what the usual one keeps together.
        """
        if not wanted:
            yield
            return
        processes = (0, self.node.pids["switch"])
        for pid in processes:
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
        try:
            yield
        finally:
            for pid in processes:
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


Measure = Callable[[Run], Iterator[Figure]]


# Beside other programs, or of parts that few changes touch: only with --all. The rest stays a matter of minutes.
SLOW = frozenset(("splice", "balance", "policies", "verdicts", "proxies", "delegation", "fairness"))


def cases() -> dict[str, Measure]:
    """By name, in the order in which they run."""
    from bench.cases import (
        balance,
        calls,
        connections,
        datagrams,
        delegation,
        dns,
        established,
        fairness,
        footprint,
        growth,
        names,
        policies,
        proxies,
        services,
        splice,
        startup,
        verdicts,
    )

    return {
        "connections": connections.measure,
        "parallel": connections.measure_parallel,
        "established": established.measure,
        "splice": splice.measure,
        "datagrams": datagrams.measure,
        "datapath": calls.measure_data_path,
        "calls": calls.measure,
        "handlers": calls.measure_handlers,
        "dns": dns.measure,
        "names": names.measure,
        "balance": balance.measure,
        "policies": policies.measure,
        "verdicts": verdicts.measure,
        "services": services.measure,
        "proxies": proxies.measure,
        "delegation": delegation.measure,
        "fairness": fairness.measure,
        "startup": startup.measure,
        "footprint": footprint.measure,
        "growth": growth.measure,
    }
