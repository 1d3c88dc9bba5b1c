"""The tables: for the terminal, and for the page. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from bench import report
from bench.mesh.figures import BASE, KEEP, KEPT, REQUESTS, SIDECARS
from bench.mesh.stages import VARIANTS
from bench.mesh.work import WORKS, Work
from bench.pairing import Figure, Verdict
from bench.report import Report, number

BESIDE = {
    "times": "How many times ax's latency sidecars have",
    "aim.kept": f"Of the advantage over sidecars that is possible, what ax keeps (aim {KEEP})",
    "cpu-kept": "The same of processor time for a request",
}
TITLES = {variant.name: variant.title for variant in VARIANTS}


def work_table(work: Work, by_name: Mapping[str, Figure], titled: bool = False) -> list[tuple[str, ...]]:
    """Head and rows: one for each variant that was measured, with ratios to the veth pair. Empty without any."""
    stream = work.unit == "Gbit/s"
    latencies = [] if stream else ["p50", "p90", "p99"]
    first = "rate" if stream else "p50"
    units = {
        "p50": "p50 ms",
        "p90": "p90 ms",
        "p99": "p99 ms",
        "rate": work.unit,
        "cpu": "CPU ms/GB" if stream else "CPU us",
    }
    head = ("variant", *(units[metric] for metric in (*latencies, "rate", "cpu")), f"{first} : veth", "CPU : veth")
    rows = []
    for name, title in TITLES.items():
        cells = [by_name.get(f"{work.name}.{metric}.{name}") for metric in (*latencies, "rate", "cpu")]
        if all(cells):
            ratios = [_to_base(by_name, work.name, metric, name) for metric in (first, "cpu")]
            values = [number(cell.median) for cell in cells if cell]
            rows.append((f"{title} (`{name}`)" if titled else name, *values, *ratios))
    return [head, *rows] if rows else []


def _to_base(by_name: Mapping[str, Figure], work: str, metric: str, name: str) -> str:
    """Turn by turn, then the median."""
    figure = by_name[f"{work}.{metric}.{name}"]
    if name == BASE:
        return "1"
    return f"{statistics.median(figure.comparable):.2f}" if figure.yardstick else ""


def by_name(figures: Iterable[Figure]) -> dict[str, Figure]:
    """Of a report's."""
    return {figure.name: figure for figure in figures}


def text(result: Report) -> str:
    """For the terminal."""
    figures = by_name(result.figures)
    parts = [report.machine_text(result.machine), others_text(figures)]
    for work in WORKS:
        table = work_table(work, figures)
        parts += [f"{work.what}\n{'-' * len(work.what)}\n{report.rows(table, left=1)}"] if table else []
    for kind, title in BESIDE.items():
        table = beside_sidecars(kind, figures)
        parts += [f"{title}\n{'-' * len(title)}\n{report.rows(table, left=1)}"] if table else []
    if aims := aims_of(result):
        parts.append(report.figures_text("Aims", aims))
    if result.not_run:
        parts.append(report.not_run_text(result.not_run))
    return "\n\n".join(part for part in parts if part)


def aims_of(result: Report) -> list[Figure]:
    """Those that are in no other table."""
    return [figure for figure in result.figures if figure.target and not figure.name.startswith("aim.kept.")]


def beside_sidecars(kind: str, figures: Mapping[str, Figure]) -> list[tuple[str, ...]]:
    """For each work and place a row, for each kind of sidecars a column. ``kind``: of `BESIDE`."""
    rows = []
    for work in REQUESTS:
        for one in KEPT:
            found = [figures.get(f"{kind}.{one.name}.{work}.{sidecar}") for sidecar in SIDECARS]
            if any(found):
                rows.append((f"{work}, {one.ours}", *("" if figure is None else _cell(figure) for figure in found)))
    return [("work, who", *SIDECARS), *rows] if rows else []


def _cell(figure: Figure) -> str:
    """With a word where an aim is not met."""
    fine = figure.verdict in (Verdict.MET, Verdict.REPORTED)
    return f"{figure.median:.2f}" if fine else f"{figure.median:.2f} {figure.verdict.value}"


def others_text(figures: Mapping[str, Figure]) -> str:
    """What neighbours had of the machine during each work."""
    found = [(work.name, figures[f"{work.name}.others"]) for work in WORKS if f"{work.name}.others" in figures]
    shares = ", ".join(f"{name} {number(figure.median)} %" for name, figure in found)
    return f"Processor time of others meanwhile: {shares}" if shares else ""


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Of head and rows: the first column to the left, numbers to the right."""
    head, *rows = table
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
