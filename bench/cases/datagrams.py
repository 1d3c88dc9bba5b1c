"""UDP between two apps, and bare on loopback: who is connected costs what any filter costs, who is not a notification.

What the filter's part is, is measured beside it: the same programs bare, behind a filter that allows everything.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator, Set

from bench.cases import Run
from bench.pairing import Figure, Target, ratios, take_turns
from bench.processes import Process

ROUNDS = 500  # a turn
WAYS = {
    "connected": ("round trip of 16 bytes, both ends connected", Target(at_most=1.05), 0),
    "client": ("round trip, the client connected, the server answers with sendto", None, 1),
    "unconnected": ("round trip, sendto and recvfrom at both ends", None, 2),
}


PLACES = ("direct", "filtered", "ax")


def measure(run: Run) -> Iterator[Figure]:
    """A turn's sample is the median of its round trips; of what is intercepted also the time for each datagram."""
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            clients = {name: stack.enter_context(_pair(run, name, cpus)) for name in PLACES}
            for way, (what, target, notified) in WAYS.items():
                turns = take_turns({name: _turn(client, way) for name, client in clients.items()}, run.turns)
                ours, direct = turns["ax"], turns["direct"]
                yield Figure(
                    name=f"datagrams.{pin}.{way}",
                    what=what,
                    unit="x",
                    samples=ratios(ours, direct),
                    target=target,
                    steady=pin == "pinned",
                    sides={"ax": statistics.median(ours), "direct": statistics.median(direct)},
                    side_unit="us",
                )
                if way == "connected":
                    yield _beyond(pin, turns)
                if notified:
                    yield Figure(
                        name=f"datagrams.{pin}.{way}.each",
                        what="of it: more for each intercepted datagram",
                        unit="us",
                        samples=tuple((a - b) / notified for a, b in zip(ours, direct, strict=True)),
                        yardstick=tuple(direct),
                        steady=False,
                    )


def _beyond(pin: str, turns: dict[str, list[float]]) -> Figure:
    return Figure(
        name=f"datagrams.{pin}.connected.beyond",
        what="of it: beside the same bare behind a seccomp filter that allows everything",
        unit="x",
        samples=ratios(turns["ax"], turns["filtered"]),
        steady=pin == "pinned",
        sides={"ax": statistics.median(turns["ax"]), "filtered": statistics.median(turns["filtered"])},
        side_unit="us",
    )


@contextlib.contextmanager
def _pair(run: Run, name: str, cpus: Set[int]) -> Iterator[Process]:
    """A client, and its server."""
    node, program = run.node if name == "ax" else None, run.programs["datagrams"]
    more = [name] if name == "filtered" else []
    host = "127.0.0.1" if node is None else node.fresh_ip()
    environment = dict(os.environ) if node is None else node.environment
    words = [program, *more, "serve", host]
    with Process(words if node is None else node.run(host, "unix", words), environment, cpus) as server:
        words = [program, *more, "ask", host, *server.line().split()]
        if node is not None:
            words = node.run(node.fresh_ip(), "unix", words)
        with Process(words, environment, cpus) as client:
            yield client


def _turn(client: Process, way: str) -> Callable[[], float]:
    return lambda: statistics.median(client.ask(f"{way} {ROUNDS}")["round"]) / 1000
