"""What the API takes: pydantic models that OpenAPI describes, which become values of the model."""

from __future__ import annotations

from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from appswitch.control import reach, validate
from appswitch.control.registry import NewApp
from appswitch.model import Egress, Expose, HostPort, Netns, Transport


def _exposable(text: str) -> str:
    validate.expose(text)  # here for the error's path; `validate.exposes` makes the value
    return text


def _host_port(text: str) -> str:
    reach.host_port(text)
    return text


Targets = list[Annotated[str, AfterValidator(reach.target)]]


class EgressRequest(BaseModel):
    """What the app may reach outside: deny wins, then allow, then the default."""

    model_config = ConfigDict(extra="forbid")

    default: Literal["allow", "deny"] = "allow"
    allow: Annotated[Targets, Field(description="Networks, addresses, DNS names, or *.NAME for all names below.")] = []
    deny: Targets = []
    error: Annotated[Literal["EACCES", "ECONNREFUSED"], Field(description="What a denied call fails with.")] = "EACCES"

    def checked(self) -> Egress:
        """As the model has it. Raises ValueError."""
        return reach.egress(self.default, self.allow, self.deny, self.error)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        self.checked()
        return self


class NewAppRequest(BaseModel):
    """What to run. The app must attach with the token of the reply within its time."""

    model_config = ConfigDict(extra="forbid")

    command: Annotated[list[str], Field(min_length=1, max_length=4096)]
    name: Annotated[str, AfterValidator(validate.name)] | None = Field(
        None, description="Without an address it draws one from the daemon's pools."
    )
    ips: Annotated[list[Annotated[str, AfterValidator(validate.ip)]], AfterValidator(validate.ips)] = []
    labels: Annotated[dict[str, str], AfterValidator(validate.labels)] | None = Field(
        None, description="Given labels replace the default, zone=default."
    )
    expose: Annotated[list[Annotated[str, AfterValidator(_exposable)]], AfterValidator(validate.exposes)] = Field(
        [],
        description="INTERNAL:HOSTPORT, INTERNAL:NODE-IP:HOSTPORT or INTERNAL:[NODE-IPV6]:HOSTPORT, for TCP and UDP, "
        "or with /tcp or /udp for one of them.",
    )
    netns: Netns = Field("new", description="An empty network namespace, or the host's.")
    transport: Transport | None = Field(None, description="The daemon's default if not given.")
    interface: Annotated[str, AfterValidator(validate.interface)] | None = Field(
        None, description="An interface of this name gets the app's addresses, in place of lo."
    )
    nameservers: Annotated[list[Annotated[str, AfterValidator(validate.nameserver)]], Field(max_length=3)] = Field(
        [],
        description="Where the app sends DNS queries (resolv.conf(5)); with a namespace of its own the daemon answers.",
    )
    dns_override: bool = Field(
        False, description="The launcher puts a resolv.conf that names only the daemon in place of the host's."
    )
    egress: EgressRequest = EgressRequest()
    host_ports: Annotated[list[Annotated[str, AfterValidator(_host_port)]], AfterValidator(reach.host_ports)] = Field(
        [], description="PORT or INTERNAL:HOSTPORT: a port of the app's loopback that leads to one of the host's."
    )
    proxy: Annotated[str, AfterValidator(validate.name)] | None = Field(
        None, description="Connections that the app makes are handed to this proxy, once there is one."
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.netns == "host":
            for what, given in (("an interface", self.interface), ("a resolv.conf of its own", self.dns_override)):
                if given:
                    raise ValueError(f"{what} is for an app with a network namespace of its own")
        if self.interface and not self.ips and not self.name:
            raise ValueError("an interface needs an address: give one, or a name, which draws one")
        return self

    def checked(self) -> NewApp:
        """As the registry wants it."""
        return NewApp(
            command=tuple(self.command),
            name=self.name,
            ips=tuple(self.ips),
            labels=self.labels,
            expose=cast("tuple[Expose, ...]", self.expose),  # the validator made them
            netns=self.netns,
            transport=self.transport,
            interface=self.interface,
            nameservers=tuple(dict.fromkeys(self.nameservers)),
            dns_override=self.dns_override,
            egress=self.egress.checked(),
            host_ports=cast("tuple[HostPort, ...]", self.host_ports),
            proxy=self.proxy,
        )
