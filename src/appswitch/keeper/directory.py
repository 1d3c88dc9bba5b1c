"""The run directory: made, checked, locked, swept."""

from __future__ import annotations

import contextlib
import fcntl
import os

from appswitch.parent import started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKETS = (
    "rest.sock",
    "attach.sock",
    "switch.sock",
    "delegate.sock",
    "dns.sock",
    "notify.sock",
    "keeper.sock",
)
STATE = ("state.db", "state.db-wal", "state.db-shm", "state.db-journal")
ROSTER = "children"  # who they are, for a keeper that comes after us
LEFTOVERS = (*SOCKETS, ROSTER, "resolv.conf", *STATE)  # removed when the daemon is gone


class KeeperError(Exception):
    """The daemon cannot run here. The text is for the user."""


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


def remove(directory: str, names: Sequence[str]) -> None:
    """Files that may be there."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def remove_sockets(directory: str) -> None:
    """The switch's directory of listening sockets."""
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


# --- the roster: which processes are the daemon's, for a keeper that did not start them


def write_roster(directory: str, pids: dict[str, int]) -> None:
    """All or nothing: a keeper that is killed here leaves the old one."""
    path = os.path.join(directory, ROSTER)
    fresh = f"{path}.new"
    with open(fresh, "w") as file:
        file.writelines(f"{name} {pid} {started(pid)}\n" for name, pid in pids.items() if pid)
    os.rename(fresh, path)


def read_roster(directory: str) -> dict[str, int]:
    """The processes of an earlier keeper that still run, by name."""
    found = {}
    with contextlib.suppress(OSError, ValueError), open(os.path.join(directory, ROSTER)) as file:
        for line in file:
            name, pid, since = line.split()
            if since == started(int(pid)):
                found[name] = int(pid)
    return found
