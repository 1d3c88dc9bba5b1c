"""Where a daemon lives on disk. Two daemons in two directories do not disturb each other."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # pathlib is imported late: `ax run`, which is on every app's way, needs only the strings
    from pathlib import Path

SYSTEM = "/run/appswitch"  # root's
SYSTEM_STATE = "/var/lib/appswitch"
STATE = "state.db"  # SQLite, with its journal beside it


class RunDir:
    """``$AX_RUN_DIR`` and the names in it. The directory is mode 0755 for root (every user may run apps), else 0700."""

    __slots__ = ("directory",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.directory = os.fspath(path)

    def __repr__(self) -> str:
        return f"RunDir({self.directory!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunDir) and self.directory == other.directory

    def __hash__(self) -> int:
        return hash(self.directory)

    @property
    def path(self) -> Path:
        """The directory itself."""
        from pathlib import Path

        return Path(self.directory)

    @property
    def rest(self) -> Path:
        """REST over HTTP/1.1 on a Unix stream socket, mode 0666: SO_PEERCRED decides."""
        return self.path / "rest.sock"

    @property
    def attach(self) -> Path:
        """Where launchers hand over notification descriptors: Unix SOCK_SEQPACKET, mode 0666."""
        return self.path / "attach.sock"

    @property
    def delegate(self) -> Path:
        """Where proxies get connections (`appswitch.delegate`): Unix SOCK_SEQPACKET, mode 0666, SO_PEERCRED decides."""
        return self.path / "delegate.sock"

    @property
    def switch(self) -> Path:
        """The channel between control and switch: Unix stream, mode 0600."""
        return self.path / "switch.sock"

    @property
    def dns(self) -> Path:
        """Where control gets sockets to answer DNS queries on (`wire.NameServer`): Unix SOCK_DGRAM, mode 0600."""
        return self.path / "dns.sock"

    @property
    def resolv_conf(self) -> Path:
        """What apps with ``--dns-override`` see as /etc/resolv.conf: mode 0644."""
        return self.path / "resolv.conf"

    @property
    def sockets(self) -> Path:
        """Listening Unix sockets of apps: mode 0700. It is the switch's working directory."""
        return self.path / "s"

    @property
    def pidfile(self) -> Path:
        """Locked (flock) and filled by the keeper: one daemon a directory."""
        return self.path / "daemon.pid"

    @property
    def log(self) -> Path:
        """Where a daemon that `ax run` started writes what it has to say."""
        return self.path / "daemon.log"


def run_dir() -> RunDir:
    """``$AX_RUN_DIR``; else the user's `default_run_dir`."""
    given = os.environ.get("AX_RUN_DIR")
    return RunDir(os.path.abspath(given)) if given else default_run_dir()  # noqa: PTH100 - see above


def default_run_dir() -> RunDir:
    """/run/appswitch for root, ``$XDG_RUNTIME_DIR/appswitch`` or one in /tmp for other users."""
    uid = os.geteuid()
    if uid == 0:
        return RunDir(SYSTEM)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):  # noqa: PTH112
        return RunDir(f"{runtime}/appswitch")
    return RunDir(f"/tmp/appswitch-{uid}")  # noqa: S108 - the keeper refuses a directory that is not the user's own


def state_dir() -> str:
    """Where configuration outlives the daemon: /var/lib/appswitch for root, else in ``$XDG_STATE_HOME``."""
    if os.geteuid() == 0:
        return SYSTEM_STATE
    return (os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")) + "/appswitch"  # noqa: PTH111
