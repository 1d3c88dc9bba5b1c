"""How many descriptors the switch may have, and what it keeps back for calls that are answered at once.

Whatever waits here (a parked call, a connection that is held) has one of the switch's own. The kernel gives the lowest
number that is free, so a high number says that there are few left: what would wait with it is refused, and calls in
hand still get theirs. So no app, and no number of apps together, takes the last one.
"""

from __future__ import annotations

import fcntl
import resource

from appswitch._kernel import Fd

WANTED = 1 << 18  # as root: a parked call each for all threads that Linux can have by default, and as many connections
KEPT_BACK = 4  # one in so many, for calls in hand


def raise_limit() -> None:
    """RLIMIT_NOFILE as high as we may, but not beyond what is wanted: setrlimit(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(hard, WANTED), hard):  # the first is root's to set (CAP_SYS_RESOURCE), below fs.nr_open
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except (ValueError, OSError):
            continue
        return


def limit() -> int:
    """How many we may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def share(wanted: int, parts: int) -> int:
    """``wanted`` of something that has a descriptor each, but no more than one in ``parts`` of all."""
    return min(wanted, limit() // parts)


def duplicate(fd: Fd) -> Fd:
    """Another descriptor of the same file. Raises OSError."""
    return Fd(fcntl.fcntl(fd.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))


def twin(fd: Fd) -> Fd | None:
    """One that says: by the time you find two, somebody else may have this connection. See switch/estate.py.

    It is to be closed after ``fd``. None where descriptors are short.
    """
    try:
        return duplicate(fd)
    except OSError:
        return None


class Reserve:
    """Whether something may wait with a descriptor."""

    def __init__(self) -> None:
        most = limit()
        self.first = most - most // KEPT_BACK

    def touched(self, fd: Fd | int) -> bool:
        """Whether its number is one of those that are kept back."""
        return (fd if isinstance(fd, int) else fd.fileno()) >= self.first
