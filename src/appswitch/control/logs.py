"""Structured logs on standard error: lines for people, or one JSON object each (``AX_LOG_FORMAT=json``)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import structlog


def configure(env: Mapping[str, str]) -> None:
    """Set up structlog, and have what libraries log through `logging` come out alike, from WARNING on."""
    level = logging.getLevelNamesMapping().get(env.get("AX_LOG_LEVEL", "info").upper(), logging.INFO)
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = structlog.processors.JSONRenderer() if env.get("AX_LOG_FORMAT") == "json" else _console
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what strangers send is not worth a line each
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _console(_: object, __: str, event: structlog.typing.EventDict) -> str:
    """``2026-01-02T03:04:05Z info     message  key=value``; structlog's own console writer would import rich."""
    stamp, level, said = event.pop("timestamp"), event.pop("level"), event.pop("event")
    trace = event.pop("exception", None)
    rest = "".join(f"  {key}={value}" for key, value in event.items())
    return f"{stamp} {level:<8} {said}{rest}" + (f"\n{trace}" if trace else "")
