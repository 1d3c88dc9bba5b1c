"""nginx's ``allow`` and ``deny``, which are inherited by what has none of its own; ngx_http_access_module."""

from __future__ import annotations

from collections.abc import Sequence

from appswitch.cli.imports import ranges
from appswitch.cli.imports.nginx_file import Directive
from appswitch.cli.imports.packetfilter import Accept, Deny
from appswitch.cli.imports.proxy import NO_NAMES, AccessRule
from appswitch.cli.imports.report import Report
from appswitch.resources import ErrorName


def rules(contexts: Sequence[Directive], error: ErrorName, report: Report) -> list[AccessRule]:
    """Of the innermost context that has some; the outermost stands first."""
    for context in reversed(contexts):
        lines = list(context.all("allow", "deny"))
        if lines:
            return [rule for line in lines for rule in _rule(line, error, report)]
    return []


def has_own(context: Directive) -> bool:
    """Whether it inherits nothing."""
    return context.first("allow", "deny") is not None


def _rule(line: Directive, error: ErrorName, report: Report) -> list[AccessRule]:
    text = line.args[0] if line.args else ""
    if text == "unix:":
        report.leave_out(line.where, line.text, "nobody comes by a Unix socket of nginx's")
        return []
    try:
        source = ranges.ADDRESSES if text == "all" else ranges.network(text)
    except ValueError as err:
        report.leave_out(line.where, line.text, f"{err}; {NO_NAMES}")
        return []
    return [AccessRule(line.where, line.text, Accept() if line.name == "allow" else Deny(error), source)]
