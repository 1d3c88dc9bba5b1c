"""/v1/debug: is what the daemon believes true, and what to send along with a bug report. For administrators."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from appswitch.control import dump
from appswitch.control.access import Caller
from appswitch.control.api.deps import RESPONSES, TheCaller, TheParts
from appswitch.control.api.views import View
from appswitch.control.link import SwitchLink, server_key
from appswitch.control.problems import ProblemError
from appswitch.model import Difference

router = APIRouter(prefix="/v1/debug", tags=["debug"], responses=RESPONSES)


LOOKS = 3


class ShownDifference(View):
    """Something that the daemon believes and the kernel does not, or the reverse."""

    kind: str = Field(description="A slug: docs/debugging.md has the list.")
    subject: str = Field(description="What it is about: an app, an address, a descriptor.")
    detail: str


class Checked(View):
    """Reply to GET /v1/debug/check."""

    differences: list[ShownDifference]
    looked: dict[str, int] = Field(description="How much was compared, by kind.")


class Dump(View):
    """Reply to GET /v1/debug/dump. What is in it is for people who know the sources, and may change."""

    model_config = ConfigDict(extra="allow")

    version: str
    checked: Checked | None = Field(description="As /v1/debug/check; null while the switch is away.")


@router.get("/check")
async def check(parts: TheParts, caller: TheCaller) -> Checked:
    """Compare the daemon's tables with the kernel's. Takes a few seconds where something differs."""
    _must_administrate(caller)
    return await _check(parts)


@router.get("/dump")
async def get_dump(parts: TheParts, caller: TheCaller) -> Dump:
    """All that helps to find a mistake in AppSwitch, and no secrets."""
    _must_administrate(caller)
    found: dict[str, Any] = await dump.collect(parts.settings, parts.registry.link, parts.resources)
    checked = await _check(parts) if parts.registry.link.connected.is_set() else None
    return Dump(**found, checked=checked)


async def _check(parts: TheParts) -> Checked:
    told = await parts.registry.link.check()
    mirror = await _mirror(parts.registry.link)
    return Checked(
        differences=[
            ShownDifference(kind=one.kind, subject=one.subject, detail=one.detail)
            for one in (*told.differences, *mirror)
        ],
        looked=told.looked | {"mirrored": len(parts.registry.link.apps) + len(parts.registry.link.servers)},
    )


async def _mirror(link: SwitchLink) -> list[Difference]:
    """Control's own tables, against the switch's. What came in the middle is no difference: it is looked at again."""
    lasting: set[tuple[str, str]] = set()
    for look in range(LOOKS):
        known = {row.app.id for row in (await link.query("apps")).apps}
        found = {("app-not-mirrored", f"{one:08x}") for one in known ^ link.apps.keys()}
        listening = {server_key(row) for row in (await link.query("servers")).servers}
        found |= {
            ("server-not-mirrored", f"{key[0]:08x} at {key[2]}:{key[3]}") for key in listening ^ link.servers.keys()
        }
        lasting = found if look == 0 else lasting & found
        if not lasting:
            break
    return [
        Difference(kind=kind, subject=subject, detail="switch and control do not agree on it")
        for kind, subject in sorted(lasting)
    ]


def _must_administrate(caller: Caller) -> None:
    if not caller.admin:
        raise ProblemError("forbidden", "only administrators look behind the scenes: root, or the daemon's own user")
