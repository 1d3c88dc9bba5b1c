"""What the switch tells others: log lines, events for control. The loop never waits for whoever reads them."""

from __future__ import annotations

import contextlib
import select
import time
from collections import deque
from collections.abc import Callable

from appswitch import logbound, logevents, logline, wire
from appswitch.model import ServerRow
from appswitch.switch.apps import App

_STDERR = 2
RECENT = 200  # lines that are remembered for a bug report
_UNKNOWN = logevents.Event("warning")


class Log:
    """Lines to standard error, as JSON or for people; of each kind only so many (`logbound.Budget`)."""

    def __init__(self, as_json: bool, level: str = "info") -> None:
        self.recent: deque[str] = deque(maxlen=RECENT)
        self._json = as_json
        self._least = logline.LEVELS.get(level, logline.LEVELS["info"])
        self._budget = logbound.Budget()
        self._lost = 0  # lines that nobody read in time

    def __call__(self, event: str, **fields: object) -> None:
        """Write one line; `logevents` tells how serious it is. An app, or a user, has a budget of its own."""
        known = logevents.SWITCH.get(event, _UNKNOWN)
        if logline.LEVELS[known.level] < self._least:
            return
        now = time.monotonic()
        if self._budget.admit(f"{event} {fields.get('app', fields.get('uid', ''))}".rstrip(), now):
            self._write(known.level, event, fields | {"hint": fields.get("hint", known.hint)} if known.hint else fields)
        self.tell_suppressed(now)

    def tell_suppressed(self, now: float | None = None) -> None:
        """Say how many lines were left out, if it is time to. To be called now and then."""
        for kind, count in self._budget.withheld(time.monotonic() if now is None else now):
            self._write("warning", logbound.suppressed(kind, count), {})

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        lost = {"lost_before": self._lost} if self._lost else {}
        data = self._line(level, event, {"part": "switch", **fields, **lost}).encode("utf-8", "replace") + b"\n"
        self.recent.append(data[:-1].decode())
        with contextlib.suppress(OSError):  # nobody is there any more; serving goes on
            # One that nobody reads costs lines, not calls.
            self._lost = 0 if logbound.write_at_once(_STDERR, data) else self._lost + 1

    def _line(self, level: str, event: str, fields: dict[str, object]) -> str:
        """At most `select.PIPE_BUF` bytes with its end: the longest values are cut until it fits."""
        texts = {key: one if isinstance(one, int | float) else str(one) for key, one in fields.items()}
        room = select.PIPE_BUF
        while True:
            line = logline.render(self._json, time.time(), level, event, texts)
            if len(line.encode("utf-8", "replace")) < select.PIPE_BUF:
                return line
            room //= 2
            texts = {key: one if isinstance(one, int | float) else logline.shortened(one, room)
                     for key, one in texts.items()}  # fmt: skip


class Reports:
    """Events go to whoever is connected (control); ``send`` is replaced when somebody is."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.send: Callable[[wire.ToControl], None] = lambda _message: None

    def app_attached(self, app: App) -> None:
        """An app's launcher came."""
        self.send(wire.AppChanged(row=app.row()))

    def app_gone(self, app: App) -> None:
        """An app ended."""
        self.send(wire.AppGone(app_id=app.id))

    def server_up(self, row: ServerRow) -> None:
        """An app listens."""
        self.send(wire.ServerUp(row=row))

    def server_down(self, row: ServerRow) -> None:
        """It does no longer."""
        self.send(wire.ServerDown(row=row))
