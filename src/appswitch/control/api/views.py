"""What the API shows and takes: pydantic models that OpenAPI describes, made from values of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import structs
from pydantic import BaseModel, ConfigDict, Field

from appswitch.model import AppPhase, AppRow, AppSpec, ConnectionRow, Netns, ServerRow, SocketRow, Transport

Proto = Literal["tcp", "udp"]
AppId = Annotated[str, Field(description="Eight hexadecimal digits.", pattern="^[0-9a-f]{8}$")]


class View(BaseModel):
    """Whatever is answered."""

    model_config = ConfigDict(frozen=True)


class Egress(View):
    """What an app may reach outside: deny wins, then allow, then the default."""

    default: Literal["allow", "deny"]
    allow: list[str] = Field(description="Networks, and names whose addresses the app has resolved.")
    deny: list[str]
    error: Literal["EACCES", "ECONNREFUSED"] = Field(description="What a denied call fails with.")


class App(View):
    """One ``ax run``."""

    id: int
    appid: AppId
    uid: int = Field(description="Who ran it.")
    gid: int
    node: str
    cluster: str
    driver: Literal["user"] = Field(description="How its calls are intercepted: in user space.")
    command: list[str] = Field(description="Over TCP without a token only its first word.")
    created: float = Field(description="Seconds since the epoch.")
    name: str | None
    ips: list[str] = Field(description="Virtual addresses: at most one IPv4 and one IPv6.")
    labels: dict[str, str]
    zones: list[str]
    expose: list[str] = Field(description="INTERNAL:[NODE-IP:]HOSTPORT, with /tcp or /udp if it is one of them.")
    netns: Netns
    transport: Transport = Field(description="What it is joined by to apps on the same node.")
    interface: str | None = Field(description="Of its network namespace, with its addresses; none: lo has them.")
    nameservers: list[str] = Field(description="Where it sends DNS queries, which the daemon answers.")
    egress: Egress
    host_ports: list[str] = Field(description="INTERNAL:HOSTPORT, from its loopback to the host's.")
    proxy: str | None = Field(description="That gets the connections which it makes.")


class AppEntry(View):
    """An app and how it is doing."""

    app: App
    phase: AppPhase
    pid: int = Field(description="Of its first process; 0 before it came.")
    attached: float | None = Field(description="When it came, in seconds since the epoch.")


class Server(View):
    """A listening socket."""

    app_id: int
    appid: AppId
    node: str
    cluster: str
    proto: Proto
    service_ip: str = Field(description="Virtual address; 0.0.0.0 or :: for all of the app's.")
    service_port: int
    service_addrs: list[str] = Field(description="Virtual addresses and port: for a wildcard all that the app has.")
    actual: list[str] = Field(description="Addresses of the host that lead there; none when it is a Unix socket only.")
    since: float = Field(description="Seconds since the epoch.")
    alive_after: float | None = Field(description="Seconds from the app's exec until it first listened there.")


class Socket(View):
    """A socket that the switch made for an app."""

    id: int = Field(description="The kernel's cookie (SO_COOKIE).")
    app_id: int
    appid: AppId
    node: str
    inode: int
    proto: Proto
    flags: list[str]
    bind_ip: str = Field(description="Virtual address and port, or nothing.")
    backlog: int


class Connection(View):
    """An established connection with at least one end in an app."""

    proto: Proto
    client: str = Field(description="Virtual address and port.")
    server: str = Field(description="Virtual address and port.")
    client_app: int = Field(description="0: it came in through an exposed port.")
    client_appid: AppId | None
    client_name: str | None = Field(description="Of an app that you may see.")
    server_app: int = Field(description="0: the host or beyond.")
    server_appid: AppId | None
    server_name: str | None
    transport: Transport | Literal["udp", "splice"]
    vservice: str = Field(description="By which it was reached, or nothing.")
    backend: str = Field(description="Of the vservice: address and port, virtual or outside.")
    protocol: str = Field(description="As its first bytes tell, if they were looked at.")
    attributes: dict[str, str] = Field(description="What those told: http.path, tls.sni and the like.")
    since: float | None = Field(description="Seconds since the epoch; null: not known.")
    bytes_sent: int | None = Field(
        description="By the client. TCP only, as are the next three: Unix sockets do not count."
    )
    bytes_received: int | None = Field(description="By the client.")
    rtt: int | None = Field(description="Smoothed round trip time in microseconds.")
    retransmits: int | None = Field(description="Segments that were sent again.")


class Apps(View):
    """Reply to GET /v1/apps."""

    apps: list[AppEntry]


class Servers(View):
    """Reply to GET /v1/servers."""

    servers: list[Server]


class Sockets(View):
    """Reply to GET /v1/sockets."""

    sockets: list[Socket]


class Connections(View):
    """Reply to GET /v1/connections."""

    connections: list[Connection]


class Status(View):
    """How the daemon is doing."""

    version: str
    node: str
    cluster: str
    run_dir: str
    transport: Transport
    pids: dict[Literal["keeper", "switch", "control"], int] = Field(description="0: it is away.")
    uptime: float = Field(description="Seconds since control was started.")
    apps: int
    servers: int
    stats: dict[str, float] = Field(description="Counters of the switch; empty while it is away.")


class Registered(View):
    """How to attach: run the launcher with ``launcher``, ``--token-fd`` and the command."""

    id: int
    appid: AppId
    token: str = Field(description="Hexadecimal. Its bytes are what the launcher shows, once.")
    expires: float = Field(description="Seconds in which it must come.")
    attach: str = Field(description="Path of the Unix socket that the launcher connects to.")
    launcher: list[str] = Field(description="Options of the launcher that follow from the registration.")
    app: App


class ProblemDetail(View):
    """RFC 9457."""

    type: str = Field(description="urn:appswitch:problem: and a slug that does not change.")
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[FieldError] | None = None


class FieldError(View):
    """Which field of a request is at fault."""

    path: list[str | int]
    detail: str


def app(spec: AppSpec, *, whole: bool = True) -> App:
    """``whole``: with all words of the command."""
    return App(
        id=spec.id,
        appid=spec.appid,
        uid=spec.uid,
        gid=spec.gid,
        node=spec.node,
        cluster=spec.cluster,
        driver="user",
        command=list(spec.command if whole else spec.command[:1]),
        created=spec.created,
        name=spec.name,
        ips=list(spec.ips),
        labels=spec.labels,
        zones=[spec.labels["zone"]] if "zone" in spec.labels else [],
        expose=[str(one) for one in spec.expose],
        netns=spec.netns,
        transport=spec.transport,
        interface=spec.interface,
        nameservers=list(spec.nameservers),
        egress=Egress(
            default=spec.egress.default,
            allow=[str(rule) for rule in spec.egress.rules if rule.allow],
            deny=[str(rule) for rule in spec.egress.rules if not rule.allow],
            error=spec.egress.error,
        ),
        host_ports=[str(one) for one in spec.host_ports],
        proxy=spec.proxy,
    )


def app_entry(row: AppRow, *, whole: bool = True) -> AppEntry:
    """``whole``: with all words of the command."""
    return AppEntry(app=app(row.app, whole=whole), phase=row.phase, pid=row.pid, attached=row.attached)


def service_addrs(row: ServerRow, ips: Sequence[str]) -> list[str]:
    """A wildcard in IPv6 is taken for one in both families, which it is unless its program asked otherwise."""
    found = [row.service_ip]
    if row.service_ip == "::":
        found = list(ips) or found
    elif row.service_ip == "0.0.0.0":  # noqa: S104 - read, not listened on
        found = [one for one in ips if ":" not in one] or found
    return [f"[{one}]:{row.service_port}" if ":" in one else f"{one}:{row.service_port}" for one in found]


def server(row: ServerRow, node: str, cluster: str, app: AppSpec | None, alive_after: float | None) -> Server:
    """A line of the service table. ``app`` is None when it went just now."""
    return Server(
        app_id=row.app_id,
        appid=f"{row.app_id:08x}",
        node=node,
        cluster=cluster,
        proto=row.proto,
        service_ip=row.service_ip,
        service_port=row.service_port,
        service_addrs=service_addrs(row, app.ips if app else ()),
        actual=list(row.actual),
        since=row.since,
        alive_after=alive_after,
    )


def socket(row: SocketRow, node: str) -> Socket:
    """A socket of an app."""
    return Socket(
        id=row.id,
        app_id=row.app_id,
        appid=f"{row.app_id:08x}",
        node=node,
        inode=row.inode,
        proto=row.proto,
        flags=list(row.flags),
        bind_ip=row.bind_ip,
        backlog=row.backlog,
    )


def connection(row: ConnectionRow, client: AppSpec | None, server: AppSpec | None) -> Connection:
    """A connection with both its ends, as far as the caller may see them."""
    ends: dict[str, Any] = {}
    for end, app_id, app in (("client", row.client_app, client), ("server", row.server_app, server)):
        ends[f"{end}_appid"] = f"{app_id:08x}" if app_id else None
        ends[f"{end}_name"] = app.name if app else None
    return Connection(**structs.asdict(row) | ends | {"since": row.since or None})
