"""What users configure: virtual services, policies, references, proxies. Frozen values, checked where they came in.

A resource as it is written in a file, sent over REST and stored has an envelope (`docs/services.md`)::

    apiVersion: appswitch/v1
    kind: VService | Policy | Reference | Proxy
    metadata: {name: web}
    spec: ...

The structs here are what becomes of it (`control/resources/`): every value canonical, every default filled in. They go
over the wire to the switch as they are, and `routing` makes its tables from them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from appswitch.model import Protocol

Kind = Literal["VService", "Policy", "Reference", "Proxy"]
KINDS: tuple[Kind, ...] = ("VService", "Policy", "Reference", "Proxy")

LbType = Literal["Random", "RoundRobin", "LeastConnections", "Weighted", "RingHash", "Maglev"]
ErrorName = Literal["EACCES", "EPERM", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH"]

# A pattern on an attribute of peeked data: the text itself, "prefix*", "*suffix", "*part*", or "*" (present).
# Deliberately no regular expressions: they are matched in the switch's loop, against what hostile programs send.
Pattern = str
# Every attribute that is named must match one of its patterns: {"http.path": ("/api/*",), "http.method": ("GET",)}.
# Names of attributes are those of `routing.l7`.
L7Match = dict[str, tuple[Pattern, ...]]


class ServicePort(msgspec.Struct, frozen=True):
    """``V:P``: connections to the virtual port go to port ``target`` of a backend."""

    port: int
    target: int

    def __str__(self) -> str:
        return str(self.port) if self.port == self.target else f"{self.port}:{self.target}"


class Selector(msgspec.Struct, frozen=True):
    """One end of a connection. All that is given must hold; nothing given is everybody, inside and outside."""

    labels: dict[str, str] = {}
    names: tuple[str, ...] = ()  # of apps and vservices, any of them; patterns as for L7
    networks: tuple[str, ...] = ()  # CIDRs, any of them: the virtual address of an app, the address of what is outside
    uids: tuple[int, ...] = ()  # of the process that calls; only ``from_``
    executables: tuple[str, ...] = ()  # absolute paths of its program, patterns as for L7; only ``from_``


class PortRange(msgspec.Struct, frozen=True):
    """Ports ``low`` to ``high``, both included. Of a vservice it is the backend's port that counts."""

    low: int
    high: int
    protocol: Protocol | None = None  # None: TCP and UDP

    def __str__(self) -> str:
        ports = str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        return f"{ports}/{self.protocol}" if self.protocol else ports


class Policy(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Who may connect to whom. As Kubernetes users know it: a deny wins, an allow list closes.

    1. A deny policy that matches the connection denies it.
    2. An *ingress* allow policy closes the servers that its ``to`` selects, an *egress* allow policy closes the clients
       that its ``from`` selects: such an app needs, in that direction, one allow policy that matches the connection.
    3. Everything else is allowed.

    An empty list of selectors is everybody. A policy with ``l7`` matches when one of them does, which is known only
    after the first bytes: until then the connection is held.
    """

    name: str
    action: Literal["allow", "deny"]
    direction: Literal["ingress", "egress"] = "ingress"
    from_: tuple[Selector, ...] = ()  # any of them
    to: tuple[Selector, ...] = ()  # any of them
    ports: tuple[PortRange, ...] = ()  # none: all
    l7: tuple[L7Match, ...] = ()  # any of them
    error: ErrorName = "EACCES"  # what a denied call fails with
    dry_run: bool = False  # would-be denials are logged and counted, and nothing is denied
    proxy: str = ""  # of an allow policy: connections that it matches are handed to this proxy; it closes nothing then
    uid: int = 0  # who owns it
    order: int = 0  # of creation; only for display and explanation


class BackendSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where connections of a vservice may go. Exactly one of ``ip``, ``name``, ``labels``, ``external`` is given.

    A backend need not be there yet.
    """

    ip: str = ""  # a virtual address: of an app, or of another vservice
    name: str = ""  # of apps, or of another vservice
    labels: dict[str, str] = {}  # of apps
    external: str = ""  # "192.0.2.1:8080", "[2001:db8::1]:8080": an address outside
    port: int = 0  # instead of the service port's target; 0: that
    weight: int = 1  # 0..65535, for Weighted, RingHash, Maglev; 0: gets nothing
    priority: int = 0  # 0..15; the lowest number with a healthy backend gets everything
    locality: str = ""  # preferred among equals: the client's "zone" label, or this node's name
    drain: bool = False  # keeps its connections and gets no more

    def __str__(self) -> str:
        where = self.ip or self.external or (f"name={self.name}" if self.name else "")
        where = where or ",".join(f"{key}={value}" for key, value in sorted(self.labels.items()))
        return f"{where} port {self.port}" if self.port else where


class Outlier(msgspec.Struct, frozen=True, kw_only=True):
    """Passive health: a backend that fails is not tried for a while. Envoy's names and defaults where it has them."""

    consecutive_failures: int = 3  # refused or timed out, in a row; 0: never eject
    base_ejection: float = 30.0  # seconds; times the number of ejections so far
    max_ejection: float = 300.0  # seconds
    max_ejected_percent: int = 50  # of the backends; at least one may be ejected
    connect_timeout: float = 5.0  # seconds after which a backend outside counts as failed, and another one is tried


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Circuit breaking, per backend. 0: no limit."""

    connections: int = 0  # established
    pending: int = 0  # not yet accepted by the backend, or (outside) not yet established
    error: ErrorName = "ECONNREFUSED"  # when no backend has room


class Peek(msgspec.Struct, frozen=True, kw_only=True):
    """How long a connection is held for its first bytes, and what happens then."""

    bytes: int = 16384
    milliseconds: int = 200
    otherwise: Literal["allow", "deny"] = "allow"  # the verdict where nothing could be recognized in time


class L7Route(msgspec.Struct, frozen=True, kw_only=True):
    """Connections whose first bytes match go to these backends instead of the vservice's."""

    match: L7Match
    backends: tuple[BackendSpec, ...]
    name: str = ""  # for logs; else route-N


class VService(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual address (and name) with virtual ports in front of backends."""

    name: str
    ips: tuple[str, ...]  # at most one IPv4 and one IPv6
    ports: tuple[ServicePort, ...]
    backends: tuple[BackendSpec, ...] = ()
    lbtype: LbType = "RoundRobin"
    hash_on: str = "source"  # for RingHash and Maglev: the client's address, or an L7 attribute such as "http.path"
    outlier: Outlier = Outlier()
    limits: Limits = Limits()
    routes: tuple[L7Route, ...] = ()  # the first that matches
    peek: Peek = Peek()
    external: bool = False  # reachable for the outside at the node's addresses, on the same ports
    proxy: str = ""  # connections to it are handed to this proxy
    source_ip: bool = False  # connections of one client address stay with one backend
    wait: float = 30.0  # seconds that connect(2) waits while no backend is known at all; one that is down refuses
    uid: int = 0  # who owns it


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """An address that apps have in their own configuration, mapped onto services that may not be up yet.

    connect(2) to it waits until there is one.
    """

    name: str  # a DNS label; resolves to ``network`` if that is one address
    network: str  # a CIDR: one address, or a wildcard such as 10.9.0.0/16
    ports: tuple[ServicePort, ...] = ()  # none: every port, unchanged
    to: tuple[BackendSpec, ...]  # what it stands for
    wait: float = 30.0  # seconds
    lbtype: LbType = "RoundRobin"
    uid: int = 0


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes connections over that need more than a choice: docs/delegation.md.

    With a ``listener`` an unmodified proxy that runs as an app: its accept(2) gets the very sockets. Without one a
    program that has connected to the daemon's delegation endpoint under this name, and gets them there.
    """

    name: str
    listener: str = ""  # "10.1.0.50:15001", or "NAME:15001" of an app
    header: Literal["none", "v2"] = "none"  # what goes before the first bytes: a PROXY protocol header, or nothing
    wants: tuple[L7Match, ...] = ()  # connections that it is for, any of them; none: all
    capacity: int = 0  # connections at a time that it has at the delegation endpoint; 0: no limit
    timeout: float = 1.0  # seconds in which it has to answer there
    on_failure: Literal["open", "closed"] = "closed"  # without it: as if there were no proxy, or refused
    next: str = ""  # the proxy that gets what this one does not want, or hands on
    peek: Peek = Peek()
    uid: int = 0


Resource = VService | Policy | Reference | Proxy


def kind_of(resource: Resource) -> Kind:
    """The word of its envelope."""
    return type(resource).__name__  # type: ignore[return-value]


def matches(pattern: Pattern, text: str) -> bool:
    """Whether a pattern matches: see `Pattern`. Takes time in proportion to the two lengths' product at most."""
    if pattern == "*":
        return True
    before, after = pattern.startswith("*"), pattern.endswith("*")
    if before and after:
        return pattern[1:-1] in text
    if after:
        return text.startswith(pattern[:-1])
    if before:
        return text.endswith(pattern[1:])
    return text == pattern
