"""``ax import``: documents on standard output, what is left out on standard error."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import click

from appswitch.cli import options, output
from appswitch.cli.imports.documents import Names, document
from appswitch.cli.imports.report import InputError, Report, shown
from appswitch.resources import Resource

MAX_INPUT = 32 << 20  # bytes
LEFT_OUT = 3  # the exit status with --strict

FORMATS = ("iptables", "nft", "haproxy", "nginx")  # each a module of this package with a function `resources`

EPILOG = """\
\b
Formats:
  iptables   what iptables-save or ip6tables-save prints, or both of them one after the other
  nft        what nft -j list ruleset prints
  haproxy    haproxy.cfg
  nginx      nginx.conf, or what nginx -T prints: that has the files that it includes

What cannot be expressed is listed on standard error, each with its line and the reason; the rest is printed all the
same. docs/import.md has a table of what becomes what.

\b
Exit status:
  0   documents were printed, whether or not something was left out
  2   the input is not of that format
  3   something was left out, and --strict was given

\b
Examples:
  iptables-save | ax import iptables                        look at it first
  iptables-save | ax import iptables | ax apply -f -
  nft -j list ruleset | ax import nft - --strict > new.yaml
  ax import haproxy /etc/haproxy/haproxy.cfg -o json
  nginx -T | ax import nginx - --name-prefix web-
"""


@click.command("import", epilog=EPILOG)
@click.argument("source", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("file", metavar="[FILE|-]", default="-")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="YAML documents, or JSON with one document a line.",
)
@click.option("--name-prefix", metavar="P", default="", help="What all names begin with.")
@click.option("--strict", is_flag=True, help="End with status 3 if something was left out.")
def command(source: str, file: str, form: str, name_prefix: str, strict: bool) -> int:
    """Turn the configuration of a packet filter or proxy into vservices and policies. Needs no daemon.

    FORMAT is iptables, nft, haproxy or nginx.
    """
    report = Report()
    try:
        found = _reader(source)(_text(file), _shown_name(file), Names(name_prefix), report)
    except InputError as err:
        raise options.UsageError(shown(str(err), 400)) from None
    for resource in found:
        output.dump_line(document(resource), form, sys.stdout)
    for line in _told(found, report):
        click.echo(line, err=True)
    return LEFT_OUT if strict and report.left_out else 0


def _reader(source: str) -> Callable[[str, str, Names, Report], list[Resource]]:
    module = importlib.import_module(f"appswitch.cli.imports.{source}")
    reader: Callable[[str, str, Names, Report], list[Resource]] = module.resources
    return reader


def _shown_name(file: str) -> str:
    return "stdin" if file == "-" else file


def _text(file: str) -> str:
    """Raises InputError for what is no text."""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_INPUT + 1)
        else:
            with open(file, "rb") as opened:
                data = opened.read(MAX_INPUT + 1)
    except OSError as err:
        raise InputError(f"{file}: {err.strerror}") from None
    name = _shown_name(file)
    if len(data) > MAX_INPUT:
        raise InputError(f"{name}: more than {MAX_INPUT >> 20} MiB: give a part of it")
    if b"\0" in data:
        raise InputError(f"{name}: this is not text")
    text = data.decode("utf-8-sig", "replace")
    if not text.strip():
        raise InputError(f"{name}: there is nothing in it")
    return text


def _told(found: list[Resource], report: Report) -> list[str]:
    lines = [f"ax import: left out: {one}" for one in report.left_out]
    kinds = [type(one).__name__ for one in found]
    counts = f"{kinds.count('VService')} vservices, {kinds.count('Policy')} policies, {len(report.left_out)} left out"
    lines += [f"ax import: needs no policy: {count} {what}" for what, count in report.implied.items()]
    return [*lines, f"ax import: {counts}"]
