"""What /proc tells of another process. Small reads of kernel-made text: they do not wait for a disk."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

KCMP_EPOLL_TFD = 7
O_CLOEXEC = 0o2000000
_tfd = re.compile(rb"tfd:\s*(\d+) events:\s*([0-9a-f]+) data:\s*([0-9a-f]+)")


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def descriptor_flags(tid: int, number: int) -> int:
    """The open flags of a descriptor, with O_CLOEXEC standing for FD_CLOEXEC. Raises OSError. proc_pid_fdinfo(5)."""
    for line in _read(f"/proc/{tid}/fdinfo/{number}").splitlines():
        if line.startswith(b"flags:"):
            return int(line[6:], 8)
    return 0


def numbers_of(tid: int, link: str) -> list[int]:
    """The descriptors of a process whose /proc link is ``link``, such as ``socket:[12]``. Empty when it is gone."""
    directory = f"/proc/{tid}/fd"
    found = []
    try:
        for entry in os.listdir(directory):
            try:
                if os.readlink(f"{directory}/{entry}") == link:
                    found.append(int(entry))
            except OSError:  # closed in the meantime
                continue
    except OSError:
        return []
    return found


def registrations(tid: int, epoll: int, number: int) -> list[tuple[int, int]]:
    """(events, data) of the epoll registrations made under ``number``. epoll(7), proc_pid_fdinfo(5)."""
    try:
        text = _read(f"/proc/{tid}/fdinfo/{epoll}")
    except OSError:
        return []
    return [(int(m[2], 16), int(m[3], 16)) for m in _tfd.finditer(text) if int(m[1]) == number]


def thread_group(tid: int) -> int:
    """The process that a thread belongs to. Raises OSError when it is gone."""
    for line in _read(f"/proc/{tid}/status").splitlines():
        if line.startswith(b"Tgid:"):
            return int(line[5:])
    raise ProcessLookupError(tid)


def identity(tid: int) -> tuple[int, str]:
    """The effective user of a thread and the path of its program; (-1, "") when it is gone, "" where it is hidden.

    Not the owner of /proc/TID, which is root where a program says so (PR_SET_DUMPABLE). proc_pid_status(5), _exe(5).
    """
    uid, executable = -1, ""
    try:
        for line in _read(f"/proc/{tid}/status").splitlines():
            if line.startswith(b"Uid:"):
                uid = int(line.split()[2])
                break
        executable = os.readlink(f"/proc/{tid}/exe")
    except OSError:
        pass
    return uid, executable


def relatives(tid: int) -> list[int]:
    """A process' parent and children, and those of its parent: who may have been forked from what it is. proc_pid(5).

    Empty where the kernel does not list children (CONFIG_PROC_CHILDREN).
    """
    try:
        own = thread_group(tid)
        parent = int(_read(f"/proc/{own}/stat").rpartition(b")")[2].split()[1])
        near = {parent, *_children(own), *(_children(parent) if parent > 1 else ())}
    except (OSError, ValueError, IndexError):
        return []
    return sorted(near - {own, 0})


def _children(pid: int) -> Iterator[int]:
    for thread in os.listdir(f"/proc/{pid}/task"):
        yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())


# Signals that come while a program works: timers, children, I/O, Go's preemption, one's own; not those that end it.
_PASSING = (
    signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGCHLD, signal.SIGURG, signal.SIGIO, signal.SIGUSR1,
    signal.SIGUSR2, *range(34, 65),
)  # fmt: skip
_PASSING_MASK = sum(1 << number - 1 for number in _PASSING)


def catches_passing_signals(tid: int) -> bool:
    """Whether the process has a handler for a signal that may well come in the middle of a call.

    SigCgt of proc_pid_status(5). False when the process is gone.
    """
    try:
        lines = _read(f"/proc/{tid}/status").splitlines()
    except OSError:
        return False
    return any(line.startswith(b"SigCgt:") and int(line[7:], 16) & _PASSING_MASK for line in lines)


def calls_of_others(tid: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """What other threads of the process are in: thread, system call, arguments. proc(5), task/TID/syscall."""
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{tid}/task")]
    except OSError:
        return
    for thread in threads:
        if thread != tid:
            try:
                words = _read(f"/proc/{tid}/task/{thread}/syscall").split()
            except OSError:
                continue
            if len(words) > 6 and words[0].isdigit():  # else it runs
                yield thread, int(words[0]), tuple(int(word, 16) for word in words[1:7])
