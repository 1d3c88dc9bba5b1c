"""The nouns everything else speaks: frozen values, no behaviour that touches the world.

An *app* is one ``ax run``: a process tree with its own view of the network. Addresses here are
*virtual* (what apps see) unless a name says ``actual`` (what the host's network sees).
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

Netns = Literal["new", "host"]
Transport = Literal["unix", "tcp"]
Protocol = Literal["tcp", "udp"]

DEFAULT_LABELS = {"zone": "default"}


class Expose(msgspec.Struct, frozen=True):
    """``--expose INTERNAL:HOSTPORT`` and its other forms: a host port that leads to an app's port."""

    internal: int
    host_port: int  # 0: one that control draws before anybody else sees it
    host_ip: str = ""  # every address of the node, of both families
    protocol: Protocol | None = None  # None: both

    def __str__(self) -> str:
        host = f"[{self.host_ip}]:" if ":" in self.host_ip else f"{self.host_ip}:" if self.host_ip else ""
        return f"{self.internal}:{host}{self.host_port}" + (f"/{self.protocol}" if self.protocol else "")


class HostPort(msgspec.Struct, frozen=True):
    """``--host-port``: a port of the app's loopback that leads to a port of the host's loopback, TCP and UDP."""

    internal: int
    host_port: int

    def __str__(self) -> str:
        return f"{self.internal}:{self.host_port}"


class EgressRule(msgspec.Struct, frozen=True):
    """Where an app may (not) go outside. Exactly one of ``network`` and ``name`` is given."""

    allow: bool
    network: str = ""  # a CIDR in canonical form, "10.0.0.0/8"
    name: str = ""  # a DNS name in lower case without the last dot; "*.example.com" is every name below example.com

    def __str__(self) -> str:
        return self.network or self.name


class Egress(msgspec.Struct, frozen=True):
    """What an app may reach outside: a deny rule wins, then an allow rule, then the default.

    A name rule covers the addresses that the app has resolved through the daemon, and no others.
    """

    default: Literal["allow", "deny"] = "allow"
    rules: tuple[EgressRule, ...] = ()
    error: Literal["EACCES", "ECONNREFUSED"] = "EACCES"  # what a denied call fails with


class AppSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What ``ax run`` asked for, completed by control: all that the switch needs to serve the app."""

    id: int  # 1..2**32-1, unique in the daemon's life time, never used twice
    uid: int  # who ran it (SO_PEERCRED of the registration)
    gid: int
    node: str
    cluster: str
    command: tuple[str, ...]
    created: float  # seconds since the epoch
    name: str | None = None
    ips: tuple[str, ...] = ()  # canonical text forms, at most one IPv4 and one IPv6
    labels: dict[str, str] = {}
    expose: tuple[Expose, ...] = ()
    netns: Netns = "new"
    transport: Transport = "unix"
    interface: str | None = None  # of its network namespace, with its addresses; None: they are lo's
    nameservers: tuple[str, ...] = ()  # where the app sends DNS queries; those are the daemon's to answer
    egress: Egress = Egress()
    host_ports: tuple[HostPort, ...] = ()
    proxy: str | None = None  # that gets all connections which the app makes

    @property
    def appid(self) -> str:
        """The id as users see it: eight hexadecimal digits."""
        return f"{self.id:08x}"


class AppPhase(enum.Enum):
    """``registered``: known, its launcher has not come yet. ``running``: attached. It is forgotten when it ends."""

    REGISTERED = "registered"
    RUNNING = "running"


class AppRow(msgspec.Struct, frozen=True, kw_only=True):
    """An app as ``ax get apps`` shows it."""

    app: AppSpec
    phase: AppPhase
    pid: int  # of the launcher, which became the program; 0 before it came
    attached: float | None = None


class ServerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One listening socket of one app: a line of the service table."""

    app_id: int
    proto: Protocol
    service_ip: str  # virtual address it listens on; "0.0.0.0" / "::" for a wildcard
    service_port: int
    actual: tuple[str, ...]  # host TCP addresses that lead there ("127.0.0.1:41000"), empty when Unix only
    since: float


class SocketRow(msgspec.Struct, frozen=True, kw_only=True):
    """One socket that the switch made for an app."""

    id: int  # SO_COOKIE
    app_id: int
    inode: int
    proto: Protocol
    # Of: listening, connected, bound, reuseaddr, reuseport, v6only, unix, tcp; for UDP home, visiting, host.
    flags: tuple[str, ...]
    bind_ip: str  # "ip:port" or ""
    backlog: int


class ConnectionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One established connection with at least one end in an app of this node."""

    client_app: int  # 0: not an app (came in through --expose)
    server_app: int  # 0: not an app (the host or beyond)
    proto: Protocol
    client: str  # virtual "ip:port"
    server: str  # virtual "ip:port"
    transport: Transport | Literal["udp", "splice"]
    vservice: str = ""  # by which it was reached
    backend: str = ""  # "ip:port" of the vservice's backend: virtual, or outside
    protocol: str = ""  # what was peeked, as `routing.l7` names it
    attributes: dict[str, str] = {}
    since: float = 0.0  # seconds since the epoch; 0: not known
    # Of TCP, from sock_diag(7); None where there is no TCP (Unix sockets keep no count).
    bytes_sent: int | None = None  # by the client
    bytes_received: int | None = None
    rtt: int | None = None  # microseconds
    retransmits: int | None = None  # segments


FlowVerdict = Literal["allowed", "denied", "refused", "waiting", "timed out"]


class FlowRow(msgspec.Struct, frozen=True, kw_only=True):
    """One decision about one connection."""

    time: float  # seconds since the epoch
    proto: Protocol
    verdict: FlowVerdict
    client_app: int  # 0: not an app
    server_app: int  # 0: not an app, or nobody
    client: str  # virtual "ip:port"
    server: str  # virtual "ip:port" that the client asked for
    vservice: str = ""
    backend: str = ""
    rule: str = ""  # policy, route or limit that decided
    error: str = ""  # "EACCES"
    dry_run: bool = False  # would have been denied
    protocol: str = ""  # peeked
    attributes: dict[str, str] = {}
    transport: Transport | Literal["", "udp", "splice"] = ""
    waited: float = 0.0  # seconds: for a service to come up, for first bytes


class BackendRow(msgspec.Struct, frozen=True, kw_only=True):
    """A backend of a vservice or reference, and how it is doing."""

    vservice: str
    port: int  # virtual
    route: str = ""  # of the L7 route that it belongs to
    backend: str  # "ip:port", virtual or outside; "?" for a spec that nobody matches yet
    spec: str  # as it was configured: "10.1.0.1", "name=web", "app=web,zone=a"
    app_id: int  # 0: outside, or nobody yet
    state: Literal["healthy", "ejected", "draining", "down", "unknown"]
    weight: int
    priority: int
    locality: str
    active: int  # connections
    total: int  # connections so far
    failures: int
    ejected_for: float = 0.0  # seconds that are left


class ProxyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy as `ax get proxies` shows it."""

    name: str
    state: Literal["ready", "away", "full"]  # away: it does not listen, or is not connected
    listener: str  # "ip:port" of the app's, or empty: the delegation endpoint
    app_id: int  # of the app that is the proxy; 0: not an app, or away
    pid: int  # of who is connected to the delegation endpoint; 0: nobody
    active: int  # connections that it has taken and not reported as closed; of a listener those that are established
    taken: int  # connections so far
    passed: int  # that it let go on the fast path
    dropped: int
    handed_on: int  # to the next
    failed: int  # no answer in time, dead, full


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the daemon believes and the kernel does not, or the reverse: a line of ``ax debug check``."""

    kind: str  # a slug
    subject: str  # what it is about: an app, an address, a descriptor
    detail: str
