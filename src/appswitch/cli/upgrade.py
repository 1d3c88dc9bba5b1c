"""``ax daemon --upgrade``: the daemon that runs is to go on as the version that this command is of."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click

import appswitch
from appswitch import keeper
from appswitch.cli import locate, rest
from appswitch.paths import RunDir

_WAITED = {"switch": "calls", "control": "REST and DNS"}
PATIENCE = 120.0  # seconds without a word from the daemon


def keeper_command() -> list[str]:
    """Isolated and without site: the keeper is the standard library only, and stays small."""
    program = os.path.join(os.path.dirname(os.path.abspath(keeper.__file__)), "__main__.py")
    return [sys.executable, "-I", "-S", program]


def upgrade(directory: RunDir) -> None:
    """Ask for it, and tell how it goes. Raises click.ClickException: then the old version goes on, if there is one."""
    _check()
    with _connect(directory) as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(json.dumps(_request()).encode() + b"\n")
        for event in _events(sock):
            match event["event"]:
                case "loading":
                    click.echo(f"{event['part']}: loading version {appswitch.__version__} ...")
                case "replaced":
                    who = _WAITED.get(event["part"], "others")
                    click.echo(f"{event['part']}: replaced; {who} waited {event['pause'] * 1000:.0f} ms at most")
                case "failed":
                    raise click.ClickException(f"no upgrade: {event['reason']}")
                case "done":
                    click.echo(f"keeper: replaced. The daemon in {directory.directory} is of version "
                               f"{appswitch.__version__} now")  # fmt: skip
                    return
    raise click.ClickException("the daemon ended in the middle of the upgrade: its log may say why")


def _check() -> None:
    """That our own keeper can be run at all. Raises click.ClickException."""
    done = subprocess.run([*keeper_command(), "--check"], check=False, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"no upgrade: this version's keeper does not start: {done.stderr.strip()[-500:]}")


def _request() -> dict[str, Any]:
    given = {"PYTHONPATH": os.path.abspath(os.environ["PYTHONPATH"])} if os.environ.get("PYTHONPATH") else {}
    commands = {name: [sys.executable, "-P", "-m", f"appswitch.{name}"] for name in ("switch", "control")}
    return {"keeper": keeper_command(), "commands": commands, "environment": given}


def _connect(directory: RunDir) -> socket.socket:
    """Raises click.ClickException with what to do."""
    where = directory.directory
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(f"{where}/keeper.sock")
    except OSError as err:
        sock.close()
        if err.errno in (errno.EACCES, errno.EPERM):
            detail = f"the daemon in {where} is another user's: only its user and root may upgrade it"
            raise click.ClickException(detail) from None
        if err.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            if locate.alive(directory):
                detail = f"the daemon in {where} cannot be upgraded while it runs: stop it, and start this version"
                raise click.ClickException(detail) from None
            raise click.ClickException(f"no daemon runs in {where}: {rest.explain_start(where)}") from None
        raise click.ClickException(f"cannot reach the daemon in {where}: {err.strerror}") from None
    return sock


def _events(sock: socket.socket) -> Iterator[dict[str, Any]]:
    """Raises click.ClickException."""
    heard = b""
    while True:
        *lines, heard = heard.split(b"\n")
        for line in lines:
            yield json.loads(line)
        try:
            data = sock.recv(1 << 16)
        except OSError as err:
            raise click.ClickException(f"the daemon does not say how the upgrade goes: {err}") from None
        if not data:
            return
        heard += data
