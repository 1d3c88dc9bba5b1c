"""/v1/apps: what runs, and making known what is about to."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from appswitch.control.access import Caller
from appswitch.control.api import requests, views
from appswitch.control.api.deps import RESPONSES, Parts, TheCaller, TheParts
from appswitch.control.problems import ProblemError
from appswitch.control.registry import Registration
from appswitch.model import AppRow

router = APIRouter(prefix="/v1/apps", tags=["apps"], responses=RESPONSES)

AppIdPath = Annotated[str, Path(pattern="^[0-9a-f]{8}$", description="As /v1/apps gives it.")]


@router.get("")
async def list_apps(parts: TheParts, caller: TheCaller) -> views.Apps:
    """Every app that you may see, the oldest first."""
    rows = sorted(parts.registry.link.apps.values(), key=lambda row: row.app.created)
    return views.Apps(apps=[views.app_entry(row, whole=caller.writes) for row in rows if caller.sees(row.app)])


@router.get("/{appid}")
async def get_app(appid: AppIdPath, parts: TheParts, caller: TheCaller) -> views.AppEntry:
    """One app."""
    return views.app_entry(visible(appid, parts, caller), whole=caller.writes)


@router.post("", status_code=201)
async def register_app(
    new: requests.NewAppRequest, parts: TheParts, caller: TheCaller, response: Response
) -> views.Registered:
    """Make an app known to the switch. It is yours: it runs as the user who asks here."""
    made = await parts.registry.register(new.checked(), caller)
    response.headers["Location"] = f"/v1/apps/{made.app.appid}"
    response.headers["Cache-Control"] = "no-store"  # the token is a secret
    attach = str(parts.settings.run_dir.attach)
    return views.Registered(
        id=made.app.id,
        appid=made.app.appid,
        token=made.token.hex(),
        expires=made.expires,
        attach=attach,
        launcher=launcher_options(made, attach),
        app=views.app(made.app),
    )


@router.delete("/{appid}", status_code=204)
async def forget_app(appid: AppIdPath, parts: TheParts, caller: TheCaller) -> None:
    """Drop a registration that no launcher has used. A running app ends with its last process."""
    await parts.registry.forget(int(appid, 16), caller)


def visible(appid: str, parts: Parts, caller: Caller) -> AppRow:
    """An app that the caller may see. Raises ProblemError."""
    row = parts.registry.link.apps.get(int(appid, 16))
    if row is None or not caller.sees(row.app):
        raise ProblemError("no-such-app", f"no app has the id {appid}")
    return row


def launcher_options(made: Registration, attach: str) -> list[str]:
    """The command line of native/launcher.c as far as it follows from what was registered."""
    app = made.app
    options = ["--attach", attach]
    if app.netns == "new":
        options.append("--new-netns")
        if made.resolv_conf:
            options += ["--resolv-conf", made.resolv_conf]
        if app.interface:
            options += ["--interface", app.interface]
        for ip in app.ips:
            options += ["--address", f"{ip}/128" if ":" in ip else f"{ip}/32"]
    return options
