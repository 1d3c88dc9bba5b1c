"""Put another file behind an app's descriptor: a TCP socket where the peer is not on this host.

A descriptor that is replaced loses its epoll registrations, and copies of it that dup(2) made keep the old file. Both
are mended here: registrations are read from the app's epoll and made again for the new file, copies within the process
are replaced too. A copy in another process can only be replaced by that process' own call (see docs/limits.md).
"""

from __future__ import annotations

import errno
import os

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel import procfs
from appswitch.switch.call import Call, Failed, Vanished

_EVENTPOLL = "anon_inode:[eventpoll]"


def swap(call: Call, old: Fd, new: Fd) -> None:
    """Put ``new`` where the call's first argument is, and wherever the process has the same file. Closes ``old``.

    ``old`` must be an unconnected socket, and the only duplicate that we hold. Raises Failed, Vanished.
    """
    inode = os.fstat(old.fileno()).st_ino
    _replace(call, call.int32(0), new)
    if _kernel.open_elsewhere(old):
        for number in procfs.numbers_of(call.tid, f"socket:[{inode}]"):
            _replace(call, number, new)


def _replace(call: Call, number: int, new: Fd) -> None:
    try:
        cloexec = bool(procfs.descriptor_flags(call.tid, number) & procfs.O_CLOEXEC)
    except OSError as problem:
        raise Failed(errno.EBADF) from problem
    registered = [
        (epoll, events, data)
        for epoll in _epolls(call)
        if _kernel.epoll_has(call.tid, epoll, number)
        for events, data in procfs.registrations(call.tid, epoll, number)
    ]
    result = _kernel.add_fd(call.app.listener, call.id, new, number, cloexec, 0)
    if result < 0:
        raise Vanished if result == -errno.ENOENT else Failed(-result)
    pidfd = call.pidfds.get(call.tid)
    for epoll, events, data in registered:
        _kernel.epoll_add_at(pidfd, epoll, number, new, events, data)


def _epolls(call: Call) -> list[int]:
    """The epoll descriptors of the calling process: looked for once after each epoll_create(2) of its app."""
    generation, numbers = call.app.epolls.get(call.tid, (-1, []))
    if generation != call.app.epoll_generation:
        numbers = procfs.numbers_of(call.tid, _EVENTPOLL)
        call.app.epolls[call.tid] = (call.app.epoll_generation, numbers)
    return numbers
