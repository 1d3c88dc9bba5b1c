"""/metrics, /v1/metrics, /v1/apps/ID/metrics: what apps use, and everything for Prometheus."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Header, Response
from pydantic import Field

import appswitch
from appswitch.control.access import Caller
from appswitch.control.analyzer import exposition
from appswitch.control.analyzer.exposition import Snapshot
from appswitch.control.analyzer.meter import Usage
from appswitch.control.api import views
from appswitch.control.api.apps import AppIdPath, visible
from appswitch.control.api.deps import RESPONSES, Parts, TheCaller, TheParts
from appswitch.control.api.tables import connections_of, rows
from appswitch.control.api.views import AppId, View
from appswitch.model import AppRow

router = APIRouter(tags=["metrics"], responses=RESPONSES)


class Figures(View):
    """Sums over an app's processes, in bytes where they are sizes. What processes share after fork counts in each."""

    processes: int
    threads: int
    descriptors: int
    cpu: float = Field(description="Seconds of CPU time.")
    resident: int = Field(description="VmRSS: what is in memory.")
    anonymous: int = Field(description="RssAnon: what of that is no file's: heap and stacks.")
    data: int = Field(description="VmData: heap and private mappings, touched or not.")
    stack: int = Field(description="VmStk: stacks of first threads.")


class AppMetrics(View):
    """What an app uses, and how that has grown."""

    id: int
    appid: AppId
    name: str | None
    attached: float | None = Field(description="When it came, in seconds since the epoch.")
    alive_after: float | None = Field(description="Seconds from exec until it first listened; null: it has not.")
    sampled: float | None = Field(description="When its processes were looked at; null: they could not be.")
    since: float | None = Field(description="When they were looked at first: about when it came.")
    figures: Figures | None
    growth: Figures | None = Field(description="What was added since then; less is negative.")


class AllMetrics(View):
    """Reply to GET /v1/metrics."""

    metrics: list[AppMetrics]


class WholeAppMetrics(AppMetrics):
    """Reply to GET /v1/apps/ID/metrics."""

    connections: list[views.Connection] = Field(description="Its established connections, with their attributes.")


@router.get("/v1/metrics")
async def list_metrics(parts: TheParts, caller: TheCaller) -> AllMetrics:
    """What every running app that you may see uses: memory, CPU, threads. Not older than a second."""
    usages = await parts.analyzer.meter.usages()
    apps = sorted(parts.registry.link.apps.values(), key=lambda row: row.app.created)
    return AllMetrics(metrics=[_metrics(parts, row, usages) for row in apps if row.attached and caller.sees(row.app)])


@router.get("/v1/apps/{appid}/metrics")
async def get_app_metrics(appid: AppIdPath, parts: TheParts, caller: TheCaller) -> WholeAppMetrics:
    """What one app uses, and its connections."""
    row = visible(appid, parts, caller)
    usages = await parts.analyzer.meter.usages()
    connections = await connections_of(parts, caller, row.app.id)
    return WholeAppMetrics(**dict(_metrics(parts, row, usages)), connections=connections)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format, or OpenMetrics.", "content": {"text/plain": {}}}},
)
async def prometheus(parts: TheParts, caller: TheCaller, accept: Annotated[str, Header()] = "") -> Response:
    """Everything that is counted, for Prometheus. Of apps and services only what you may see."""
    text, media_type = exposition.expose(await _snapshot(parts, caller), accept)
    return Response(text, media_type=media_type, headers={"Cache-Control": "no-store"})


def _metrics(parts: Parts, row: AppRow, usages: dict[int, Usage]) -> AppMetrics:
    usage = usages.get(row.app.id)
    return AppMetrics(
        id=row.app.id,
        appid=row.app.appid,
        name=row.app.name,
        attached=row.attached,
        alive_after=parts.analyzer.liveness.app_alive_after(row.app.id),
        sampled=usage.time if usage else None,
        since=usage.since if usage else None,
        figures=Figures.model_validate(usage.now, from_attributes=True) if usage else None,
        growth=Figures.model_validate(usage.growth, from_attributes=True) if usage else None,
    )


async def _snapshot(parts: Parts, caller: Caller) -> Snapshot:
    link, settings, analyzer = parts.registry.link, parts.settings, parts.analyzer
    stats = await rows(parts, "stats")
    usages = await analyzer.meter.usages()
    connections = await rows(parts, "connections") if stats else None
    backends = await rows(parts, "backends") if stats and caller.sees_all else None
    proxies = await rows(parts, "proxies") if stats and caller.sees_all else None
    apps = {app_id: row.app for app_id, row in link.apps.items()}
    seen = [row for row in link.apps.values() if caller.sees(row.app)]
    alive = {row.app.id: analyzer.liveness.app_alive_after(row.app.id) for row in seen}
    return Snapshot(
        version=appswitch.__version__,
        node=settings.node,
        cluster=settings.cluster,
        started=time.time() - (time.monotonic() - parts.started),
        switch_up=stats is not None,
        restarts=link.restarts,
        stats=stats.stats if stats else {},
        apps=seen,
        servers=[row for row in link.servers.values() if caller.sees(apps.get(row.app_id))],
        connections=[row for row in connections.connections if caller.sees_connection(row, apps.get)]
        if connections
        else (),
        backends=backends.backends if backends else (),
        proxies=proxies.proxies if proxies else (),
        flows=analyzer.flows.counts if caller.sees_all else {},
        usages=usages,
        alive_after={app_id: after for app_id, after in alive.items() if after is not None},
        dns_cached=parts.dns_cached() if parts.dns_cached else None,
    )
