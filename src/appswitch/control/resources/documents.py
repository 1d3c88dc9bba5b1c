"""Whole documents: the envelope that each kind of resource is written, sent and shown in. docs/services.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from appswitch.control.problems import ProblemError
from appswitch.control.resources import faults
from appswitch.control.resources.base import Model, Name
from appswitch.control.resources.specs import PolicySpec, ProxySpec, ReferenceSpec, VServiceSpec
from appswitch.resources import KINDS, Kind

API_VERSION: Literal["appswitch/v1"] = "appswitch/v1"


class Metadata(Model):
    """What it is called. What the daemon adds to it is taken back, and means nothing."""

    name: Name
    uid: int | None = Field(None, description="As it was shown; ignored.")
    created: float | None = Field(None, description="As it was shown; ignored.")
    generation: int | None = Field(None, description="As it was shown; ignored.")


class VServiceDocument(Model):
    """A virtual address (and name) with virtual ports in front of backends."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "VService",
                    "metadata": {"name": "web"},
                    "spec": {"ips": ["10.1.0.100"], "ports": ["80:8080"], "backends": ["app=web", "192.0.2.7:8080"]},
                }
            ]
        }
    )
    api_version: Literal["appswitch/v1"] = API_VERSION
    kind: Literal["VService"]
    metadata: Metadata
    spec: VServiceSpec
    status: dict[str, Any] | None = Field(None, description="As it was shown; ignored.")


class PolicyDocument(Model):
    """Who may connect to whom."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "Policy",
                    "metadata": {"name": "web-from-lan"},
                    "spec": {
                        "action": "allow",
                        "from": [{"networks": ["10.0.0.0/8"]}],
                        "to": [{"names": ["web"]}],
                        "ports": ["80"],
                    },
                }
            ]
        }
    )
    api_version: Literal["appswitch/v1"] = API_VERSION
    kind: Literal["Policy"]
    metadata: Metadata
    spec: PolicySpec


class ReferenceDocument(Model):
    """An address that apps are configured with, mapped onto services that may not be up yet."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "Reference",
                    "metadata": {"name": "olddb"},
                    "spec": {"network": "10.9.0.5", "ports": [5432], "to": [{"labels": {"role": "db"}}]},
                }
            ]
        }
    )
    api_version: Literal["appswitch/v1"] = API_VERSION
    kind: Literal["Reference"]
    metadata: Metadata
    spec: ReferenceSpec


class ProxyDocument(Model):
    """Who takes connections over that need more than a choice of backends."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "Proxy",
                    "metadata": {"name": "envoy"},
                    "spec": {"listener": "10.1.0.50:15001", "wants": [{"http.path": "/api/*"}], "onFailure": "open"},
                }
            ]
        }
    )
    api_version: Literal["appswitch/v1"] = API_VERSION
    kind: Literal["Proxy"]
    metadata: Metadata
    spec: ProxySpec
    status: dict[str, Any] | None = Field(None, description="As it was shown; ignored.")


Document = VServiceDocument | PolicyDocument | ReferenceDocument | ProxyDocument
_MODELS: dict[Kind, type[Document]] = {
    "VService": VServiceDocument,
    "Policy": PolicyDocument,
    "Reference": ReferenceDocument,
    "Proxy": ProxyDocument,
}


def parse(body: object) -> Document:
    """A document of any kind. Raises ProblemError with every field at fault."""
    if not isinstance(body, Mapping):
        raise invalid([{"path": [], "detail": "a document is an object with kind, metadata and spec"}])
    kind = body.get("kind")
    model = next((_MODELS[one] for one in KINDS if one == kind), None)
    if model is None:
        found = f"{kind!r} is none" if "kind" in body else "Field required"
        raise invalid([{"path": ["kind"], "detail": f"{found}: there are {', '.join(KINDS)}"}])
    try:
        return model.model_validate(body)
    except ValidationError as err:
        raise invalid([faults.fault(dict(one)) for one in err.errors()]) from None


def invalid(found: list[dict[str, Any]]) -> ProblemError:
    """The problem of a document with these faults."""
    return ProblemError("invalid", faults.text(found), found)
