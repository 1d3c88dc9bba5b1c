"""What Istio puts around a pod: the rules of istio-iptables, and Envoy's bootstrap, which istiod would send. Pure.

Envoy: `use_original_dst` on 15001 hands a connection to the listener of the address that it was made to; 15006 chooses
by the port. https://istio.io/latest/docs/ops/deployment/application-requirements/ has the ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.mesh.hosts import VIP

USER = 1337
OUTBOUND, INBOUND, CHECK = 15001, 15006, 9091
MANY = 1_000_000_000

Spec = dict[str, Any]

# What `istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*'` writes.
RULES = f"""\
*nat
:ISTIO_INBOUND -
:ISTIO_REDIRECT -
:ISTIO_IN_REDIRECT -
:ISTIO_OUTPUT -
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {OUTBOUND}
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {INBOUND}
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --uid-owner {USER} -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner {USER} -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner {USER} -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --gid-owner {USER} -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner {USER} -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner {USER} -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
"""

# Istio's default access log.
LOG = (
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% "
    "%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" "
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" "
    "\"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% "
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% "
    "%ROUTE_NAME%\n"
)  # fmt: skip


class Service(NamedTuple):
    """One port of the service. ``http``: the version that its name promises, 1 or 2; 0: bytes."""

    name: str
    port: int
    http: int


class Sidecar(NamedTuple):
    """How a pair is configured. ``place``: the directory of its certificate, logs and admin sockets."""

    place: str
    http: bool = True  # HTTP is routed by requests; otherwise it is bytes, too
    log: bool = False
    mtls: bool = False
    check: bool = False  # the server's asks somebody else about each request

    def client(self, services: Sequence[Service], server: str) -> Spec:
        """The bootstrap of the client's. ``server``: the address of the server's pod."""
        listeners: list[Spec] = [
            {
                "name": "virtualOutbound",
                "address": _address("0.0.0.0", OUTBOUND),
                "use_original_dst": True,
                "traffic_direction": "OUTBOUND",
                "filter_chains": [{"filters": [_pass("PassthroughCluster")]}],
            }
        ]
        clusters = [_PASSTHROUGH]
        for one in services:
            name = f"outbound|{one.port}||{one.name}.default.svc.cluster.local"
            listeners.append(
                {
                    "name": f"{VIP}_{one.port}",
                    "address": _address(VIP, one.port),
                    "bind_to_port": False,
                    "traffic_direction": "OUTBOUND",
                    "filter_chains": [{"filters": [self._filter(one, "outbound", name)]}],
                }
            )
            clusters.append(self._cluster(one, name, server, self._tls("Upstream", one)))
        return self._bootstrap("client", listeners, clusters)

    def server(self, services: Sequence[Service]) -> Spec:
        """The bootstrap of the server's, whose program listens on loopback as well."""
        inspectors = [_listener_filter("original_dst", "OriginalDst")]
        inspectors += [_listener_filter("tls_inspector", "TlsInspector")] if self.mtls else []
        chains, clusters = [], [_PASSTHROUGH]
        for one in services:
            name = f"inbound|{one.port}||"
            chain: Spec = {
                "filter_chain_match": {"destination_port": one.port},
                "filters": [self._filter(one, "inbound", name)],
            }
            chains.append(chain | self._tls("Downstream", one))
            clusters.append(self._cluster(one, name, "127.0.0.1", {}))
        listener = {
            "name": "virtualInbound",
            "address": _address("0.0.0.0", INBOUND),
            "traffic_direction": "INBOUND",
            "listener_filters": inspectors,
            "filter_chains": chains,
            "default_filter_chain": {"filters": [_pass("InboundPassthroughCluster")]},
        }
        if self.check:
            clusters.append(_static("check", "127.0.0.1", CHECK))
        return self._bootstrap("server", [listener], clusters)

    def _bootstrap(self, name: str, listeners: list[Spec], clusters: list[Spec]) -> Spec:
        return {
            "node": {"id": f"sidecar~{name}", "cluster": name},
            "admin": {"address": {"pipe": {"path": f"{self.place}/{name}.admin", "mode": 0o600}}},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        }

    def _filter(self, service: Service, direction: str, cluster: str) -> Spec:
        prefix = f"{direction}_{service.port}"
        if not (self.http and service.http):
            return _network_filter(
                "tcp_proxy", "TcpProxy", stat_prefix=prefix, cluster=cluster, access_log=self._logs(direction)
            )
        filters = [_CHECKED] if self.check and direction == "inbound" else []
        route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}, "name": "default"}
        return _network_filter(
            "http_connection_manager",
            "HttpConnectionManager",
            stat_prefix=prefix,
            access_log=self._logs(direction),
            http2_protocol_options={"max_concurrent_streams": MANY},
            stream_idle_timeout="0s",
            route_config={"name": cluster, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            http_filters=[*filters, _http_filter("router", "Router")],
        )

    def _logs(self, direction: str) -> list[Spec]:
        if not self.log:
            return []
        kind = "extensions.access_loggers.file.v3.FileAccessLog"
        path = f"{self.place}/{direction}.log"
        log = _typed(kind, path=path, log_format={"text_format_source": {"inline_string": LOG}})
        return [{"name": "envoy.access_loggers.file", "typed_config": log}]

    def _cluster(self, service: Service, name: str, ip: str, more: Spec) -> Spec:
        cluster = _static(name, ip, service.port) | more
        if self.http and service.http:
            kind = "extensions.upstreams.http.v3.HttpProtocolOptions"
            two: Spec = {"http2_protocol_options": {"max_concurrent_streams": MANY}}
            version = two if service.http == 2 else {"http_protocol_options": {}}
            cluster["typed_extension_protocol_options"] = {"envoy." + kind: _typed(kind, explicit_http_config=version)}
        return cluster

    def _tls(self, side: str, service: Service) -> Spec:
        if not self.mtls:
            return {}
        files = {name: {"filename": f"{self.place}/{name}.pem"} for name in ("cert", "key")}
        common: Spec = {
            "tls_certificates": [{"certificate_chain": files["cert"], "private_key": files["key"]}],
            "validation_context": {"trusted_ca": files["cert"]},
        }
        if self.http and service.http:
            common["alpn_protocols"] = ["h2" if service.http == 2 else "http/1.1"]
        about = {"require_client_certificate": True} if side == "Downstream" else {"sni": "server"}
        tls = _typed(f"extensions.transport_sockets.tls.v3.{side}TlsContext", common_tls_context=common, **about)
        return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls}}


def _typed(kind: str, **fields: Any) -> Spec:
    return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}


def _listener_filter(name: str, kind: str) -> Spec:
    config = _typed(f"extensions.filters.listener.{name}.v3.{kind}")
    return {"name": f"envoy.filters.listener.{name}", "typed_config": config}


def _network_filter(name: str, kind: str, **fields: Any) -> Spec:
    config = _typed(f"extensions.filters.network.{name}.v3.{kind}", **fields)
    return {"name": f"envoy.filters.network.{name}", "typed_config": config}


def _http_filter(name: str, kind: str, **fields: Any) -> Spec:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": _typed(f"extensions.filters.http.{name}.v3.{kind}", **fields),
    }


def _pass(name: str) -> Spec:
    return _network_filter("tcp_proxy", "TcpProxy", stat_prefix=name, cluster="PassthroughCluster")


def _address(ip: str, port: int) -> Spec:
    return {"socket_address": {"address": ip, "port_value": port}}


def _static(name: str, ip: str, port: int) -> Spec:
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), MANY)
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(ip, port)}}]}],
        },
    }


_PASSTHROUGH: Spec = {
    "name": "PassthroughCluster",
    "type": "ORIGINAL_DST",
    "lb_policy": "CLUSTER_PROVIDED",
    "connect_timeout": "10s",
}

# Mixer's check: a request is held until somebody else has said yes.
_CHECKED = _http_filter(
    "ext_authz",
    "ExtAuthz",
    transport_api_version="V3",
    failure_mode_allow=False,
    http_service={"server_uri": {"uri": f"http://127.0.0.1:{CHECK}", "cluster": "check", "timeout": "5s"}},
)
