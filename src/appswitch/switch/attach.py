"""How an app comes to the switch: its launcher shows a token, gets the filter, hands over its notification descriptor.

Packets over a SOCK_SEQPACKET Unix socket, all integers native. See docs/design/attach.md and native/launcher.c.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import os
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from appswitch import _kernel, wire
from appswitch._kernel import Fd
from appswitch.model import AppPhase, AppRow, AppSpec
from appswitch.parent import started
from appswitch.switch import filter as seccomp_filter
from appswitch.switch import netns
from appswitch.switch.apps import App, Origin
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
_LANDLOCK_NET = 4  # the ABI that knows TCP
_MAX_FD = 253  # descriptors of one packet, unix(7): the kernel would close what is not received, and may wait for it
EXPIRES = 30.0  # seconds for the launcher of an app that an earlier switch was told of: as `wire.Register` has it
PATIENCE = 10.0  # seconds for a launcher to go through its steps
LIMIT, LIMIT_OF_ONE = 1024, 64  # launchers at a time, of all users and of one who is not root


class Registration:
    """An app that control made known, until it is served. Recorded in a memfd, which the keeper has as well."""

    __slots__ = ("digest", "guest", "record", "spec", "timer")

    def __init__(self, spec: AppSpec, digest: bytes, record: Fd | None = None, guest: int = 0) -> None:
        self.spec = spec
        self.digest = digest  # the token itself is not kept
        self.guest = guest  # the cookie of the connection on which it was shown; 0: its launcher has not come yet
        self.timer: Timer | None = None
        self.record = record or Fd(os.memfd_create("appswitch-token", os.MFD_CLOEXEC))
        if record is None:
            self.note(guest)

    @property
    def name(self) -> str:
        """What the keeper knows it by."""
        return f"token-{self.spec.appid}"

    def note(self, guest: int) -> None:
        """Its launcher has come."""
        self.guest = guest
        os.pwrite(self.record.fileno(), msgspec.msgpack.encode((guest, self.digest, self.spec)), 0)

    def row(self) -> AppRow:
        """As `ax get apps` shows it."""
        return AppRow(app=self.spec, phase=AppPhase.REGISTERED, pid=0)


def recalled(record: Fd) -> Registration:
    """One of an earlier switch's. Raises msgspec.MsgspecError: it is of another version, or was never written."""
    guest, digest, spec = msgspec.msgpack.decode(os.pread(record.fileno(), 1 << 20, 0), type=tuple[int, bytes, AppSpec])
    return Registration(spec, digest, record, guest)


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
        self._keep.record(registration.name, registration.record)
        self._expect(registration, message.expires)

    def _expect(self, registration: Registration, seconds: float) -> None:
        app_id = registration.spec.id
        registration.timer = self._switch.loop.after(seconds, lambda: self._expire(app_id))
        self.registered[app_id] = self._by_digest[registration.digest] = registration

    def restore(self, records: Sequence[Fd], connections: Sequence[Fd]) -> None:
        """What an earlier switch was told of, and the launchers that were connected to it."""
        by_cookie = {_kernel.cookie(connection): connection for connection in connections}
        for record in records:
            with contextlib.suppress(msgspec.MsgspecError):
                registration = recalled(record)
                self._keep.again(registration.name, record)
                if not registration.guest:
                    self._expect(registration, EXPIRES)
                elif registration.guest in by_cookie:
                    self._welcome(by_cookie.pop(registration.guest), registration)
                else:  # the launcher has gone
                    self._keep.forget(registration.name)
        for connection in by_cookie.values():
            self._welcome(connection, None)

    def rows(self) -> tuple[AppRow, ...]:
        """Apps that are not served yet."""
        coming = [guest.registration for guest in self._guests if guest.registration is not None]
        return tuple(one.row() for one in (*self.registered.values(), *coming))

    def forget(self, app_id: int) -> bool:
        """Drop a registration. False when there is none."""
        registration = self._take(app_id)
        if registration is not None:
            self._keep.forget(registration.name)
        return registration is not None

    def _take(self, app_id: int) -> Registration | None:
        registration = self.registered.pop(app_id, None)
        if registration is not None:
            self._by_digest.pop(registration.digest, None)
            if registration.timer is not None:
                registration.timer.cancel()
        return registration

    def offer(self, token: bytes, uid: int, arch: int, guest: int) -> tuple[Registration | None, str]:
        """Who may attach as what: the token says which app, SO_PEERCRED who asks. Used once, whatever follows.

        The time that a look-up takes says something of digests only, and nobody can choose theirs.
        """
        found = self._by_digest.get(hashlib.sha256(token).digest())
        if found is None:
            return None, "the daemon does not know this token: it was used before, or has expired. Run it again"
        if uid not in (0, found.spec.uid):
            return None, f"the app was registered by uid {found.spec.uid}, not by uid {uid}"
        if arch != seccomp_filter.AUDIT_ARCH[self._switch.config.arch]:
            self.forget(found.spec.id)
            return None, "the launcher and the daemon are of different architectures"
        self._take(found.spec.id)
        found.note(guest)
        return found, ""

    def program(self) -> bytes:
        """The filter, as it goes to the launcher."""
        return self._program

    def serves(self, spec: AppSpec) -> bool:
        """Whether an earlier switch has come so far."""
        return spec.id in self._switch.apps

    def adopt(self, spec: AppSpec, listener: Fd, pid: int) -> None:
        """Serve it."""
        _kernel.sync_wake_up(listener)  # before 6.6 there is no such flag: slower, no worse
        home = netns.of_process(pid, spec.uid) if spec.netns == "new" else None
        if home is not None and home.cookie == self._switch.datagrams.host.cookie:
            home = None  # the launcher did not do as it was told: what the app has is the host's network, then
        origin = Origin(pid, started(pid), time.time())
        self._keep.app(spec, origin, listener, home.descriptors() if home is not None else ())
        self._switch.attach(App(spec, listener, origin, home))

    def done(self, guest: _Guest) -> None:
        """A launcher has left."""
        if guest.registration is not None:
            self._keep.forget(guest.registration.name)
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
        self._admit(_Guest(self._switch, self, connection, None))

    def _welcome(self, connection: Fd, registration: Registration | None) -> None:
        guest = _Guest(self._switch, self, socket.socket(fileno=connection.detach()), registration)
        self._admit(guest)
        if registration is not None:
            guest.go_on()

    def _admit(self, guest: _Guest) -> None:
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
    """One launcher: hello -> offer -> descriptor -> done. Whatever is not as it should be ends it.

    A packet is taken from its queue when what it led to has been noted: a successor finds it there, or finds the note.
    """

    def __init__(
        self, switch: Switch, attach: Attach, connection: socket.socket, registration: Registration | None
    ) -> None:
        """``registration``: of an earlier switch, which may have answered the hello."""
        self._switch = switch
        self._attach = attach
        self._connection = connection
        self.registration = registration
        connection.setblocking(False)
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self._pid, self.uid, _ = _UCRED.unpack(raw)
        self._timer = switch.loop.after(PATIENCE, self.leave)
        switch.loop.watch(connection.fileno(), select.EPOLLIN, lambda _events: self._on_packet())

    def go_on(self) -> None:
        """From where an earlier switch was killed. That the offer comes twice does not matter to the launcher."""
        assert self.registration is not None
        if self._attach.serves(self.registration.spec):
            self._done()
            return
        packet = self._receive(socket.MSG_PEEK)
        if packet is not None and len(packet[0]) == _HELLO.size:
            self._receive(0)
        self._offer()

    def _receive(self, flags: int) -> tuple[bytes, list[Fd]] | None:
        """A packet and its descriptors. None: there is none, or there never will be."""
        try:
            room = socket.CMSG_SPACE(_MAX_FD * 4)
            data, ancillary, _flags, _ = self._connection.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC | flags)
        except BlockingIOError:
            return None
        except OSError:
            self.leave()
            return None
        return data, _descriptors(ancillary)  # owned before anything is judged

    def _on_packet(self) -> None:
        packet = self._receive(socket.MSG_PEEK)
        if packet is None:
            return
        if self.registration is None:
            self._on_hello(packet[0])
        else:
            self._on_listener(self.registration, *packet)

    def _on_hello(self, data: bytes) -> None:
        if len(data) != _HELLO.size or not data.startswith(MAGIC):
            self._cut_off()
            return
        _, version, landlock, arch, token = _HELLO.unpack(data)
        if version != VERSION:
            self._refuse(_OFFER, _EPROTO, f"the launcher speaks version {version}, the daemon {VERSION}: reinstall")
            return
        cookie = _kernel.cookie(self._connection.fileno())
        self.registration, problem = self._attach.offer(token, self.uid, arch, cookie)
        if self.registration is None:
            self._refuse(_OFFER, _EPERM, problem)
            return
        self._receive(0)
        self._offer(landlock)

    def _offer(self, landlock: int = _LANDLOCK_NET) -> None:
        """The launcher looks itself what its kernel has: landlock(7)."""
        program = self._attach.program()
        flags = FLAG_LANDLOCK if landlock >= _LANDLOCK_NET and self._switch.config.landlock else 0
        self._send(_OFFER.pack(MAGIC, 0, flags, 0, len(program) // 8, 0) + program)

    def _on_listener(self, registration: Registration, data: bytes, received: list[Fd]) -> None:
        if len(data) != _STATUS.size or not data.startswith(MAGIC) or len(received) != 1:
            self._cut_off()
            return
        if not _kernel.is_notifier(received[0]):
            self._refuse(_STATUS, _EPROTO, "what was handed over is no seccomp notification descriptor")
            return
        try:
            self._attach.adopt(registration.spec, received[0], self._pid)
        except OSError as problem:
            self._refuse(_STATUS, problem.errno or _EPROTO, f"its network namespace cannot be entered: {problem}")
            return
        self._done()

    def _cut_off(self) -> None:
        self._receive(0)  # what is left in a queue that is closed would be a reset to the other end: unix(7)
        self.leave()

    def _done(self) -> None:
        self._receive(0)
        self._send(_STATUS.pack(MAGIC, 0))
        self.leave()

    def _refuse(self, layout: struct.Struct, error: int, message: str) -> None:
        self._receive(0)
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
            gone = self.registration  # its token is used up, and nobody will come any more
            if gone is not None and not self._attach.serves(gone.spec):
                self._switch.reports.send(wire.AppGone(app_id=gone.spec.id))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[Fd]:
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return [Fd(number) for number in numbers]
