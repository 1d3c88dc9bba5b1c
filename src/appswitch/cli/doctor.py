"""``ax doctor``: what the kernel has for this user, and what follows."""

from __future__ import annotations

import json
import os
import sys

import click

from appswitch.kernel import features

_SIGNS = {
    (True, True): ("found", "32"),
    (True, False): ("found", "32"),
    (False, True): ("MISSING", "31"),
    (False, False): ("missing", "33"),
}


@click.command(
    "doctor",
    epilog="""\
The exit status is 1 when something is missing that nothing works without (MISSING), else 0.

\b
Examples:
  ax doctor
  sudo -u nobody ax doctor                   another user may have less
  ax doctor -o json
""",
)
@click.option("-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(form: str) -> int:
    """Try each feature of the kernel that AppSwitch uses, as the user who asks, and tell what follows."""
    found = features.probe()
    fit = all(one.found for one in found if one.required)
    if form == "json":
        document = {"fit": fit, "uid": os.geteuid(), "features": [one._asdict() for one in found]}
        click.echo(json.dumps(document, indent=2))
    else:
        for one in found:
            click.echo(_line(one))
        who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
        click.echo(f"AppSwitch {'works' if fit else 'does not work'} on this kernel for {who}.")
    return 0 if fit else 1


def _line(one: features.Feature) -> str:
    word, colour = _SIGNS[one.found, one.required]
    sign = f"\x1b[{colour}m{word:<8}\x1b[0m" if sys.stdout.isatty() else f"{word:<8}"
    what = f"{one.detail}; {one.meaning}" if not one.found else one.detail
    return f"{sign}{one.name:<32}  Linux {one.since:<7} {what}"
