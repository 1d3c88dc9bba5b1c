"""What a shell completes names of resources with."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from appswitch.cli import create, locate, rest

OF_RESOURCES = ("vservices", "policies", "references", "proxies")


def complete(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of the kind that was given before, of a daemon that answers; else nothing."""
    kind = str(ctx.params.get("kind") or ctx.params.get("what") or "")
    plural = create.PLURALS.get(kind, kind)
    if plural == "backends":
        plural = "vservices"
    if plural not in OF_RESOURCES:
        return []
    try:
        sock = locate.reach(ctx.params.get("run_dir"))[1]
        rows = rest.request(sock, "GET", f"/v1/{plural}")[plural]
    except (rest.DaemonDownError, rest.RefusedError):
        return []
    names = [row["metadata"]["name"] for row in rows]
    return [CompletionItem(name) for name in names if name.startswith(begun)]
