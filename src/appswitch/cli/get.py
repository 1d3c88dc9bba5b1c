"""``ax get``: what the daemon knows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from appswitch.cli import create, locate, names, output, rest, units

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
  ax get vservices web -o yaml             a document that ax apply takes
  ax get proxies -o wide                   with what became of their connections
  ax get backends web                      how the backends of a vservice are doing
"""
# Shown as documents, as `ax apply` takes them.
DOCUMENTS = ("vservices", "policies", "references", "proxies")
ENDPOINT = "delegate.sock"  # in the run directory: where a proxy without a listener connects to


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


def _called(row: output.Row) -> str:
    return str(row["metadata"]["name"])


def _spec(name: str, default: str = "") -> Any:
    return lambda row: str(row["spec"].get(name, default))


def _list(name: str) -> Any:
    return lambda row: _csv(row["spec"].get(name, ()))


def _backend(given: output.Row) -> str:
    if "labels" in given:
        return "+".join(f"{key}={value}" for key, value in given["labels"].items())
    return str(given.get("ip") or given.get("name") or given.get("external"))


def _backends(name: str) -> Any:
    return lambda row: _csv(map(_backend, row["spec"].get(name, ())))


def _selector(given: output.Row) -> str:
    words = [f"{key}={value}" for key, value in given.get("labels", {}).items()]
    words += [str(one) for name in ("names", "networks", "executables") for one in given.get(name, ())]
    words += [f"uid={one}" for one in given.get("uids", ())]
    return "+".join(words) or "*"


def _selectors(name: str) -> Any:
    return lambda row: _csv(map(_selector, row["spec"].get(name, ()))) or "*"


def _wants(row: output.Row) -> str:
    """The protocols: where none is named, by their attributes."""
    found: dict[str, None] = {}
    for match in row["spec"].get("wants", ()):
        found.update(dict.fromkeys(match.get("protocol") or (name.partition(".")[0] for name in match)))
    return _csv(found)


def _status(name: str) -> Any:
    return lambda row: str(row["status"][name]) if row.get("status") else ""


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
    "vservices": (
        ("VSNAME", _called),
        ("VSTYPE", _spec("lbType", "RoundRobin")),
        ("VSIP", lambda row: _csv(row["status"]["ips"])),
        ("VSPORTS", _list("ports")),
        ("VSBACKENDIPS", _backends("backends")),
    ),
    "policies": (
        ("NAME", _called),
        ("ACTION", _spec("action")),
        ("DIRECTION", _spec("direction", "ingress")),
        ("FROM", _selectors("from")),
        ("TO", _selectors("to")),
        ("PORTS", _list("ports")),
        ("L7", lambda row: str(len(row["spec"].get("l7", ())) or "")),
        ("DRYRUN", lambda row: "yes" if row["spec"].get("dryRun") else ""),
    ),
    "references": (
        ("NAME", _called),
        ("NETWORK", _spec("network")),
        ("PORTS", _list("ports")),
        ("TO", _backends("to")),
        ("WAIT", lambda row: f"{row['spec'].get('wait', 30):g}"),
    ),
    "proxies": (
        ("ID", _called),
        ("PROTO", lambda row: _wants(row) or "tcp"),
        ("LISTENER", _spec("listener", ENDPOINT)),
        ("DIALERS", _status("active")),
    ),
    "backends": (
        ("VSNAME", _flat("vservice")),
        ("PORT", _flat("port")),
        ("ROUTE", _flat("route")),
        ("BACKEND", _flat("backend")),
        ("SPEC", _flat("spec")),
        ("STATE", _flat("state")),
        ("WEIGHT", _flat("weight")),
        ("PRIORITY", _flat("priority")),
        ("ACTIVE", _flat("active")),
        ("TOTAL", _flat("total")),
        ("FAILURES", _flat("failures")),
    ),
    "names": (
        ("NAME", _flat("name")),
        ("FQDN", _flat("fqdn")),
        ("ADDRESSES", lambda row: _csv(row["addresses"])),
        ("APPS", lambda row: _csv(row["apps"])),
        ("SOURCE", _flat("source")),
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

# What is meant by one of them.
SINGULAR = {plural.removesuffix("s"): plural for plural in COLUMNS} | create.PLURALS

# What `-o wide` adds.
WIDE: dict[str, output.Columns] = {
    "proxies": (
        ("STATE", _status("state")),
        ("TAKEN", _status("taken")),
        ("PASSED", _status("passed")),
        ("DROPPED", _status("dropped")),
        ("HANDEDON", _status("handedOn")),
        ("FAILED", _status("failed")),
    ),
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
@click.argument("what", metavar="WHAT", type=names.OneOf(COLUMNS, SINGULAR))
@click.argument("name", required=False, shell_complete=names.complete)
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
def command(what: str, name: str | None, form: str, watch: bool, run_dir: str | None) -> None:
    """Show what there is.

    WHAT is apps, servers (who listens), sockets, connections, vservices, policies, references, proxies, backends,
    names, pools (of addresses), exposed (ports of the host) or metrics.

    NAME is one vservice, policy, reference or proxy, or of backends those of one vservice.
    """
    if name is not None and what not in (*DOCUMENTS, "backends"):
        raise click.UsageError(f"only {', '.join(DOCUMENTS)} and backends are shown by name")
    if watch:
        from appswitch.cli import watch as watching

        watching.watch(what, form, run_dir, name)
        return
    rows = fetch(what, run_dir, name)
    if name is not None and not rows:
        _must_be(name, run_dir)
    if form in TABLES:
        head, *lines = output.table(columns(what, form), rows)
        click.echo("\n".join([output.heading(head), *lines]))
    elif form == "yaml" and what in DOCUMENTS:
        output.dump_all(rows, sys.stdout)
    else:
        output.dump(rows[0] if name and what in DOCUMENTS else rows, form, sys.stdout)


def _must_be(name: str, run_dir: str | None) -> None:
    """Raises rest.RefusedError where there is nothing that could have backends."""
    try:
        fetch("references", run_dir, name)
    except rest.RefusedError:
        fetch("vservices", run_dir, name)


def fetch(what: str, run_dir: str | None, name: str | None = None) -> list[output.Row]:
    """The rows of /v1/WHAT, or those with a name. Raises rest.DaemonDownError with what to do, rest.RefusedError."""
    if name is not None and what in DOCUMENTS:
        return [locate.ask(run_dir, "GET", f"/v1/{what}/{quote(name, safe='')}")]
    rows: list[output.Row] = locate.ask(run_dir, "GET", f"/v1/{what}")[what]
    return [row for row in rows if name in (None, row.get("vservice"))]
