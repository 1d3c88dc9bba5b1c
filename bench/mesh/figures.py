"""What was measured as figures that two reports can compare, and what they say of our aims. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bench.mesh.measure import Measured
from bench.mesh.work import Work
from bench.pairing import Figure, Target, ratios
from bench.report import NotRun

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
BASE = "veth"
REQUESTS = ("grpc", "grpc-rate", "memcached", "redis")  # works whose latency is that of a request

Curve = tuple[tuple[float, float], ...]


class Aim(NamedTuple):
    """That one variant's median latency is at most so many times another's."""

    name: str
    what: str
    ours: str
    theirs: str
    target: Target


class Kept(NamedTuple):
    """Of what ``bare`` saves against any sidecars, how much ``ours`` saves."""

    name: str
    ours: str
    bare: str


class Keeping(NamedTuple):
    """By what the share that is kept is told; there is an aim for latency alone."""

    metric: str
    what: str
    target: Target | None


AIMS = (
    Aim("two-hosts", "ax between two hosts, to veth", "ax-hosts", "veth", Target(at_most=1.02)),
    Aim("one-host", "ax on one host, to veth", "ax-host", "veth", Target(at_most=0.9)),
)
KEPT = (Kept("two-hosts", "ax-hosts", "veth"), Kept("one-host", "ax-host", "unix"))
KEEP = Target(at_least=0.95)
KEEPING = {"aim.kept": Keeping("p50", "median latency", KEEP), "cpu-kept": Keeping("cpu", "processor time", None)}
SIDECARS = ("tcp", "http", "http-log", "vxlan-log", "vxlan-mtls", "vxlan-check")
# Delegation to an Envoy, beside REDIRECT to the same one: better in each (issue 6).
DELEGATION = {"p50": Target(at_most=1.0), "rate": Target(at_least=1.0), "cpu": Target(at_most=1.0)}


def figures(work: Work, results: Mapping[str, Sequence[Measured]]) -> Iterator[Figure]:
    """WORK.METRIC.VARIANT: latencies, rate, and processor time of everybody for a request, one sample a turn.

    The yardstick is the veth pair in the same turn: a busy machine slows both.
    """
    for metric, unit, what in _metrics(work):
        samples = {name: [_value(one, metric) for one in turns] for name, turns in results.items()}
        base = samples.get(BASE)
        for name, values in samples.items():
            yield Figure(
                name=f"{work.name}.{metric}.{name}",
                what=f"{work.what}: {what}",
                unit=unit,
                samples=tuple(float(f"{value:.4g}") for value in values),
                lower_is_better=metric != "rate",
                yardstick=tuple(float(f"{value:.4g}") for value in base) if base and name != BASE else (),
            )


def _metrics(work: Work) -> Iterator[tuple[str, str, str]]:
    if work.unit == "Gbit/s":
        yield "rate", work.unit, "throughput"
        yield "cpu", "ms/GB", "processor time of everybody"
        return
    for metric in QUANTILES:
        yield metric, "ms", f"latency, {metric}"
    yield "rate", work.unit, "throughput"
    yield "cpu", "us", "processor time of everybody for a request"


def _value(one: Measured, metric: str) -> float:
    if metric == "rate":
        return one.result.rate
    if metric == "cpu":
        each = one.cpu / one.result.requests
        return each * (1e6 if one.result.curve else 1e3)
    return one.result.at(QUANTILES[metric])


def others(work: Work, results: Mapping[str, Sequence[Measured]]) -> Iterator[Figure]:
    """How much of the machine neighbours had meanwhile, percent: the median of all turns. None without turns."""
    if not results:
        return
    shares = [one.others * 100 for turns in results.values() for one in turns]
    what = f"{work.what}: processors' time that was others'"
    median = float(f"{statistics.median(shares):.3g}")
    yield Figure(name=f"{work.name}.others", what=what, unit="%", samples=(median,), grain=100.0)


def curves(work: Work, results: Mapping[str, Sequence[Measured]]) -> dict[str, Curve]:
    """WORK.VARIANT: at each quantile the median of the turns' latencies in ms."""
    found = {}
    for name, turns in results.items():
        if turns and turns[0].result.curve and len({len(one.result.curve) for one in turns}) == 1:
            columns = zip(*(one.result.curve for one in turns), strict=True)
            found[f"{work.name}.{name}"] = tuple(
                (column[0][0], round(statistics.median(ms for _, ms in column), 4)) for column in columns
            )
    return found


def aims(measured: Iterable[Figure]) -> tuple[list[Figure], list[NotRun]]:
    """What is said of our aims, and of the article's ratio; and what cannot be told."""
    by_name = {figure.name: figure for figure in measured}
    found: list[Figure] = []
    missing: list[NotRun] = []

    def sides(work: str, metric: str, *names: str) -> list[Figure]:
        there = (by_name.get(f"{work}.{metric}.{name}") for name in names)
        return [one for one in there if one]

    for work in REQUESTS:
        for one in AIMS:
            if len(two := sides(work, "p50", one.ours, one.theirs)) == 2:
                what = f"{work}, median latency: {one.what}"
                found.append(_ratio(f"aim.{one.name}.{work}", what, *two, one.target))
        for kept, sidecar in itertools.product(KEPT, SIDECARS):
            if len(two := sides(work, "p50", sidecar, kept.ours)) == 2:
                what = f"{work}, median latency: {sidecar}, to {kept.ours}"
                found.append(_ratio(f"times.{kept.name}.{work}.{sidecar}", what, *two))
            for kind, about in KEEPING.items():
                if len(three := sides(work, about.metric, kept.ours, kept.bare, sidecar)) == 3:
                    _keep(found, missing, f"{kind}.{kept.name}.{work}.{sidecar}", about, three)
    for work, (metric, target) in itertools.product(("grpc", "grpc-rate", "short"), DELEGATION.items()):
        if len(two := sides(work, metric, "ax-envoy", "one-log")) == 2 and (work, metric) != ("grpc-rate", "rate"):
            what = f"{work}, {metric}: delegated to Envoy, to the same by REDIRECT"
            found.append(_ratio(f"aim.delegation.{work}.{metric}", what, *two, target))
    return found, missing


def _ratio(name: str, what: str, ours: Figure, theirs: Figure, target: Target | None = None) -> Figure:
    sides = {side.name.rpartition(".")[2]: side.median for side in (ours, theirs)}
    return Figure(
        name=name,
        what=what,
        unit="x",
        samples=ratios(ours.samples, theirs.samples),
        target=target,
        lower_is_better=target is not None and target.at_most is not None,
        sides=sides,
        side_unit=ours.unit,
    )


def _keep(found: list[Figure], missing: list[NotRun], name: str, about: Keeping, three: Sequence[Figure]) -> None:
    """(sidecars - ours) / (sidecars - bare), turn by turn. A turn in which bare saves nothing says nothing."""
    ours, bare, theirs = three
    work = name.split(".")[-2]
    named = [one.name.rpartition(".")[2] for one in three]
    turns = zip(ours.samples, bare.samples, theirs.samples, strict=True)
    shares = tuple((slow - mine) / (slow - fast) for mine, fast, slow in turns if slow > fast)
    if len(shares) < len(ours.samples) / 2 or not shares:
        missing.append(NotRun(name, f"{about.what}: {named[1]} took no less than {named[2]} in most turns"))
        return
    found.append(
        Figure(
            name=name,
            what=f"{work}, {about.what}: what {named[0]} keeps of what {named[1]} saves against {named[2]}",
            unit="of it",
            samples=shares,
            target=about.target,
            lower_is_better=False,
            sides=dict(zip(named, (one.median for one in three), strict=True)),
            side_unit=ours.unit,
        )
    )


def derived_anew(measured: Iterable[Figure], not_run: Iterable[NotRun]) -> tuple[list[Figure], list[NotRun]]:
    """A report's figures and gaps, with what follows from the others as it is computed now."""
    kinds = ("aim.", "times.", *(f"{kind}." for kind in KEEPING))
    own = [figure for figure in measured if not figure.name.startswith(kinds)]
    found, missing = aims(own)
    return [*found, *own], [*(one for one in not_run if not one.what.startswith(kinds)), *missing]
