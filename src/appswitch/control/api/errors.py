"""Every error leaves as a problem: ours, FastAPI's, Starlette's, and those that nobody thought of."""

from __future__ import annotations

import json

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from appswitch.control.link import SwitchDownError
from appswitch.control.problems import ProblemError
from appswitch.control.resources import faults

MEDIA_TYPE = "application/problem+json"

# Where the framework itself says no.
_SLUGS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}

_log = structlog.get_logger(part="api")


def response(problem: ProblemError, instance: str | None) -> Response:
    """``instance`` is the path that was asked for."""
    return Response(json.dumps(problem.body(instance)), problem.status, problem.headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Have all exceptions answered as problems."""
    app.exception_handler(ProblemError)(_problem)
    app.exception_handler(SwitchDownError)(_switch_down)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_http)
    app.exception_handler(Exception)(_unexpected)


async def _problem(request: Request, error: ProblemError) -> Response:
    return response(error, request.url.path)


async def _switch_down(request: Request, error: SwitchDownError) -> Response:
    return response(ProblemError("switch-unavailable", str(error)), request.url.path)


async def _http(request: Request, error: HTTPException) -> Response:
    slug = _SLUGS.get(error.status_code, "internal" if error.status_code >= 500 else "bad-request")
    if slug == "not-found":
        detail = f"there is nothing at {request.url.path}: see /v1/openapi.json for what there is"
    elif slug == "method-not-allowed":
        detail = f"{request.method} does not go with {request.url.path}"
    else:
        detail = str(error.detail)
    return response(ProblemError(slug, detail, headers=error.headers), request.url.path)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    # The first part of a path is "body", "path" or "query".
    found = [faults.fault({**one, "loc": one["loc"][1:]}) for one in error.errors()]
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method in ("POST", "PUT") and media != "application/json":
        return response(ProblemError("invalid", "the body must be application/json"), request.url.path)
    if any(one["type"] == "json_invalid" for one in error.errors()):
        return response(ProblemError("malformed-json", found[0]["detail"]), request.url.path)
    return response(ProblemError("invalid", faults.text(found), found), request.url.path)


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("a request failed", path=request.url.path, exc_info=error)
    return response(
        ProblemError("internal", "a mistake of the daemon's: please report it, with what `ax debug dump` writes"),
        request.url.path,
    )
