"""Who would be left with a file when another takes its place: threads that wait for it, other processes."""

from __future__ import annotations

import platform

from appswitch import _kernel
from appswitch.kernel import procfs
from appswitch.switch.call import Call
from appswitch.switch.syscalls import X86_64

# By number. Who waits in epoll_wait(2) is not among them: an epoll is told of the other file (switch/swap.py).
_ON_X86_64 = platform.machine() == X86_64
_RECEIVE = frozenset((0, 19, 45, 47, 299) if _ON_X86_64 else (63, 65, 207, 212, 243))  # read, readv, recv*
_POLL = frozenset((7, 271) if _ON_X86_64 else (73,))  # poll, ppoll
_SELECT = frozenset((23, 270) if _ON_X86_64 else (72,))  # select, pselect6
_POLLFD = 8  # sizeof(struct pollfd)
MAX_POLLED = 4096
MAX_RELATIVES = 64  # processes that are compared; with more around it nobody is


def is_tied(call: Call, number: int) -> bool:
    """Whether the file at ``number`` has to stay: a thread waits for it, or a relative has it under the same number."""
    if waits_elsewhere(call, number):
        return True
    near = procfs.relatives(call.tid)
    return len(near) <= MAX_RELATIVES and any(_kernel.same_file(call.tid, number, other) for other in near)


def waits_elsewhere(call: Call, number: int) -> bool:
    """Whether another thread of the caller's process waits for the file at ``number``."""
    for thread, nr, arguments in procfs.calls_of_others(call.tid):
        if nr in _RECEIVE and arguments[0] & 0xFFFFFFFF == number:
            return True
        if nr in _POLL:
            polled = _read(call, thread, arguments[0], _POLLFD * min(arguments[1], MAX_POLLED))
            if any(int.from_bytes(polled[at : at + 4], "little") == number for at in range(0, len(polled), _POLLFD)):
                return True
        if nr in _SELECT and arguments[0] > number:
            byte = _read(call, thread, arguments[1] + number // 8, 1) if arguments[1] else b""
            if byte and byte[0] >> number % 8 & 1:
                return True
    return False


def _read(call: Call, thread: int, address: int, size: int) -> bytes:
    data = _kernel.read_argument(call.app.listener, call.id, thread, address, size) if size else b""
    return b"" if isinstance(data, int) else data
