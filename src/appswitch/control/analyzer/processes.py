"""The processes of apps, and what they use of the host: proc(5). All of it takes a while, and belongs in a thread.

An app's processes are those that descend from its first one, and those in its network namespace: a daemon that has
detached itself from its parents is found by that. Of an app in the host's namespace a detached process is known if its
parent was when it was last looked at. A pid is used again: with the time of its start it is not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, structs

MAX_PROCESSES = 1000  # of one app that are looked into; the rest is only counted
SLACK = 2.0  # seconds: time may be set between two looks at the clock
_TICKS = os.sysconf("SC_CLK_TCK")  # a second, in proc(5)

Members = Mapping[int, int]  # pid: when it was started, in ticks since boot


class Figures(Struct, frozen=True):
    """Sums over the processes of an app. Sizes in bytes, as proc_pid_status(5) has them.

    Pages that processes share after fork(2) count in each.
    """

    processes: int = 0
    threads: int = 0
    descriptors: int = 0
    cpu: float = 0.0  # seconds, children that were waited for included
    resident: int = 0  # VmRSS: what is in memory
    anonymous: int = 0  # RssAnon: of that, what is no file's: heap and stacks
    data: int = 0  # VmData: heap and private mappings, touched or not
    stack: int = 0  # VmStk: of first threads

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            *(mine + theirs for mine, theirs in zip(structs.astuple(self), structs.astuple(other), strict=True))
        )


class Seat(NamedTuple):
    """Where to look for an app."""

    netns: int  # inode of its network namespace; 0: the host's, which tells nothing
    members: Members  # the first process; where the namespace tells nothing, all that were found last


class Found(NamedTuple):
    """What was there."""

    figures: Figures
    members: dict[int, int]


class _Process(NamedTuple):
    """Of proc_pid_stat(5)."""

    state: str
    parent: int
    cpu: int  # ticks
    threads: int
    started: int  # ticks since boot


def seat(pid: int, attached: float, own_netns: bool) -> Seat | None:
    """From an app's first process; None if that has ended (another one may have its pid by now)."""
    try:
        started = _stat(pid).started
        netns = _netns(pid) if own_netns else 0
        netns = 0 if netns == _netns(os.getpid()) else netns
    except OSError:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started / _TICKS
    return Seat(netns, {pid: started}) if age + SLACK >= time.time() - attached else None


def survey(seats: Mapping[int, Seat], daemon: frozenset[int] = frozenset()) -> dict[int, Found]:
    """Look at every process of the host once. Apps of which nothing is left are left out.

    ``daemon``: processes that are nobody's, nor are their children: to make a socket, the switch enters namespaces.
    """
    table = {pid: one for pid, one in _table().items() if pid not in daemon and one.parent not in daemon}
    children = _grouped({pid: one.parent for pid, one in table.items()})
    homes = {one.netns for one in seats.values()} - {0}
    residents = _grouped(_netns_of(table)) if homes else {}
    found = {}
    for app_id, one in seats.items():
        roots = {pid for pid, started in one.members.items() if pid in table and table[pid].started == started}
        members = _descendants(roots | set(residents.get(one.netns, ())), children)
        if members:
            found[app_id] = Found(figures(members), {pid: table[pid].started for pid in members})
    return found


def figures(pids: Iterable[int]) -> Figures:
    """What processes use together. Those that have ended use nothing."""
    pids = sorted(pids)
    total = Figures()
    for pid in pids[:MAX_PROCESSES]:
        total += _figures(pid)
    return total + Figures(processes=max(0, len(pids) - MAX_PROCESSES))


def _table() -> dict[int, _Process]:
    """Zombies have nothing any more."""
    table = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names will do, and there are many of them
        if name.isdigit():
            try:
                one = _stat(int(name))
            except OSError:  # it has just ended
                continue
            if one.state not in "ZX":
                table[int(name)] = one
    return table


def _stat(pid: int) -> _Process:
    """Raises OSError. The second field is the program's to choose, and may have parentheses and blanks."""
    words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return _Process(
        state=words[0].decode(),
        parent=int(words[1]),
        cpu=sum(map(int, words[11:15])),
        threads=int(words[17]),
        started=int(words[19]),
    )


def _netns_of(pids: Iterable[int]) -> dict[int, int]:
    found = {}
    for pid in pids:
        try:
            found[pid] = _netns(pid)
        except OSError:  # it has ended, is a kernel thread, or hides from us
            continue
    return found


def _netns(pid: int) -> int:
    """namespaces(7). Raises OSError."""
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def _grouped(groups: Mapping[int, int]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for member, group in groups.items():
        members.setdefault(group, []).append(member)
    return members


def _descendants(roots: set[int], children: Mapping[int, list[int]]) -> set[int]:
    """With the roots themselves."""
    found, waiting = set(roots), list(roots)
    while waiting:
        fresh = set(children.get(waiting.pop(), ())) - found
        found |= fresh
        waiting += fresh
    return found


def _figures(pid: int) -> Figures:
    try:
        stat, status = _stat(pid), _status(pid)
        descriptors = _descriptors(pid)
    except OSError:
        return Figures()
    if stat.state in "ZX":
        return Figures()
    sizes = (_bytes(status.get(name)) for name in (b"VmRSS", b"RssAnon", b"VmData", b"VmStk"))
    return Figures(1, stat.threads, descriptors, stat.cpu / _TICKS, *sizes)


def _status(pid: int) -> dict[bytes, bytes]:
    """proc_pid_status(5). Raises OSError."""
    lines = (line.partition(b":") for line in Path(f"/proc/{pid}/status").read_bytes().splitlines())
    return {name: value for name, _, value in lines}


def _bytes(value: bytes | None) -> int:
    """``1234 kB``. A process that is just ending has no memory any more."""
    return int(value.split()[0]) * 1024 if value is not None else 0


def _descriptors(pid: int) -> int:
    """From Linux 6.2 on the kernel has counted them: a program may have a million. Raises OSError."""
    directory = Path(f"/proc/{pid}/fd")
    return directory.stat().st_size or len(os.listdir(directory))  # noqa: PTH208 - see above
