"""The daemon's parent: starts the switch and control, starts them again when they die, holds what must outlive them.

It is run by file path (``python -I -S keeper.py``), so it imports nothing but a few modules of the standard
library: it has to stay small, and it must not be able to break. Its options are environment variables:

``AX_RUN_DIR`` the daemon's directory, ``AX_NODE_NAME`` for the ready line, ``AX_LOG_FORMAT`` (console or json),
``NOTIFY_SOCKET`` where its own service manager listens, if it has one; ``AX_STATE_DIR`` where control keeps what is
configured, and ``AX_CLEAN`` (1) to forget that. In the run directory it goes with the daemon.

To its children it is a service manager: it speaks the server's side of sd_notify(3) (READY, STATUS, FDSTORE,
FDSTOREREMOVE, FDNAME, FDPOLL) and hands stored descriptors back as sd_listen_fds(3) describes. A child that is moved
under systemd itself needs no change.

Should the keeper be killed with SIGKILL, its children stay and go on serving: they are not tied to its life.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

GRACE = 5.0  # seconds between SIGTERM and SIGKILL when the daemon stops
BURST = 5  # a child that dies so many times ...
BURST_SECONDS = 10.0  # ... within this is given up
FIRST_FD = 3  # SD_LISTEN_FDS_START
MAX_NAMES = 120 << 10  # bytes: LISTEN_FDNAMES must fit one argument of execve(2), MAX_ARG_STRLEN is 128 KiB
SCM_MAX_FD = 253  # descriptors that the kernel passes in one message, unix(7)
SOCKETS = ("rest.sock", "attach.sock", "switch.sock", "delegate.sock", "notify.sock")
STATE = ("state.db", "state.db-wal", "state.db-shm", "state.db-journal")
LEFTOVERS = (*SOCKETS, "resolv.conf", *STATE)  # removed when the daemon is gone
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class KeeperError(Exception):
    """The daemon cannot run here. The text is for the user."""


def log(level: str, event: str) -> None:
    """One line on standard error, as a console line or (``AX_LOG_FORMAT=json``) as one JSON object."""
    if os.environ.get("AX_LOG_FORMAT") == "json":
        import json  # only now: most keepers never say a word, and this is a megabyte

        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"timestamp": stamp, "level": level, "part": "keeper", "event": event})
    else:
        line = f"ax daemon: {event}"
    with contextlib.suppress(OSError, ValueError):  # a closed terminal must not end the daemon
        print(line, file=sys.stderr, flush=True)


# --- the directory ---------------------------------------------------------------------------------------------------


def prepare_directory(path: str) -> None:
    """Make the run directory (0755 for root, else 0700) or check that nobody else may change what is in it.

    Raises KeeperError: not a directory, another owner, writable by others, or too long for a socket's address.
    """
    longest = max(len(os.fsencode(os.path.join(path, name))) for name in SOCKETS)
    if longest > 107:  # sun_path of unix(7), less the final NUL
        raise KeeperError(f"the run directory's name is too long for a Unix socket in it: {path}")
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode=0o755 if os.geteuid() == 0 else 0o700)
        found = os.stat(path)
    except OSError as err:
        raise KeeperError(f"cannot make the run directory {path}: {err.strerror}") from None
    if not os.path.isdir(path):
        raise KeeperError(f"the run directory {path} is not a directory")
    if found.st_uid != os.geteuid():
        raise KeeperError(f"the run directory {path} belongs to uid {found.st_uid}, not to uid {os.geteuid()}")
    if found.st_mode & 0o022:
        raise KeeperError(f"the run directory {path} may be written by others (mode {found.st_mode & 0o7777:04o})")


def lock_pidfile(path: str) -> int:
    """Take the one lock of a run directory and write our pid; returns the descriptor that holds it.

    Raises KeeperError with the other's pid if there is a daemon already.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            where = os.path.dirname(path)
            raise KeeperError(f"a daemon is running in {where} already (pid {pid or 'unknown'})") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                break
        os.close(fd)  # a stopping daemon unlinked the file between our open and our lock: take the new one
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _remove(directory: str, names: Sequence[str]) -> None:
    """Files that may be there."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def _remove_sockets(directory: str) -> None:
    """The switch's directory of listening sockets. It may have had no time to do so itself."""
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


# --- children and what they stored -----------------------------------------------------------------------------------


class FdStore:
    """Descriptors that a child wants back when it is started again: owned, in the order in which they came."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int]] = []
        self._bytes = 0

    def add(self, name: str, fd: int) -> bool:
        """Take over ``fd``. False (and ``fd`` stays the caller's) if there would be too many to hand back."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if self._bytes + len(name) + 1 > MAX_NAMES or 2 * len(self.entries) + 64 > soft:
            return False
        self._bytes += len(name) + 1
        self.entries.append((name, fd))
        return True

    def take(self, wanted: Callable[[str, int], bool]) -> list[int]:
        """Give up the entries for which ``wanted(name, fd)`` holds: the descriptors are the caller's now."""
        gone = [entry for entry in self.entries if wanted(*entry)]
        self.entries = [entry for entry in self.entries if not wanted(*entry)]
        self._bytes -= sum(len(name) + 1 for name, _ in gone)
        return [fd for _, fd in gone]


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

    def note_death(self, now: float) -> float | None:
        """The seconds to wait before the next start, none after the first death; None: it dies too often."""
        self.deaths = [when for when in self.deaths if now - when < BURST_SECONDS] + [now]
        if len(self.deaths) >= BURST:
            return None
        return 0.0 if len(self.deaths) == 1 else 0.1 * 2 ** (len(self.deaths) - 2)


def _raise_file_limit() -> None:
    """The children hold a descriptor or more for every app: let them have as many as we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def child_environment(environ: Mapping[str, str], notify: str) -> dict[str, str]:
    """What a child inherits: ours, with our notify socket in place of our manager's, and our pid to know us by."""
    ours = {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"}
    env = {key: value for key, value in environ.items() if key not in ours}
    env["NOTIFY_SOCKET"] = notify
    env["AX_KEEPER_PID"] = str(os.getpid())
    return env


def become(argv: Sequence[str], env: dict[str, str], stored: Sequence[tuple[str, int]]) -> None:
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


# --- sd_notify(3), the server's side ---------------------------------------------------------------------------------


class NotifySocket:
    """``$RUN/notify.sock``, where the children report; the kernel vouches for who they are (SCM_CREDENTIALS)."""

    def __init__(self, path: str) -> None:
        self.path = path
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(path)
        os.chmod(path, 0o600)

    def receive(self) -> tuple[int, str, list[int]] | None:
        """The next message: the sender's pid, the text, its descriptors (now the caller's). None: none is waiting."""
        space = socket.CMSG_SPACE(4 * SCM_MAX_FD) + socket.CMSG_SPACE(12)
        try:
            data, ancillary, _, _ = self.socket.recvmsg(64 << 10, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        pid = 0
        fds: list[int] = []
        for level, kind, body in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += struct.unpack(f"{len(body) // 4}i", body[: len(body) // 4 * 4])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = struct.unpack("3i", body)[0]
        return pid, data.decode("utf-8", "replace"), fds


def notify_upstream(text: str) -> None:
    """Tell our own service manager, if there is one. It may be gone: that is its affair."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), address)


def fd_name(fields: Mapping[str, str]) -> str:
    """``FDNAME=``, or "stored" when it has none that sd_pid_notify_with_fds(3) allows (255 printable, no colon)."""
    name = fields.get("FDNAME", "")
    good = 0 < len(name) <= 255 and name.isascii() and name.isprintable() and ":" not in name
    return name if good else "stored"


# --- the keeper ------------------------------------------------------------------------------------------------------


class Keeper:
    """The loop: signals, then messages, then deaths, then timers. ``run`` returns the daemon's exit status."""

    def __init__(self, directory: str, commands: Mapping[str, Sequence[str]]) -> None:
        """``commands`` are argument vectors by name; the ready line has the STATUS of the last one."""
        self.directory = directory
        self.children = [Child(name, argv) for name, argv in commands.items()]
        self.announced = False
        self.stopping: float | None = None  # when the patience with the children ends, monotonic seconds
        self.status = 0

    def run(self) -> int:
        """Raises KeeperError if the daemon cannot even be started."""
        prepare_directory(self.directory)
        lock = lock_pidfile(os.path.join(self.directory, "daemon.pid"))
        os.umask(0o022)
        _raise_file_limit()
        self._sweep()
        if os.environ.pop("AX_CLEAN", "0") == "1" and os.environ.get("AX_STATE_DIR"):
            _remove(os.environ["AX_STATE_DIR"], STATE)
        self.notify = NotifySocket(os.path.join(self.directory, "notify.sock"))
        self.epoll = select.epoll()
        self.epoll.register(self.notify.socket, select.EPOLLIN)
        self.signals = _signal_pipe()
        self.epoll.register(self.signals, select.EPOLLIN)
        try:
            while not self._finished():
                self._start_due()
                self._handle(self.epoll.poll(self._timeout()))
        finally:
            self._sweep()
            _remove_sockets(os.path.join(self.directory, "s"))
            _remove(self.directory, ("daemon.pid",))
            os.close(lock)
        return self.status

    def _sweep(self) -> None:
        _remove(self.directory, LEFTOVERS)

    def _finished(self) -> bool:
        return self.stopping is not None and not any(child.pid for child in self.children)

    def _timeout(self) -> float | None:
        due = [child.start_at for child in self.children if child.start_at is not None]
        if self.stopping is not None:
            due = [self.stopping]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _handle(self, events: Sequence[tuple[int, int]]) -> None:
        ready = {fd for fd, _ in events}
        if self.signals.fileno() in ready:
            for number in self.signals.recv(64):
                self._signalled(signal.Signals(number))
        # A child's last words come before its death: they may hold descriptors that its successor needs.
        while (message := self.notify.receive()) is not None:
            self._told(*message)
        for child in self.children:
            if child.pid and child.pidfd in ready:
                self._reap(child)
            # Hung up: nobody is at the other end any more. systemd's file descriptor store drops such ones, too.
            self._discard(child.store.take(lambda _, fd: fd in ready))
        if self.stopping is not None and time.monotonic() >= self.stopping:
            self._kill_rest()

    # Starting and dying

    def _start_due(self) -> None:
        for child in self.children:
            if child.start_at is not None and child.start_at <= time.monotonic():
                self._start(child)

    def _start(self, child: Child) -> None:
        child.start_at = None
        env = child_environment(os.environ, self.notify.path)
        # Blocked across the fork, lest a SIGTERM be taken by our handler in the child and lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    become(child.argv, env, child.store.entries)
                except BaseException as err:
                    log("error", f"cannot start {child.name}: {err}")
                finally:
                    os._exit(127)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        child.pid, child.ready, child.status = pid, False, ""
        child.pidfd = os.pidfd_open(pid)
        self.epoll.register(child.pidfd, select.EPOLLIN)

    def _reap(self, child: Child) -> None:
        _, code = os.waitpid(child.pid, 0)
        self.epoll.unregister(child.pidfd)
        os.close(child.pidfd)
        child.pid, child.pidfd, child.ready = 0, -1, False
        if self.stopping is not None:
            return
        status = os.waitstatus_to_exitcode(code)
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if status > 0 and not self.announced:
            log("error", f"{child.name} could not start ({how})")
            self._stop(1)
            return
        delay = child.note_death(time.monotonic())
        if delay is None:
            log("error", f"{child.name} {how}, {BURST} times within {BURST_SECONDS:.0f} s: giving up")
            self._stop(1)
            return
        log("warning", f"{child.name} {how}; starting it again" + (f" in {delay:.1f} s" if delay else ""))
        child.start_at = time.monotonic() + delay

    def _stop(self, status: int) -> None:
        if self.stopping is not None:
            return
        self.stopping = time.monotonic() + GRACE
        self.status = status
        notify_upstream("STOPPING=1")
        for child in self.children:
            child.start_at = None
            if child.pid:
                signal.pidfd_send_signal(child.pidfd, signal.SIGTERM)

    def _kill_rest(self) -> None:
        self.stopping = time.monotonic() + GRACE
        for child in self.children:
            if child.pid:
                log("warning", f"{child.name} did not end within {GRACE:.0f} s: killing it")
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)

    # Signals and messages

    def _signalled(self, number: signal.Signals) -> None:
        # A hang-up of the terminal that the daemon was started in by hand ends it; a service manager's means "reload".
        if number != signal.SIGHUP or os.isatty(0):
            self._stop(0)
            return
        for child in self.children:
            if child.pid:
                signal.pidfd_send_signal(child.pidfd, number)

    def _told(self, pid: int, text: str, fds: list[int]) -> None:
        """A message of sd_notify(3). Descriptors that it does not ask us to store are closed: BARRIER=1 works so."""
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        child = next((child for child in self.children if child.pid and child.pid == pid), None)
        if child is None:
            log("warning", f"ignored a message on the notify socket from pid {pid}, which is not ours")
        elif fields.get("FDSTORE") == "1":
            fds = self._store(child, fields, fds)
        elif fields.get("FDSTOREREMOVE") == "1":
            name = fd_name(fields)
            self._discard(child.store.take(lambda stored, _: stored == name))
        for fd in fds:
            os.close(fd)
        if child is not None:
            self._report(child, fields)

    def _discard(self, stored: Sequence[int]) -> None:
        for fd in stored:
            # Not left to close(2): epoll watches the open file, and the child has a descriptor of it, too.
            with contextlib.suppress(OSError):  # it may never have been watched
                self.epoll.unregister(fd)
            os.close(fd)

    def _store(self, child: Child, fields: Mapping[str, str], fds: list[int]) -> list[int]:
        """Returns the descriptors that were not taken."""
        refused = [fd for fd in fds if not child.store.add(fd_name(fields), fd)]
        if refused:
            log("error", f"too many descriptors: {len(refused)} of {child.name} will not survive its restart")
        for fd in fds if fields.get("FDPOLL") != "0" else ():
            if fd not in refused:
                # EPOLLHUP and EPOLLERR are always reported. A file without poll, such as a memfd, cannot hang up; what
                # cannot be watched for another reason (an epoll that watches ours, too many) is kept all the same.
                with contextlib.suppress(OSError):
                    self.epoll.register(fd, 0)
        return refused

    def _report(self, child: Child, fields: Mapping[str, str]) -> None:
        if "STATUS" in fields and fields["STATUS"] != child.status:
            child.status = fields["STATUS"]
            if self.announced:
                notify_upstream(f"STATUS={child.name}: {child.status}")
        if fields.get("READY") == "1":
            child.ready = True
            if all(each.ready for each in self.children) and not self.announced:
                self._announce()

    def _announce(self) -> None:
        self.announced = True
        node = os.environ.get("AX_NODE_NAME") or os.uname().nodename
        line = f"ax daemon ready: node {node}, run directory {self.directory}"
        if self.children[-1].status:
            line += f", {self.children[-1].status}"
        with contextlib.suppress(OSError, ValueError):
            print(line, flush=True)
        notify_upstream(f"READY=1\nSTATUS={line}")


def _signal_pipe() -> socket.socket:
    """A socket on which the number of each signal that arrives can be read as a byte."""
    ours, wakeup = socket.socketpair()
    ours.setblocking(False)
    wakeup.setblocking(False)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, it would take waitpid's answers away
    signal.set_wakeup_fd(wakeup.detach(), warn_on_full_buffer=False)
    return ours


def main() -> int:
    """The daemon of ``$AX_RUN_DIR``: the switch first, then control."""
    directory = os.environ.get("AX_RUN_DIR")
    if not directory:
        log("error", "AX_RUN_DIR is not set (the keeper is started by `ax daemon`)")
        return 1
    # -P: whatever lies in the current directory must not be imported.
    commands = {name: (sys.executable, "-P", "-m", f"appswitch.{name}") for name in ("switch", "control")}
    try:
        return Keeper(os.path.abspath(directory), commands).run()
    except KeeperError as err:
        log("error", str(err))
        return 1


if __name__ == "__main__":
    sys.exit(main())
