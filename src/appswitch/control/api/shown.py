"""What the API shows of resources: documents as `render` makes them, and how they and their backends are doing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from appswitch.control.api import views
from appswitch.control.api.views import FieldError, View
from appswitch.control.resources import render
from appswitch.control.resources.catalog import Entry, addresses
from appswitch.control.resources.documents import API_VERSION
from appswitch.control.resources.service import Outcome
from appswitch.control.resources.specs import PolicySpec, ProxySpec, ReferenceSpec, VServiceSpec
from appswitch.model import BackendRow, ProxyRow
from appswitch.resources import Proxy, VService


class ShownMetadata(View):
    """What it is called, and what the daemon knows about it."""

    name: str
    uid: int = Field(description="Whose it is.")
    created: float = Field(description="Seconds since the epoch.")
    generation: int = Field(description="1 when it was made; one more with every change.")


class VServiceStatus(View):
    """What the daemon adds to a vservice."""

    ips: list[str] = Field(description="Its addresses, those that were drawn included.")
    drawn: bool = Field(description="They come from the daemon's pools.")
    fqdn: str = Field(description="Its name with the domain of the daemon's DNS server.")


class _Shown(View):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True)

    api_version: Literal["appswitch/v1"]
    metadata: ShownMetadata


class ShownVService(_Shown):
    """A vservice as it is shown. It can be sent again as it is."""

    kind: Literal["VService"]
    spec: VServiceSpec
    status: VServiceStatus


class ShownPolicy(_Shown):
    """A policy as it is shown. It can be sent again as it is."""

    kind: Literal["Policy"]
    spec: PolicySpec


class ShownReference(_Shown):
    """A reference as it is shown. It can be sent again as it is."""

    kind: Literal["Reference"]
    spec: ReferenceSpec


class ProxyStatus(View):
    """What the switch tells of a proxy."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True, populate_by_name=True)

    state: Literal["ready", "away", "full"] = Field(description="away: it does not listen, or is not connected.")
    appid: views.AppId | None = Field(description="Of the app that is the proxy.")
    pid: int = Field(description="Of who is connected to the delegation endpoint; 0: nobody.")
    active: int = Field(description="Connections that it has.")
    taken: int = Field(description="Connections so far, and so the next ones.")
    passed: int = Field(description="That it let go on the fast path.")
    dropped: int
    handed_on: int = Field(description="To the next.")
    failed: int = Field(description="It did not answer in time, was dead or full.")


class ShownProxy(_Shown):
    """A proxy as it is shown. It can be sent again as it is."""

    kind: Literal["Proxy"]
    spec: ProxySpec
    status: ProxyStatus | None = Field(None, description="Missing where the switch tells nothing of it.")


class VServices(View):
    """Reply to GET /v1/vservices."""

    vservices: list[ShownVService]


class Policies(View):
    """Reply to GET /v1/policies."""

    policies: list[ShownPolicy]


class References(View):
    """Reply to GET /v1/references."""

    references: list[ShownReference]


class Proxies(View):
    """Reply to GET /v1/proxies."""

    proxies: list[ShownProxy]


class Deleted(View):
    """Reply to DELETE."""

    killed: list[views.Connection] = Field(description="Connections that were closed, with ?kill=true.")


class Applied(View):
    """What became of one document."""

    kind: str = Field(description="As the document has it; empty where it has none.")
    name: str
    result: Literal["created", "changed", "unchanged", "rejected"]
    detail: str | None = Field(None, description="Why it was rejected.")
    errors: list[FieldError] = Field([], description="The fields of the document that are at fault.")


class AllApplied(View):
    """Reply to POST /v1/apply."""

    results: list[Applied] = Field(description="In the order of the documents.")
    killed: list[views.Connection] = Field([], description="Connections that were closed, with ?kill=true.")


class Backend(View):
    """A backend of a vservice or a reference, and how it is doing."""

    vservice: str = Field(description="Or the reference.")
    port: int = Field(description="Virtual.")
    route: str = Field(description="The L7 route that it belongs to, or nothing.")
    backend: str = Field(description="Address and port, virtual or outside; ? while nobody matches.")
    spec: str = Field(description="As it was configured.")
    appid: views.AppId | None
    state: Literal["healthy", "ejected", "draining", "down", "unknown"]
    weight: int
    priority: int
    locality: str
    active: int = Field(description="Connections.")
    total: int = Field(description="Connections so far.")
    failures: int
    ejected_for: float = Field(description="Seconds that are left.")


class Backends(View):
    """Reply to GET /v1/backends."""

    backends: list[Backend]


Statuses = dict[str, ProxyStatus]  # of proxies, by name


def document(entry: Entry, domain: str, proxies: Statuses) -> dict[str, Any]:
    """A resource as a document."""
    kind, name = entry.key
    found: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            "uid": entry.resource.uid,
            "created": entry.created,
            "generation": entry.generation,
        },
        "spec": render.spec(entry.resource, drawn=entry.drawn),
    }
    if isinstance(entry.resource, VService):
        ips = list(addresses(entry.resource))
        found["status"] = {"ips": ips, "drawn": entry.drawn, "fqdn": f"{name}.{domain}"}
    elif isinstance(entry.resource, Proxy) and name in proxies:
        found["status"] = proxies[name].model_dump(by_alias=True)
    return found


def applied(outcome: Outcome) -> Applied:
    """What became of a document."""
    problem = outcome.problem
    assert outcome.result != "deleted"
    return Applied(
        kind=outcome.kind,
        name=outcome.name,
        result=outcome.result,
        detail=problem.detail if problem else None,
        errors=[FieldError(**one) for one in (problem.errors if problem else None) or []],
    )


def statuses(rows: Iterable[ProxyRow]) -> Statuses:
    """Of the switch's rows."""
    return {row.name: _status(row) for row in rows}


def _status(row: ProxyRow) -> ProxyStatus:
    return ProxyStatus(
        state=row.state,
        appid=f"{row.app_id:08x}" if row.app_id else None,
        pid=row.pid,
        active=row.active,
        taken=row.taken,
        passed=row.passed,
        dropped=row.dropped,
        handed_on=row.handed_on,
        failed=row.failed,
    )


def backend(row: BackendRow) -> Backend:
    """A row of the switch's."""
    return Backend(
        vservice=row.vservice,
        port=row.port,
        route=row.route,
        backend=row.backend,
        spec=row.spec,
        appid=f"{row.app_id:08x}" if row.app_id else None,
        state=row.state,
        weight=row.weight,
        priority=row.priority,
        locality=row.locality,
        active=row.active,
        total=row.total,
        failures=row.failures,
        ejected_for=row.ejected_for,
    )
