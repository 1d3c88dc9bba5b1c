"""The ASGI application: routes, errors, and the OpenAPI document at /v1/openapi.json."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

import appswitch
from appswitch.control.api import apps, debug, errors, events, flows, metrics, network, policytest, resources, tables
from appswitch.control.api.deps import Parts
from appswitch.control.api.guard import Guard

DESCRIPTION = """\
On the daemon's Unix socket (`rest.sock` in its run directory) you are who the kernel says you are; over TCP everybody
reads, and changing needs the daemon's token (`Authorization: Bearer ...`). Errors are RFC 9457 problems, whose `type`
is `urn:appswitch:problem:` and a slug that does not change.
"""


def create(parts: Parts) -> FastAPI:
    """The API over ``parts``. Peers of Unix sockets are expected in the scope's state (`server.PeerProtocol`)."""
    app = FastAPI(
        title="AppSwitch",
        version=appswitch.__version__,
        description=DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.parts = parts
    for module in (apps, tables, network, resources, events, flows, metrics, policytest, debug):
        app.include_router(module.router)
    errors.install(app)
    app.add_middleware(Guard)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign] # as FastAPI's manual has it
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _document(app: FastAPI) -> dict[str, Any]:
    """FastAPI would say that problems are application/json."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path in document["paths"].values():
            for operation in path.values():
                content = operation["responses"]["default"]["content"]
                content[errors.MEDIA_TYPE] = content.pop("application/json")
        app.openapi_schema = document
    return app.openapi_schema
