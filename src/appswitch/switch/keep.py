"""What must outlive the switch is given to the keeper, by systemd's protocol: sd_notify(3), FDSTORE=1.

For each app its notification descriptor (``app-ID``), a sealed memfd with what it asked for (``spec-ID``) and its
network namespace (``net-ID``, and ``user-ID`` where that is needed to enter it); the record of calls that wait for a
reply (``journal``) and of what is known of sockets (``memory``); the listening sockets of the host that lead to apps,
with the connections in their queues (``door-…``, ``gate-…``, ``room-…``), and our own (``own-…``). Everything else is
in the kernel already: see switch/naming.py, switch/datagrams.py.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from appswitch._kernel import Fd
from appswitch.model import AppSpec
from appswitch.switch.loop import Loop

LISTEN_FDS_START = 3
_HOME = ("net", "user")
_LISTENERS = frozenset(("door", "gate", "room", "own"))
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


Listeners = dict[str, list[Fd]]  # by name


class Keep:
    """The way to the keeper; without one (``$NOTIFY_SOCKET`` unset) nothing is kept. It is never waited for."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._socket: socket.socket | None = None
        self._queue: deque[tuple[str, Fd | None]] = deque()
        address = os.environ.get("NOTIFY_SOCKET")
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)

    def ready(self) -> None:
        """The switch serves."""
        self._notify("READY=1")

    def app(self, spec: AppSpec, listener: Fd, home: Sequence[Fd] = ()) -> None:
        """Keep what is needed to serve an app again. ``home``: `Netns.descriptors`."""
        for kind, fd in zip(_HOME, home, strict=False):
            self._notify(f"FDSTORE=1\nFDPOLL=0\nFDNAME={kind}-{spec.appid}", _duplicate(fd))
        self._notify(f"FDSTORE=1\nFDNAME=app-{spec.appid}", _duplicate(listener))
        self._notify(f"FDSTORE=1\nFDNAME=spec-{spec.appid}", _sealed(msgspec.msgpack.encode(spec)))

    def record(self, name: str, memory: Fd) -> None:
        """Keep a record: ``journal`` or ``memory``."""
        self._notify(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", _duplicate(memory))

    def forget_app(self, appid: str) -> None:
        """It ended."""
        for kind in ("app", "spec", *_HOME):
            self._notify(f"FDSTOREREMOVE=1\nFDNAME={kind}-{appid}")

    def listener(self, name: str, fd: Fd) -> None:
        """Keep a listening socket. Several may have one name."""
        self._notify(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", _duplicate(fd))

    def forget(self, name: str) -> None:
        """All that has this name: it is closed."""
        self._notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _notify(self, message: str, descriptor: Fd | None = None) -> None:
        if self._socket is None:
            return
        self._queue.append((message, descriptor))
        if len(self._queue) == 1:
            self._flush()
            if self._queue:
                self._loop.watch(self._socket.fileno(), select.EPOLLOUT, lambda _events: self._resume())

    def _resume(self) -> None:
        self._flush()
        if not self._queue and self._socket is not None:
            self._loop.unwatch(self._socket.fileno())

    def _flush(self) -> None:
        assert self._socket is not None
        while self._queue:
            message, descriptor = self._queue[0]
            try:
                if descriptor is None:
                    self._socket.send(message.encode())
                else:
                    socket.send_fds(self._socket, [message.encode()], [descriptor.fileno()])
            except BlockingIOError:
                return
            except OSError:  # the keeper is gone: apps are still served, as long as the switch lives
                self._queue.clear()
                return
            self._queue.popleft()


def _duplicate(fd: Fd) -> Fd:
    return Fd(fcntl.fcntl(fd.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))


def _sealed(data: bytes) -> Fd:
    memory = Fd(os.memfd_create("appswitch-spec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    os.write(memory.fileno(), data)
    fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    return memory


class Kept(NamedTuple):
    """What an earlier switch left with the keeper."""

    apps: list[tuple[AppSpec, Fd, tuple[Fd, ...]]]  # with the descriptors of its network namespace
    journal: Fd | None
    orphans: list[str]  # ids of apps that ended while no switch was there
    memory: Fd | None = None
    listeners: Listeners = {}  # noqa: RUF012 - of a tuple that is not changed


def recovered() -> Kept:
    """What the keeper passed on: sd_listen_fds(3)."""
    if os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return Kept([], None, [])
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    kept: Listeners = {}
    for i, name in zip(range(count), names, strict=False):
        fd = Fd(LISTEN_FDS_START + i)
        os.set_inheritable(fd.fileno(), False)
        kept.setdefault(name, []).append(fd)
    apps, orphans = [], []
    for name, (fd, *_) in kept.items():
        kind, _, appid = name.partition("-")
        if kind == "spec":
            listener = kept.get(f"app-{appid}")
            if listener is None:
                orphans.append(appid)
            else:
                data = os.pread(fd.fileno(), 1 << 20, 0)
                home = tuple(kept[f"{kind}-{appid}"][0] for kind in _HOME if f"{kind}-{appid}" in kept)
                apps.append((msgspec.msgpack.decode(data, type=AppSpec), listener[0], home))
    listeners = {name: fds for name, fds in kept.items() if name.partition("-")[0] in _LISTENERS}
    records = {name: fds[-1] for name, fds in kept.items()}
    return Kept(apps, records.get("journal"), orphans, records.get("memory"), listeners)
