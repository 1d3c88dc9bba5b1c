"""What the switch tells others: log lines, events for control. The loop never waits for whoever reads them."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable

from appswitch import wire
from appswitch.model import ServerRow
from appswitch.switch.apps import App

_STDERR = 2
LOG_BURST, LOG_RATE = 200, 20.0  # lines at once, lines a second: an app must not flood the log


class Log:
    """Lines to standard error, as JSON or for people; dropped beyond a rate, and then counted."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._tokens = float(LOG_BURST)
        self._refilled = time.monotonic()
        self._dropped = 0

    def __call__(self, event: str, **fields: object) -> None:
        """Write one line."""
        now = time.monotonic()
        self._tokens = min(LOG_BURST, self._tokens + (now - self._refilled) * LOG_RATE)
        self._refilled = now
        if self._tokens < 1:
            self._dropped += 1
            return
        self._tokens -= 1
        if self._dropped:
            fields["dropped_before"] = self._dropped
            self._dropped = 0
        self._write(event, fields)

    def _write(self, event: str, fields: dict[str, object]) -> None:
        if self._json:
            line = json.dumps({"process": "switch", "event": event, "time": time.time(), **fields}, default=str)
        else:
            line = f"switch: {event} " + " ".join(f"{key}={value}" for key, value in fields.items())
        # A pipe that says POLLOUT takes PIPE_BUF bytes at once (pipe(7)): one that nobody reads costs lines, not calls.
        data = line.rstrip().encode("utf-8", "replace")[: select.PIPE_BUF - 1] + b"\n"
        poll = select.poll()
        try:
            poll.register(_STDERR, select.POLLOUT)
            if any(events & select.POLLOUT for _, events in poll.poll(0)):
                os.write(_STDERR, data)
            else:
                self._dropped += 1
        except OSError:
            return  # nobody is there any more; serving goes on


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
