"""Which daemon a command is meant for."""

from __future__ import annotations

import os
import time

from appswitch.cli import rest
from appswitch.keeper.directory import read_roster
from appswitch.paths import SYSTEM, RunDir, run_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

PATIENCE = 20.0  # seconds that a daemon whose keeper lives may take to answer


def own(given: str | None = None) -> RunDir:
    """The directory that was named (``--run-dir``, ``$AX_RUN_DIR``), or the user's default one."""
    return RunDir(os.path.abspath(given)) if given else run_dir()


def reach(given: str | None = None) -> tuple[RunDir, socket.socket]:
    """Connect to the daemon that was named; if none was, to the user's own, else to the host's.

    Raises rest.DaemonDownError, which is about the user's own.
    """
    mine = own(given)
    try:
        return mine, _connect(mine)
    except rest.DaemonDownError:
        if given or os.environ.get("AX_RUN_DIR") or mine.directory == SYSTEM:
            raise
        try:
            return RunDir(SYSTEM), _connect(RunDir(SYSTEM))
        except rest.DaemonDownError:
            pass
        raise


def need(given: str | None = None) -> socket.socket:
    """As `reach`. Raises rest.DaemonDownError with what to do."""
    try:
        return reach(given)[1]
    except rest.DaemonDownError as err:
        raise rest.DaemonDownError(f"{err}: {rest.explain_start(own(given).directory)}") from None


def ask(given: str | None, method: str, path: str, body: object = None) -> Any:
    """One request to the daemon that is meant. Raises rest.DaemonDownError with what to do, rest.RefusedError.

    A question is asked again where the daemon's control process dies before it has answered: another one comes.
    """
    try:
        return rest.request(need(given), method, path, body)
    except rest.DaemonDownError as err:
        if method != "GET" or not err.stale:
            raise
    return rest.request(need(given), method, path, body)


def alive(directory: RunDir) -> bool:
    """Whether a daemon runs there: a keeper, by its pid file, or processes of one that was killed, which start another.

    The lock on the pid file is not tried: that could stop a keeper from starting.
    """
    try:
        with open(f"{directory.directory}/daemon.pid") as file:
            os.kill(int(file.read()), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return bool(read_roster(directory.directory))
    return True


def _connect(directory: RunDir) -> socket.socket:
    """Raises rest.DaemonDownError. While a daemon starts, or restarts its control process, this waits."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return rest.connect(directory.directory)
        except rest.DaemonDownError:
            if time.monotonic() > end or not alive(directory):
                raise
        time.sleep(0.02)
