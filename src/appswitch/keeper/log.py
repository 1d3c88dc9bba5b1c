"""The keeper's own log: one line on standard error for each event, within the budgets that all of the daemon has.

A message on its socket, or a child that dies again and again, may ask for any number of lines: see `logbound`. And who
does not read them must not keep it from starting what has ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import time

from appswitch.logbound import Budget, suppressed, write_at_once

STDERR = 2
_AGAIN = "`ax debug check` tells whether all is well; if it happens often, report it with `ax debug dump`"
_ABOVE = "the lines above tell why"
_LIMITS = "raise the daemon's limits (LimitNOFILE=, ulimit -n), or run fewer apps"

HINTS = {
    "cannot start {program}: {reason}": "install AppSwitch again; if memory or processes are short, " + _LIMITS,
    "took over {name}, which runs (pid {pid})": "nothing to do: the keeper has ended, and this one goes on; " + _AGAIN,
    "{name} could not start ({how})": _ABOVE,
    "{directory} is gone, and {name} {how}: the daemon ends": "start it again, and leave its run directory alone",
    "{name} {how}, {times} times within {seconds:.0f} s: giving up": _ABOVE,
    "{name} {how}; starting it again{when}": "nothing to do if it comes once; " + _AGAIN,
    "{name} did not end within {seconds:.0f} s: killing it": "nothing to do: what is connected stays so",
    "ignored a message on the notify socket from pid {pid}, which is not ours": (
        "only the daemon may write to notify.sock: look who else does, as its user or root"
    ),
    "too many descriptors: {refused} of {name} will not survive its restart": _LIMITS,
    "no upgrade: {reason}": "the old version goes on; mend the new one, and try again",
}
"""What whoever reads a warning or an error can do, by its text before anything is filled in."""


class Log:
    """Lines as ``ax daemon: …``, or (``AX_LOG_FORMAT=json``) as JSON objects."""

    def __init__(self) -> None:
        self._budget = Budget()

    def __call__(self, level: str, event: str, **fields: object) -> None:
        """``event`` is the kind of line; ``fields`` are filled in where it names them."""
        now = time.monotonic()
        if self._budget.admit(event, now):
            _write(level, event.format(**fields) if fields else event, HINTS.get(event, ""))
        self.tell_suppressed(now)

    def tell_suppressed(self, now: float) -> None:
        """Say how many lines were left out, if it is time to."""
        for kind, count in self._budget.withheld(now):
            _write("warning", suppressed(kind, count), "")

    def due(self) -> float | None:
        """When that will be, monotonic seconds; None: all was written."""
        return self._budget.due()


log = Log()
"""There is one: what is written to standard error is this process's affair, not that of a part of it."""


def _write(level: str, event: str, hint: str) -> None:
    if os.environ.get("AX_LOG_FORMAT") == "json":
        import json  # only now: most keepers never say a word, and this is a megabyte

        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        told = {"timestamp": stamp, "level": level, "part": "keeper", "event": event[: select.PIPE_BUF // 8]}
        line = json.dumps(told | ({"hint": hint} if hint else {}))
    else:
        line = f"ax daemon: {event}" + (f"  hint={hint}" if hint else "")
    with contextlib.suppress(OSError):  # a closed terminal must not end the daemon
        write_at_once(STDERR, line.encode("utf-8", "replace")[: select.PIPE_BUF - 1] + b"\n")
