"""``ax get``: what the daemon knows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from appswitch.cli import locate, output, rest, units

TABLES = ("table", "wide")  # forms

EPILOG = """\
\b
Examples:
  ax get apps
  ax get servers -o json
  ax get apps --watch                      lines as they change
  ax get connections -o wide               with service, backend, protocol, bytes, round trip
  ax get connections -o yaml
  ax get metrics                           memory, CPU time and threads of apps
  ax get names                             what can be resolved, and to what
  ax get exposed                           ports of the host that lead to apps
"""


def _csv(values: Any) -> str:
    return ",".join(map(str, values))


def _labels(row: output.Row) -> str:
    return _csv(f"{key}={value}" for key, value in sorted(row["app"]["labels"].items()))


def _flat(name: str) -> Any:
    return lambda row: str(row[name])


def _named(name: str) -> Any:
    return lambda row: row[name] or ""


def _figure(name: str, show: Callable[[Any], str]) -> Any:
    return lambda row: show(row["figures"][name]) if row["figures"] else ""


def _growth(name: str) -> Any:
    return lambda row: units.size(row["growth"][name]) if row["growth"] else ""


def _app(name: str) -> Any:
    return lambda row: str(row["app"][name] or "")


COLUMNS: dict[str, output.Columns] = {
    "apps": (
        ("NAME", _app("name")),
        ("APPID", _app("appid")),
        ("NODEID", _app("node")),
        ("CLUSTER", _app("cluster")),
        ("APPIP", lambda row: _csv(row["app"]["ips"])),
        ("DRIVER", _app("driver")),
        ("LABELS", _labels),
        ("ZONES", lambda row: _csv(row["app"]["zones"])),
    ),
    "servers": (
        ("NODEID", _flat("node")),
        ("CLUSTER", _flat("cluster")),
        ("APPID", _flat("appid")),
        ("PROTO", _flat("proto")),
        ("SERVICEADDR", lambda row: _csv(row["service_addrs"])),
        ("IPV4ADDR", lambda row: _csv(row["actual"])),
    ),
    "sockets": (
        ("ID", _flat("id")),
        ("NODEID", _flat("node")),
        ("APPID", _flat("appid")),
        ("INODE", _flat("inode")),
        ("PROTO", _flat("proto")),
        ("FLAGS", lambda row: _csv(row["flags"])),
        ("BINDIP", _flat("bind_ip")),
        ("BACKLOG", _flat("backlog")),
    ),
    "connections": (
        ("PROTO", _flat("proto")),
        ("CLIENT", _flat("client")),
        ("CLIENTAPP", lambda row: row["client_appid"] or ""),
        ("SERVER", _flat("server")),
        ("SERVERAPP", lambda row: row["server_appid"] or ""),
        ("TRANSPORT", _flat("transport")),
    ),
    "names": (
        ("NAME", _flat("name")),
        ("FQDN", _flat("fqdn")),
        ("ADDRESSES", lambda row: _csv(row["addresses"])),
        ("APPS", lambda row: _csv(row["apps"])),
    ),
    "pools": (
        ("NETWORK", _flat("network")),
        ("USED", _flat("used")),
        ("SIZE", _flat("size")),
        ("SOURCE", _flat("source")),
    ),
    "exposed": (
        ("APPID", _flat("appid")),
        ("NAME", lambda row: row["name"] or ""),
        ("INTERNAL", _flat("internal")),
        ("HOSTADDR", _flat("address")),
        ("PROTO", _flat("proto")),
        ("STATE", _flat("state")),
    ),
    "metrics": (
        ("NAME", _named("name")),
        ("APPID", _flat("appid")),
        ("PROCESSES", _figure("processes", str)),
        ("THREADS", _figure("threads", str)),
        ("FDS", _figure("descriptors", str)),
        ("CPU", _figure("cpu", units.seconds)),
        ("RSS", _figure("resident", units.size)),
        ("HEAP", _figure("anonymous", units.size)),
        ("HEAP+", _growth("anonymous")),
        ("STACK", _figure("stack", units.size)),
        ("STACK+", _growth("stack")),
        ("ALIVE", lambda row: units.optional(units.seconds, row["alive_after"])),
    ),
}

# What `-o wide` adds.
WIDE: dict[str, output.Columns] = {
    "connections": (
        ("VSERVICE", _named("vservice")),
        ("BACKEND", _named("backend")),
        ("PROTOCOL", _named("protocol")),
        ("BYTES", lambda row: units.optional(units.size, row["bytes_sent"], row["bytes_received"])),
        ("RTT", lambda row: units.optional(units.microseconds, row["rtt"])),
        ("RETRANS", lambda row: units.optional(str, row["retransmits"])),
    ),
}


def columns(what: str, form: str) -> output.Columns:
    """Of a table."""
    return (*COLUMNS[what], *(WIDE.get(what, ()) if form == "wide" else ()))


@click.command("get", epilog=EPILOG)
@click.argument("what", type=click.Choice(list(COLUMNS)))
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "wide", "json", "yaml"]),
    default="table",
    show_default=True,
    help="How to print it; wide is a table with more columns.",
)
@click.option("-w", "--watch", is_flag=True, help="Go on, and print what changes.")
@click.option("--run-dir", metavar="DIR", envvar="AX_RUN_DIR", show_envvar=True, help="The daemon's directory.")
def command(what: str, form: str, watch: bool, run_dir: str | None) -> None:
    """Show what there is: apps, servers (who listens), names, address pools, exposed host ports, and so on."""
    if watch:
        from appswitch.cli import watch as watching

        watching.watch(what, form, run_dir)
        return
    rows = fetch(what, run_dir)
    if form in TABLES:
        head, *lines = output.table(columns(what, form), rows)
        click.echo("\n".join([output.heading(head), *lines]))
    else:
        output.dump(rows, form, sys.stdout)


def fetch(what: str, run_dir: str | None) -> list[output.Row]:
    """The rows of /v1/WHAT. Raises rest.DaemonDownError with what to do about it."""
    try:
        _, sock = locate.reach(run_dir)
    except rest.DaemonDownError as err:
        raise rest.DaemonDownError(f"{err}: {rest.explain_start(locate.own(run_dir).directory)}") from None
    rows: list[output.Row] = rest.request(sock, "GET", f"/v1/{what}")[what]
    return rows
