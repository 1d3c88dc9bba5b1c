"""What a test must not leave behind: descriptors of this process, named network namespaces, entries in daemons' tables.

Processes are looked after by `marks`, what a daemon itself holds by its own check when it ends (`Daemon.stop`).
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.daemon import Daemon
from harness.waiting import DeadlineError, wait_until

PATIENCE = 5.0  # seconds until a daemon has noticed that an app has ended
NAMESPACES = Path("/run/netns")
# Made once, when first needed: our own network namespace, by native/kernel/netns.c.
_GROWS = (os.readlink("/proc/self/ns/net"),)  # noqa: PTH115 - not a path

_FONTS = "/mpl-data/fonts/"  # matplotlib keeps those open that it has drawn with
_REPORTS = "/build/sanitize/reports/"  # of AddressSanitizer: a warning is one, too


class Before:
    """How it was before a test. `left` tells what was not there then."""

    def __init__(self) -> None:
        self._descriptors = _descriptors()
        self._namespaces = _namespaces()
        self._sizes = {daemon.id: _sizes(daemon) for daemon in Daemon.live}

    def left(self, forget: Callable[[], None]) -> list[str]:
        """Sentences, empty when all is as before. Waits for daemons, which notice some things only when they look.

        ``forget`` drops what the test was given: descriptors that are owned by objects go with these.
        """
        return [*self._descriptors_left(forget), *self._namespaces_left(), *self._entries_left()]

    def _descriptors_left(self, forget: Callable[[], None]) -> Iterator[str]:
        if not _descriptors() - self._descriptors:
            return
        forget()
        gc.collect()
        # What lingers or is no socket other threads close, where the watch of native/kernel/patience.c is on.
        with contextlib.suppress(DeadlineError):
            wait_until(lambda: not _descriptors() - self._descriptors, "", PATIENCE)
        for number, link in sorted(_descriptors() - self._descriptors):
            yield f"descriptor {number} of the tests' own process: {link}"

    def _namespaces_left(self) -> Iterator[str]:
        for name in sorted(_namespaces() - self._namespaces):
            yield f"network namespace {name}"

    def _entries_left(self) -> Iterator[str]:
        for daemon in Daemon.live:
            before = self._sizes.get(daemon.id)
            if before is not None and daemon.strict:
                with contextlib.suppress(DeadlineError):
                    wait_until(_gone(daemon, before), "", PATIENCE)
                for name, count in _more(daemon, before):
                    yield f"{count} more {name} in the tables of {daemon.run_dir}"
                daemon.sizes_then = daemon.uses, _sizes(daemon)


def _gone(daemon: Daemon, before: dict[str, int]) -> Callable[[], bool]:
    return lambda: not _more(daemon, before)


def _more(daemon: Daemon, before: dict[str, int]) -> list[tuple[str, int]]:
    now = _sizes(daemon)
    return [(name, now[name] - before.get(name, 0)) for name in now if now[name] > before.get(name, 0)]


def _sizes(daemon: Daemon) -> dict[str, int]:
    """Asked for only where something was run on it since the last time: most tests of a probe look at one run."""
    if daemon.sizes_then is not None and daemon.sizes_then[0] == daemon.uses:
        return daemon.sizes_then[1]
    sizes = daemon.sizes()
    with contextlib.suppress(OSError):
        sizes["names of sockets"] = len({path.name for path in (daemon.run_dir / "s").iterdir()} - {"lobby"})
    return sizes


def _descriptors() -> set[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names will do
        with contextlib.suppress(OSError):  # that of the list itself
            link = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - on the way of every test
            if link not in _GROWS and _REPORTS not in link and _FONTS not in link:
                found.add((int(name), link))
    return found


def _namespaces() -> set[str]:
    """Those of this process: others run tests as well."""
    if not NAMESPACES.is_dir():
        return set()
    return {path.name for path in NAMESPACES.iterdir() if str(os.getpid()) in path.name}
