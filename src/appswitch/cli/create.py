"""``ax create``: one vservice, policy, reference or proxy from the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from appswitch.cli import locate, rest

F = TypeVar("F", bound=Callable[..., Any])

PLURALS = {"vservice": "vservices", "policy": "policies", "reference": "references", "proxy": "proxies"}
LB_TYPES = ["Random", "RoundRobin", "LeastConnections", "Weighted", "RingHash", "Maglev"]
ERRORS = ["EACCES", "EPERM", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH"]
VSERVICES = """\
  ax create vservice web --ip 10.1.0.100 --ports 80:8080 --backends 10.1.0.1,10.1.0.2
  ax create vservice api --ports 443 --backends app=api+zone=a,192.0.2.7:8443 --lbtype LeastConnections
"""
POLICIES = """\
  ax create policy web-from-lan --action allow --from-network 10.0.0.0/8 --to-name web --ports 80
  ax create policy no-guests --action deny --from role=guest --to app=db --error ECONNREFUSED
"""
REFERENCES = """\
  ax create reference olddb --network 10.9.0.5 --ports 5432 --to role=db --wait 60
"""
PROXIES = """\
  ax create proxy envoy --listener 10.1.0.50:15001 --wants http.path=/api/*,http.method=GET --on-failure open
  ax create proxy audit --capacity 1000 --timeout 0.2 --next envoy
"""


def _epilog(examples: str, not_said: str) -> str:
    said = f"What these options cannot say ({not_said}) is for documents: ax apply, docs/services.md."
    return f"\b\nExamples:\n{examples}\n{said}"


_run_dir = click.option(
    "--run-dir", metavar="DIR", envvar="AX_RUN_DIR", show_envvar=True, help="The daemon's directory."
)
_wait = click.option("--wait", type=float, metavar="SECONDS", help="How long connect(2) waits.  [default: 30]")
_lbtype = click.option("--lbtype", type=click.Choice(LB_TYPES, case_sensitive=False), default="RoundRobin",
                       show_default=True, metavar="|".join(LB_TYPES), help="How connections are spread.")  # fmt: skip

_proxy = click.option("--proxy", metavar="NAME", help="The proxy that gets the connections.")


@click.group("create", epilog=_epilog(VSERVICES + POLICIES + REFERENCES + PROXIES, "weights, routes, first bytes"))
def command() -> None:
    """Create a vservice, a policy, a reference or a proxy."""


@command.command("vservice", epilog=_epilog(VSERVICES, "weights, priorities, routes, limits"))
@click.argument("name")
@click.option("--ip", metavar="IP[,IP]", default="", help="Its virtual addresses.  [default: of a pool]")
@click.option("--ports", metavar="V:P,...", required=True, help="Virtual ports, and those of backends.")
@click.option("--backends", metavar="CSV", default="", help="IP, name, k=v+k2=v2, or ADDRESS:PORT outside.")
@_lbtype
@click.option("--hash-on", metavar="source|ATTRIBUTE", help="What RingHash and Maglev look at.")
@click.option("--external", is_flag=True, help="Reachable from outside, at this node's addresses.")
@click.option("--source-ip", is_flag=True, help="Connections of one client address stay with one backend.")
@_proxy
@_wait
@_run_dir
def vservice(name: str, run_dir: str | None, **options: Any) -> int:
    """Create a virtual address in front of backends."""
    spec = {
        "ips": _split(options["ip"]),
        "ports": _split(options["ports"]),
        "backends": _split(options["backends"]),
        "lbType": options["lbtype"],
        "hashOn": options["hash_on"],
        "external": options["external"],
        "sourceIp": options["source_ip"],
        "proxy": options["proxy"],
        "wait": options["wait"],
    }
    return _create("VService", name, spec, run_dir)


def _selecting(end: str) -> Callable[[F], F]:
    """The options of one end. Labels that are given again are another one; all else must hold together."""
    labels = click.option(f"--{end}", f"{end}_labels", metavar="K=V,...", multiple=True, help="Apps with these labels.")
    names = click.option(f"--{end}-name", metavar="CSV", default="", help="Names of apps and vservices, with *.")
    networks = click.option(f"--{end}-network", metavar="CSV", default="", help="Networks.")
    return lambda function: labels(names(networks(function)))


@command.command("policy", epilog=_epilog(POLICIES, "first bytes, several selectors"))
@click.argument("name")
@click.option(
    "--action", type=click.Choice(["allow", "deny"]), required=True, help="A deny wins, an allow list closes."
)
@click.option("--direction", type=click.Choice(["ingress", "egress"]), default="ingress", show_default=True,
              help="Whether an allow list closes servers (ingress) or clients (egress).")  # fmt: skip
@_selecting("from")
@click.option("--from-uid", metavar="CSV", default="", help="Users of the process that connects.")
@click.option("--from-executable", metavar="CSV", default="", help="Paths of its program, with *.")
@_selecting("to")
@click.option("--ports", metavar="CSV", default="", help="80, 8000-8999/tcp, 53/udp.  [default: all]")
@click.option("--error", type=click.Choice(ERRORS), default="EACCES", show_default=True, help="What denied calls get.")
@click.option("--dry-run", is_flag=True, help="The policy only reports what it would deny.")
@_proxy
@_run_dir
def policy(name: str, run_dir: str | None, **options: Any) -> int:
    """Create a rule on who may connect to whom."""
    spec = {
        "action": options["action"],
        "direction": options["direction"],
        "from": _selectors(options, "from"),
        "to": _selectors(options, "to"),
        "ports": _split(options["ports"]),
        "error": options["error"],
        "dryRun": options["dry_run"],
        "proxy": options["proxy"],
    }
    return _create("Policy", name, spec, run_dir)


@command.command("reference", epilog=_epilog(REFERENCES, "weights, priorities"),
                 short_help="Create an address that stands for a service.")  # fmt: skip
@click.argument("name")
@click.option("--network", "--ip", metavar="IP|CIDR", required=True, help="Where apps connect to.")
@click.option("--ports", metavar="V:P,...", default="", help="Ports there, and those of backends.  [default: all]")
@click.option("--to", metavar="CSV", required=True, help="What it stands for: as --backends of a vservice.")
@_lbtype
@_wait
@_run_dir
def reference(name: str, run_dir: str | None, **options: Any) -> int:
    """Create an address of apps' own configuration that stands for a service."""
    spec = {
        "network": options["network"],
        "ports": _split(options["ports"]),
        "to": _split(options["to"]),
        "lbType": options["lbtype"],
        "wait": options["wait"],
    }
    return _create("Reference", name, spec, run_dir)


@command.command("proxy", epilog=_epilog(PROXIES, "peek"))
@click.argument("name")
@click.option("--listener", metavar="IP:PORT|NAME:PORT", help="Of an app that is the proxy, and stays as it is.  "
              "[default: the proxy connects to the daemon's delegation endpoint]")  # fmt: skip
@click.option("--header", type=click.Choice(["none", "v2"]), help="What the listener reads first: nothing, or a PROXY "
              "protocol header.  [default: none]")  # fmt: skip
@click.option("--wants", metavar="ATTRIBUTE=PATTERN,...", multiple=True,
              help="Connections that it is for; given again, others as well.  [default: all]")  # fmt: skip
@click.option("--capacity", type=int, metavar="N", help="Connections at a time, without a listener.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Time to answer, without a listener.  [default: 1]")
@click.option("--on-failure", type=click.Choice(["open", "closed"]), default="closed", show_default=True,
              help="Where it cannot: as if there were no proxy, or refused.")  # fmt: skip
@click.option("--next", metavar="NAME", help="The proxy that gets what this one does not want, or hands on.")
@_run_dir
def proxy(name: str, run_dir: str | None, **options: Any) -> int:
    """Create a proxy, which vservices, policies and apps can name: --proxy."""
    spec = {
        "listener": options["listener"],
        "header": options["header"],
        "wants": [_match(text) for text in options["wants"]],
        "capacity": options["capacity"],
        "timeout": options["timeout"],
        "onFailure": options["on_failure"],
        "next": options["next"],
    }
    return _create("Proxy", name, spec, run_dir)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _selectors(options: dict[str, Any], end: str) -> list[dict[str, Any]]:
    """One for each set of labels, all of them with the other options."""
    others: dict[str, Any] = {
        "names": _split(options[f"{end}_name"]),
        "networks": _split(options[f"{end}_network"]),
        "uids": [_number(one) for one in _split(options.get(f"{end}_uid", ""))],
        "executables": _split(options.get(f"{end}_executable", "")),
    }
    rest_of_it = {name: values for name, values in others.items() if values}
    sets = [_labels(text, end) for text in options[f"{end}_labels"]]
    if sets:
        return [{"labels": labels, **rest_of_it} for labels in sets]
    return [rest_of_it] if rest_of_it else []


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise click.UsageError(f"--from-uid: {text!r} is not a number")
    return int(text)


def _labels(text: str, end: str) -> dict[str, str]:
    found = {}
    for part in _split(text):
        key, equals, value = part.partition("=")
        if not equals:
            raise click.UsageError(f"--{end}: {part!r} is not a label K=V; for names there is --{end}-name")
        found[key] = value
    return found


def _match(text: str) -> dict[str, list[str]]:
    """All attributes must match; one that is given twice, one of its patterns."""
    found: dict[str, list[str]] = {}
    for part in _split(text):
        name, equals, pattern = part.partition("=")
        if not equals:
            raise click.UsageError(f"--wants: {part!r} is not ATTRIBUTE=PATTERN")
        found.setdefault(name, []).append(pattern)
    return found


def _create(kind: str, name: str, spec: dict[str, Any], run_dir: str | None) -> int:
    given = {key: value for key, value in spec.items() if value is not None and value is not False and value != []}
    body = {"kind": kind, "metadata": {"name": name}, "spec": given}
    plural = PLURALS[kind.lower()]
    try:
        made = locate.ask(run_dir, "POST", f"/v1/{plural}", body)
    except rest.RefusedError as err:
        for line in describe(err):
            click.echo(f"ax: {line}", err=True)
        return 1
    ips = made.get("status", {}).get("ips", [])
    click.echo(f"{kind.lower()} {made['metadata']['name']} created" + (f" at {', '.join(ips)}" if ips else ""))
    return 0


def describe(err: rest.RefusedError) -> list[str]:
    """A refusal, a line for each field."""
    lines = [f"{'.'.join(map(str, one['path']))}: {one['detail']}" for one in err.errors if one.get("path")]
    return lines or [str(err)]
