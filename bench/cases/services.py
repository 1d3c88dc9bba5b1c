"""Short connections by way of a vservice, of policies, of a look at their first bytes; and what remains afterwards.

Everything is beside a plain connection on the same node, between programs of the same kind.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Set
from typing import Any

from bench.cases import Run
from bench.node import Node
from bench.pairing import Figure, Target, ratios, take_turns
from bench.processes import Process
from bench.programs import Place, client_of, serving

BACKENDS = 3
CONNECTIONS, SETTLING = 100, 20  # a turn; before it, when the configuration has changed
ROUNDS = 1_000  # a turn
POLICY = "bench-allow"
LIMITED = {"lbType": "LeastConnections", "limits": {"connections": 10_000, "pending": 1_000}}
ROUTED = {"match": {"http.path": "/api/*", "http.method": ["GET", "POST"]}}

# subject: (baseline, what, target)
SETUP: dict[str, tuple[str, str, Target | None]] = {
    "one": ("plain", "a vservice of 1 backend; to none", None),
    "vservice": ("plain", "a vservice of 3 backends, RoundRobin; to none", None),
    "limits": ("plain", "a vservice of 3, LeastConnections with limits; to none", None),
    "policy": ("none", "a policy allows it; to none", Target(at_most=1.05)),
    "l7": ("http", "a route by http.path; to the same vservice without", Target(at_most=1.3)),
    "l7policy": ("l7none", "a policy by http.method allows it; to none", Target(at_most=1.3)),
}
ESTABLISHED = Target(at_most=1.05)


def measure(run: Run) -> Iterator[Figure]:
    """A turn's sample is the median of its connections, of its round trips."""
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            clients = _clients(run, cpus, stack)
            yield from _setup(run, pin, clients)
            yield from _established(run, pin, clients)


def _setup(run: Run, pin: str, clients: dict[str, Process]) -> Iterator[Figure]:
    subjects = {name: _turn(run.node, clients[name]) for name in clients}
    subjects |= _policed(run.node, clients["plain"], ("policy", "none"), {})
    subjects |= _policed(run.node, clients["http"], ("l7policy", "l7none"), {"l7": [{"http.method": ["GET", "POST"]}]})
    results = take_turns(subjects, run.few)
    for name, (base, what, target) in SETUP.items():
        ours, theirs = ([total for total, _ in results[side]] for side in (name, base))
        yield Figure(
            name=f"services.{name}.{pin}",
            what=f"connect, accept, round trip, close: {what}",
            unit="x",
            samples=ratios(ours, theirs),
            target=target,
            steady=pin == "pinned",
            sides={"with": statistics.median(ours), "without": statistics.median(theirs)},
            side_unit="us",
        )
        spent, otherwise = ([switch for _, switch in results[side]] for side in (name, base))
        yield Figure(
            name=f"services.{name}.{pin}.switch",
            what="of it: processor time of the switch",
            unit="x",
            samples=ratios(spent, otherwise),
            steady=pin == "pinned",
            sides={"with": statistics.median(spent), "without": statistics.median(otherwise)},
            side_unit="us",
        )


def _established(run: Run, pin: str, clients: dict[str, Process]) -> Iterator[Figure]:
    trips = take_turns({name: _round_trip(clients[name]) for name in ("plain", "l7")}, run.few)
    yield Figure(
        name=f"services.established.{pin}",
        what="round trip of 16 bytes on a connection that a route chose; to a plain one",
        unit="x",
        samples=ratios(trips["l7"], trips["plain"]),
        target=ESTABLISHED,
        steady=pin == "pinned",
        sides={"with": statistics.median(trips["l7"]), "without": statistics.median(trips["plain"])},
        side_unit="us",
    )


def _turn(node: Node, client: Process) -> Callable[[], tuple[float, float]]:
    """Microseconds of a connection, and of the switch for it."""

    def turn() -> tuple[float, float]:
        before = node.switch_cpu()
        total = statistics.median(client.ask(f"connect {CONNECTIONS}")["total"]) / 1000
        return total, (node.switch_cpu() - before) / 1000 / CONNECTIONS

    return turn


def _policed(
    node: Node, client: Process, names: tuple[str, str], spec: dict[str, Any]
) -> dict[str, Callable[[], tuple[float, float]]]:
    """The same programs while a policy selects both ends and the port, and just after it has been taken away."""
    turn = _turn(node, client)

    def settled() -> tuple[float, float]:
        client.ask(f"connect {SETTLING}")
        return turn()

    def guarded() -> tuple[float, float]:
        node.apply(_policy(spec))
        try:
            return settled()
        finally:
            node.delete(f"policies/{POLICY}")

    def unguarded() -> tuple[float, float]:
        node.apply(_policy(spec))
        node.delete(f"policies/{POLICY}")
        return settled()

    return dict(zip(names, (guarded, unguarded), strict=True))


def _round_trip(client: Process) -> Callable[[], float]:
    return lambda: statistics.median(client.ask(f"rounds {ROUNDS}")["round"]) / 1000


# -- who takes part


def _clients(run: Run, cpus: Set[int], stack: contextlib.ExitStack) -> dict[str, Process]:
    """By what is between them and the servers."""
    place = Place("unix", run.node)
    servers = [stack.enter_context(serving(run.programs, place, cpus)) for _ in range(BACKENDS)]
    backends = [{"ip": ip, "port": int(port)} for ip, port in servers]
    asked = {
        "plain": servers[0],
        "one": vservice(run.node, stack, "bench-one", {"backends": backends[:1]}),
        "vservice": vservice(run.node, stack, "bench-plain", {"backends": backends}),
        "limits": vservice(run.node, stack, "bench-limits", {"backends": backends, **LIMITED}),
        "http": vservice(run.node, stack, "bench-http", {"backends": backends}),
        "l7": vservice(run.node, stack, "bench-l7", {"routes": [{**ROUTED, "backends": backends}]}),
    }
    return {
        name: stack.enter_context(client_of(run.programs, place, cpus, *where, http=name in ("http", "l7")))
        for name, where in asked.items()
    }


def vservice(node: Node, stack: contextlib.ExitStack, name: str, spec: dict[str, Any]) -> tuple[str, str]:
    """It is there until the stack is closed. Its address and port."""
    ip = node.fresh_ip()
    node.apply({"kind": "VService", "metadata": {"name": name}, "spec": {"ips": [ip], "ports": ["80"], **spec}})
    stack.callback(node.delete, f"vservices/{name}")
    return ip, "80"


def _policy(more: dict[str, Any]) -> dict[str, Any]:
    everybody = [{"labels": {"zone": "default"}}]
    spec = {"action": "allow", "from": everybody, "to": everybody, "ports": ["1-65535/tcp"]}
    return {"kind": "Policy", "metadata": {"name": POLICY}, "spec": {**spec, **more}}
