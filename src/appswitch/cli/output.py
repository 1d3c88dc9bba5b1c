"""Rows for people and for programs: aligned columns, JSON, YAML."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

Row = dict[str, Any]
Columns = Sequence[tuple[str, Callable[[Row], str]]]

GAP = 2  # spaces between columns


def cells(columns: Columns, row: Row) -> list[str]:
    """One line of a table; what is empty is shown as a hyphen, so that columns can be counted."""
    return [get(row) or "-" for _, get in columns]


def table(columns: Columns, rows: Sequence[Row]) -> list[str]:
    """Lines, the names of the columns first."""
    return aligned([[name for name, _ in columns], *(cells(columns, row) for row in rows)])


def aligned(lines: Sequence[Sequence[str]], widths: Sequence[int] | None = None) -> list[str]:
    """``widths``: at least so many characters a column."""
    least = widths or [0] * len(lines[0])
    wide = [max(least[column], *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]
    return ["".join(cell.ljust(width + GAP) for cell, width in zip(line, wide, strict=True)).rstrip() for line in lines]


def dump(value: object, form: str, out: TextIO) -> None:
    """A whole document, ``json`` or ``yaml``."""
    if form == "json":
        json.dump(value, out, indent=2, ensure_ascii=False)
        out.write("\n")
    else:
        import yaml

        yaml.safe_dump(value, out, sort_keys=False, allow_unicode=True)
    out.flush()


def dump_all(values: Sequence[Row], out: TextIO) -> None:
    """YAML documents, each after ``---``, in ASCII: of some characters not all readers of YAML think alike."""
    import yaml

    yaml.safe_dump_all(values, out, sort_keys=False, explicit_start=True)
    out.flush()


def dump_line(value: object, form: str, out: TextIO) -> None:
    """One document of a stream: a line of JSON, or YAML after ``---``."""
    if form == "json":
        out.write(json.dumps(value, ensure_ascii=False) + "\n")
    else:
        out.write("---\n")
        dump(value, form, out)
    out.flush()


def heading(text: str, out: TextIO | None = None) -> str:
    """Bold on a terminal."""
    return f"\x1b[1m{text}\x1b[0m" if (out or sys.stdout).isatty() else text
