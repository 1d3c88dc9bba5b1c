"""``ax completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    "completion",
    epilog="""\
\b
Examples:
  source <(ax completion bash)          in ~/.bashrc
  source <(ax completion zsh)           in ~/.zshrc
  ax completion fish > ~/.config/fish/completions/ax.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that makes SHELL complete ax's commands and options."""
    from appswitch.cli.commands import group

    made = get_completion_class(shell)
    assert made is not None, shell
    click.echo(made(group, {}, "ax", "_AX_COMPLETE").source())
