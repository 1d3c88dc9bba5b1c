"""Processes are found by a mark in their environment, which survives setsid, double forks and exec."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Set
from pathlib import Path

from harness.waiting import DeadlineError, wait_until

TEST = "AXT_TEST"  # in everything that a test starts
DAEMON = "AXT_DAEMON"  # in a daemon and what it starts


def pids() -> set[int]:
    """Every process there is, but this one."""
    names = os.listdir("/proc")  # noqa: PTH208 - names will do, and there are many of them
    return {int(name) for name in names if name.isdigit()} - {os.getpid()}


def marked(name: str, value: str, besides: Set[int] = frozenset()) -> list[int]:
    """The live processes (no zombies) with ``name=value`` in the environment that they were started with.

    ``besides``: processes that need no look, such as those that were there before.
    """
    needle = f"{name}={value}".encode()
    found = []
    for pid in sorted(pids() - besides):
        entry = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            if needle in (entry / "environ").read_bytes().split(b"\0") and _state(entry) not in "ZX":
                found.append(pid)
    return found


def _state(entry: Path) -> str:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]


def children(pid: int) -> list[int]:
    """What the first thread of ``pid`` has started and not buried, in that order (proc_tid_children(5))."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def describe(pid: int) -> str:
    """``PID command line``, as far as it can still be read."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        wchan = Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return f"{pid} (gone)"
    return f"{pid} {command!r} in {wchan}"


def reap(name: str, value: str, timeout: float = 5.0, besides: Set[int] = frozenset()) -> list[str]:
    """Wait until no process has the mark. Those that stay are killed and described: the caller fails with them."""
    try:
        wait_until(lambda: not marked(name, value, besides), "", timeout)
    except DeadlineError:
        left = marked(name, value, besides)
        told = [describe(pid) for pid in left]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return told
    return []
