"""`python -m bench`: run, compare, growth, faults, mesh."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from bench import faults, machine, report
from bench.cases import SLOW, Measure, Run, cases, growth
from bench.compare import SMALLEST, SMALLEST_WHEN_BUSY, Change, compare
from bench.mesh import command as mesh
from bench.node import Node
from bench.pairing import Figure
from bench.processes import UnavailableError
from bench.programs import Programs
from bench.report import NotRun, Report

TURNS, GROWTH = 15, 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Its exit status: 1 when `--check` or `compare` found something, or a case failed; else 0."""
    options = _parser().parse_args(arguments)
    if options.command == "compare":
        return _compare(options.old, options.new)
    if options.command == "faults":
        return faults.main(options.faults, options.kinds.split(","), options.seed, options.log)
    if options.command == "mesh":
        return mesh.run(options)
    if options.command == "mesh-report":
        return mesh.rewrite(options)
    if options.command == "growth":
        return _run({"growth": growth.measure}, options)
    known = cases()
    usual = [name for name in known if options.all or name not in SLOW]
    wanted = options.only.split(",") if options.only else usual
    unknown = set(wanted) - set(known)
    if unknown:
        print(f"no such case: {', '.join(sorted(unknown))} (there are {', '.join(known)})", file=sys.stderr)
        return 2
    return _run({name: known[name] for name in known if name in wanted}, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    _add_run_options(parser)
    parser.add_argument("--only", metavar="CASE[,CASE]", help=f"of {', '.join(cases())}")
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(sorted(SLOW))}")
    parser.add_argument("--turns", type=int, default=TURNS, help="pairs of measurements for each figure (%(default)s)")
    parser.set_defaults(command="run", connections=GROWTH)
    commands = parser.add_subparsers(metavar="COMMAND")
    comparing = commands.add_parser("compare", help="tell what has changed between two reports from noise")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.set_defaults(command="compare")
    growing = commands.add_parser("growth", help="only growth, over as many connections as you like")
    growing.add_argument("--connections", type=int, default=100_000)
    _add_run_options(growing)
    growing.set_defaults(command="growth", turns=1, output=None)
    breaking = commands.add_parser("faults", help="kill the daemon's processes under load, count what apps see")
    breaking.add_argument("--faults", type=int, default=200, help="how many (%(default)s)")
    kinds = ",".join(faults.KINDS)
    breaking.add_argument("--kinds", default=kinds, metavar="KIND[,KIND]", help=f"of {kinds}")
    breaking.add_argument("--seed", type=int, default=int(time.time()), help="of the moments and kinds")
    breaking.add_argument("--log", type=Path, metavar="FILE", help="what the daemon says")
    breaking.set_defaults(command="faults")
    mesh.add_options(commands.add_parser("mesh", help="the article's experiment, with real sidecars"))
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=report.LATEST, help="where the figures go")
    parser.add_argument("--realtime", action="store_true", help="nobody else may interrupt what is pinned (root)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is clearly missed")


def _run(wanted: dict[str, Measure], options: argparse.Namespace) -> int:
    began = time.monotonic()
    described = machine.describe(options.realtime)
    figures: list[Figure] = []
    not_run = list(_beyond(described))
    try:
        with Programs() as programs, Node() as node:
            run = Run(programs, node, options.turns, options.connections, options.realtime)
            for name, measure in wanted.items():
                _progress(f"{time.monotonic() - began:4.0f} s  {name} ...")
                not_run += _case(name, measure, run, figures)
    except UnavailableError as problem:
        not_run.append(NotRun("everything", str(problem), failed=True))
    _progress("")
    described = msgspec.structs.replace(described, load_after=round(os.getloadavg()[0], 2))
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    result = Report(when=now, machine=described, turns=options.turns, figures=tuple(figures), not_run=tuple(not_run))
    print(report.text(result))
    print(f"\n{time.monotonic() - began:.0f} s", end="")
    _save(result, options.output)
    failed = any(reason.failed for reason in not_run)
    return 1 if failed or (options.check and not result.ok) else 0


def _case(name: str, measure: Measure, run: Run, figures: list[Figure]) -> list[NotRun]:
    """One case adds its figures; a case that fails does not stop the others."""
    try:
        figures.extend(measure(run))
    except UnavailableError as problem:
        return [NotRun(name, str(problem))]
    except Exception as problem:
        traceback.print_exc()
        return [NotRun(name, f"failed: {problem!r}", failed=True)]
    return []


def _beyond(described: machine.Machine) -> Iterator[NotRun]:
    """What no case of ours could measure on this machine."""
    yield NotRun("TCP to another machine", "there is one machine: loopback stands in for it (established.tcp)")
    if described.cpus < 4:
        why = f"{described.cpus} processors: client, server and switch cannot each have one beside their neighbours"
        yield NotRun("the switch on a processor of its own", why)
    if described.cpus < 2:
        yield NotRun("not pinned", "there is one processor: `free` is the same as `pinned`")
    other = "aarch64" if described.kernel.endswith("x86_64") else "x86_64"
    yield NotRun(other, f"this machine is {described.kernel.rpartition(' ')[2]}")


def _progress(words: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{words}", end="", file=sys.stderr, flush=True)


def _save(result: Report, path: Path | None) -> None:
    if path is None:
        print()
        return
    try:
        report.write(result, path)
    except OSError as problem:
        if path != report.LATEST:
            raise
        descriptor, name = tempfile.mkstemp(prefix="bench-", suffix=".json")
        os.close(descriptor)
        report.write(result, Path(name))
        print(f"; {problem.strerror}: {path}", end="")
        path = Path(name)
    print(f"; figures in {path}")


def _compare(old_path: Path, new_path: Path) -> int:
    try:
        old, new = report.read(old_path), report.read(new_path)
    except (OSError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    if not {one.name for one in old.figures} & {one.name for one in new.figures}:
        print(f"{old_path} and {new_path} have no figure in common", file=sys.stderr)
        return 2
    if different := _different(old.machine, new.machine):
        print(f"The machines differ in {different}: only ratios can be compared.\n")
    busy = old.machine.busy or new.machine.busy
    if busy:
        print(f"The machine was busy: changes below {SMALLEST_WHEN_BUSY:.0%} are taken for noise (--realtime helps).\n")
    lines = compare(old.figures, new.figures, SMALLEST_WHEN_BUSY if busy else SMALLEST)
    print(report.compared(lines))
    bad = [line for line in lines if line.change is Change.WORSE or line.missed]
    print(f"\n{len(bad)} worse" if bad else "\nnothing worse")
    return 1 if bad else 0


def _different(one: machine.Machine, other: machine.Machine) -> str:
    """The names of what differs, but for what is meant to: load and our own version."""
    fields = (name for name in one.__struct_fields__ if name not in ("load", "load_after", "appswitch", "python_ns"))
    return ", ".join(name for name in fields if getattr(one, name) != getattr(other, name))


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # daemons and namespaces go, as with Ctrl-C
    sys.exit(main())
