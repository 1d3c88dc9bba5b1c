"""What the models of documents are made of: a strict base, and types that check words where they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from appswitch.control import validate
from appswitch.control.resources import faults, fields

MAX_WAIT = 86_400.0  # seconds
MAX_MEMBERS = 256  # of a list that is matched one by one


class Model(BaseModel):
    """Fields are lowerCamelCase outside, unknown ones are errors, and a number is not written as text."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, frozen=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """What a field is called may be what somebody meant."""
        faults.know(field.alias or name for name, field in cls.model_fields.items())


def _text(value: object) -> object:
    """Ports may be numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _many(value: object) -> object:
    """One is a list of one."""
    return [value] if isinstance(value, str) else value


def _checked(check: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Here for the error's path: the value is made from the words once more, when all of them are good."""

    def checked(given: Any) -> Any:
        check(given)
        return given

    return checked


_PORT_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]})
_PortRange = Annotated[str, BeforeValidator(_text), AfterValidator(_checked(fields.port_range)), _PORT_SCHEMA]
_ServicePort = Annotated[str, BeforeValidator(_text), AfterValidator(_checked(fields.service_port)), _PORT_SCHEMA]
PortRanges = Annotated[list[_PortRange], Field(max_length=MAX_MEMBERS)]
ServicePorts = Annotated[
    list[_ServicePort], Field(max_length=MAX_MEMBERS), AfterValidator(_checked(fields.service_ports))
]
Name = Annotated[str, AfterValidator(validate.name)]
Ip = Annotated[str, AfterValidator(validate.ip)]
Network = Annotated[str, AfterValidator(fields.network)]
Listener = Annotated[str, AfterValidator(fields.listener)]
External = Annotated[str, AfterValidator(fields.external)]
LabelMap = Annotated[dict[str, str], AfterValidator(fields.some_labels)]
NamePattern = Annotated[str, AfterValidator(fields.name_pattern)]
Executable = Annotated[str, AfterValidator(fields.executable)]
Attribute = Annotated[str, AfterValidator(fields.attribute)]
HashOn = Annotated[str, AfterValidator(fields.hash_on)]
Patterns = Annotated[
    list[Annotated[str, AfterValidator(fields.pattern)]],
    BeforeValidator(_many),
    Field(min_length=1, max_length=MAX_MEMBERS),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Match = Annotated[dict[Attribute, Patterns], Field(min_length=1, max_length=64)]
Seconds = Annotated[float, Field(ge=0, le=MAX_WAIT)]
Count = Annotated[int, Field(ge=0, lt=1 << 31)]
