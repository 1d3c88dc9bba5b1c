"""Backends of vservices and references as users write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from appswitch.control.resources import fields
from appswitch.control.resources.base import External, Ip, LabelMap, Model, Name
from appswitch.resources import BackendSpec

MAX_BACKENDS = 4096
_WHERE = ("ip", "name", "labels", "external")


def _or_word(schema: dict[str, Any]) -> None:
    """OpenAPI: an object, or a word."""
    described = dict(schema)
    schema.clear()
    schema["title"] = "Backend"
    schema["anyOf"] = [{"type": "string", "examples": ["10.1.0.1", "web-1", "app=web+zone=a", "192.0.2.7:80"]}]
    schema["anyOf"].append(described)


class BackendModel(Model):
    """Where connections may go: an object, or one word. Exactly one of ip, name, labels, external."""

    model_config = ConfigDict(json_schema_extra=_or_word)

    ip: Ip | None = Field(None, description="A virtual address: of an app, or of another vservice.")
    name: Name | None = Field(None, description="Of apps, or of another vservice.")
    labels: LabelMap | None = Field(None, description="Of apps: all of them.")
    external: External | None = Field(None, description="An address outside: IPV4:PORT, [IPV6]:PORT.")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(None, description="Instead of the port's target.")
    weight: Annotated[int, Field(ge=0, le=65535)] = Field(1, description="For Weighted, RingHash, Maglev.")
    priority: Annotated[int, Field(ge=0, le=15)] = Field(0, description="The lowest with a healthy one gets all.")
    locality: Annotated[str, Field(max_length=253)] = Field("", description="Preferred by clients of this zone.")
    drain: bool = Field(False, description="Keeps its connections, and gets no more.")

    @model_validator(mode="before")
    @classmethod
    def _is_word(cls, value: Any) -> Any:
        if isinstance(value, str):
            return fields.backend(value)
        if not isinstance(value, Mapping):
            raise ValueError(f"a backend is a word or an object: {fields.ANY_BACKEND}")  # noqa: TRY004 - for pydantic
        return value

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [what for what in _WHERE if getattr(self, what) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"a backend has exactly one of {', '.join(_WHERE)}, and this has {found}")
        if self.external and self.port:
            raise ValueError("an external backend has its port behind its address: leave port away")
        return self

    def made(self) -> BackendSpec:
        """As a value."""
        return BackendSpec(
            ip=self.ip or "",
            name=self.name or "",
            labels=self.labels or {},
            external=self.external or "",
            port=self.port or 0,
            weight=self.weight,
            priority=self.priority,
            locality=self.locality,
            drain=self.drain,
        )


def _differ(backends: list[BackendModel]) -> list[BackendModel]:
    seen: dict[str, int] = {}
    for number, one in enumerate(backends):
        first = seen.setdefault(one.model_dump_json(), number)
        if first != number:
            raise ValueError(f"the backends {first} and {number} are the same: leave one away, or give it more weight")
    return backends


Backends = Annotated[list[BackendModel], Field(max_length=MAX_BACKENDS), AfterValidator(_differ)]


def made(backends: list[BackendModel]) -> tuple[BackendSpec, ...]:
    """As values."""
    return tuple(one.made() for one in backends)
