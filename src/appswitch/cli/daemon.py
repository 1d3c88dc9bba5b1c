"""``ax daemon``: check and complete the options, then become the keeper."""

from __future__ import annotations

import os
import platform
import sys
import tomllib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from appswitch import address, networks
from appswitch.cli import hostnet, node, state, upgrade
from appswitch.paths import RunDir, run_dir

F = TypeVar("F", bound=Callable[..., Any])

EPILOG = """\
Every option can also come from the environment (AX_PORTS for --ports and so on) and from a TOML file named with
--config (ports = "40000-60000"). The command line comes first, then the environment, then the file.

\b
The daemon runs as root for all users of the host, or as a user for that user alone. It says when it is ready, on
standard output and to systemd (Type=notify), and ends on SIGTERM. SIGHUP has it read the token file again.
What apps see when a part of it dies, is upgraded or forgets is in docs/resilience.md.

\b
Examples:
  ax daemon                                  root: in /run/appswitch
  ax daemon --run-dir /tmp/ax --rest-port 0  a second one, without TCP
  ax daemon --ports 40000-49999 --node-interface eth0
  ax daemon --upgrade                        the one that runs goes on as this version
"""


def _ports(_: click.Context, __: click.Parameter, value: Any) -> str:
    """A list (of a file) or text, as the switch wants it."""
    return _checked(node.ports, ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def _rest_port(_: click.Context, __: click.Parameter, value: Any) -> str:
    """As control wants it."""
    text = str(value)
    if text != "auto" and not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise click.BadParameter(f"{text!r} is neither a port, nor 0 (no TCP), nor auto (6664 if it is free)")
    return text


def _host_name(_: click.Context, __: click.Parameter, value: Any) -> str | None:
    """Checked, if given."""
    return None if value is None else _checked(node.host_name, str(value))


def _dns_domain(_: click.Context, __: click.Parameter, value: Any) -> str:
    """As control wants it."""
    return _checked(address.parse_dns_domain, str(value))


def _dns_servers(_: click.Context, __: click.Parameter, value: Any) -> str | None:
    """A list (of a file) or text, as control wants it."""
    if value is None:
        return None
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return _checked(lambda given: ",".join(map(str, address.parse_dns_servers(given))), text)


def _networks(_: click.Context, __: click.Parameter, value: Any) -> str:
    """A list (of a file) or text, as control wants it."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return _checked(lambda given: ",".join(map(str, networks.parse_user_networks(given))), text)


def _pools(_: click.Context, __: click.Parameter, value: Any) -> str | None:
    """A list (of a file) or text, as control wants it. What the host has may not be in it."""
    if value is None:
        return None
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return _checked(lambda given: ",".join(map(str, networks.parse_pools(given, hostnet.networks()))), text)


def _checked(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except ValueError as err:  # NodeError is one
        raise click.BadParameter(str(err)) from None


def load_config(ctx: click.Context, _: click.Parameter, path: str | None) -> str | None:
    """Make a file's values defaults. Raises click.BadParameter if it cannot be read or says something unknown."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as err:
        raise click.BadParameter(f"{path}: {getattr(err, 'strerror', None) or err}") from None
    known = {param.name: param for param in ctx.command.params if param.name not in ("config", "help", "upgrading")}
    defaults = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            there = ", ".join(sorted(str(one).replace("_", "-") for one in known))
            raise click.BadParameter(f"{path}: there is no option {key!r}; there are {there}")
        defaults[name] = value
    ctx.default_map = defaults
    return path


def _option(name: str, help: str, negated: bool = False, **more: Any) -> Callable[[F], F]:  # noqa: A002 - click's word
    variable = "AX_" + name[2:].replace("-", "_").upper()
    more.setdefault("show_default", more.get("default") is not None)
    words = f"{name}/--no-{name[2:]}" if negated else name
    return click.option(words, help=help, envvar=variable, show_envvar=True, **more)


@click.command("daemon", epilog=EPILOG)
@click.option(
    "--config",
    type=click.Path(dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=load_config,
    envvar="AX_CONFIG",
    show_envvar=True,
    metavar="FILE.toml",
    help="Read options from this file.",
)
@_option("--run-dir", "Sockets and state. Default: /run/appswitch for root, else in $XDG_RUNTIME_DIR.", metavar="DIR")
@_option(
    "--state-dir",
    "Where vservices, policies, references and proxies are kept.  [default: /var/lib/appswitch for root, else "
    "$XDG_STATE_HOME/appswitch; with another run directory nowhere: they go when the daemon ends]",
    metavar="DIR",
)
@_option("--clean", "Forget what is kept there.", is_flag=True, default=False, show_default=False)
@_option("--node-name", "What this host is called.  [default: its host name]", callback=_host_name, metavar="NAME")
@_option(
    "--node-interface",
    "Address of this host, or the interface that has it.  [default: of the default route]",
    metavar="IP|NAME",
)
@_option("--cluster", "The cluster that this node is in.", callback=_host_name, metavar="NAME", default="appswitch")
@_option(
    "--ports",
    "Ports of the host that sockets of apps may take.",
    type=click.UNPROCESSED,
    callback=_ports,
    metavar="CSV",
    default="40000-60000",
)
@_option(
    "--rest-port",
    "REST on 127.0.0.1 at this port; 0: only on the Unix socket; auto: 6664 if it is free.",
    type=click.UNPROCESSED,
    callback=_rest_port,
    metavar="PORT|auto",
    default="6664",
)
@_option(
    "--rest-token-file",
    "Who sends the token in it (Authorization: Bearer) may change things over TCP.",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
)
@_option(
    "--transport",
    "What joins two apps of this host, when the app does not say.",
    type=click.Choice(["unix", "tcp"]),
    default="unix",
)
@_option("--dns", "Answer the DNS queries of apps, or leave them unanswered.", negated=True, default=True)
@_option(
    "--dns-domain",
    "The domain that names of apps are in.",
    type=click.UNPROCESSED,
    callback=_dns_domain,
    metavar="NAME",
    default="appswitch.local",
)
@_option(
    "--dns-servers",
    "Who is asked for other names: IP, IPV4:PORT, [IPV6]:PORT.  [default: as in /etc/resolv.conf]",
    type=click.UNPROCESSED,
    callback=_dns_servers,
    metavar="CSV",
)
@_option(
    "--pools",
    "Networks from which an app with a name alone gets its addresses.  [default: one of each IP version, such as "
    "10.250.0.0/16 and fd61:7070::/64, that this host does not use]",
    type=click.UNPROCESSED,
    callback=_pools,
    metavar="CSV",
)
@_option(
    "--user-networks",
    "What users other than root and the daemon's may claim with --ip.",
    type=click.UNPROCESSED,
    callback=_networks,
    metavar="CSV",
    default=networks.DEFAULT_USER_NETWORKS,
    show_default="private and documentation networks",
)
@_option(
    "--idle-exit",
    "End when no app was there for so long; 0: never.",
    type=click.FloatRange(min=0),
    default=0,
    metavar="SECONDS",
)
@_option("--log-format", "How to log to standard error.", type=click.Choice(["console", "json"]), default="console")
@_option(
    "--log-level", "From which level on.", type=click.Choice(["debug", "info", "warning", "error"]), default="info"
)
@click.option(
    "--upgrade",
    "upgrading",
    help="Have the daemon that runs go on as this version, with its own options; no call fails.",
    is_flag=True,
)
def command(upgrading: bool, **options: Any) -> None:
    """Run the daemon in the foreground: it decides the network calls of everything that `ax run` starts."""
    if upgrading:
        where = options["run_dir"]
        upgrade.upgrade(RunDir(os.path.abspath(where)) if where else run_dir())
        return
    try:
        node.check_kernel()
        node_ips = node.node_ips(options.pop("node_interface"))
        options["node_name"] = options["node_name"] or node.host_name(platform.node() or "localhost")
        options["pools_given"] = options["pools"] is not None
        options["pools"] = options["pools"] or ",".join(
            map(str, networks.choose_pools(hostnet.networks(), hostnet.versions()))
        )
    except ValueError as err:
        raise click.ClickException(str(err)) from None
    check_features()
    where = options.pop("run_dir")
    directory = RunDir(os.path.abspath(where)) if where else run_dir()
    options["state_dir"] = state.directory(options["state_dir"], directory)
    if options["rest_token_file"]:
        options["rest_token_file"] = os.path.abspath(options["rest_token_file"])
    environment = dict(os.environ, AX_RUN_DIR=directory.directory, AX_NODE_IP=",".join(node_ips))
    environment |= {f"AX_{key.upper()}": _text(value) for key, value in options.items() if value is not None}
    become_keeper(environment)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_features() -> None:
    """Raises click.ClickException if the kernel refuses something that nothing works without."""
    from appswitch.kernel import features

    missing = [one for one in features.probe(only_required=True) if not one.found]
    if missing:
        lines = [f"  {one.name} (Linux {one.since}): {one.detail}" for one in missing]
        raise click.ClickException("\n".join(["the kernel lacks what the daemon needs:", *lines, "See `ax doctor`."]))


def become_keeper(environment: dict[str, str]) -> None:
    """execve(2)."""
    sys.stdout.flush()
    if environment.get("PYTHONPATH"):  # processes of the daemon start others from where they are
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, environment["PYTHONPATH"].split(os.pathsep)))
    command_line = upgrade.keeper_command()
    os.execve(sys.executable, command_line, environment)  # noqa: S606 - there is no shell, and none is wanted
