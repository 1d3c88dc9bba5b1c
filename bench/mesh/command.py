"""`python -m bench mesh`: run all of it, or make pictures and page anew from what a run has written."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from bench import envoy, machine, report
from bench.mesh import figures, page, pictures, tables, tools
from bench.mesh.hosts import Namespaces
from bench.mesh.measure import measure, not_suited
from bench.mesh.stages import VARIANTS, Bench, Stage, Variant
from bench.mesh.work import WORKS, Work
from bench.pairing import Figure
from bench.processes import BenchError, UnavailableError
from bench.report import NotRun, Report

RESULTS = Path(__file__).parents[1] / "results" / "mesh"
ROUNDS, SECONDS = 5, 2.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of `mesh`, and its subcommand."""
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of everybody at each work (%(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a turn (%(default)s)")
    names = f"works: {', '.join(one.name for one in WORKS)}; variants: {', '.join(one.name for one in VARIANTS)}"
    parser.add_argument("--only", metavar="NAME[,NAME]", help=names)
    parser.add_argument("--quick", action="store_true", help="2 rounds of half a second: whether it works")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of mesh.json and the pictures")
    parser.add_argument("--check", action="store_true", help="exit with 1 when an aim is clearly missed")
    parser.set_defaults(command="mesh", report=None)
    commands = parser.add_subparsers(metavar="COMMAND")
    again = commands.add_parser("report", help="aims, pictures and tables of docs/mesh.md anew, from mesh.json")
    again.add_argument("report", type=Path, nargs="?", default=RESULTS / "mesh.json")
    again.add_argument("--page", type=Path, default=page.PAGE)
    again.set_defaults(command="mesh-report")


def rewrite(options: argparse.Namespace) -> int:
    """Pictures and page from a report."""
    try:
        result = report.read(options.report)
        derived, missing = figures.derived_anew(result.figures, result.not_run)
        result = msgspec.structs.replace(result, figures=tuple(derived), not_run=tuple(missing))
        report.write(result, options.report)
        made = pictures.draw(result, options.report.parent)
        page.rewrite(result, options.page)
    except (OSError, ValueError, UnavailableError) as problem:
        print(problem, file=sys.stderr)
        return 2
    print(f"{', '.join(map(str, [*made, options.page]))}")
    return 0


def run(options: argparse.Namespace) -> int:
    """The whole experiment, or what is done of it when it is interrupted. Its exit status as of `python -m bench`."""
    try:
        works, variants = chosen(options.only)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 2
    rounds, seconds = (2, 0.5) if options.quick else (options.rounds, options.seconds)
    began = time.monotonic()
    described = machine.describe()
    measured: list[Figure] = []
    curves: dict[str, figures.Curve] = {}
    not_run = [
        NotRun(
            "two machines", "there is one: hosts are network namespaces on one kernel, with a veth pair for the wire"
        ),
        *not_suited(works, variants),
    ]
    try:
        with stages_of(variants, not_run) as stages:
            for work in works:
                try:
                    results, problems = measure(work, stages, seconds, rounds, _teller(began))
                    not_run += problems
                    measured += figures.figures(work, results)
                    measured += figures.others(work, results)
                    curves |= figures.curves(work, results)
                except Exception as problem:  # the other works are worth their time
                    traceback.print_exc()
                    not_run.append(NotRun(work.name, f"failed: {problem!r}", failed=True))
    except UnavailableError as problem:
        not_run.append(NotRun("everything", str(problem), failed=True))
    except BenchError as problem:  # at the end: what was measured counts
        not_run.append(NotRun("a clean end", str(problem), failed=True))
    except (KeyboardInterrupt, SystemExit):
        not_run.append(NotRun("the other works", "interrupted", failed=True))
    _clear()
    aims, unknown = figures.aims(measured)
    result = Report(
        when=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        machine=_with_versions(described),
        turns=rounds,
        figures=(*aims, *measured),
        not_run=(*not_run, *unknown),
        curves=curves,
    )
    print(tables.text(result))
    saved = _save(result, options.output) if measured else "nothing to write"
    print(f"\n{time.monotonic() - began:.0f} s; {saved}")
    failed = any(one.failed for one in result.not_run)
    return 1 if failed or (options.check and not result.ok) else 0


def chosen(only: str | None) -> tuple[list[Work], list[Variant]]:
    """By names of works, of variants, or of both; of what is not named, all. Raises ValueError."""
    wanted = set(only.split(",")) if only else set()
    works = [one for one in WORKS if one.name in wanted] or list(WORKS)
    variants = [one for one in VARIANTS if one.name in wanted] or list(VARIANTS)
    unknown = wanted - {one.name for one in (*WORKS, *VARIANTS)}
    if unknown:
        known = ", ".join(one.name for one in (*WORKS, *VARIANTS))
        raise ValueError(f"no such work or variant: {', '.join(sorted(unknown))} (there are {known})")
    return works, variants


@contextlib.contextmanager
def stages_of(variants: Sequence[Variant], not_run: list[NotRun]) -> Iterator[dict[Variant, Stage]]:
    """All variants that can be brought up, at the same time; the others are told. Raises UnavailableError."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="axm-", dir="/tmp")))
        place.chmod(0o755)
        bench = Bench(stack.enter_context(Namespaces()), place)
        stages = {}
        for one in variants:
            _progress(f"bringing up {one.name} ...")
            try:
                stages[one] = stack.enter_context(one.open(bench, one.name))
            except (UnavailableError, BenchError) as problem:
                not_run.append(NotRun(one.name, str(problem), failed=isinstance(problem, BenchError)))
        yield stages


def _with_versions(described: machine.Machine) -> machine.Machine:
    try:
        binary = envoy.program()
    except UnavailableError:
        binary = ""
    versions = described.versions | tools.versions(binary)
    return msgspec.structs.replace(described, versions=versions, load_after=round(os.getloadavg()[0], 2))


def _save(result: Report, place: Path) -> str:
    report.write(result, place / "mesh.json")
    try:
        made = pictures.draw(result, place)
    except UnavailableError as problem:
        return f"figures in {place / 'mesh.json'}; {problem}"
    return f"figures and {len(made)} pictures in {place}"


def _teller(began: float) -> Callable[[str], None]:
    return lambda words: _progress(f"{time.monotonic() - began:5.0f} s  {words}")


def _progress(words: str) -> None:
    """One line that changes on a terminal, many elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{words}", end="", file=sys.stderr, flush=True)
    else:
        print(words, file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        _progress("")
