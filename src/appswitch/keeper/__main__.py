"""The keeper of ``$AX_RUN_DIR``. Its options are environment variables.

``AX_RUN_DIR`` the daemon's directory, ``AX_NODE_NAME`` for the ready line, ``AX_LOG_FORMAT`` (console or json),
``NOTIFY_SOCKET`` where its own service manager listens, if it has one, and ``FDSTORE`` how many descriptors that would
keep (systemd.exec(5)); ``AX_STATE_DIR`` where control keeps what is configured, and ``AX_CLEAN`` (1) to forget that. In
the run directory it goes with the daemon. ``AX_ADOPT`` (1): take over the children of a keeper that has died.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run by its path, isolated
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from appswitch.keeper.daemon import Keeper, commands
from appswitch.keeper.directory import KeeperError
from appswitch.keeper.log import log


def main() -> int:
    """The daemon's exit status."""
    if sys.argv[1:] == ["--check"]:  # of an upgrade: whether this much works
        return 0
    directory = os.environ.get("AX_RUN_DIR")
    if not directory:
        log("error", "AX_RUN_DIR is not set (the keeper is started by `ax daemon`)")
        return 1
    adopting = os.environ.get("AX_ADOPT") == "1"
    try:
        return Keeper(os.path.abspath(directory), commands()).run()
    except KeeperError as err:
        if adopting:  # two have noticed that the old one died, and the other was faster
            return 0
        log("error", str(err))
        return 1


if __name__ == "__main__":
    sys.exit(main())
