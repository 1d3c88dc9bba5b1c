"""``ax run`` as click knows it: for help and completion. Its parser is `options`."""

from __future__ import annotations

import click

from appswitch.cli import options, run

EPILOG = """\
The command's exit status is that of ax run: 125 if ax itself fails, 126 if the command cannot be executed, 127 if it is
not found. Signals and the terminal are the command's.

\b
Examples:
  ax run -- curl http://10.1.1.1/                        a client, in an empty network namespace
  ax run --ip 10.1.1.1 --name web -- nginx -g 'daemon off;'
  ax run --ip 10.1.1.1 --expose 80:8080 -- nginx ...     the host's port 8080 leads to it
  ax run --ip 10.1.1.1,fd00::1 --labels zone=a -- redis-server --protected-mode no
  ax run --name db -- postgres ...                       at an address of a pool; others find it as db
  ax run --egress deny --egress-allow '*.example.com' -- ./crawler
  ax run --host-port 5432 -- psql -h 127.0.0.1           reaches the database of the host
  ax run --proxy audit -- ./crawler                      a proxy gets its connections
  ax run --ip 10.1.1.2 --interface eth0 -- ip address    with an interface that has the address
  sudo ax run --user nobody -- python3 -m http.server
"""


def _parameter(option: options.Option) -> click.Option:
    if option.switch:
        return click.Option([f"{option.name}/--no-{option.name[2:]}"], default=option.default, help=option.help)
    kind = click.Choice(option.choices) if option.choices else None
    metavar = None if option.choices else option.metavar
    shows_env = option.env or None
    return click.Option(
        [option.name],
        type=kind,
        metavar=metavar,
        multiple=option.many,
        help=option.help,
        envvar=shows_env,
        show_envvar=bool(option.env),
    )


class RunCommand(click.Command):
    """Leaves parsing to us: the same words must mean the same on both ways here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Help is click's, and so is completion (resilient parsing); all else goes to `run.main` as it is."""
        if args in (["--help"], ["-h"]):
            return super().parse_args(ctx, args)
        ctx.args = args
        return args

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What click would derive if the command were a parameter."""
        return ["[OPTIONS]", "[--]", "COMMAND", "[ARG]..."]


command = RunCommand(
    "run",
    params=[_parameter(option) for option in options.RUN],
    callback=lambda **_: run.main(click.get_current_context().args),
    help="Run a program whose network calls go through the switch.",
    epilog=EPILOG,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
