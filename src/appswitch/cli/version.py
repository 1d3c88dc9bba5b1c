"""``ax version``."""

from __future__ import annotations

import platform

import click

import appswitch


@click.command("version")
def command() -> None:
    """Show the versions of ax, Python and the kernel."""
    click.echo(f"ax {appswitch.__version__} (Python {platform.python_version()}, Linux {platform.release()})")
