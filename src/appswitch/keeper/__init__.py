"""The daemon's parent: starts the switch and control, starts them again when they die, holds what must outlive them.

It is run by file path (``python -I -S keeper/__main__.py``), so it imports nothing but a few modules of the standard
library and its own: it has to stay small, and it must not be able to break. See docs/design/keeper.md.
"""

from appswitch.keeper.directory import KeeperError, prepare_directory

__all__ = ["KeeperError", "prepare_directory"]
