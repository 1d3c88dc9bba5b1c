"""What keeps the switch's descriptors open when it dies: a process that shares its table. See native/kernel/holder.c.

Nothing is told to it: what the switch opens and closes, it has and has not. When the switch has ended it waits for a
successor, who takes connections from there (switch/estate.py); not when the keeper has ended as well, for then nobody
comes, and apps' calls are to fail instead of waiting.
"""

from __future__ import annotations

import itertools
import os
import select
import struct
from collections.abc import Callable

from appswitch import _kernel, parent
from appswitch._kernel import Fd
from appswitch.switch.keep import Keep
from appswitch.switch.loop import Loop

PREFIX = "holder-"  # of what the keeper knows each by
PATIENCE, MANAGED_PATIENCE = 20, 5  # seconds that a successor may take; one that a service manager starts, or does not
AGAIN = 1.0  # seconds until another one is started
_range = struct.Struct("=QQ")
_ARGUMENTS = 45  # of proc_pid_stat(5) behind the name: arg_start, and arg_end


class Holder:
    """The process. There is one as long as there is a keeper, who hands its pidfd to our successor."""

    def __init__(self, loop: Loop, keep: Keep, log: Callable[..., None]) -> None:
        self._loop = loop
        self._keep = keep
        self._log = log
        self._own: Fd | None = None
        self._keeper: Fd | None = None  # one number for all keepers: the process looks there
        self._process: Fd | None = None
        self._name = ""
        self._number = itertools.count(1)

    def start(self) -> None:
        """Best while this process is small. Where it cannot be had everything goes on without."""
        if not parent.has_keeper():
            return
        try:
            self._start()
        except (OSError, ValueError) as problem:
            self._log("no holder", error=str(problem))

    def _start(self) -> None:
        if self._own is None:
            self._own = _kernel.pidfd_open(os.getpid(), 0)
            self._keeper = Fd(os.eventfd(0, os.EFD_CLOEXEC))  # nothing comes there
            if not parent.is_managed():  # else the keeper is started again, and has everything from its manager
                self._keep.on_keeper = self._on_keeper
        ranges, stack = _memory()
        patience = MANAGED_PATIENCE if parent.is_managed() else PATIENCE
        assert self._keeper is not None
        self._process = _kernel.hold(ranges, _arguments(), stack, self._own, self._keeper, patience)
        self._loop.watch(self._process, select.EPOLLIN, lambda _events: self._on_death())

    def tell(self) -> None:
        """Have the keeper hand it on."""
        if self._process is not None:
            self._name = f"{PREFIX}{os.getpid()}-{next(self._number)}"
            self._keep.record(self._name, self._process)

    def _on_keeper(self, pidfd: Fd) -> None:
        assert self._keeper is not None
        os.dup2(pidfd.fileno(), self._keeper.fileno(), inheritable=False)

    def _on_death(self) -> None:
        """Somebody has killed it, or memory was short."""
        assert self._process is not None
        os.waitid(os.P_PIDFD, self._process.fileno(), os.WEXITED | os.WNOHANG)
        self._loop.unwatch(self._process)
        self._keep.forget(self._name)
        self._process.close()
        self._process = None
        self._log("the holder ended")
        self._loop.after(AGAIN, self._again)

    def _again(self) -> None:
        self.start()
        self.tell()


def _memory() -> tuple[bytes, int]:
    """What this process has mapped, in ranges as large as may be; and where its stack ends. proc_pid_maps(5)."""
    found: list[tuple[int, int]] = []
    stack = 0
    with open("/proc/self/maps") as maps:
        for line in maps:
            words = line.split(None, 5)
            start, end = (int(word, 16) for word in words[0].split("-"))
            name = words[5].strip() if len(words) > 5 else ""
            if start >= 1 << 63:  # the kernel's: [vsyscall]
                continue
            if name == "[stack]":
                stack = end
            if found and found[-1][1] == start and not name.startswith("["):
                found[-1] = found[-1][0], end
            else:  # those of the kernel by themselves: it may be that they cannot be given back
                found.append((start, end))
    return b"".join(_range.pack(*one) for one in found), stack


def _arguments() -> bytes:
    with open("/proc/self/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return _range.pack(int(fields[_ARGUMENTS]), int(fields[_ARGUMENTS + 1]))
