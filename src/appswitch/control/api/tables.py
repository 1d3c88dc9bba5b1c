"""/v1/servers, sockets, connections, status: what is there now."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from fastapi import APIRouter

import appswitch
from appswitch import parent
from appswitch.control.access import Caller
from appswitch.control.api import views
from appswitch.control.api.deps import RESPONSES, Parts, TheCaller, TheParts
from appswitch.control.link import SwitchDownError
from appswitch.model import AppSpec, ConnectionRow
from appswitch.wire import Rows

router = APIRouter(prefix="/v1", tags=["tables"], responses=RESPONSES)


def _specs(parts: Parts) -> dict[int, AppSpec]:
    return {app_id: row.app for app_id, row in parts.registry.link.apps.items()}


@router.get("/servers")
async def list_servers(parts: TheParts, caller: TheCaller) -> views.Servers:
    """The service table: every listening socket of apps that you may see."""
    apps = _specs(parts)
    alive_after = parts.analyzer.liveness.alive_after
    rows = sorted(parts.registry.link.servers.values(), key=lambda row: row.since)
    return views.Servers(
        servers=[
            views.server(row, parts.registry.node, parts.registry.cluster, apps.get(row.app_id), alive_after(row))
            for row in rows
            if caller.sees(apps.get(row.app_id))
        ]
    )


@router.get("/sockets")
async def list_sockets(parts: TheParts, caller: TheCaller) -> views.Sockets:
    """Every socket that the switch made for apps that you may see."""
    rows = (await parts.registry.link.query("sockets")).sockets
    apps = _specs(parts)
    return views.Sockets(
        sockets=[views.socket(row, parts.registry.node) for row in rows if caller.sees(apps.get(row.app_id))]
    )


@router.get("/connections")
async def list_connections(parts: TheParts, caller: TheCaller) -> views.Connections:
    """Every established connection with an end in an app that you may see."""
    return views.Connections(connections=await connections_of(parts, caller))


async def connections_of(parts: Parts, caller: Caller, app_id: int | None = None) -> list[views.Connection]:
    """Those that the caller may see, of one app or of all; with what it may see of their ends."""
    rows = (await parts.registry.link.query("connections")).connections
    return connection_views(parts, caller, (row for row in rows if app_id in (None, row.client_app, row.server_app)))


def connection_views(parts: Parts, caller: Caller, rows: Iterable[ConnectionRow]) -> list[views.Connection]:
    """As the caller may see them."""
    apps = _specs(parts)
    shown = {one.id: one for one in apps.values() if caller.sees(one)}
    return [
        views.connection(row, shown.get(row.client_app), shown.get(row.server_app))
        for row in rows
        if caller.sees_connection(row, apps.get)
    ]


async def rows(parts: Parts, what: str) -> Rows | None:
    """None while the switch is away: not everybody waits for it to be back."""
    link = parts.registry.link
    if not link.connected.is_set():
        return None
    try:
        return await link.query(what)
    except SwitchDownError:
        return None


@router.get("/status")
async def status(parts: TheParts, _: TheCaller) -> views.Status:
    """How the daemon is doing."""
    link, settings = parts.registry.link, parts.settings
    try:
        stats = (await link.query("stats")).stats
    except SwitchDownError:
        stats = {}
    return views.Status(
        version=appswitch.__version__,
        node=settings.node,
        cluster=settings.cluster,
        run_dir=settings.run_dir.directory,
        transport=settings.transport,
        pids={"keeper": settings.keeper and parent.keeper_pid(), "switch": link.pid, "control": os.getpid()},
        uptime=time.monotonic() - parts.started,
        apps=len(link.apps),
        servers=len(link.servers),
        stats=stats,
    )
