"""``ax flows``: what is decided about connections."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import click

from appswitch.cli import locate, output, rest, units

EPILOG = """\
The daemon remembers the last 1000 decisions that it was told of: denials always, all others only while somebody
follows (`ax flows --follow`, `ax top`). What had been allowed before that is not shown.

\b
Examples:
  ax flows --verdict denied                who was denied what lately, and by which rule
  ax flows --follow --app web              everything to and from the apps named web
  ax flows -f -o json | jq .rule           a JSON object a line
  ax flows --since 10m --rule no-db        what a policy decided in ten minutes
"""

VERDICTS = ("allowed", "denied", "refused", "waiting", "timed-out")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _plain(text: str) -> str:
    """What programs sent may hold anything, and is shown on a terminal."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _time(row: output.Row) -> str:
    return time.strftime("%H:%M:%S", time.localtime(row["time"])) + f".{int(row['time'] % 1 * 1000):03}"


def _end(end: str) -> Any:
    return lambda row: row[f"{end}_name"] or row[f"{end}_appid"] or ""


def _decided(row: output.Row) -> str:
    return str(row["rule"]) + (" (dry run)" if row["dry_run"] else "")


def _told(row: output.Row) -> str:
    return _plain(",".join(f"{key}={value}" for key, value in row["attributes"].items()))


COLUMNS: output.Columns = (
    ("TIME", _time),
    ("VERDICT", lambda row: row["verdict"].replace(" ", "-")),
    ("PROTO", lambda row: row["proto"]),
    ("CLIENT", lambda row: row["client"]),
    ("CLIENTAPP", _end("client")),
    ("SERVER", lambda row: row["server"]),
    ("SERVERAPP", _end("server")),
    ("VSERVICE", lambda row: row["vservice"]),
    ("BACKEND", lambda row: row["backend"]),
    ("RULE", _decided),
    ("ERROR", lambda row: row["error"]),
    ("TRANSPORT", lambda row: row["transport"]),
    ("WAITED", lambda row: units.seconds(row["waited"]) if row["waited"] else ""),
    ("PROTOCOL", lambda row: _plain(row["protocol"])),
    ("ATTRIBUTES", _told),
)
# Wide enough for most, so that lines that come one by one are still a table.
_WIDTHS = [12, 9, 5, 21, 9, 21, 9, 8, 15, 8, 12, 9, 6, 8, 0]


def _ago(_: object, __: object, text: str | None) -> float | None:
    """``10m`` as a time, in seconds since the epoch."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no time such as 30s, 10m, 2h or 1d")
    return time.time() - int(match[1]) * _UNITS[match[2] or "s"]


@click.command("flows", epilog=EPILOG)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is decided from now on.")
@click.option("--app", metavar="NAME|ID", help="Only with this app at either end.")
@click.option("--verdict", "verdicts", type=click.Choice(VERDICTS), multiple=True, help="Only these. Repeatable.")
@click.option("--rule", help="Only what this policy, route or limit decided.")
@click.option("--vservice", metavar="NAME", help="Only what was to be reached by this vservice.")
@click.option("--since", metavar="TIME", callback=_ago, help="Only what is not older than TIME, such as 10m.")
@click.option(
    "-n", "--limit", type=click.IntRange(0, 1000), default=1000, help="At most so many of the past, the last."
)
@click.option(
    "-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="A table, or a JSON object a line.",
)  # fmt: skip
@click.option("--run-dir", metavar="DIR", envvar="AX_RUN_DIR", show_envvar=True, help="The daemon's directory.")
def command(*, follow: bool, verdicts: tuple[str, ...], form: str, run_dir: str | None, **wanted: Any) -> int:
    """Show decisions about connections: who, to whom, the verdict and what decided, what the first bytes told."""
    query = {**wanted, "verdict": [one.replace("-", " ") for one in verdicts]}
    sock = locate.need(run_dir)
    show = _Table() if form == "table" else _json
    try:
        with contextlib.suppress(KeyboardInterrupt):
            for row in _rows(query, sock, run_dir, follow=follow):
                show(row)
    except BrokenPipeError:  # `ax flows | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at its end
    return 0


def _rows(query: dict[str, Any], sock: socket.socket, run_dir: str | None, *, follow: bool) -> Iterator[output.Row]:
    """Those of the past; with ``follow`` then for ever. Raises rest.DaemonDownError, BrokenPipeError."""
    yield from rest.stream(sock, _path({**query, "follow": follow or None}), sys.stdout.fileno())
    while follow:
        try:
            _, sock = locate.reach(run_dir)
        except rest.DaemonDownError:
            raise rest.DaemonDownError("the daemon has ended") from None
        print("ax: the daemon began anew, or we were too slow: flows may be missing here", file=sys.stderr)
        yield from rest.stream(sock, _path({**query, "follow": True, "limit": 0}), sys.stdout.fileno())


def _path(query: dict[str, Any]) -> str:
    return "/v1/flows?" + urlencode({key: value for key, value in query.items() if value is not None}, doseq=True)


def _json(row: output.Row) -> None:
    """In ASCII: see `_plain`."""
    print(json.dumps(row), flush=True)


class _Table:
    """Lines of one table, as they come. A column grows with what is in it."""

    def __init__(self) -> None:
        self._widths = [max(width, len(name)) for width, (name, _) in zip(_WIDTHS, COLUMNS, strict=True)]
        print(output.heading(output.aligned([[name for name, _ in COLUMNS]], self._widths)[0]), flush=True)

    def __call__(self, row: output.Row) -> None:
        cells = output.cells(COLUMNS, row)
        self._widths[:-1] = [max(width, len(cell)) for width, cell in zip(self._widths, cells[:-1], strict=False)]
        print(output.aligned([cells], self._widths)[0], flush=True)
