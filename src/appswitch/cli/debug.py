"""``ax debug``: is what the daemon believes true, and what to send along with a bug report."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

import appswitch
from appswitch.cli import locate, options, output, rest
from appswitch.kernel import features

COLUMNS: output.Columns = (
    ("KIND", lambda row: str(row["kind"])),
    ("SUBJECT", lambda row: str(row["subject"])),
    ("DETAIL", lambda row: str(row["detail"])),
)

EPILOG = """\
Only root and the daemon's own user may ask. docs/debugging.md tells what the kinds mean.

\b
Examples:
  ax debug check
  ax debug check -o json
  ax debug dump report.json                       read it before you send it
  ax debug dump | jq .log.switch
"""

CHECK_EPILOG = """\
\b
Exit status: 0 nothing differs, 1 something does, 2 it could not be asked.
"""

DUMP_EPILOG = """\
In it: versions, what `ax doctor` finds, options, tables, the last lines of the log, counters, limits, and what
`ax debug check` says. Not in it: tokens, payload, first bytes and what they tell, environment and arguments of
programs, what policies and routes compare with. Addresses, names and labels are in it.

\b
Exit status: 0 written, also where no daemon answers: then without what only it knows; 1 it cannot be written.
"""

_run_dir = click.option(
    "--run-dir", metavar="DIR", envvar="AX_RUN_DIR", show_envvar=True, help="The daemon's directory."
)


@click.group("debug", epilog=EPILOG)
def command() -> None:
    """Check the daemon's tables against the kernel's, and write a bug report."""


@command.command("check", epilog=CHECK_EPILOG)
@click.option("-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_run_dir
def check(form: str, run_dir: str | None) -> int:
    """Compare what the daemon believes with what the kernel says. Apps notice nothing."""
    try:
        found = locate.ask(run_dir, "GET", "/v1/debug/check")
    except (rest.DaemonDownError, rest.RefusedError) as err:
        raise options.UsageError(str(err)) from None  # 1 would be a difference
    differences = found["differences"]
    if form == "json":
        output.dump(found, form, sys.stdout)
    elif differences:
        click.echo("\n".join(output.table(COLUMNS, differences)))
    else:
        click.echo("nothing differs: " + ", ".join(f"{count} {name}" for name, count in found["looked"].items()))
    return 1 if differences else 0


@command.command("dump", epilog=DUMP_EPILOG)
@click.argument("file", type=click.Path(dir_okay=False), required=False)
@_run_dir
def dump(file: str | None, run_dir: str | None) -> int:
    """Write a bug report, JSON without secrets, to FILE or to standard output."""
    report = json.dumps(_report(run_dir), indent=2, ensure_ascii=True) + "\n"
    if file is None:
        click.echo(report, nl=False)
        return 0
    try:
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(number, "w", encoding="ascii") as out:
            out.write(report)
    except OSError as err:
        raise click.ClickException(f"cannot write {file}: {err.strerror or err}; name another file") from None
    click.echo(f"{file} has no secrets that AppSwitch knows of; read it before you send it.", err=True)
    return 0


def _report(run_dir: str | None) -> dict[str, Any]:
    try:
        daemon: Any = locate.ask(run_dir, "GET", "/v1/debug/dump")
    except (rest.DaemonDownError, rest.RefusedError) as err:
        daemon = f"it tells nothing: {err}"
    return {
        "ax": {"version": appswitch.__version__, "python": sys.version, "uid": os.geteuid()},
        "doctor": [one._asdict() for one in features.probe()],
        "daemon": daemon,
    }
