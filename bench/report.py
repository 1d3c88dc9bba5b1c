"""The table for people and the file for `compare`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bench.compare import Line
from bench.machine import Machine
from bench.pairing import Figure, Verdict

FORMAT = 1
LATEST = Path(__file__).parent / "results" / "latest.json"


class Summary(msgspec.Struct, frozen=True):
    """What follows from a figure's samples: for readers of the file."""

    median: float
    p10: float
    p90: float
    verdict: Verdict


class NotRun(msgspec.Struct, frozen=True):
    """What has no figure, and why."""

    what: str
    reason: str
    failed: bool = False  # it should have one


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    format: int = FORMAT
    when: str  # ISO 8601
    machine: Machine
    turns: int
    figures: tuple[Figure, ...]
    summary: dict[str, Summary] = {}
    not_run: tuple[NotRun, ...] = ()
    curves: dict[str, tuple[tuple[float, float], ...]] = {}  # latencies in ms by quantile, of `mesh`

    @property
    def ok(self) -> bool:
        """No target is clearly missed, and nothing failed."""
        return not any(f.verdict is Verdict.MISSED for f in self.figures) and not any(n.failed for n in self.not_run)


def write(report: Report, path: Path) -> None:
    """With a summary of each figure. Raises OSError."""
    summary = {f.name: Summary(f.median, f.p10, f.p90, f.verdict) for f in report.figures}
    data = msgspec.json.encode(msgspec.structs.replace(report, summary=summary))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_FLAT.sub(_one_line, msgspec.json.format(data, indent=1)) + b"\n")


# Lists and objects with nothing nested in them, as `format` writes them: strings have no newlines.
_FLAT = re.compile(rb"[\[{]\n[^\[\]{}]*\n *[\]}]")


def _one_line(flat: re.Match[bytes]) -> bytes:
    first, *inner, last = flat[0].split(b"\n")
    return first + b" ".join(line.strip() for line in inner) + last.strip()


def read(path: Path) -> Report:
    """Raises OSError, and ValueError for a file that `write` did not write."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except msgspec.MsgspecError as problem:
        raise ValueError(f"{path}: {problem}") from None
    if report.format != FORMAT:
        raise ValueError(f"{path}: format {report.format}, not {FORMAT}")
    return report


# -- text


def number(value: float) -> str:
    """Three digits or more, without an exponent."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def rows(lines: Iterable[tuple[str, ...]], left: int = 2) -> str:
    """Columns: the first ``left`` to the left, the others to the right."""
    table = list(lines)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    padded = [
        [
            cell.ljust(width) if n < left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in table
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _figure(figure: Figure) -> tuple[str, ...]:
    spread = f"{number(figure.p10)}..{number(figure.p90)}" if len(figure.samples) > 1 else ""
    if figure.sides.keys() == {"ax", "direct"}:
        sides = " : ".join(number(figure.sides[side]) for side in ("ax", "direct"))
    else:
        sides = ", ".join(f"{side} {number(value)}" for side, value in figure.sides.items())
    return (
        figure.name,
        figure.what,
        f"{sides} {figure.side_unit}".strip(),
        f"{number(figure.median)} {figure.unit}",
        spread,
        str(figure.target) if figure.target else "",
        figure.verdict.value if figure.target else "",
    )


def machine_text(machine: Machine) -> str:
    """A few lines."""
    about = [
        machine.cpu,
        f"{machine.cpus} processors" + (", virtual" if machine.virtual else ""),
        f"{machine.memory_mb:,} MB",
        f"Linux {machine.kernel}",
        f"load {machine.load}, then {machine.load_after}",
        machine.user + (", real-time" if machine.realtime else ""),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    python = f"{machine.python} ({machine.python_build}, {machine.python_ns} ns for a few calls)"
    return f"{'; '.join(about)}\n{python}; appswitch {machine.appswitch}; {versions}"


def text(report: Report) -> str:
    """The whole report."""
    parts = [machine_text(report.machine)]
    targets = [f for f in report.figures if f.target]
    others = [f for f in report.figures if not f.target]
    parts += [
        figures_text(title, figures) for title, figures in (("Targets", targets), ("Reported", others)) if figures
    ]
    if report.not_run:
        parts.append(not_run_text(report.not_run))
    return "\n\n".join(parts)


def figures_text(title: str, figures: Iterable[Figure]) -> str:
    """A table of them."""
    head = ("figure", "what", "ax : direct", "median", "p10..p90", "target", "verdict")
    return f"{title}\n{'-' * max(len(head[0]), len(title))}\n{rows([head, *map(_figure, figures)])}"


def not_run_text(not_run: Iterable[NotRun]) -> str:
    """A line for each."""
    return "\n".join(["Not measured here", *(f"  {n.what}: {n.reason}" for n in not_run)])


def compared(lines: Iterable[Line]) -> str:
    """The table of `compare`."""
    head = ("figure", "change", "before", "after", "by", "chance")
    table = []
    for line in lines:
        both = line.old is not None and line.new is not None
        by = f"{(line.new / line.old - 1) * 100:+.1f} %" if both and line.old else ""  # type: ignore[operator]
        values = (f"{number(v)} {line.unit}" if v is not None else "" for v in (line.old, line.new))
        word = line.change.value + (", target missed" if line.missed else "")
        table.append((line.name, word, *values, by, f"{line.chance:.2g}" if both else ""))
    return rows([head, *table])
