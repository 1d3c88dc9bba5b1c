"""One notified system call: its arguments, the caller's memory and descriptors, and the rules for touching them."""

from __future__ import annotations

import errno
import select
from collections.abc import Callable

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel import procfs, sockaddr
from appswitch.switch.apps import App
from appswitch.switch.descriptors import share

# What a handler returns: a value >= 0, a negative errno, or one of these.
CONTINUE = 1 << 40  # let the kernel do the call: it is not ours
LATER = 1 << 41  # the reply was sent already, or will be, by somebody who holds the call
Outcome = int


class Failed(Exception):  # noqa: N818 - not an error of ours: it is the app's errno
    """The call fails with this errno."""

    def __init__(self, error: int) -> None:
        super().__init__(errno.errorcode.get(error, error))
        self.error = error


class Vanished(Exception):  # noqa: N818
    """The caller was killed or interrupted: nobody waits for a reply any more."""


def taken(raw: bytes | int) -> bytes:
    """The sockaddr that was read, or its failure raised: Failed(EINVAL, EFAULT), Vanished."""
    if isinstance(raw, int):
        raise Vanished if raw == errno.ENOENT else Failed(raw)
    return raw


class PidFds:
    """A pidfd for each thread that calls, kept because most threads call again.

    Keeping one is safe where keeping a number is not: a pidfd never comes to mean another process. It is for the
    thread where the kernel can (PIDFD_THREAD, 6.9), since a thread may have a descriptor table of its own; else for
    its process.
    """

    LIMIT = 4096
    SHARE = 4  # of the descriptors that we may have at all, one in so many
    SOME = 256  # that are looked at in one go

    def __init__(self, by_tid: dict[int, Fd], on_close: Callable[[int, Fd], None]) -> None:
        self._by_tid = by_tid
        self._on_close = on_close
        self._threads = True
        self._limit = share(self.LIMIT, self.SHARE)
        self._turn: list[int] = []

    def get(self, tid: int) -> Fd:
        """Raises Vanished when there is no such thread."""
        pidfd = self._by_tid.get(tid)
        if pidfd is None:
            pidfd = self._by_tid[tid] = self._open(tid)
            if len(self._by_tid) > self._limit:
                self._by_tid.pop(next(iter(self._by_tid)))  # the thread lives on, and may even wait for us
        return pidfd

    def sweep(self) -> None:
        """Drop some of those whose threads have ended: of programs that start many, each for one call."""
        if not self._turn:
            self._turn = list(self._by_tid)
        some, self._turn = self._turn[-self.SOME :], self._turn[: -self.SOME]
        looked, poll = {}, select.poll()
        for tid in some:
            pidfd = self._by_tid.get(tid)
            if pidfd is not None:
                looked[pidfd.fileno()] = tid
                poll.register(pidfd.fileno(), select.POLLIN)  # of a pidfd: it has ended, pidfd_open(2)
        for number, _ in poll.poll(0) if looked else ():
            self.drop(looked[number])

    def drop(self, tid: int) -> None:
        """The thread has ended, or was reused."""
        pidfd = self._by_tid.pop(tid, None)
        if pidfd is not None:
            self._on_close(tid, pidfd)

    def _open(self, tid: int) -> Fd:
        try:
            if self._threads:
                try:
                    return _kernel.pidfd_open(tid, 1)
                except OSError as problem:
                    if problem.errno != errno.EINVAL:
                        raise
                    self._threads = False
            return _kernel.pidfd_open(procfs.thread_group(tid), 0)
        except OSError as problem:
            raise Vanished from problem


class Call:
    """A notification. Reads happen once, writes only while the caller still waits."""

    __slots__ = ("again", "app", "args", "id", "notification", "on_lost", "pidfds", "tid")

    def __init__(self, app: App, pidfds: PidFds, notification: tuple[int, ...]) -> None:
        self.app = app
        self.pidfds = pidfds
        self.notification = notification
        self.id = notification[1]
        self.tid = notification[2]
        self.args = notification[4:]
        self.again = False  # an earlier switch may have carried it out, and died before it could say so
        # What to do when the reply does not arrive: a signal took the caller away, and it may make the call again.
        self.on_lost: Callable[[], None] | None = None

    def int32(self, index: int) -> int:
        """An argument of C type int."""
        low = self.args[index] & 0xFFFFFFFF
        return low - (1 << 32) if low & 0x80000000 else low

    def fetch(self) -> tuple[Fd, int, int]:
        """A duplicate of the descriptor, its socket's cookie (negative: no socket), its status flags.

        Raises Failed(EBADF), Vanished. pidfd_getfd(2).
        """
        number = self._number()
        result = _kernel.fetch(self.pidfds.get(self.tid), number)
        if isinstance(result, int):
            result = _kernel.fetch(self._renewed(result), number)
            if isinstance(result, int):
                raise Vanished if result == errno.ESRCH else Failed(result)
        return result

    def fetch_sockaddr(self) -> tuple[Fd, int, int, bytes | int]:
        """The same with the sockaddr of the second and third argument, or an errno in its place: see `taken`."""
        number, args = self._number(), self.args
        rest = (self.app.listener, self.id, self.tid, args[1], self.int32(2))
        result = _kernel.fetch_sockaddr(self.pidfds.get(self.tid), number, *rest)
        if isinstance(result, int):
            result = _kernel.fetch_sockaddr(self._renewed(result), number, *rest)
            if isinstance(result, int):
                raise Vanished if result == errno.ESRCH else Failed(result)
        return result

    def _number(self) -> int:
        number = self.args[0] & 0xFFFFFFFF
        if number & 0x80000000:
            raise Failed(errno.EBADF)
        return number

    def _renewed(self, error: int) -> Fd:
        """The pidfd that we kept was another thread's, of the same number, long ago: a fresh one."""
        if error != errno.ESRCH:
            raise Failed(error)
        self.pidfds.drop(self.tid)
        return self.pidfds.get(self.tid)

    def valid(self) -> bool:
        """Whether the caller still waits."""
        return _kernel.still_valid(self.app.listener, self.id)

    def read(self, address: int, size: int) -> bytes:
        """A copy of the caller's memory. Raises Failed(EFAULT), Vanished. seccomp_unotify(2).

        The id is checked after it.
        """
        data = _kernel.read_argument(self.app.listener, self.id, self.tid, address, size)
        if isinstance(data, int):
            raise Vanished if data == errno.ENOENT else Failed(data)
        return data

    def write(self, address: int, data: bytes) -> None:
        """Raises Failed(EFAULT), Vanished."""
        if not _kernel.still_valid(self.app.listener, self.id):
            raise Vanished
        if not _kernel.vm_write(self.tid, address, data):
            raise Failed(errno.EFAULT)

    def read_sockaddr(self, address: int, length: int) -> bytes:
        """As move_addr_to_kernel() in net/socket.c. Raises Failed(EINVAL, EFAULT), Vanished."""
        if not 0 <= length <= sockaddr.MAX_LEN:
            raise Failed(errno.EINVAL)
        return self.read(address, length) if length else b""

    def read_int(self, address: int) -> int:
        """A C int."""
        return int.from_bytes(self.read(address, 4), "little", signed=True)

    def write_result(self, address: int, length_address: int, data: bytes) -> None:
        """A value-result pair: at most as many bytes as there is room, and how many there were.

        Raises Failed, Vanished.
        """
        error = _kernel.write_result(self.app.listener, self.id, self.tid, address, length_address, data)
        if error:
            raise Vanished if error == errno.ENOENT else Failed(error)

    def answer(self, outcome: Outcome) -> None:
        """Send the one reply, unless it is LATER's. When the caller is gone there is nobody to tell."""
        listener = self.app.listener
        if outcome == CONTINUE:
            _kernel.reply_continue(listener, self.id)
        elif outcome < 0:
            _kernel.reply(listener, self.id, 0, -outcome)
        elif _kernel.reply(listener, self.id, outcome, 0) and self.on_lost is not None:
            self.on_lost()

    def give(self, fd: Fd, cloexec: bool) -> int:
        """Put a descriptor into the caller and make its number the reply, in one step. The number, or a negative errno.

        ADDFD|SEND is atomic: after an error the caller has got nothing, and the descriptor is still ours.
        """
        return _kernel.add_fd(self.app.listener, self.id, fd, -1, cloexec, 1)

    def give_connection(self, fd: Fd, cloexec: bool) -> int:
        """The same of a connection that we have accepted: were we killed here, a successor knows whose it is."""
        return _kernel.give(self.app.listener, self.id, fd, cloexec)
