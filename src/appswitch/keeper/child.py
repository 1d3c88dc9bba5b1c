"""The daemon's processes: started, handed what they stored, waited for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket

from appswitch.keeper.log import log
from appswitch.keeper.notify import FIRST_FD, SCM_MAX_FD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


BURST = 5  # a child that dies so many times ...
BURST_SECONDS = 10.0  # ... within this, before all were ready, is given up; later it is waited for a little
LONGEST = 1.0  # seconds until a child that dies again and again is started again
MAX_NAMES = 120 << 10  # bytes of LISTEN_FDNAMES: one argument of execve(2), MAX_ARG_STRLEN is 128 KiB
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
BATCH = 64  # descriptors in one message to one that stands by; below SCM_MAX_FD, and with names below a packet's size
assert BATCH < SCM_MAX_FD


class FdStore:
    """Descriptors that a child wants back when it is started again: owned, in the order in which they came."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int]] = []
        self.unpolled: set[int] = set()  # those of which it does not matter whether anybody is at the other end
        self.names = 0  # bytes that LISTEN_FDNAMES would have

    def add(self, name: str, fd: int, poll: bool = True) -> bool:
        """Take over ``fd``. False (and ``fd`` stays the caller's) if there would be too many to hand back."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 2 * len(self.entries) + 64 > soft:
            return False
        self.names += len(name) + 1
        self.entries.append((name, fd))
        if not poll:
            self.unpolled.add(fd)
        return True

    def take(self, wanted: Callable[[str, int], bool]) -> list[int]:
        """Give up the entries for which ``wanted(name, fd)`` holds: the descriptors are the caller's now."""
        gone = [entry for entry in self.entries if wanted(*entry)]
        self.entries = [entry for entry in self.entries if not wanted(*entry)]
        self.names -= sum(len(name) + 1 for name, _ in gone)
        self.unpolled.difference_update(fd for _, fd in gone)
        return [fd for _, fd in gone]


class Standby:
    """A process that has loaded its program and waits for the word, and for what its predecessor stored."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.socket = sock
        self.loaded = False

    def go(self, stored: Sequence[tuple[str, int]]) -> None:
        """It is its turn: the descriptors in packets, their names in each packet, and an empty one at the end."""
        for start in range(0, len(stored), BATCH):
            part = stored[start : start + BATCH]
            text = ":".join(name for name, _ in part)
            socket.send_fds(self.socket, [text.encode()], [fd for _, fd in part])
        self.socket.send(b"go")

    def end(self) -> None:
        """Without it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.close()

    def close(self) -> None:
        """Only what is ours of it."""
        os.close(self.pidfd)
        self.socket.close()


class Child:
    """One of the daemon's processes, running or about to be."""

    def __init__(self, name: str, argv: Sequence[str]) -> None:
        self.name = name
        self.argv = tuple(argv)
        self.pid = 0  # 0: not running
        self.pidfd = -1
        self.ready = False
        self.status = ""
        self.deaths: list[float] = []  # monotonic seconds, the recent ones
        self.start_at: float | None = 0.0  # monotonic seconds; None: it runs, or shall not run again
        self.store = FdStore()
        self.standby: Standby | None = None  # who takes its place

    def note_death(self, now: float) -> float:
        """The seconds to wait before the next start: none after the first death, and never long."""
        self.deaths = [when for when in self.deaths if now - when < BURST_SECONDS] + [now]
        return 0.0 if len(self.deaths) == 1 else min(LONGEST, 0.1 * 2.0 ** (min(len(self.deaths), 9) - 2))

    def run(self, pid: int) -> None:
        """It is this process from now on. Raises ProcessLookupError."""
        self.pidfd = os.pidfd_open(pid)
        self.pid, self.ready, self.status, self.start_at = pid, False, "", None

    def send(self, number: int) -> None:
        """A signal, if it runs."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def reap(self) -> int | None:
        """It has ended: its status as `os.waitstatus_to_exitcode` has it; None of one that another keeper started."""
        code = None
        with contextlib.suppress(ChildProcessError):
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.pidfd)
        self.pid, self.pidfd, self.ready = 0, -1, False
        return code


def how(code: int | None) -> str:
    """How a process ended."""
    if code is None:
        return "has ended"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def raise_file_limit() -> None:
    """The children hold a descriptor or more for every app: let them have as many as we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def child_environment(environ: Mapping[str, str], notify: str, managed: bool = False) -> dict[str, str]:
    """What a child inherits: ours, with our notify socket in place of our manager's, and our pid to know us by.

    ``managed``: when we are gone, somebody starts us again, and it need not be a child.
    """
    ours = {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE"}
    ours |= {"AX_MANAGED", "AX_ADOPT", "AX_STANDBY", "AX_KEEPER_STATE"}
    env = {key: value for key, value in environ.items() if key not in ours}
    env["NOTIFY_SOCKET"] = notify
    env["AX_KEEPER_PID"] = str(os.getpid())
    return env | ({"AX_MANAGED": "1"} if managed else {})


def start(argv: Sequence[str], env: dict[str, str], stored: Sequence[tuple[str, int]]) -> int:
    """Start a program with what it stored. The pid."""
    # Blocked across the fork, lest a SIGTERM be taken by our handler in the child and lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                _become(argv, env, stored)
            except BaseException as err:
                log("error", "cannot start {program}: {reason}", program=argv[-1], reason=err)
            finally:
                os._exit(127)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return pid


def start_standby(argv: Sequence[str], env: dict[str, str]) -> Standby:
    """Start a program that waits when it has loaded itself: see `appswitch.parent.stand_by`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid = start(argv, env | {"AX_STANDBY": "1"}, [("standby", theirs.fileno())])
    return Standby(pid, ours)


def _become(argv: Sequence[str], env: dict[str, str], stored: Sequence[tuple[str, int]]) -> None:
    """In the new process: stored descriptors from 3 on (sd_listen_fds(3)), /dev/null as input, then execve(2)."""
    os.setpgid(0, 0)  # Ctrl-C is for the keeper, which then stops the children in order
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if stored:
        free = FIRST_FD + len(stored)
        # Out of the way first: a descriptor may have a number that another is about to get.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, free) for _, fd in stored]
        for number, fd in enumerate(high, FIRST_FD):
            os.dup2(fd, number)
        env["LISTEN_PID"] = str(os.getpid())
        env["LISTEN_FDS"] = str(len(stored))
        env["LISTEN_FDNAMES"] = ":".join(name for name, _ in stored)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.execve(argv[0], list(argv), env)  # noqa: S606 - there is no shell, and none is wanted
