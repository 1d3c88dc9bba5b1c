"""/v1/events: what changes, as it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from appswitch.control.access import Caller
from appswitch.control.api import views
from appswitch.control.api.deps import RESPONSES, Parts, TheCaller, TheParts
from appswitch.control.link import Event, ServerKey, server_key
from appswitch.model import AppRow, AppSpec, ServerRow
from appswitch.wire import AppChanged, AppGone, ServerDown, ServerUp

router = APIRouter(prefix="/v1", tags=["events"], responses=RESPONSES)

What = Literal["apps", "servers"]


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One JSON object a line, or server-sent events.",
            "content": {"application/jsonl": {}, "text/event-stream": {}},
        }
    },
)
async def events(
    request: Request,
    parts: TheParts,
    caller: TheCaller,
    what: Annotated[What | None, Query(description="Only these; both when not given.")] = None,
) -> StreamingResponse:
    """Everything that is there, a line ``{"type": "synced"}``, and from then on everything that changes.

    Lines are JSON (``application/jsonl``), or server-sent events if the request accepts ``text/event-stream``. Types
    are app-changed, server-up and server-down, with a ``row`` as /v1/apps and /v1/servers have them, app-gone, and
    synced. service-alive follows the server-up with which an app first listens, with the ``seconds`` since its exec
    (null: not known). The stream ends when the daemon does, or when its reader is far behind: read it anew.
    """
    sse = "text/event-stream" in request.headers.get("accept", "")
    return StreamingResponse(
        (_line(event, sse=sse) async for event in _stream(parts, _Filter(parts, caller, what))),
        media_type="text/event-stream" if sse else "application/jsonl",
        headers={"Cache-Control": "no-store"},
    )


def _line(event: dict[str, Any], *, sse: bool) -> bytes:
    body = msgspec.json.encode(event)
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), body) if sse else body + b"\n"


async def _stream(parts: Parts, shown: _Filter) -> AsyncIterator[dict[str, Any]]:
    link = parts.registry.link
    with link.watch() as watch:
        # Copied before the first await: what comes after this moment is in the watch.
        before: list[Event] = [AppChanged(row) for row in link.apps.values()]
        before += [ServerUp(row) for row in link.servers.values()]
        for event in before:
            if (view := shown.view(event)) is not None:
                yield view
        yield {"type": "synced"}
        async for event in watch:
            first = shown.comes_alive(event)
            if (view := shown.view(event)) is not None:
                yield view
                if first:
                    yield _alive(view["row"])


def _alive(server: dict[str, Any]) -> dict[str, Any]:
    told = ("appid", "proto", "service_ip", "service_port", "service_addrs")
    return {"type": "service-alive", **{key: server[key] for key in told}, "seconds": server["alive_after"]}


class _Filter:
    """What one watcher is shown. It remembers whose servers are, because one may go after its app."""

    def __init__(self, parts: Parts, caller: Caller, what: What | None) -> None:
        self._registry = parts.registry
        self._liveness = parts.analyzer.liveness
        self._caller = caller
        self._what = what
        self._apps: dict[int, AppSpec] = {}
        self._owners: dict[ServerKey, tuple[AppSpec | None, float | None]] = {}  # and when it came alive

    def comes_alive(self, event: Event) -> bool:
        """Whether this is an app's first listening socket, and told for the first time. Asked before `view`."""
        match event:
            case ServerUp(row):
                return server_key(row) not in self._owners and self._liveness.is_first(row)
        return False

    def view(self, event: Event) -> dict[str, Any] | None:
        match event:
            case AppChanged(row):
                self._apps[row.app.id] = row.app
                return self._app(row)
            case AppGone(app_id):
                app = self._apps.pop(app_id, None)
                return self._when("apps", app, {"type": "app-gone", "id": app_id, "appid": f"{app_id:08x}"})
            case ServerUp(row):
                owner = self._apps.get(row.app_id), self._liveness.alive_after(row)
                self._owners[server_key(row)] = owner
                return self._server("server-up", row, *owner)
            case ServerDown(row):
                return self._server("server-down", row, *self._owners.pop(server_key(row), (None, None)))

    def _when(self, what: What, app: AppSpec | None, view: dict[str, Any]) -> dict[str, Any] | None:
        return view if self._what in (None, what) and self._caller.sees(app) else None

    def _app(self, row: AppRow) -> dict[str, Any] | None:
        entry = views.app_entry(row, whole=self._caller.writes).model_dump(mode="json")
        return self._when("apps", row.app, {"type": "app-changed", "row": entry})

    def _server(self, kind: str, row: ServerRow, app: AppSpec | None, after: float | None) -> dict[str, Any] | None:
        server = views.server(row, self._registry.node, self._registry.cluster, app, after).model_dump(mode="json")
        return self._when("servers", app, {"type": kind, "row": server})
