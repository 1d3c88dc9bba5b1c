"""The child's side of the keeper (`appswitch.keeper`): what it hands over, whether it lives, and who comes after it.

And how either tells a process from a later one with its pid.

For the switch and control alike: the standard library only, and nothing here waits but `descriptors`.
"""

from __future__ import annotations

import os
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_FD = 3  # SD_LISTEN_FDS_START
MANAGED = "AX_MANAGED"  # a service manager starts another keeper: it is not for us to do
RETRY = 0.02  # seconds between looks for a new keeper
_STANDBY = "AX_STANDBY"


def descriptors() -> list[tuple[str, int]]:
    """What an earlier process of our kind stored, by name: sd_listen_fds(3). The descriptors are the caller's.

    Who is started to stand by is told later: until its predecessor has ended this waits, with everything loaded.
    """
    if os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return []
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    found = [(name, FIRST_FD + i) for i, name in zip(range(count), names, strict=False)]
    for _, fd in found:
        os.set_inheritable(fd, False)
    if os.environ.pop(_STANDBY, "") == "1" and found:
        with socket.socket(fileno=found[0][1]) as keeper:
            return _stand_by(keeper)
    return found


def _stand_by(keeper: socket.socket) -> list[tuple[str, int]]:
    """Raises SystemExit when it is not to be."""
    keeper.send(b"loaded")
    found: list[tuple[str, int]] = []
    while True:
        text, fds, _, _ = socket.recv_fds(keeper, 64 << 10, 253, socket.MSG_CMSG_CLOEXEC)
        if not text:
            sys.exit(0)
        if not fds:
            return found
        found += zip(text.decode().split(":"), fds, strict=True)


def has_keeper() -> bool:
    """Whether a keeper has started us: not where a service manager, or somebody by hand, did so."""
    return bool(notify_address() and os.environ.get("AX_KEEPER_PID"))


def is_managed() -> bool:
    """Whether a service manager starts the keeper again, and has what was stored with it."""
    return bool(os.environ.get(MANAGED))


def has_daemon() -> bool:
    """Whether there is still a daemon to belong to: a keeper that is killed leaves its pid file.

    Where that is gone somebody has removed the run directory, or the daemon has ended; nobody will need us again.
    """
    return is_managed() or os.path.exists(os.path.join(os.environ.get("AX_RUN_DIR", ""), "daemon.pid"))


def notify_address() -> str:
    """Of ``$NOTIFY_SOCKET``, as socket(2) wants it; empty: nobody is told anything."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    return "\0" + address[1:] if address.startswith("@") else address


def keeper_pid() -> int:
    """Who our keeper is: by the pid file, for it need not be our parent any more. 0: there is none."""
    try:
        with open(os.path.join(os.environ.get("AX_RUN_DIR", ""), "daemon.pid")) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def watch_keeper() -> int:
    """A pidfd of our keeper, readable when it has ended: pidfd_open(2). -1: it has, or there was none."""
    try:
        return os.pidfd_open(keeper_pid() or int(os.environ.get("AX_KEEPER_PID", "0")))
    except (OSError, ValueError):
        return -1


def _spawn(words: list[str], environment: dict[str, str]) -> int:
    """posix_spawn(3) does not copy our memory, and hardly takes time. Its pid. Raises OSError."""
    return os.posix_spawn(words[0], words, environment, setsid=True)


def start_keeper(spawn: Callable[[list[str], dict[str, str]], int] = _spawn) -> int:
    """Another one, which takes us over; of several that are started the first one does, and the others end.

    Not where a service manager does so. ``spawn`` starts a program as `_spawn` does. Its pid, or 0.
    """
    if is_managed() or not has_keeper():
        return 0
    if not has_daemon():
        return 0
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keeper", "__main__.py")
    ours = {"NOTIFY_SOCKET", "AX_KEEPER_PID", "AX_CLEAN"}
    env = {key: value for key, value in os.environ.items() if key not in ours} | {"AX_ADOPT": "1"}
    try:
        return spawn([sys.executable, "-I", "-S", program], env)
    except OSError:
        return 0  # there can be no more processes now


def reap(pids: list[int]) -> None:
    """Of the keepers that we started, those that have ended: waitpid(2)."""
    for pid in list(pids):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0]
        except ChildProcessError:
            ended = pid
        if ended:
            pids.remove(pid)


def started(pid: int) -> str:
    """When a process was started, in ticks since boot: with its pid it is one of its kind. Empty: it is none any more.

    proc_pid_stat(5), field 22. A zombie is none.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
