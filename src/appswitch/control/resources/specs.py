"""The ``spec`` of each kind, and the frozen value that is made of it. `judge` looks at that beside others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from appswitch.control import validate
from appswitch.control.resources import backends, fields
from appswitch.control.resources.backends import Backends
from appswitch.control.resources.base import (
    MAX_MEMBERS,
    Count,
    Executable,
    HashOn,
    Ip,
    LabelMap,
    Listener,
    Match,
    Model,
    Name,
    NamePattern,
    Network,
    PortRanges,
    Seconds,
    ServicePorts,
)
from appswitch.control.resources.bounds import bounded
from appswitch.resources import (
    ErrorName,
    L7Match,
    L7Route,
    LbType,
    Limits,
    Outlier,
    Peek,
    Policy,
    Proxy,
    Reference,
    Selector,
    VService,
)

HASHED: tuple[LbType, ...] = ("RingHash", "Maglev")
Members = Field(max_length=MAX_MEMBERS)


class OutlierModel(Model):
    """Passive health: a backend that fails is not tried for a while."""

    consecutive_failures: Annotated[int, Field(ge=0, le=1000)] = Field(3, description="0: never eject.")
    base_ejection: Seconds = Field(30.0, description="Seconds; times the number of ejections so far.")
    max_ejection: Seconds = 300.0
    max_ejected_percent: Annotated[int, Field(ge=0, le=100)] = 50
    connect_timeout: Annotated[float, Field(gt=0, le=300)] = Field(5.0, description="Seconds, of a backend outside.")

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.max_ejection < self.base_ejection:
            raise ValueError(f"maxEjection ({self.max_ejection:g}) is below baseEjection ({self.base_ejection:g})")
        return self

    def made(self) -> Outlier:
        """As a value."""
        return Outlier(**self.model_dump())


class LimitsModel(Model):
    """Circuit breaking, per backend; 0: no limit."""

    connections: Count = Field(0, description="Established.")
    pending: Count = Field(0, description="Not yet accepted, or not yet established.")
    error: ErrorName = Field("ECONNREFUSED", description="When no backend has room.")

    def made(self) -> Limits:
        """As a value."""
        return Limits(**self.model_dump())


class PeekModel(Model):
    """How long a connection is held for its first bytes, and what happens then."""

    bytes: Annotated[int, Field(ge=1, le=65536)] = 16384
    milliseconds: Annotated[int, Field(ge=0, le=60_000)] = 200
    otherwise: Literal["allow", "deny"] = Field("allow", description="Where nothing could be recognized in time.")

    def made(self) -> Peek:
        """As a value."""
        return Peek(**self.model_dump())


class RouteModel(Model):
    """Connections whose first bytes match go to these backends instead."""

    name: Name | None = Field(None, description="For logs; else route-N.")
    match: Match
    backends: Annotated[Backends, Field(min_length=1)]

    def made(self) -> L7Route:
        """As a value."""
        return L7Route(match=_match(self.match), backends=backends.made(self.backends), name=self.name or "")


class VServiceSpec(Model):
    """A virtual address in front of backends."""

    ips: Annotated[list[Ip], AfterValidator(lambda ips: list(validate.ips(ips, "a vservice")))] = Field(
        [], description="At most one IPv4 and one IPv6 address; none: drawn from the daemon's pools."
    )
    ports: Annotated[ServicePorts, Field(min_length=1)] = Field(
        description="V, or V:P where backends listen on another port.", examples=[["80:8080", "443"]]
    )
    backends: Backends = Field([], description="They need not be there yet.")
    lb_type: LbType = "RoundRobin"
    hash_on: HashOn | None = Field(None, description="source, or an L7 attribute; for RingHash and Maglev.")
    outlier: OutlierModel | None = None
    limits: LimitsModel | None = None
    routes: Annotated[list[RouteModel], Members] = Field([], description="The first that matches.")
    peek: PeekModel | None = None
    external: bool = Field(False, description="Reachable from outside, at the node's addresses.")
    proxy: Name | None = Field(None, description="Connections to it are handed to this proxy, once there is one.")
    source_ip: bool = Field(False, description="Connections of one client stay with one backend.")
    wait: Seconds = Field(30.0, description="Seconds that connect(2) waits while there is no backend.")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        hashed = self.lb_type in HASHED
        if self.hash_on is not None and not hashed:
            raise ValueError(f"hashOn is for the lbTypes {' and '.join(HASHED)}, and this is {self.lb_type}")
        if self.source_ip and hashed:
            raise ValueError(f"sourceIp and {self.lb_type} both choose by the client: leave one of them away")
        names = [one.name for one in self.routes if one.name]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"two routes are called {twice}")
        bounded(one.match for one in self.routes)
        return self

    def made(self, name: str, ips: Sequence[str], uid: int) -> VService:
        """``ips``: its own, or those that were drawn."""
        return VService(
            name=name,
            ips=tuple(ips),
            ports=fields.service_ports(self.ports),
            backends=backends.made(self.backends),
            lbtype=self.lb_type,
            hash_on=self.hash_on or "source",
            outlier=self.outlier.made() if self.outlier else Outlier(),
            limits=self.limits.made() if self.limits else Limits(),
            routes=tuple(one.made() for one in self.routes),
            peek=self.peek.made() if self.peek else Peek(),
            external=self.external,
            proxy=self.proxy or "",
            source_ip=self.source_ip,
            wait=self.wait,
            uid=uid,
        )


class ToSelector(Model):
    """The end that is connected to. All that is given must hold; nothing given is everybody."""

    labels: LabelMap | None = None
    names: Annotated[list[NamePattern], Members] = Field([], description="Of apps and vservices, any of them.")
    networks: Annotated[list[Network], Field(max_length=4096)] = Field([], description="CIDRs, any of them.")

    def made(self) -> Selector:
        """As a value."""
        return Selector(labels=self.labels or {}, names=tuple(self.names), networks=tuple(self.networks))


class FromSelector(ToSelector):
    """The end that connects."""

    uids: Annotated[list[Annotated[int, Field(ge=0, lt=(1 << 32) - 1)]], Members] = Field(
        [], description="Of the process that connects, any of them."
    )
    executables: Annotated[list[Executable], Members] = Field(
        [], description="Absolute paths of its program, with * at either end."
    )

    def made(self) -> Selector:
        """As a value."""
        return Selector(
            labels=self.labels or {},
            names=tuple(self.names),
            networks=tuple(self.networks),
            uids=tuple(self.uids),
            executables=tuple(self.executables),
        )


class PolicySpec(Model):
    """Who may connect to whom: a deny wins, an allow list closes."""

    action: Literal["allow", "deny"]
    direction: Literal["ingress", "egress"] = "ingress"
    from_: Annotated[list[FromSelector], Members] = Field([], alias="from", description="Any of them; none: everybody.")
    to: Annotated[list[ToSelector], Members] = Field([], description="Any of them; none: everybody.")
    ports: PortRanges = Field([], description="80, 8000-8999/tcp, 53/udp; none: all.")
    l7: Annotated[list[Match], Members] = Field([], description="Any of them.")
    error: ErrorName = Field("EACCES", description="What a denied call fails with.")
    dry_run: bool = Field(False, description="Would-be denials are logged, and nothing is denied.")
    proxy: Name | None = Field(
        None, description="Connections that it matches are handed to this proxy: it closes nothing."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.proxy is not None and self.action != "allow":
            raise ValueError("proxy is for an allow policy: a connection that is denied is handed to nobody")
        if self.proxy is not None and self.dry_run:
            raise ValueError("a policy with a proxy denies nothing: leave proxy or dryRun away")
        bounded(self.l7)
        return self

    def made(self, name: str, uid: int, order: int) -> Policy:
        """As a value."""
        return Policy(
            name=name,
            action=self.action,
            direction=self.direction,
            from_=tuple(one.made() for one in self.from_),
            to=tuple(one.made() for one in self.to),
            ports=tuple(map(fields.port_range, self.ports)),
            l7=tuple(map(_match, self.l7)),
            error=self.error,
            dry_run=self.dry_run,
            proxy=self.proxy or "",
            uid=uid,
            order=order,
        )


class ReferenceSpec(Model):
    """An address that apps are configured with, and what it stands for."""

    network: Network = Field(description="One address, or a CIDR.", examples=["10.9.0.5", "10.9.0.0/16"])
    ports: ServicePorts = Field([], description="V, or V:P; none: every port, unchanged.")
    to: Annotated[Backends, Field(min_length=1)]
    wait: Seconds = Field(30.0, description="Seconds that connect(2) waits for it.")
    lb_type: LbType = "RoundRobin"

    @field_validator("network")
    @classmethod
    def _is_somewhere(cls, network: str) -> str:
        address, _, prefix = network.partition("/")
        if int(prefix) == (128 if ":" in address else 32):
            validate.ip(address)
        elif int(prefix) == 0:
            raise ValueError("a reference for every address there is: name a smaller network")
        return network

    def made(self, name: str, uid: int) -> Reference:
        """As a value."""
        return Reference(
            name=name,
            network=self.network,
            ports=fields.service_ports(self.ports),
            to=backends.made(self.to),
            wait=self.wait,
            lbtype=self.lb_type,
            uid=uid,
        )


class ProxySpec(Model):
    """Who takes connections over that need more than a choice of backends."""

    listener: Listener | None = Field(
        None,
        description="Of an unmodified proxy that runs as an app; none: the proxy connects to the delegation endpoint.",
        examples=["10.1.0.50:15001", "envoy:15001"],
    )
    header: Literal["none", "v2"] = Field("none", description="v2: a listener reads a PROXY protocol header first.")
    wants: Annotated[list[Match], Members] = Field([], description="Any of them; none: all connections.")
    capacity: Count | None = Field(None, description="Connections at a time, at the delegation endpoint; 0: no limit.")
    timeout: Annotated[float, Field(gt=0, le=300)] | None = Field(
        None, description="Seconds in which it answers at the delegation endpoint; 1 if not given."
    )
    on_failure: Literal["open", "closed"] = Field(
        "closed", description="Without it: as if there were no proxy, or refused."
    )
    next: Name | None = Field(None, description="The proxy that gets what this one does not want, or hands on.")
    peek: PeekModel | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.listener is None and self.header != "none":
            raise ValueError("header is for a proxy with a listener: the delegation endpoint has a header of its own")
        for name in ("capacity", "timeout"):
            if self.listener is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} is for the delegation endpoint, and this proxy has a listener")
        bounded(self.wants)
        return self

    def made(self, name: str, uid: int) -> Proxy:
        """As a value."""
        return Proxy(
            name=name,
            listener=self.listener or "",
            header=self.header,
            wants=tuple(map(_match, self.wants)),
            capacity=self.capacity or 0,
            timeout=1.0 if self.timeout is None else self.timeout,
            on_failure=self.on_failure,
            next=self.next or "",
            peek=self.peek.made() if self.peek else Peek(),
            uid=uid,
        )


def _match(given: Mapping[str, Sequence[str]]) -> L7Match:
    return {name: tuple(patterns) for name, patterns in given.items()}
