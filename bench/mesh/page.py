"""The part of docs/mesh.md that is made from a report. Pure, but for `rewrite`."""

from __future__ import annotations

from pathlib import Path

from bench import report
from bench.mesh import tables
from bench.mesh.work import WORKS
from bench.pairing import Figure
from bench.report import Report, number

PAGE = Path(__file__).parents[2] / "docs" / "mesh.md"
BEGIN, END = "<!-- made by `python -m bench mesh report` -->", "<!-- end of what is made -->"

BUSY = """\
**The machine was busy with other things** (last line of the box). What waits for a processor waits for them, too:
latencies are many times those of an idle machine, and differ from turn to turn. Processor time hardly depends on
neighbours: it is the figure to look at here."""


def section(result: Report) -> str:
    """Tables of all works, the aims, what was not measured, and where all of it comes from."""
    figures = tables.by_name(result.figures)
    about = f"{report.machine_text(result.machine)}\n{tables.others_text(figures)}"
    parts = [f"Measured {result.when[:10]}, {result.turns} rounds; medians.", f"```\n{about}\n```"]
    parts += [BUSY] if result.machine.busy else []
    for work in WORKS:
        table = tables.work_table(work, figures, titled=True)
        parts += [f"### {work.what}\n\n{tables.markdown(table)}"] if table else []
    for kind, title in tables.BESIDE.items():
        table = tables.beside_sidecars(kind, figures)
        parts += [f"### {title}\n\n{tables.markdown(table)}"] if table else []
    if aims := tables.aims_of(result):
        head = ("aim", "median", "one turn in ten below / above", "target", "verdict")
        parts.append(f"### Aims\n\n{tables.markdown([head, *map(_aim, aims)])}")
    if result.not_run:
        lines = [f"- {one.what}: {one.reason.splitlines()[0]}" for one in result.not_run]
        parts.append("\n".join(["### Not measured", "", *lines]))
    return "\n\n".join(parts)


def _aim(figure: Figure) -> tuple[str, ...]:
    spread = f"{number(figure.p10)} / {number(figure.p90)}"
    return (figure.what, number(figure.median), spread, str(figure.target), figure.verdict.value)


def replaced(page: str, made: str) -> str:
    """The page with this in place of what was made before. Raises ValueError where the marks are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no section between {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def rewrite(result: Report, path: Path = PAGE) -> None:
    """Raises OSError, ValueError."""
    path.write_text(replaced(path.read_text(), section(result)))
