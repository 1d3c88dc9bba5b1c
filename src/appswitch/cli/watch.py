"""``ax get --watch``: a table that is kept true on a terminal, lines as they change elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from appswitch.cli import get, locate, output, rest

EVERY = 1.0  # seconds between two looks at what has no events
_EVENTS = ("apps", "servers")
# Of metrics and sockets, connections, servers, backends, names, pools, exposed ports.
_KEYS = (
    ("id",),
    ("client_app", "client", "server_app", "server", "proto"),
    ("app_id", "proto", "service_ip", "service_port", "since"),
    ("vservice", "port", "route", "backend", "spec"),
    ("fqdn",),
    ("network",),
    ("appid", "address", "proto"),
)


def watch(what: str, form: str, run_dir: str | None, name: str | None = None) -> None:
    """Until the user has had enough (Ctrl-C), or the daemon ends. Raises rest.DaemonDownError then."""
    show: Any = Screen(what, form) if sys.stdout.isatty() and form in get.TABLES else Lines(what, form)
    changes = _events(what, run_dir) if what in _EVENTS else _polled(what, run_dir, name)
    try:
        for change in changes:
            show.take(*change)
    except KeyboardInterrupt:
        return
    raise rest.DaemonDownError("the daemon has ended")


# A change: which row (a key), the row (None: it is gone), and whether more comes at once (no need to draw yet).
Change = tuple[str, output.Row | None, bool]


def _events(what: str, run_dir: str | None) -> Iterator[Change]:
    sock = locate.need(run_dir)
    synced = False
    for event in rest.stream(sock, f"/v1/events?what={what}"):
        kind, row = event["type"], event.get("row")
        if kind == "synced":
            synced = True
            yield "", None, False
        elif kind == "app-gone":
            yield event["appid"], None, False
        elif kind == "app-changed":
            yield row["app"]["appid"], row, not synced
        elif kind in ("server-up", "server-down"):
            yield _key(row), row if kind == "server-up" else None, not synced


def _polled(what: str, run_dir: str | None, name: str | None = None) -> Iterator[Change]:
    before: dict[str, output.Row] = {}
    while True:
        now = {_key(row): row for row in _seen(what, run_dir, name)}
        for key in before.keys() - now.keys():
            yield key, None, True
        for key, row in now.items():
            if before.get(key) != row:
                yield key, row, True
        before = now
        yield "", None, False
        time.sleep(EVERY)


def _seen(what: str, run_dir: str | None, name: str | None) -> list[output.Row]:
    """What has a name may not be there yet, or no longer."""
    try:
        return get.fetch(what, run_dir, name)
    except rest.RefusedError as err:
        if err.slug != "no-such-resource":
            raise
        return []


def _key(row: output.Row) -> str:
    """What makes a row this row."""
    if "metadata" in row:
        return f"{row['kind']} {row['metadata']['name']}"
    for names in _KEYS:
        if all(name in row for name in names):
            return " ".join(str(row[name]) for name in names)
    return repr(sorted(row.items()))


class Lines:
    """Every change is printed: a line of a table with what happened before it, or a JSON or YAML document."""

    def __init__(self, what: str, form: str) -> None:
        self._columns = get.columns(what, form)
        self._form = form
        self._quiet = what not in _EVENTS  # what is not shown may change all the time: bytes
        self._rows: dict[str, output.Row] = {}
        self._widths: list[int] | None = None

    def take(self, key: str, row: output.Row | None, _: bool) -> None:
        """Print it."""
        if not key:
            return
        old = self._rows.pop(key, None)
        if row is not None:
            self._rows[key] = row
        event = "GONE" if row is None else "CHANGED" if old else "ADDED"
        shown = row or old
        if shown is None:
            return
        if self._form not in get.TABLES:
            output.dump_line({"event": event.lower(), "row": shown}, self._form, sys.stdout)
            return
        cells = output.cells(self._columns, shown)
        if self._quiet and old is not None and row is not None and cells == output.cells(self._columns, old):
            return
        lines = [[event, *cells]]
        if self._widths is None:
            lines.insert(0, ["EVENT", *(name for name, _ in self._columns)])
            self._widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
            self._widths[0] = len("CHANGED")
        print("\n".join(output.aligned(lines, self._widths)), flush=True)


class Screen:
    """The table itself, drawn again over itself."""

    def __init__(self, what: str, form: str = "table") -> None:
        self._columns = get.columns(what, form)
        self._rows: dict[str, output.Row] = {}
        self._picture = Picture()

    def take(self, key: str, row: output.Row | None, more: bool) -> None:
        """Note it, and draw unless ``more`` comes."""
        if key and row is not None:
            self._rows[key] = row
        elif key:
            self._rows.pop(key, None)
        if not more:
            self._draw()

    def _draw(self) -> None:
        head, *lines = output.table(self._columns, list(self._rows.values()))
        self._picture.draw((), head, lines)


class Picture:
    """Lines on a terminal that are drawn over those before them."""

    def __init__(self) -> None:
        self._drawn = 0  # lines on the screen

    def draw(self, above: Sequence[str], head: str, lines: Sequence[str]) -> None:
        """``above``: lines before the ``head`` of a table; of ``lines`` as many as there is room for."""
        size = os.get_terminal_size(sys.stdout.fileno())
        width, height = size.columns or 80, size.lines or 24  # a terminal that nobody sized says 0
        room = max(height - 2 - len(above), 1)  # the cursor has a line, too
        if len(lines) > room:
            lines = [*lines[: room - 1], f"... and {len(lines) - room + 1} more"]
        shown = [line[:width] for line in (*above, head, *lines)]
        shown[len(above)] = output.heading(shown[len(above)])
        back = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""  # up, and clear to the end
        sys.stdout.write(back + "\n".join(shown) + "\n")
        sys.stdout.flush()
        self._drawn = len(shown)
