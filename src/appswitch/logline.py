"""Log lines as the switch and control write them. How many they may write: `logbound`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def shortened(text: str, room: int) -> str:
    """At most ``room`` characters: of what is too long the beginning and the end, which tell most."""
    if len(text) <= room:
        return text
    half = max((room - 5) // 2, 1)
    return f"{text[:half]} ... {text[-half:]}"


def render(as_json: bool, stamp: float, level: str, event: str, fields: Mapping[str, object]) -> str:
    """``2026-01-02T03:04:05.000000Z info     event  key=value``, or one JSON object; without the end of the line.

    ``stamp``: seconds since the epoch. A field called ``trace`` goes below the line. What programs have chosen cannot
    make two lines of one: what is not printable is escaped.
    """
    when = datetime.fromtimestamp(stamp, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if as_json:
        return json.dumps({"timestamp": when, "level": level, "event": event, **fields}, default=str)
    rest = "".join(f"  {key}={_printable(str(value))}" for key, value in fields.items() if key != "trace")
    trace = fields.get("trace")
    return f"{when} {level:<8} {_printable(event)}{rest}" + (f"\n{str(trace).rstrip()}" if trace else "")


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
