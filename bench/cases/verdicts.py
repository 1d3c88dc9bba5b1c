"""A decision among few and very many vservices, with ten thousand policies beside them. Pure: no daemon has a part."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator

from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET
from appswitch.model import AppSpec
from appswitch.resources import BackendSpec, ServicePort, VService
from appswitch.routing.clusters import Clusters
from appswitch.routing.policy import End, Policies
from appswitch.routing.route import Balanced, Flow, World, route
from appswitch.routing.table import Endpoint, Member, Table
from appswitch.switch.apps import App
from appswitch.switch.flows import Flows
from bench.cases import Run
from bench.cases.policies import policies_of
from bench.pairing import Figure, Target, ratios, take_turns

SIZES = (10, 1_000, 100_000)  # vservices
POLICIES = 10_000
APPS = 300  # that serve
BACKENDS = 3
CALLS, DIFFERENT = 1_000, 10  # decisions a turn, and of how many different connections
FLAT = Target(at_most=1.2)
WHAT = {"route": "a decision", "find": "a decision that is remembered"}
LABELS = {"zone": "default"}


def measure(run: Run) -> Iterator[Figure]:
    """Processor time of a decision, as a ratio to that among the fewest. The same few connections, wherever they are.

    They are few so that it is our tables that are measured, and not how far the processor's caches reach.
    """
    policies = Policies(policies_of(POLICIES))
    table, backends = _apps()
    subjects: dict[str, Callable[[], float]] = {}
    for size in SIZES:
        world = World(table, _clusters(size, backends), policies)
        subjects[f"route {size}"] = _route(world, size)
        subjects[f"find {size}"] = _find(world, size)
    gc.freeze()  # a collection would look at all of them
    try:
        results = take_turns(subjects, run.turns)
    finally:
        gc.unfreeze()
    least = SIZES[0]
    for what, words in WHAT.items():
        for size in SIZES[1:]:
            ours, base = results[f"{what} {size}"], results[f"{what} {least}"]
            yield Figure(
                name=f"verdicts.{what}.{size}",
                what=f"{words}, {size:,} vservices and {POLICIES:,} policies; to {least}",
                unit="x",
                samples=ratios(ours, base),
                target=FLAT,
                sides={f"{number:,}": statistics.median(results[f"{what} {number}"]) for number in (size, least)},
                side_unit="us",
            )


def _route(world: World, size: int) -> Callable[[], float]:
    client = End(APPS + 1, "client", (), frozenset(LABELS.items()), _ip(APPS + 1), None, None)
    flows = [Flow(client, Address(_virtual(number), 80)) for number in _some(size)]
    assert all(isinstance(route(flow, world), Balanced) for flow in flows)
    return _timed(lambda flow: route(flow, world), flows)


def _find(world: World, size: int) -> Callable[[], float]:
    flows, app = Flows(world, {}), _app(APPS + 1)
    asked = [sockaddr.encode(AF_INET, Address(_virtual(number), 80)) for number in _some(size)]
    return _timed(lambda raw: flows.find(app, AF_INET, raw, 0), asked)


def _timed(work: Callable[..., object], arguments: list[object] | list[Flow] | list[bytes]) -> Callable[[], float]:
    repeated = arguments * (CALLS // DIFFERENT)

    def turn() -> float:
        began = time.process_time_ns()
        for one in repeated:
            work(one)
        return (time.process_time_ns() - began) / len(repeated) / 1000

    return turn


# -- tables


def _some(size: int) -> range:
    return range(0, size, size // DIFFERENT)


def _ip(number: int) -> bytes:
    return bytes((10, 1, number >> 8 & 255, number & 255))


def _virtual(number: int) -> bytes:
    return bytes((10, 100 + (number >> 16), number >> 8 & 255, number & 255))


def _text(ip: bytes) -> str:
    return ".".join(map(str, ip))


def _apps() -> tuple[Table, list[BackendSpec]]:
    """The apps that serve, and backends that name them by their addresses."""
    table, labels = Table(), frozenset(LABELS.items())
    for number in range(1, APPS + 1):
        ip = _ip(number)
        table.join(Member(number, f"app{number}", (ip,), labels))
        table.add(Endpoint(number, number, Address(ip, 8080), False, labels), (ip,))
    return table, [BackendSpec(ip=_text(_ip(number))) for number in range(1, APPS + 1)]


def _clusters(size: int, backends: list[BackendSpec]) -> Clusters:
    clusters = Clusters()
    for number in range(size):
        at = number * BACKENDS % APPS
        name, ips = f"service-{number}", (_text(_virtual(number)),)
        own = tuple(backends[at : at + BACKENDS])
        clusters.put(VService(name=name, ips=ips, ports=(ServicePort(80, 8080),), backends=own))
    return clusters


def _app(number: int) -> App:
    spec = AppSpec(
        id=number, uid=0, gid=0, node="n", cluster="c", command=("x",), created=0.0, ips=(_text(_ip(number)),),
        labels=LABELS,
    )  # fmt: skip
    return App(spec, Fd(os.open("/dev/null", os.O_RDONLY)), pid=1, attached=0.0)
