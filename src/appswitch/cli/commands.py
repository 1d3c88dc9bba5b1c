"""Everything but ``ax run``'s fast path, with click. Subcommands are imported when they are used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

import appswitch
from appswitch.cli import options, rest

# name: (module, what `ax --help` says)
SUBCOMMANDS = {
    "run": ("runhelp", "Run a program on the switch."),
    "create": ("create", "Create a vservice, a policy, a reference or a proxy."),
    "delete": ("delete", "Delete vservices, policies, references or proxies."),
    "apply": ("apply", "Create and change what files say."),
    "get": ("get", "Show apps, servers, vservices, policies and more."),
    "policy": ("policy", "Try policies, and learn them from what is seen."),
    "flows": ("flows", "Show what is decided about connections."),
    "top": ("top", "Show what apps do and use, again and again."),
    "import": ("imports.command", "Turn iptables, nft, HAProxy, nginx into documents."),
    "daemon": ("daemon", "Run the daemon, in the foreground."),
    "doctor": ("doctor", "Try what the kernel can do, and tell what follows."),
    "debug": ("debug", "Check the daemon's tables, write a bug report."),
    "completion": ("completion", "Print a shell's completion script."),
    "version": ("version", "Show the version."),
}

HELP = """\
AppSwitch: unmodified programs, their network calls decided by a daemon, their data untouched.

\b
  ax run --ip 10.1.1.1 -- memcached -u nobody     a server with an address of its own
  ax run -- memcat --servers 10.1.1.1 key         a client that reaches it
  ax get servers                                  who listens where
"""


class LazyGroup(click.Group):
    """Knows its subcommands by name; imports one when it is called, or when its help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table: what is used most comes first."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it."""
        if cmd_name not in SUBCOMMANDS:
            return None
        command: click.Command = importlib.import_module(f"appswitch.cli.{SUBCOMMANDS[cmd_name][0]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a command for a word that is none."""
        if args and args[0] not in SUBCOMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], SUBCOMMANDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SUBCOMMANDS)}"
            ctx.fail(f"there is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table: nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in SUBCOMMANDS.items()])


@click.group(cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(appswitch.__version__, prog_name="ax", message="%(prog)s %(version)s")
def group() -> None:
    """See HELP."""


def main(arguments: Sequence[str]) -> int:
    """Run a command line. Returns the exit status."""
    try:
        result: Any = group.main(list(arguments), prog_name="ax", standalone_mode=False)
    except click.exceptions.Exit as err:
        return err.exit_code
    except click.Abort:
        return 130
    except click.ClickException as err:
        err.show()
        return err.exit_code
    except options.UsageError as err:
        return _failed(str(err), 2)
    except (rest.DaemonDownError, rest.RefusedError) as err:
        return _failed(str(err), 1)
    except BrokenPipeError:  # `ax get apps | head`
        sys.stderr.close()
        return 1
    return result if isinstance(result, int) else 0


def _failed(text: str, status: int) -> int:
    print(f"ax: {text}", file=sys.stderr)
    return status
