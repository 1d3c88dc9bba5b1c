"""/v1/flows: what was decided about connections, and what is being decided."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from msgspec import Struct, structs

from appswitch.control.access import Caller
from appswitch.control.analyzer.flowlog import KEPT, FlowLog
from appswitch.control.api.deps import RESPONSES, Parts, TheCaller, TheParts
from appswitch.model import FlowRow, FlowVerdict

router = APIRouter(prefix="/v1", tags=["flows"], responses=RESPONSES)

_WHO = ("client_appid", "client_name", "server_appid", "server_name")


class Wanted(Struct, frozen=True):
    """What a caller asked for: all that is given must hold."""

    app: str | None
    verdict: frozenset[FlowVerdict]
    rule: str | None
    vservice: str | None
    since: float

    def has(self, view: dict[str, Any]) -> bool:
        """Judged by what the caller is shown: what is hidden cannot be guessed."""
        return (
            view["time"] >= self.since
            and (not self.verdict or view["verdict"] in self.verdict)
            and self.rule in (None, view["rule"])
            and self.vservice in (None, view["vservice"])
            and (self.app is None or self.app in (view[key] for key in _WHO))
        )


def _wanted(
    app: Annotated[str | None, Query(description="Id or name of an app at either end.")] = None,
    verdict: Annotated[list[FlowVerdict], Query(description="Any of them.")] = [],  # noqa: B006 - as FastAPI has it
    rule: Annotated[str | None, Query(description="Policy, route or limit that decided.")] = None,
    vservice: Annotated[str | None, Query(description="By which it was to be reached.")] = None,
    since: Annotated[float, Query(description="Seconds since the epoch.")] = 0.0,
) -> Wanted:
    return Wanted(app, frozenset(verdict), rule, vservice, since)


@router.get(
    "/flows",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One JSON object a line, or server-sent events.",
            "content": {"application/jsonl": {}, "text/event-stream": {}},
        }
    },
)
async def flows(
    request: Request,
    parts: TheParts,
    caller: TheCaller,
    wanted: Annotated[Wanted, Depends(_wanted)],
    limit: Annotated[int, Query(ge=0, le=KEPT, description="So many of the past, the last ones.")] = KEPT,
    follow: Annotated[bool, Query(description="Go on with what is decided from now on.")] = False,
) -> StreamingResponse:
    """Decisions about connections, the oldest first: those that are remembered, and with ``follow`` all that come.

    Remembered are the last 1000 that control was told of: denials always, others only while somebody follows. Each has
    ``time``, ``proto``, ``verdict`` (allowed, denied, refused, waiting, timed out), ``client`` and ``server`` (virtual
    address and port) with ``_app``, ``_appid``, ``_name`` and ``_labels`` (null where you may not see the app),
    ``vservice``, ``backend``, ``rule`` (of policies "(policy)" for who is no administrator), ``error``, ``dry_run``,
    ``protocol``, ``attributes``, ``transport``, ``waited``
    (seconds). A stream that follows ends when the daemon does, or when its reader is far behind.
    """
    sse = "text/event-stream" in request.headers.get("accept", "")
    return StreamingResponse(
        (_line(view, sse=sse) async for view in _stream(parts, caller, wanted, limit, follow=follow)),
        media_type="text/event-stream" if sse else "application/jsonl",
        headers={"Cache-Control": "no-store"},
    )


def _line(view: dict[str, Any], *, sse: bool) -> bytes:
    body = msgspec.json.encode(view)
    return b"event: flow\ndata: %b\n\n" % body if sse else body + b"\n"


async def _stream(
    parts: Parts, caller: Caller, wanted: Wanted, limit: int, *, follow: bool
) -> AsyncIterator[dict[str, Any]]:
    log = parts.analyzer.flows
    with parts.registry.link.follow() if follow else contextlib.nullcontext() as watch:
        # Taken before the first await: what comes after this moment is in the watch.
        past = _shown(log.recent(), log, caller, wanted)
        for view in past[max(0, len(past) - limit) :]:
            yield view
        if watch is not None:
            async for row in watch:
                for view in _shown((row,), log, caller, wanted):
                    yield view


def _shown(rows: Iterable[FlowRow], log: FlowLog, caller: Caller, wanted: Wanted) -> list[dict[str, Any]]:
    views = (_view(row, log, caller) for row in rows if caller.sees_connection(row, log.app))
    return [view for view in views if wanted.has(view)]


def _view(row: FlowRow, log: FlowLog, caller: Caller) -> dict[str, Any]:
    view = structs.asdict(row)
    if row.verdict == "denied" or row.dry_run:
        view["rule"] = caller.rule(row.rule)
    for end, app_id in (("client", row.client_app), ("server", row.server_app)):
        app = log.app(app_id)
        shown = app if caller.sees(app) else None
        view[f"{end}_appid"] = f"{app_id:08x}" if app_id else None
        view[f"{end}_name"] = shown.name if shown else None
        view[f"{end}_labels"] = shown.labels if shown else None
    return view
