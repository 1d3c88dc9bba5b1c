"""``ax delete``: take vservices, policies, references and proxies away."""

from __future__ import annotations

from urllib.parse import quote

import click

from appswitch.cli import apply, create, locate, names, rest

EPILOG = """\
\b
Examples:
  ax delete vservice web
  ax delete policy web-from-lan guests --kill
"""


@click.command("delete", epilog=EPILOG)
@click.argument("kind", type=names.OneOf(create.PLURALS, {plural: one for one, plural in create.PLURALS.items()}))
@click.argument("what", nargs=-1, required=True, metavar="NAME...", shell_complete=names.complete)
@click.option("--kill", is_flag=True, help="Close the established connections that policies forbid then.")
@click.option("--ignore-not-found", is_flag=True, help="What is not there is no error.")
@click.option("--run-dir", metavar="DIR", envvar="AX_RUN_DIR", show_envvar=True, help="The daemon's directory.")
def command(kind: str, what: tuple[str, ...], kill: bool, ignore_not_found: bool, run_dir: str | None) -> int:
    """Delete vservices, policies, references or proxies.

    Their established connections go on, unless --kill says otherwise.
    """
    status = 0
    query = "?kill=true" if kill else ""
    for name in what:
        try:
            answer = locate.ask(run_dir, "DELETE", f"/v1/{create.PLURALS[kind]}/{quote(name, safe='')}{query}")
        except rest.RefusedError as err:
            if err.slug == "no-such-resource" and ignore_not_found:
                continue
            click.echo(f"ax: {err}", err=True)
            status = 1
            continue
        click.echo(f"{kind} {name} deleted")
        apply.report_killed(answer["killed"])
    return status
