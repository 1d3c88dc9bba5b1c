"""Structured logs on standard error: lines for people, or one JSON object each (``AX_LOG_FORMAT=json``).

They look as the switch's do (`logline`), have the same budgets, and the last of them are kept for a bug report.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import structlog

from appswitch import logbound, logevents, logline

RECENT: deque[str] = deque(maxlen=200)


class _Writer:
    """The end of the chain: what is within its budget becomes a line."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._budget = logbound.Budget()

    def admit(self, kind: str) -> bool:
        """Whether a line of this kind may be written. Says how many others were not, if it is time to."""
        now = time.monotonic()
        admitted = self._budget.admit(kind, now)
        self.tell_suppressed(now)
        return admitted

    def tell_suppressed(self, now: float) -> None:
        for kind, count in self._budget.withheld(now):
            line = self.render("warning", logbound.suppressed(kind, count), {"part": "control"})
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def render(self, level: str, event: str, fields: Mapping[str, object]) -> str:
        line = logline.render(self._json, time.time(), level, event, fields)
        RECENT.append(line)
        return line

    def __call__(self, _: object, __: str, event: structlog.typing.EventDict) -> str:
        """The last processor of structlog's. Raises structlog.DropEvent."""
        level, said = str(event.pop("level")), str(event.pop("event"))
        if not self.admit(f"{said} {event.get('appid', '')}".rstrip()):
            raise structlog.DropEvent
        hint = logevents.CONTROL.get(said, _NOTHING).hint
        trace = event.pop("exception", None)
        return self.render(
            level, said, {**event, **({"hint": hint} if hint else {}), **({"trace": trace} if trace else {})}
        )


_NOTHING = logevents.Event("info")
_writers: list[_Writer] = []  # the one that `configure` has made


def configure(env: Mapping[str, str]) -> None:
    """Set up structlog, and have what libraries log through `logging` come out alike, from WARNING on."""
    level = logging.getLevelNamesMapping().get(env.get("AX_LOG_LEVEL", "info").upper(), logging.INFO)
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.processors.format_exc_info]
    writer = _Writer(env.get("AX_LOG_FORMAT") == "json")
    _writers[:] = [writer]
    structlog.configure(
        processors=[*shared, writer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: writer.admit(f"{record.name}: {record.msg}"))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _foreign(writer)],
        )
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what strangers send is not worth a line each
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _foreign(writer: _Writer) -> Any:
    """The same for lines of libraries, which were counted already."""

    def render(_: object, __: str, event: structlog.typing.EventDict) -> str:
        level, said = str(event.pop("level")), str(event.pop("event"))
        trace = event.pop("exception", None)
        return writer.render(level, said, {**event, **({"trace": trace} if trace else {})})

    return render


async def tell_suppressed() -> None:
    """Now and then: how many lines were left out. Never returns; cancel it."""
    while True:
        await asyncio.sleep(logbound.SUMMARY)
        for writer in _writers:
            writer.tell_suppressed(time.monotonic())
