"""/v1/vservices, policies, references, proxies: what users configure; /v1/apply: many; /v1/backends: how they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import WithJsonSchema

from appswitch.control.access import Caller
from appswitch.control.api import shown, views
from appswitch.control.api.deps import RESPONSES, Parts, TheCaller, TheParts
from appswitch.control.api.tables import connection_views, rows
from appswitch.control.problems import ProblemError
from appswitch.control.resources.catalog import Entry
from appswitch.control.resources.documents import (
    Document,
    PolicyDocument,
    ProxyDocument,
    ReferenceDocument,
    VServiceDocument,
)
from appswitch.control.resources.service import Outcome, Put, Remove, may_kill, missing
from appswitch.resources import Kind

router = APIRouter(prefix="/v1", tags=["resources"], responses=RESPONSES)

Kill = Annotated[bool, Query(description="Close the established connections that policies now forbid.")]
NamePath = Annotated[str, Path(description="In lower case.", max_length=63)]
Handler = Callable[..., Awaitable[Any]]


class Shape(msgspec.Struct, frozen=True):
    """What differs between the kinds: all have the same operations."""

    kind: Kind
    plural: str  # in paths and replies
    document: type[Document]
    one: type[views.View]  # replies
    many: type[views.View]

    @property
    def word(self) -> str:
        """Of one."""
        return self.kind.lower()


SHAPES = (
    Shape("VService", "vservices", VServiceDocument, shown.ShownVService, shown.VServices),
    Shape("Policy", "policies", PolicyDocument, shown.ShownPolicy, shown.Policies),
    Shape("Reference", "references", ReferenceDocument, shown.ShownReference, shown.References),
    Shape("Proxy", "proxies", ProxyDocument, shown.ShownProxy, shown.Proxies),
)


BALANCED: tuple[Kind, ...] = ("VService", "Reference")  # what has backends


def _list(shape: Shape) -> Handler:
    async def handler(parts: TheParts, caller: TheCaller) -> Response:
        entries = parts.resources.catalog.entries(shape.kind)
        seen = [one for one in entries if caller.sees_owner(one.resource.uid)]
        return JSONResponse({shape.plural: await _shown(seen, parts)})

    return handler


def _get(shape: Shape) -> Handler:
    async def handler(name: NamePath, parts: TheParts, caller: TheCaller) -> Response:
        entry = parts.resources.catalog.get(shape.kind, name)
        if entry is None or not caller.sees_owner(entry.resource.uid):
            raise missing(shape.kind, name)
        return JSONResponse((await _shown([entry], parts))[0])

    return handler


def _post(shape: Shape) -> Handler:
    async def handler(document: Any, parts: TheParts, caller: TheCaller) -> Response:
        outcome = await _changed(parts, caller, Put(document, new=True))
        location = f"/v1/{shape.plural}/{outcome.name}"
        return JSONResponse(await _entry(outcome, parts), 201, {"Location": location})

    handler.__annotations__["document"] = shape.document
    return handler


def _put(shape: Shape) -> Handler:
    async def handler(name: NamePath, document: Any, parts: TheParts, caller: TheCaller) -> Response:
        if document.metadata.name != name:
            detail = f"it is {document.metadata.name}, and the path names {name}"
            where = {"path": ["metadata", "name"], "detail": detail}
            raise ProblemError("invalid", f"metadata.name: {detail}", [where])
        outcome = await _changed(parts, caller, Put(document))
        return JSONResponse(await _entry(outcome, parts), 201 if outcome.result == "created" else 200)

    handler.__annotations__["document"] = shape.document
    return handler


def _delete(shape: Shape) -> Handler:
    async def handler(name: NamePath, parts: TheParts, caller: TheCaller, kill: Kill = False) -> shown.Deleted:
        if kill:
            may_kill(caller)
        await _changed(parts, caller, Remove(shape.kind, name))
        return shown.Deleted(killed=await _killed(parts, caller) if kill else [])

    return handler


def _add(shape: Shape) -> None:
    all_of_them, one = f"/{shape.plural}", f"/{shape.plural}/{{name}}"
    made: dict[int | str, dict[str, Any]] = {201: {"description": "It was not there yet.", "model": shape.one}}
    router.add_api_route(all_of_them, _list(shape), methods=["GET"], name=f"list_{shape.plural}",
                         response_model=shape.many, description="All that you may see, the oldest first.")  # fmt: skip
    router.add_api_route(all_of_them, _post(shape), methods=["POST"], name=f"create_{shape.word}", status_code=201,
                         response_model=shape.one, description="Make one that is not there yet.")  # fmt: skip
    router.add_api_route(one, _get(shape), methods=["GET"], name=f"get_{shape.word}",
                         response_model=shape.one, description="One of them.")  # fmt: skip
    router.add_api_route(one, _put(shape), methods=["PUT"], name=f"put_{shape.word}", responses={**RESPONSES, **made},
                         response_model=shape.one, description="Make one, or replace that of this name.")  # fmt: skip
    router.add_api_route(one, _delete(shape), methods=["DELETE"], name=f"delete_{shape.word}",
                         description="Take one away. Its established connections go on.")  # fmt: skip


for _shape in SHAPES:
    _add(_shape)


async def _changed(parts: Parts, caller: Caller, change: Put | Remove) -> Outcome:
    """Raises ProblemError."""
    (outcome,) = await parts.resources.change([change], caller)
    if outcome.problem is not None:
        raise outcome.problem
    return outcome


async def _entry(outcome: Outcome, parts: Parts) -> dict[str, Any]:
    assert outcome.entry is not None
    return (await _shown([outcome.entry], parts))[0]


async def _shown(entries: Sequence[Entry], parts: Parts) -> list[dict[str, Any]]:
    """Of proxies with what the switch tells, if it tells something."""
    told = await rows(parts, "proxies") if any(one.key[0] == "Proxy" for one in entries) else None
    statuses = shown.statuses(told.proxies if told else ())
    return [shown.document(one, parts.settings.dns_domain, statuses) for one in entries]


async def _killed(parts: Parts, caller: Caller) -> list[views.Connection]:
    return connection_views(parts, caller, await parts.resources.kill_forbidden(caller))


_ANY_DOCUMENT = WithJsonSchema(
    {"anyOf": [{"$ref": f"#/components/schemas/{shape.document.__name__}"} for shape in SHAPES]}
)


@router.post("/apply")
async def apply(
    documents: Annotated[list[Annotated[Any, _ANY_DOCUMENT]], Body()],
    parts: TheParts,
    caller: TheCaller,
    dry_run: Annotated[bool, Query(alias="dryRun", description="Judge, and change nothing.")] = False,
    kill: Kill = False,
) -> shown.AllApplied:
    """Make or replace many resources. A wrong one is rejected alone; those that are good stay."""
    if kill:
        may_kill(caller)
    outcomes = await parts.resources.change([Put(one) for one in documents], caller, dry_run=dry_run)
    killed = await _killed(parts, caller) if kill and not dry_run else []
    return shown.AllApplied(results=[shown.applied(one) for one in outcomes], killed=killed)


@router.get("/backends")
async def list_backends(parts: TheParts, caller: TheCaller) -> shown.Backends:
    """Every backend of the vservices and references that you may see, but for other users' apps."""
    apps = {app.id: app for app in parts.registry.apps()}
    told = (await parts.registry.link.query("backends")).backends
    entries = [one for kind in BALANCED for one in parts.resources.catalog.entries(kind)]
    names = {one.resource.name for one in entries if caller.sees_owner(one.resource.uid)}
    rows = [row for row in told if row.vservice in names and (not row.app_id or caller.sees(apps.get(row.app_id)))]
    return shown.Backends(backends=[shown.backend(row) for row in rows])
