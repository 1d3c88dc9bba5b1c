"""Names of resources and of their kinds: what a shell completes them with, and what is meant by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from appswitch.cli import create, locate, rest

OF_RESOURCES = ("vservices", "policies", "references", "proxies")


class OneOf(click.Choice[str]):
    """A word of a few, or another spelling of it (``also``: from that)."""

    def __init__(self, words: Iterable[str], also: Mapping[str, str]) -> None:
        super().__init__(list(words))
        self._also = also

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Raises click.UsageError, in one line."""
        meant = self._also.get(value, value)
        if meant not in self.choices:
            raise click.UsageError(f"there is no {value!r}: there are {', '.join(self.choices)}", ctx)
        return super().convert(meant, param, ctx)


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
