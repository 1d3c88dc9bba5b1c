"""The command ``ax``. It talks REST to the daemon like anybody else.

``ax run`` is on every app's way and so does not wait for click, pathlib or typing to be imported: it is recognized
here, and its options are parsed by `options`. All else is click's (`commands`).
"""

from __future__ import annotations

import sys


def main() -> int:
    """The entry point. Returns the exit status, unless ``ax run`` becomes the program."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        from appswitch.cli import run

        return run.main(arguments[1:])
    from appswitch.cli import commands

    return commands.main(arguments)
