"""What handlers are given: the daemon's parts, and who asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request

from appswitch.control.access import Caller, caller
from appswitch.control.analyzer import Analyzer
from appswitch.control.api.views import ProblemDetail
from appswitch.control.registry import Registry
from appswitch.control.resources.service import Resources
from appswitch.control.settings import Settings

# For every operation: whatever goes wrong is a problem.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"model": ProblemDetail, "description": "A problem (RFC 9457)"},
}


class Parts(msgspec.Struct):
    """The daemon as handlers see it."""

    settings: Settings
    registry: Registry
    resources: Resources
    analyzer: Analyzer
    token: str | None = None  # of TCP; changes on SIGHUP
    started: float = msgspec.field(default_factory=time.monotonic)
    dns_cached: Callable[[], int] | None = None  # answers that the DNS server keeps, if there is one


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _caller(request: Request) -> Caller:
    peer = getattr(request.state, "peer", None)
    return caller(peer, request.headers.get("authorization"), _parts(request).token)


TheParts = Annotated[Parts, Depends(_parts)]
TheCaller = Annotated[Caller, Depends(_caller)]
