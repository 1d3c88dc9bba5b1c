"""Where ``ax daemon`` keeps what is configured."""

from __future__ import annotations

import os
import sys

from appswitch import paths
from appswitch.paths import RunDir


def directory(given: str | None, run_dir: RunDir) -> str:
    """As it was named; for a daemon in the user's usual place the usual one; else the run directory itself.

    What is in the run directory is the keeper's to remove: it goes with the daemon.
    """
    if given:
        return os.path.abspath(given)
    if run_dir != paths.default_run_dir():
        return run_dir.directory
    usual = paths.state_dir()
    try:
        os.makedirs(usual, mode=0o700, exist_ok=True)
    except OSError as err:
        print(
            f"ax daemon: cannot keep state in {usual} ({err.strerror}): it goes when the daemon ends", file=sys.stderr
        )
        return run_dir.directory
    return usual
