"""What must outlive the switch is given to the keeper, by systemd's protocol: sd_notify(3), FDSTORE=1.

For each app its notification descriptor (``app-ID``), a sealed memfd with what it asked for (``spec-ID``) and its
network namespace (``net-ID``, and ``user-ID`` where that is needed to enter it); the record of calls that wait for a
reply (``journal``) and of what is known of sockets (``memory``); the sockets of the host that lead to apps, with what
is in their queues (``door-…``, ``gate-…``, ``room-…``, ``lobby-…``, ``udp-…``), and our own (``own-…``); who holds our
other descriptors (``holder-…``, switch/holder.py). Everything else is in the kernel already: see switch/naming.py,
switch/datagrams.py.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import structs

from appswitch import _kernel, parent
from appswitch._kernel import Fd
from appswitch.model import AppSpec
from appswitch.switch.apps import Origin
from appswitch.switch.descriptors import duplicate
from appswitch.switch.loop import Loop
from appswitch.switch.owned import unowned

QUEUE = 4096  # messages that the keeper may be behind; with more, what is new is not kept, and a crash forgets it
_HOME = ("net", "user")
_POLLED = frozenset(("app", "spec"))
_LOOKS = 250  # for a new keeper, before yet another one is started
_LISTENERS = frozenset(("door", "gate", "room", "lobby", "udp", "own"))
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


Listeners = dict[str, list[Fd]]  # by name


class Keep:
    """The way to the keeper; without one (``$NOTIFY_SOCKET`` unset) nothing is kept. It is never waited for.

    When it dies another one is started, and told everything again. Descriptors that are kept are not owned here:
    whoever closes one says so.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._address = parent.notify_address()
        self._socket: socket.socket | None = None
        self._queue: deque[tuple[str, Fd | None]] = deque()
        self._kept: dict[str, list[tuple[str, Fd]]] = {}  # by name: what is said with it
        self._said: list[str] = []  # READY=1 and so on, which a new keeper has to hear as well
        self._from = int(os.environ.get("AX_KEEPER_PID", "0"))  # who has started us; 0: somebody has been told since
        self._pidfd: Fd | None = None
        self.on_keeper: Callable[[Fd], None] = lambda _pidfd: None  # told of each, by its pidfd
        self._started: list[int] = []  # keepers
        if self._address:
            self._connect()

    def ready(self) -> None:
        """The switch answers calls, though perhaps not before it is configured."""
        self._say("READY=1")

    def serving(self) -> None:
        """Nothing waits any more for the configuration."""
        self._say("X_APPSWITCH_SERVING=1")

    def app(self, spec: AppSpec, origin: Origin, listener: Fd, home: Sequence[Fd] = ()) -> None:
        """Keep what is needed to serve an app again. ``home``: `Netns.descriptors`.

        The notification descriptor comes last: if we die in between, calls fail (nobody has it), instead of waiting for
        somebody who has it and does not know whose it is.
        """
        for kind, fd in zip(_HOME, home, strict=False):
            self._keep(f"{kind}-{spec.appid}", fd, poll=False)
        self._keep(f"spec-{spec.appid}", _sealed(spec, origin))
        self._keep(f"app-{spec.appid}", listener)

    def app_again(self, spec: AppSpec, origin: Origin, listener: Fd, home: Sequence[Fd] = ()) -> None:
        """The same for one that comes from the keeper."""
        for kind, fd in zip(_HOME, home, strict=False):
            self.again(f"{kind}-{spec.appid}", fd)
        self.again(f"spec-{spec.appid}", _sealed(spec, origin))
        self.again(f"app-{spec.appid}", listener)

    def forget_app(self, appid: str) -> None:
        """It ended."""
        for kind in ("app", "spec", *_HOME):
            self.forget(f"{kind}-{appid}")

    def record(self, name: str, memory: Fd) -> None:
        """Keep a record: ``journal`` or ``memory``."""
        self._keep(name, memory, poll=False)

    def listener(self, name: str, fd: Fd) -> None:
        """Keep a listening socket. Several may have one name."""
        self._keep(name, fd, poll=False)

    def again(self, name: str, fd: Fd) -> None:
        """It is kept already, for it comes from there."""
        if self._address:
            self._kept.setdefault(name, []).append((_message(name, name.partition("-")[0] in _POLLED), fd))

    def forget(self, name: str) -> None:
        """All that has this name: it is closed."""
        self._kept.pop(name, None)
        self._notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def watch(self) -> None:
        """Notice when the keeper dies."""
        if parent.has_keeper():
            number = parent.watch_keeper()
            self._pidfd = Fd(number) if number >= 0 else None
            if self._pidfd is None:
                self._on_death()
            elif not self._is_known():
                self._pidfd.close()
                self._look(_LOOKS)
            else:
                self._loop.watch(self._pidfd, select.EPOLLIN, lambda _events: self._on_death())
                self.on_keeper(self._pidfd)

    def _is_known(self) -> bool:
        """Whether who is watched now has what we got from our keeper, and hears us: it may be another one by now."""
        first, self._from = self._from, 0
        if self._socket is None or first not in (0, parent.keeper_pid()):
            return False
        try:
            self._socket.send(b"\n")
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    # The keeper dies, and another one comes

    def _on_death(self) -> None:
        if self._pidfd is not None:
            self._loop.unwatch(self._pidfd)
            self._pidfd.close()
            self._pidfd = None
        self._start_another()

    def _start_another(self) -> None:
        if not parent.has_daemon():
            self._loop.stop()
            return
        pid = parent.start_keeper(_spawn)
        if pid:
            self._started.append(pid)
        self._look(_LOOKS)

    def _look(self, left: int) -> None:
        parent.reap(self._started)
        if self._connect():
            self.watch()
            for text in self._said:
                self._notify(text)
            for kept in self._kept.values():
                for message, fd in kept:
                    self._notify(message, duplicate(fd))
        elif left:
            self._loop.after(parent.RETRY, lambda: self._look(left - 1))
        else:
            self._start_another()

    def _connect(self) -> bool:
        """False: nobody listens there now."""
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            fresh.connect(self._address)
        except OSError:
            fresh.close()
            return False
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
        self._queue.clear()
        self._socket = fresh
        return True

    # What is said

    def _say(self, text: str) -> None:
        self._said.append(text)
        self._notify(text)

    def _keep(self, name: str, fd: Fd, poll: bool = True) -> None:
        if self._address:
            message = _message(name, poll)
            self._kept.setdefault(name, []).append((message, fd))
            self._notify(message, duplicate(fd))

    def _notify(self, message: str, descriptor: Fd | None = None) -> None:
        if self._socket is None or len(self._queue) >= QUEUE:
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
            except OSError:  # the keeper is gone: its successor is told everything again
                self._queue.clear()
                return
            self._queue.popleft()


def _message(name: str, poll: bool) -> str:
    """What stores it. Not polled: it does not matter whether anybody is at the other end."""
    return f"FDSTORE=1\n{'' if poll else 'FDPOLL=0' + chr(10)}FDNAME={name}"


def _spawn(words: list[str], environment: dict[str, str]) -> int:
    """With none of our connections: they do not close on execve(2)."""
    variables = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
    return _kernel.spawn([os.fsencode(word) for word in words], variables, -1)


class _Record(AppSpec, frozen=True):
    """An app's spec, and more: older versions read the first, newer ones know that the rest may not be there."""

    origin: Origin = Origin()


def _sealed(spec: AppSpec, origin: Origin) -> Fd:
    memory = Fd(os.memfd_create("appswitch-spec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    os.write(memory.fileno(), msgspec.msgpack.encode(_Record(**structs.asdict(spec), origin=origin)))
    fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    return memory


class KeptApp(NamedTuple):
    """One that an earlier switch served."""

    spec: AppSpec
    origin: Origin
    listener: Fd
    home: tuple[Fd, ...]  # the descriptors of its network namespace


class Kept(NamedTuple):
    """What an earlier switch left with the keeper."""

    apps: list[KeptApp]
    journal: Fd | None
    orphans: list[str]  # ids of apps that ended while no switch was there, or were not kept as a whole
    memory: Fd | None = None
    listeners: Listeners = {}  # noqa: RUF012 - of a tuple that is not changed
    holders: dict[str, Fd] = {}  # noqa: RUF012 - pidfds of those who hold the rest of the descriptors, by name
    tokens: Sequence[Fd] = ()  # records of apps whose launchers have not come, or not come to an end
    inherited: dict[int, str] = {}  # noqa: RUF012 - other descriptors that this process was started with


def recovered() -> Kept:
    """What the keeper passed on."""
    kept: Listeners = {}
    for name, number in parent.descriptors():
        kept.setdefault(name, []).append(Fd(number))
    inherited = unowned({fd.fileno() for fds in kept.values() for fd in fds})
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
                spec = msgspec.msgpack.decode(data, type=AppSpec)
                origin = msgspec.msgpack.decode(data, type=_Record).origin
                apps.append(KeptApp(spec, origin, listener[0], home))
        elif kind == "app" and f"spec-{appid}" not in kept:
            orphans.append(appid)
    listeners = {name: fds for name, fds in kept.items() if name.partition("-")[0] in _LISTENERS}
    records = {name: fds[-1] for name, fds in kept.items()}
    tokens = [fds[-1] for name, fds in kept.items() if name.startswith("token-")]
    holders = {name: fds[-1] for name, fds in kept.items() if name.startswith("holder-")}
    rest = listeners, holders, tokens, inherited
    return Kept(apps, records.get("journal"), orphans, records.get("memory"), *rest)
