"""``ax`` itself: help, completion, words that are no commands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import appswitch
from appswitch.cli import commands, options


def ax(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appswitch.cli", *words]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=30, check=False)


def test_help_lists_every_command() -> None:
    for words in (["--help"], ["-h"]):
        done = ax(*words)
        assert done.returncode == 0
        for name in commands.SUBCOMMANDS:
            assert f"\n  {name} " in done.stdout
    assert ax().stdout == "" or "Usage" in ax().stdout


@pytest.mark.parametrize("name", commands.SUBCOMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    done = ax(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: ax {name}")
    assert "Examples:" in done.stdout or name == "version"


def test_versions() -> None:
    assert ax("--version").stdout == f"ax {appswitch.__version__}\n"
    assert ax("version").stdout.startswith(f"ax {appswitch.__version__} (Python 3.")


@pytest.mark.parametrize(
    ("word", "said"),
    [("gte", "did you mean get?"), ("xyzzy", f"there are {', '.join(commands.SUBCOMMANDS)}")],
)
def test_unknown_command(word: str, said: str) -> None:
    done = ax(word)
    assert done.returncode == 2
    assert f"there is no command {word!r}; {said}" in done.stderr


def test_unknown_option() -> None:
    done = ax("--frob")
    assert done.returncode == 2
    assert "No such option" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    done = ax("completion", shell)
    assert done.returncode == 0
    assert "_AX_COMPLETE" in done.stdout
    assert ax("completion", "tcsh").returncode == 2


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ax ", {"run", "get", "daemon"}),
        ("ax get ", {"apps", "servers", "sockets", "connections", "names", "pools", "exposed"}),
        ("ax get apps -o ", {"table", "json", "yaml"}),
        (
            "ax run --",
            {option.name for option in options.RUN} | {"--no-new-netns", "--no-start-daemon", "--no-dns-override"},
        ),
        ("ax run --transport ", {"unix", "tcp"}),
        ("ax run --egress ", {"allow", "deny"}),
        ("ax run --egress-error ", {"EACCES", "ECONNREFUSED"}),
        ("ax daemon --po", {"--ports", "--pools"}),
    ],
)
def test_completion(line: str, found: set[str]) -> None:
    """As bash asks: the words so far, and the number of the one that is being completed."""
    words = line.split(" ")
    done = ax(_AX_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert done.returncode == 0, done.stderr
    offered = {one.rpartition(",")[2] for one in done.stdout.split()}
    assert found <= offered
