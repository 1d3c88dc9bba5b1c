"""``ax top``: what apps do and use, drawn again and again."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any

import click

from appswitch.cli import activity, get, locate, output, rest, units, watch
from appswitch.cli.activity import Flows, Look

EPILOG = """\
Connections and denials are those that were decided between two looks. Bytes are known of TCP only (to and from the
outside, and between apps with `--transport tcp`): Unix sockets do not count them. HEAP and STACK are as
`ax get metrics` has them; HEAP+ is what was added since the app attached.

On a terminal: q ends, < and > choose the column to sort by, r reverses the order.

\b
Examples:
  ax top
  ax top --sort heap --interval 5
  ax top --once                            one table, of one interval, for scripts
  ax top -b -n 10 -o json                  ten JSON objects, one a line
"""


def _count(name: str, show: Any) -> Any:
    return lambda row: units.optional(show, row[name])


# The key of each is what `--sort` takes, and what JSON has.
COLUMNS: dict[str, tuple[str, Any]] = {
    "name": ("NAME", lambda row: row["name"] or ""),
    "appid": ("APPID", lambda row: row["appid"]),
    "conn": ("CONN/S", _count("conn", units.rate)),
    "active": ("ACTIVE", _count("active", str)),
    "denied": ("DENIED/S", _count("denied", units.rate)),
    "tx": ("TX/S", _count("tx", units.size)),
    "rx": ("RX/S", _count("rx", units.size)),
    "cpu": ("CPU%", _count("cpu", units.rate)),
    "rss": ("RSS", _count("rss", units.size)),
    "heap": ("HEAP", _count("heap", units.size)),
    "grown": ("HEAP+", _count("grown", units.size)),
    "stack": ("STACK", _count("stack", units.size)),
    "threads": ("THREADS", _count("threads", str)),
    "fds": ("FDS", _count("fds", str)),
}


@click.command("top", epilog=EPILOG)
@click.option("-b", "--batch", is_flag=True, help="Print table after table, as when standard output is no terminal.")
@click.option("-n", "count", type=click.IntRange(1), metavar="NUMBER", help="End after so many looks.")
@click.option("--once", is_flag=True, help="The same as -b -n 1.")
@click.option(
    "-d", "--interval", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
@click.option("--sort", type=click.Choice(list(COLUMNS)), default="conn", show_default=True, help="Column to sort by.")
@click.option("-r", "--reverse", is_flag=True, help="The smallest first.")
@click.option(
    "-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="Tables, or a JSON object a line.",
)  # fmt: skip
@click.option("--run-dir", metavar="DIR", envvar="AX_RUN_DIR", show_envvar=True, help="The daemon's directory.")
def command(  # noqa: PLR0913 - one for each option
    *, batch: bool, count: int | None, once: bool, interval: float, sort: str, reverse: bool, form: str,
    run_dir: str | None,
) -> int:  # fmt: skip
    """Show what apps do and use: connections a second, open ones, denials, bytes, CPU time, memory."""
    order = _Order(sort, reverse)
    if form == "json":
        shown: _Shown = _Lines(order, _dump)
    elif batch or once or not sys.stdout.isatty():
        shown = _Lines(order, _print)
    else:
        shown = _Screen(order)
    try:
        with contextlib.suppress(KeyboardInterrupt), shown:
            for look in itertools.islice(_looks(run_dir, interval, shown.wait), 1 if once else count):
                shown.show(activity.summary(*look), activity.rows(*look))
    except BrokenPipeError:  # `ax top -b | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at its end
    return 0


# Looking


def _looks(run_dir: str | None, interval: float, wait: Callable[[float], bool]) -> Iterator[tuple[Look, Look, Flows]]:
    """For ever, or until ``wait`` says that it is enough. Raises rest.DaemonDownError."""
    follower = _Follower(run_dir)
    before = _look(run_dir)
    while wait(interval):
        try:
            now = _look(run_dir)
        except rest.DaemonDownError:
            raise rest.DaemonDownError("the daemon has ended") from None
        yield before, now, follower.take()
        before = now


def _look(run_dir: str | None) -> Look:
    metrics, connections = get.fetch("metrics", run_dir), get.fetch("connections", run_dir)
    _, sock = locate.reach(run_dir)
    return Look(time.monotonic(), metrics, connections, rest.request(sock, "GET", "/v1/status")["stats"])


class _Follower:
    """Counts decisions in a thread of its own. The daemon reports them as long as we listen."""

    def __init__(self, run_dir: str | None) -> None:
        self._run_dir = run_dir
        self._flows = Flows()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def take(self) -> Flows:
        """Those since the last time."""
        with self._lock:
            taken, self._flows = self._flows, Flows()
        return taken

    def _run(self) -> None:
        with contextlib.suppress(rest.DaemonDownError, rest.RefusedError, OSError):  # who looks will tell
            while True:
                _, sock = locate.reach(self._run_dir)
                for row in rest.stream(sock, "/v1/flows?follow=true&limit=0"):
                    with self._lock:
                        self._flows.take(row)


# Showing


def _head(told: dict[str, Any]) -> list[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in told["connections"].items())
    verdicts = ", ".join(f"{units.rate(each)} {verdict}" for verdict, each in told["flows"].items())
    return [
        f"{time.strftime('%H:%M:%S')}  apps: {told['apps']}  connections: {kinds or '0'}",
        f"a second: {units.rate(told['calls'])} calls, {verdicts or '0 connections'}",
        f"now: {told['parked']:.0f} calls parked, {told['waiting']:.0f} connections waiting",
    ]


def _table(rows: list[output.Row]) -> list[str]:
    return output.table(list(COLUMNS.values()), rows)


def _print(told: dict[str, Any], rows: list[output.Row]) -> None:
    print("\n".join([*_head(told), "", *_table(rows), ""]), flush=True)


def _dump(told: dict[str, Any], rows: list[output.Row]) -> None:
    print(json.dumps({"time": time.time(), **told, "apps": rows}), flush=True)


class _Order:
    """By which column, and which way."""

    def __init__(self, key: str, ascending: bool) -> None:
        self.key = key
        self.ascending = ascending

    def sorted(self, rows: list[output.Row]) -> list[output.Row]:
        """In that order."""
        return activity.ordered(rows, self.key, ascending=self.ascending)

    def pressed(self, key: str) -> None:
        """A key of the terminal."""
        names = list(COLUMNS)
        if key in "<>":
            self.key = names[(names.index(self.key) + (1 if key == ">" else -1)) % len(names)]
        elif key == "r":
            self.ascending = not self.ascending


class _Lines:
    """One behind the other."""

    def __init__(self, order: _Order, write: Callable[[dict[str, Any], list[output.Row]], None]) -> None:
        self._order = order
        self._write = write

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def wait(self, seconds: float) -> bool:
        """True: go on."""
        time.sleep(seconds)
        return True

    def show(self, told: dict[str, Any], rows: list[output.Row]) -> None:
        """What a look has given."""
        self._write(told, self._order.sorted(rows))


class _Screen:
    """On a terminal, which gives every key at once and does not show it; Ctrl-C still interrupts. termios(3)."""

    def __init__(self, order: _Order) -> None:
        self._order = order
        self._picture = watch.Picture()
        self._last: tuple[dict[str, Any], list[output.Row]] | None = None
        self._before: list[Any] | None = None  # None: no keys, standard input is something else

    def __enter__(self) -> None:
        if sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin.fileno())
            tty.setcbreak(sys.stdin.fileno())

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> bool:
        """False: the user has had enough."""
        end = time.monotonic() + seconds
        keys = [sys.stdin] if self._before is not None else []
        while select.select(keys, [], [], max(0.0, end - time.monotonic()))[0]:
            key = os.read(sys.stdin.fileno(), 1).decode(errors="replace")
            if key in ("q", ""):
                return False
            self._order.pressed(key)
            self._draw()
        return True

    def show(self, told: dict[str, Any], rows: list[output.Row]) -> None:
        """What a look has given."""
        self._last = told, rows
        self._draw()

    def _draw(self) -> None:
        if self._last is not None:
            told, rows = self._last
            head, *lines = _table(self._order.sorted(rows))
            self._picture.draw([*_head(told), f"by {COLUMNS[self._order.key][0]}", ""], head, lines)


_Shown = _Lines | _Screen
