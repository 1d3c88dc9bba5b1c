"""A daemon for who runs an app and has none: in the background, one however many ask, gone when nobody needs it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
import time

from appswitch.cli import locate, rest
from appswitch.keeper import KeeperError, prepare_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from appswitch.paths import RunDir

DEADLINE = 20.0  # seconds until the daemon has to be ready
QUIET = 1.0  # seconds before the user is told what we wait for
IDLE_EXIT = 300  # seconds without an app after which such a daemon ends


def start(run_dir: RunDir) -> None:
    """Return when a daemon answers in ``run_dir``. Raises rest.DaemonDownError with the end of its log."""
    try:
        prepare_directory(run_dir.directory)
    except KeeperError as err:
        raise rest.DaemonDownError(f"cannot start a daemon: {err}") from None
    end = time.monotonic() + DEADLINE
    # The directory itself is the lock: one of several starts the daemon, the others wait for it here.
    lock = os.open(run_dir.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(lock, run_dir, end)
        if not _answers(run_dir):
            _start_one(run_dir, end)
    finally:
        os.close(lock)


def _lock(fd: int, run_dir: RunDir, end: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise rest.DaemonDownError(f"another `ax run` is starting a daemon in {run_dir.directory}") from None
            time.sleep(0.02)
        else:
            return


def _answers(run_dir: RunDir) -> bool:
    try:
        rest.connect(run_dir.directory).close()
    except rest.DaemonDownError:
        return False
    return True


def _start_one(run_dir: RunDir, end: float) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind("")  # an abstract name of the kernel's choice, unix(7): nothing to clean up
        log = f"{run_dir.directory}/daemon.log"
        before = _size(log)
        pid = _spawn(run_dir, log, "@" + ready.getsockname()[1:].decode())
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            pass  # it ended at once
        else:
            if _wait(ready, pidfd, run_dir, end):
                return
    # It may have found another one in its place, which was just starting.
    while time.monotonic() < end and locate.alive(run_dir):
        if _answers(run_dir):
            return
        time.sleep(0.02)
    said = _tail(log, before)
    raise rest.DaemonDownError(f"the daemon did not start in {run_dir.directory}; {log} says:\n{said}".rstrip())


def _wait(ready: socket.socket, pidfd: int, run_dir: RunDir, end: float) -> bool:
    """False: it ended, or took too long. In the latter case it is ended."""
    told = False
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    begun = time.monotonic()
    try:
        while (now := time.monotonic()) < end:
            events = [fd for fd, _ in poll.poll(1000 * ((end if told else min(end, begun + QUIET)) - now) + 1)]
            if ready.fileno() in events and b"READY=1" in ready.recv(4096).split(b"\n"):
                return True
            if pidfd in events:
                return False
            if not told and time.monotonic() >= begun + QUIET:
                told = True
                print(f"ax run: starting a daemon in {run_dir.directory} ...", file=sys.stderr, flush=True)
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    finally:
        os.close(pidfd)
    return False


def _spawn(run_dir: RunDir, log: str, notify: str) -> int:
    """Returns the daemon's pid. It is nobody's child: the program that we become must not find it among its own."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            os.setsid()
            pid = os.fork()
            if pid:
                os.write(writer, str(pid).encode())
                os._exit(0)
            _become_daemon(run_dir, log, notify)
        except BaseException as err:
            os.write(2, f"ax run: cannot start a daemon: {err}\n".encode())
        finally:
            os._exit(127)
    os.close(writer)
    os.waitpid(middle, 0)
    with open(reader) as told:
        text = told.read()
    if not text:
        raise rest.DaemonDownError("cannot start a daemon: there can be no more processes")
    return int(text)


def _become_daemon(run_dir: RunDir, log: str, notify: str) -> None:
    os.umask(0o022)
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.closerange(3, _highest_fd() + 1)  # what we inherited is not the daemon's: somebody may wait for its end
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LISTEN_", "WATCHDOG_", "FDSTORE"))}
    if env.get("PYTHONPATH"):  # the working directory is about to change
        env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, env["PYTHONPATH"].split(os.pathsep)))
    env["NOTIFY_SOCKET"] = notify
    env.setdefault("AX_REST_PORT", "auto")
    env.setdefault("AX_STATE_DIR", run_dir.directory)  # what nobody started forgets when nobody needs it
    env.setdefault("AX_IDLE_EXIT", str(IDLE_EXIT))
    os.chdir("/")
    command = [sys.executable, "-P", "-m", "appswitch.cli", "daemon", "--run-dir", run_dir.directory]
    os.execve(sys.executable, command, env)  # noqa: S606 - there is no shell, and none is wanted


def _highest_fd() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd"))


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _tail(path: str, start: int) -> str:
    """What was written since, its last 2000 bytes at most."""
    try:
        with open(path, "rb") as file:
            file.seek(max(start, _size(path) - 2000))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
