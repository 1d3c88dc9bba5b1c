"""How an app comes to the switch: its launcher shows a token, gets the filter, hands over its notification descriptor.

Packets over a SOCK_SEQPACKET Unix socket, all integers native. See docs/design/attach.md and native/launcher.c.
"""

from __future__ import annotations

import array
import hashlib
import select
import socket
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING

from appswitch import _kernel, wire
from appswitch._kernel import Fd
from appswitch.model import AppPhase, AppRow, AppSpec
from appswitch.switch import filter as seccomp_filter
from appswitch.switch import netns
from appswitch.switch.apps import App
from appswitch.switch.crowd import displaced
from appswitch.switch.keep import Keep
from appswitch.switch.loop import Timer

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

MAGIC, VERSION = b"AXL1", 1
FLAG_LANDLOCK = 1
_HELLO = struct.Struct("=4sIII32s")
_OFFER = struct.Struct("=4sIIIII")
_STATUS = struct.Struct("=4sI")
_UCRED = struct.Struct("=iII")
_EPERM, _EPROTO = 1, 71
_MAX_FD = 253  # descriptors of one packet, unix(7): the kernel would close what is not received, and may wait for it
PATIENCE = 10.0  # seconds for a launcher to go through its steps
LIMIT, LIMIT_OF_ONE = 1024, 64  # launchers at a time, of all users and of one who is not root


class Registration:
    """An app that control made known and whose launcher has not come yet."""

    __slots__ = ("digest", "spec", "timer")

    def __init__(self, spec: AppSpec, digest: bytes) -> None:
        self.spec = spec
        self.digest = digest  # the token itself is not kept
        self.timer: Timer | None = None

    def row(self) -> AppRow:
        """As `ax get apps` shows it."""
        return AppRow(app=self.spec, phase=AppPhase.REGISTERED, pid=0)


class Attach:
    """The attach socket and those who come through it."""

    def __init__(self, switch: Switch, keep: Keep, listener: socket.socket) -> None:
        self.registered: dict[int, Registration] = {}
        self._by_digest: dict[bytes, Registration] = {}
        self._guests_of: Counter[int] = Counter()  # by uid
        self._switch = switch
        self._keep = keep
        self._listener = listener
        self._guests: set[_Guest] = set()
        self._program = seccomp_filter.build(switch.config.arch)
        switch.loop.watch(listener.fileno(), select.EPOLLIN, lambda _events: self._on_guest())

    def register(self, message: wire.Register) -> None:
        """Expect an app. Raises KeyError when its id is in use."""
        app_id = message.app.id
        if app_id in self.registered or app_id in self._switch.apps:
            raise KeyError(app_id)
        registration = Registration(message.app, hashlib.sha256(message.token).digest())
        registration.timer = self._switch.loop.after(message.expires, lambda: self._expire(app_id))
        self.registered[app_id] = self._by_digest[registration.digest] = registration

    def forget(self, app_id: int) -> bool:
        """Drop a registration. False when there is none."""
        registration = self.registered.pop(app_id, None)
        if registration is None:
            return False
        self._by_digest.pop(registration.digest, None)
        if registration.timer is not None:
            registration.timer.cancel()
        return True

    def offer(self, token: bytes, uid: int, arch: int) -> tuple[Registration | None, str]:
        """Who may attach as what: the token says which app, SO_PEERCRED who asks. Used once, whatever follows.

        The time that a look-up takes says something of digests only, and nobody can choose theirs.
        """
        found = self._by_digest.get(hashlib.sha256(token).digest())
        if found is None:
            return None, "the daemon does not know this token: it was used before, or has expired. Run it again"
        if uid not in (0, found.spec.uid):
            return None, f"the app was registered by uid {found.spec.uid}, not by uid {uid}"
        self.forget(found.spec.id)
        if arch != seccomp_filter.AUDIT_ARCH[self._switch.config.arch]:
            return None, "the launcher and the daemon are of different architectures"
        return found, ""

    def program(self) -> bytes:
        """The filter, as it goes to the launcher."""
        return self._program

    def adopt(self, spec: AppSpec, listener: Fd, pid: int) -> None:
        """Serve it."""
        _kernel.sync_wake_up(listener)  # before 6.6 there is no such flag: slower, no worse
        home = netns.of_process(pid, spec.uid) if spec.netns == "new" else None
        if home is not None and home.cookie == self._switch.datagrams.host.cookie:
            home = None  # the launcher did not do as it was told: what the app has is the host's network, then
        self._keep.app(spec, listener, home.descriptors() if home is not None else ())
        self._switch.attach(App(spec, listener, pid, time.time(), home))

    def done(self, guest: _Guest) -> None:
        """A launcher has left."""
        if guest in self._guests:
            self._guests.discard(guest)
            self._guests_of[guest.uid] -= 1
            if not self._guests_of[guest.uid]:
                del self._guests_of[guest.uid]

    def _on_guest(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        guest = _Guest(self._switch, self, connection)
        self._guests.add(guest)
        self._guests_of[guest.uid] += 1
        if guest.uid and self._guests_of[guest.uid] > LIMIT_OF_ONE:
            guest.leave()
        elif len(self._guests) > LIMIT:
            users = [other for other in self._guests if other.uid]
            (displaced(self._guests, users, guest.uid) or guest).leave()

    def _expire(self, app_id: int) -> None:
        if self.forget(app_id):
            self._switch.reports.send(wire.AppGone(app_id=app_id))


class _Guest:
    """One launcher: hello -> offer -> descriptor -> done. Whatever is not as it should be ends it."""

    def __init__(self, switch: Switch, attach: Attach, connection: socket.socket) -> None:
        self._switch = switch
        self._attach = attach
        self._connection = connection
        self._registration: Registration | None = None
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self._pid, self.uid, _ = _UCRED.unpack(raw)
        self._timer = switch.loop.after(PATIENCE, self.leave)
        switch.loop.watch(connection.fileno(), select.EPOLLIN, lambda _events: self._on_packet())

    def _on_packet(self) -> None:
        try:
            room = socket.CMSG_SPACE(_MAX_FD * 4)
            data, ancillary, _flags, _ = self._connection.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            self.leave()
            return
        received = _descriptors(ancillary)  # owned before anything is judged
        if self._registration is None:
            self._on_hello(data)
        else:
            self._on_listener(self._registration, data, received)

    def _on_hello(self, data: bytes) -> None:
        if len(data) != _HELLO.size or not data.startswith(MAGIC):
            self.leave()
            return
        _, version, landlock, arch, token = _HELLO.unpack(data)
        if version != VERSION:
            self._refuse(_OFFER, _EPROTO, f"the launcher speaks version {version}, the daemon {VERSION}: reinstall")
            return
        self._registration, problem = self._attach.offer(token, self.uid, arch)
        if self._registration is None:
            self._refuse(_OFFER, _EPERM, problem)
            return
        program = self._attach.program()
        flags = FLAG_LANDLOCK if landlock >= 4 and self._switch.config.landlock else 0
        self._send(_OFFER.pack(MAGIC, 0, flags, 0, len(program) // 8, 0) + program)

    def _on_listener(self, registration: Registration, data: bytes, received: list[Fd]) -> None:
        if len(data) != _STATUS.size or not data.startswith(MAGIC) or len(received) != 1:
            self.leave()
            return
        if not _kernel.is_notifier(received[0]):
            self._refuse(_STATUS, _EPROTO, "what was handed over is no seccomp notification descriptor")
            return
        try:
            self._attach.adopt(registration.spec, received[0], self._pid)
        except OSError as problem:
            self._refuse(_STATUS, problem.errno or _EPROTO, f"its network namespace cannot be entered: {problem}")
            return
        self._registration = None
        self._send(_STATUS.pack(MAGIC, 0))
        self.leave()

    def _refuse(self, layout: struct.Struct, error: int, message: str) -> None:
        zeros = (0,) * (layout.size // 4 - 2)
        self._send(layout.pack(MAGIC, error, *zeros) + message.encode())
        self._switch.log("attach refused", uid=self.uid, pid=self._pid, reason=message)
        self.leave()

    def _send(self, packet: bytes) -> None:
        try:
            self._connection.send(packet)
        except OSError:
            self.leave()

    def leave(self) -> None:
        """End it, whatever it has come to."""
        if self._connection.fileno() >= 0:
            self._switch.loop.unwatch(self._connection.fileno())
            Fd(self._connection.detach()).close()  # what is in its queue may linger: native/kernel/patience.c
            self._timer.cancel()
            self._attach.done(self)
            if self._registration is not None:  # its token is used up, and nobody will come any more
                self._switch.reports.send(wire.AppGone(app_id=self._registration.spec.id))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[Fd]:
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return [Fd(number) for number in numbers]
