"""Everybody does every work in turns: what it gave, and whose processor time it took."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.mesh.stages import Stage, Variant
from bench.mesh.work import Result, Work
from bench.pairing import take_turns
from bench.processes import BenchError, UnavailableError
from bench.report import NotRun

CPUS = os.cpu_count() or 1
WARM_UP, TRIES = 0.3, 2  # seconds; how often what failed is tried
STARTING = 60.0  # seconds that a load may take beside the time it is given


class Measured(NamedTuple):
    """One load in one turn."""

    result: Result
    cpu: float  # seconds: client, server and all in between
    others: float  # of the machine's processors, the share that was somebody else's


class Trial:
    """One work on one stage. ``problem``: why it is given up."""

    def __init__(self, stage: Stage, work: Work, seconds: float) -> None:
        self.problem: NotRun | None = None
        self._stage, self._work, self._seconds = stage, work, seconds
        self._rate = 0.0

    def warm_up(self) -> None:
        """Start the server, do a little."""
        self._attempt(WARM_UP)

    def __call__(self) -> Measured | None:
        """A turn; None when it is given up."""
        return self._attempt(self._seconds)

    def _attempt(self, seconds: float) -> Measured | None:
        for number in range(TRIES):
            if self.problem is not None:
                break
            try:
                self._stage.serve(self._work.service)
                return self._measure(seconds)
            except UnavailableError as problem:
                self.problem = NotRun(self._work.name, str(problem))
            except BenchError as problem:
                if number == TRIES - 1:
                    self.problem = NotRun(self._work.name, str(problem), failed=True)
        return None

    def _measure(self, seconds: float) -> Measured:
        stage, service = self._stage, self._work.service
        passed = stage.envoys.connections(service) if stage.envoys else []
        command = self._work.client(stage.spot(service), seconds, self._rate)
        said = stage.run(command, service, seconds + STARTING)
        if stage.envoys:
            # One that keeps its connections to the next need not make another, but each took part at some time.
            now = stage.envoys.connections(service)
            if now[0] == passed[0] or not all(now):
                raise BenchError(f"the sidecars did not take part: {passed} connections before, {now} after")
            stage.envoys.forget()
        result = self._work.read(said["output"])
        self._rate = result.rate
        return Measured(result, said["cpu"], said["others"] / (said["took"] * CPUS))


def measure(
    work: Work, stages: Mapping[Variant, Stage], seconds: float, rounds: int, tell: Callable[[str], None]
) -> tuple[dict[str, list[Measured]], list[NotRun]]:
    """Of each variant's name its turns, and what could not be done."""
    trials = {one.name: Trial(stage, work, seconds) for one, stage in stages.items() if suits(work, one)}
    for name, trial in trials.items():
        tell(f"{work.name}: {name} warms up")
        trial.warm_up()
    steps = itertools.count(1)
    total = len(trials) * rounds

    def turn(name: str) -> Callable[[], Measured | None]:
        def one() -> Measured | None:
            tell(f"{work.name}: {next(steps)} of {total}: {name}")
            return trials[name]()

        return one

    turns = take_turns({name: turn(name) for name in trials}, rounds, warm_up=0)
    whole = {name: [one for one in results if one is not None] for name, results in turns.items()}
    kept = {name: results for name, results in whole.items() if len(results) == rounds}
    return kept, _not_done(work, trials)


def suits(work: Work, variant: Variant) -> bool:
    """Whether it can be done there, and is not the same there as elsewhere."""
    return (work.unix or variant.name != "unix") and (work.service.http > 0 or not variant.http)


def _not_done(work: Work, trials: Mapping[str, Trial]) -> list[NotRun]:
    """What is missing for the same reason is told once, and for all without their names."""
    reasons: dict[NotRun, list[str]] = {}
    for name, trial in trials.items():
        if trial.problem is not None:
            reasons.setdefault(trial.problem, []).append(name)
    told = []
    for one, names in reasons.items():
        everybody = len(names) == len(trials) > 1
        what = work.name if everybody else f"{work.name} on {', '.join(names)}"
        told.append(NotRun(what, one.reason, one.failed))
    return told


def not_suited(works: Iterable[Work], variants: Sequence[Variant]) -> list[NotRun]:
    """What is left out on purpose."""
    found = []
    for work in works:
        if not work.unix and any(one.name == "unix" for one in variants):
            found.append(NotRun(f"{work.name} on unix", "the program knows no Unix sockets"))
        same = [one.name for one in variants if one.http and not work.service.http]
        if same:
            reason = "its bytes are no HTTP: Envoy carries them as on tcp and vxlan-log, with and without log"
            found.append(NotRun(f"{work.name} on {', '.join(same)}", reason))
    return found
