"""Rows with everything that a test does not care about."""

from __future__ import annotations

from typing import Any

from appswitch.model import AppPhase, AppRow, AppSpec, BackendRow, FlowRow, ProxyRow, ServerRow


def app(number: int, *, attached: float | None = 2.0, pid: int = 7, uid: int = 0, **more: Any) -> AppRow:
    given: dict[str, Any] = {"command": ("x",), "created": 1.0, **more}
    spec = AppSpec(id=number, uid=uid, gid=uid, node="n1", cluster="c", **given)
    return AppRow(app=spec, phase=AppPhase.RUNNING if attached else AppPhase.REGISTERED, pid=pid, attached=attached)


def server(app_id: int = 1, port: int = 80, since: float = 5.0, actual: tuple[str, ...] = ()) -> ServerRow:
    return ServerRow(
        app_id=app_id, proto="tcp", service_ip="10.0.0.1", service_port=port, actual=actual, since=since
    )  # fmt: skip


def flow(client: int = 1, server: int = 2, **more: Any) -> FlowRow:
    given: dict[str, Any] = {"time": 100.0, "verdict": "allowed", **more}
    return FlowRow(
        proto="tcp", client_app=client, server_app=server, client="10.0.0.1:40000", server="10.0.0.2:80", **given
    )  # fmt: skip


def backend(backend: str, **more: Any) -> BackendRow:
    given: dict[str, Any] = {
        "vservice": "web", "port": 80, "spec": "name=web", "app_id": 1, "state": "healthy", "weight": 1, "priority": 0,
        "locality": "", "active": 1, "total": 2, "failures": 3, **more,
    }  # fmt: skip
    return BackendRow(backend=backend, **given)


def proxy(name: str, **more: Any) -> ProxyRow:
    given: dict[str, Any] = {
        "state": "ready", "listener": "", "app_id": 0, "pid": 7, "active": 1, "taken": 6, "passed": 5, "dropped": 4,
        "handed_on": 3, "failed": 2, **more,
    }  # fmt: skip
    return ProxyRow(name=name, **given)
