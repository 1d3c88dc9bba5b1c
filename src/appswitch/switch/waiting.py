"""connect(2) to a service that is not there yet.

A blocking call is parked. A non-blocking one gets EINPROGRESS, and has to have a socket that is truly connecting, so
that poll(2), epoll(7), SO_ERROR and another connect(2) are the kernel's own. It is a TCP socket whose SYN is sent to
the *waiting room*, a listening socket of ours with a filter that drops everything. When the service comes, a socket
bound to the room's address connects to the client: a simultaneous open (RFC 9293 section 3.5, figure 8), both ends are
established at once, and ours goes to the server. Who may not reach it is told ECONNRESET instead. When nobody comes,
TCP_USER_TIMEOUT lets the kernel say ETIMEDOUT.
"""

from __future__ import annotations

import errno
import select
import struct
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.kernel import procfs, sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.routing.route import Balanced, Delegate, Deny, Wait
from appswitch.switch.accept import receive_timeout
from appswitch.switch.apps import App
from appswitch.switch.call import LATER, Outcome, Vanished
from appswitch.switch.connect import connect_to
from appswitch.switch.connecting import NONBLOCK, Attempt, Fixed, source_of, tcp
from appswitch.switch.dial import zone_of
from appswitch.switch.flows import Identity, Path
from appswitch.switch.held import Held, reset
from appswitch.switch.loopback import bind_to_loopback
from appswitch.switch.memory import GuestNote
from appswitch.switch.naming import Connection as Ends
from appswitch.switch.parking import Queue

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

PER_APP, LIMIT = 1024, 16_384  # sockets in the waiting room; more get EAGAIN
LOOK = 0.25  # seconds between looks for guests that have closed their sockets
SOON = 0.002  # seconds in which changes of the tables are gathered before those who wait are looked at
SLICE, APART = 64, 0.002  # who is looked at in one go; seconds until the next ones are
AGAIN = 0.1  # seconds until another look where descriptors were short
_SYN_SENT = 1 << 2  # sock_diag(7)
SHARE = 10  # times as long as a look has taken, until the next one
_STREAM, _SHUT_RDWR = 1, 2
_SOL_SOCKET, _SO_REUSEPORT, _IPPROTO_TCP, _TCP_USER_TIMEOUT, _SO_SNDTIMEO = 1, 15, 6, 18, 21
_ON = b"\1\0\0\0"
# IP_MINTTL, IPV6_MINHOPCOUNT; both where IPv4 may come to an IPv6 socket
_MIN_TTL = {AF_INET: ((0, 21),), AF_INET6: ((0, 21), (41, 73))}
_HIGHEST_TTL = (255).to_bytes(4, "little")
_DROP_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K, 0 bytes


class Guest(NamedTuple):
    """A client in the waiting room."""

    app: App
    family: int
    raw: bytes  # the sockaddr that it asked for
    tid: int
    number: int
    cookie: int
    client: Address  # virtual
    user_timeout: bytes  # as the app had it
    who: Identity  # of the process when it asked: its thread may have ended since, and its number be another's
    since: float
    until: float
    slot: int = 0  # where it is noted


class Waiting:
    """Who waits, and the looking again whenever the tables have changed."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._calls: Queue = {}
        self._rooms: dict[int, tuple[Fd, Address]] = {}
        self._guests: dict[Address, Guest] = {}  # by the actual address of the client's socket
        self._by_app: Counter[int] = Counter()
        self._missed: set[Address] = set()  # guests that the kernel did not list when it was asked last
        self._asked = 0.0  # when, monotonic
        self._scheduled = False
        self._round: Iterator[None] | None = None  # a look that is under way
        self._spent = 0.0  # seconds, on that
        self._pause = SOON
        switch.loop.every(1.0, self._expire)

    def __len__(self) -> int:
        return len(self._calls) + len(self._guests)

    def connect(self, attempt: Attempt, raw: bytes, path: Path, verdict: Wait) -> Outcome:
        """Wait as the socket's mode wants it."""
        self._switch.flowlog.waiting(path.flow, verdict)
        if attempt.status & NONBLOCK:
            return self._enter(attempt, raw, path, verdict)
        call, fd, _, status, reply = attempt

        def again() -> Outcome | None:
            fd, cookie, _ = call.fetch()  # one more: the parked one belongs to the parking
            sock = self._switch.sockets.identify(fd, cookie, call.app)
            if sock is None:
                return -errno.EBADF
            found = self._switch.flows.find(sock.app, sock.family, raw, call.tid)
            if isinstance(found.verdict, Wait):
                return None
            return connect_to(self._switch, Attempt(call, fd, sock, status, reply), raw)

        limit = receive_timeout(fd, _SO_SNDTIMEO)
        seconds, outcome = verdict.seconds, -errno.ETIMEDOUT
        if limit is not None and limit < seconds:
            seconds, outcome = limit, -errno.EINPROGRESS

        def late() -> Outcome:
            self._switch.flowlog.timed_out(path.flow, verdict)
            return outcome

        parked = self._switch.parking.park(call, fd, 0, again, seconds, late)
        self._switch.parking.enqueue(parked, self._calls)
        return LATER

    # -- the waiting room

    def _enter(self, attempt: Attempt, raw: bytes, path: Path, verdict: Wait) -> Outcome:
        sock = attempt.sock
        if self._is_full(sock.app) and (not self._look_who_left() or self._is_full(sock.app)):
            return -errno.EAGAIN
        source, who = source_of(sock, path), procfs.identity(attempt.call.tid)
        ends = Ends(sock.app.id, 0, source, path.destination)
        room = _ToRoom(self._switch, self._room(sock.family), ends, verdict.seconds)
        outcome = tcp(self._switch, attempt, room)
        if outcome == -errno.EINPROGRESS:
            self._register(attempt, raw, room, source, verdict, who)
        return outcome

    def _is_full(self, app: App) -> bool:
        return self._by_app[app.id] >= PER_APP or len(self._guests) >= LIMIT

    def _look_who_left(self) -> bool:
        """Dismiss those whose socket is closed: close(2) is not reported. False: somebody has just looked.

        A socket may be left out of a list while others come and go, but hardly of two.
        """
        now = time.monotonic()
        if not self._guests or now - self._asked < LOOK:
            return False
        self._asked, missing = now, {guest.cookie: source for source, guest in self._guests.items()}
        for family in self._rooms:
            for row in _kernel.dump_inet(family, _IPPROTO_TCP, _SYN_SENT):
                missing.pop(row[0], None)
        gone = self._missed & set(missing.values())
        for source in gone:
            self._dismiss(source)
        self._missed = set(missing.values()) - gone
        return True

    def _register(
        self, attempt: Attempt, raw: bytes, room: _ToRoom, client: Address, verdict: Wait, who: Identity
    ) -> None:
        call, sock, now = attempt.call, attempt.sock, time.monotonic()
        if room.source in self._guests:  # who had this port has closed his socket
            self._dismiss(room.source)
        guest = Guest(
            sock.app, sock.family, raw, call.tid, call.int32(0), room.cookie, client, room.user_timeout, who,
            now, now + verdict.seconds,
        )  # fmt: skip
        note = GuestNote(room.source, sock.app.id, *guest[1:11])
        self._guests[room.source] = guest._replace(slot=self._switch.memory.put(0, note))
        self._by_app[sock.app.id] += 1

    def restore(self, app: App, slot: int, note: GuestNote) -> None:
        """One of an earlier switch's. Its room is there as well, or it has been refused."""
        client = Address(*note.client)
        rest = (note.family, note.raw, note.tid, note.number, note.cookie, client, note.user_timeout, note.who)
        self._guests[Address(*note.source)] = Guest(app, *rest, note.since, note.until, slot)
        self._by_app[app.id] += 1
        self._room(note.family)

    def _room(self, family: int) -> Address:
        """Made when it is needed first. Raises OSError."""
        if family not in self._rooms:
            name = f"room-{family}"
            kept = self._switch.kept.listeners.pop(name, None)
            if kept:
                own = _kernel.getsockname(kept[-1])
                if not isinstance(own, int):
                    self._switch.keep.again(name, kept[-1])
                    self._rooms[family] = kept[-1], sockaddr.decode(own)
                    return self._rooms[family][1]
            fd = _reusable(family)
            error = bind_to_loopback(fd, family) or _deafen(fd, family) or _kernel.listen(fd, 1)
            own = _kernel.getsockname(fd)
            if error or isinstance(own, int):
                raise OSError(error, "make a waiting room")
            self._switch.keep.listener(name, fd)
            self._rooms[family] = fd, sockaddr.decode(own)
        return self._rooms[family][1]

    def is_room(self, own: Address) -> bool:
        """Whether a connection with this address of its own was made there."""
        return any(address == own for _, address in self._rooms.values())

    # -- changes

    def look_again(self) -> None:
        """The tables have changed."""
        if not self._scheduled and (self._calls or self._guests):
            self._scheduled = True
            if self._round is None:  # else its end has the next one begin
                self._switch.loop.after(self._pause, self._look)

    def _look(self) -> None:
        self._scheduled = False
        self._round, self._spent = self._steps(), 0.0
        self._go_on()

    def _go_on(self) -> None:
        """Some of those who wait; the others in a moment: there may be thousands, and others have calls to make."""
        assert self._round is not None
        began = time.monotonic()
        looked = sum(1 for _ in islice(self._round, SLICE))
        self._spent += time.monotonic() - began
        if looked == SLICE:
            self._switch.loop.after(APART, self._go_on)
            return
        self._round, self._pause = None, max(SOON, SHARE * self._spent)
        if self._scheduled:
            self._switch.loop.after(self._pause, self._look)

    def _steps(self) -> Iterator[None]:
        for parked in list(self._calls):
            self._switch.parking.retry(parked)
            yield
        yield from self._look_at_guests()

    def _look_at_guests(self) -> Iterator[None]:
        for source, guest in list(self._guests.items()):
            yield
            if self._guests.get(source) is not guest:
                continue  # dismissed meanwhile
            path = self._path_of(guest)
            if isinstance(path.verdict, Deny) and self._refuse(guest, path):
                self._dismiss(source)
            elif not isinstance(path.verdict, Wait):
                try:
                    fd = _reusable(guest.family)
                except OSError:  # no descriptors are left: this one and the others wait for some
                    self._switch.loop.after(AGAIN, self.look_again)
                    return
                self._dismiss(source)
                self._open(fd, source, guest)

    def _open(self, fd: Fd, source: Address, guest: Guest) -> None:
        """The room's end of the guest's connection: established when the guest is."""
        family = guest.family
        _kernel.set_ours(fd, 1)  # it is not accepted, and a successor is to know it all the same
        where = sockaddr.encode(family, source)
        error = _kernel.bind(fd, sockaddr.encode(family, self._room(family))) or _kernel.connect(fd, where)
        if error not in (0, errno.EINPROGRESS):
            return

        def look(_events: int) -> None:
            error = _kernel.connect(fd, where)
            if error != errno.EALREADY:
                self._switch.loop.unwatch(fd)
            if error in (0, errno.EISCONN):
                self._admit(fd, guest, self._path_of(guest))  # much may have changed meanwhile

        self._switch.loop.watch(fd, select.EPOLLOUT, look)

    def _path_of(self, guest: Guest) -> Path:
        return self._switch.flows.find(guest.app, guest.family, guest.raw, guest.tid, guest.who)

    def _refuse(self, guest: Guest, path: Path) -> bool:
        """End the client's attempt: shutdown(2) of a socket that is connecting is ECONNRESET to who waits for it.

        False: its descriptor is not there any more. Then its connection is made, and reset.
        """
        assert isinstance(path.verdict, Deny)
        fd = self._socket_of(guest)
        if fd is None:
            return False
        _kernel.shutdown(fd, _SHUT_RDWR)
        log, verdict = self._switch.flowlog, path.verdict
        log.refused(path.flow, guest.client, verdict, verdict.error, verdict.rule)
        return True

    def _admit(self, fd: Fd, guest: Guest, path: Path) -> None:
        self._restore(guest)
        held = Held(
            path.flow, guest.client, path.destination, unix=False, zone=zone_of(guest.app.spec.labels),
            since=guest.since, cookie=guest.cookie, path=path,
        )  # fmt: skip
        verdict = path.verdict
        if guest.app.ended:
            reset(fd, held)
        elif isinstance(verdict, Balanced | Delegate) and verdict.hold is not None:
            self._switch.holding.hold(fd, held, verdict.hold)
        else:
            self._switch.holding.settle(fd, held, verdict)

    def _restore(self, guest: Guest) -> None:
        """The app's own TCP_USER_TIMEOUT."""
        fd = self._socket_of(guest)
        if fd is not None:
            _kernel.setsockopt(fd, _IPPROTO_TCP, _TCP_USER_TIMEOUT, guest.user_timeout)

    def _socket_of(self, guest: Guest) -> Fd | None:
        """The client's end, if its descriptor is still the same socket."""
        try:
            found = _kernel.fetch(self._switch.pidfds.get(guest.tid), guest.number)
        except Vanished:
            return None
        return None if isinstance(found, int) or found[1] != guest.cookie else found[0]

    def _dismiss(self, source: Address) -> None:
        guest = self._guests.pop(source)
        self._switch.memory.drop(guest.slot)
        self._missed.discard(source)
        self._by_app[guest.app.id] -= 1
        if not self._by_app[guest.app.id]:
            del self._by_app[guest.app.id]

    def _expire(self) -> None:
        """The kernel has told them already."""
        now = time.monotonic()
        self._look_who_left()
        for source in [source for source, guest in self._guests.items() if guest.until < now or guest.app.ended]:
            self._dismiss(source)


class _ToRoom(Fixed):
    """A client on its way into the waiting room."""

    def __init__(self, switch: Switch, room: Address, ends: Ends, seconds: float) -> None:
        super().__init__(switch, room, ends)
        self._milliseconds = max(1, int(seconds * 1000))
        self.source = room
        self.cookie = 0
        self.user_timeout = bytes(4)

    def start(self, tcp: Fd, family: int) -> tuple[int, bytes]:
        """See `connecting.Target`."""
        old = _kernel.getsockopt(tcp, _IPPROTO_TCP, _TCP_USER_TIMEOUT, 4)
        self.user_timeout = bytes(4) if isinstance(old, int) else old
        _kernel.setsockopt(tcp, _IPPROTO_TCP, _TCP_USER_TIMEOUT, self._milliseconds.to_bytes(4, "little"))
        error, where = super().start(tcp, family)
        own = _kernel.getsockname(tcp)
        if not isinstance(own, int):
            self.source = sockaddr.decode(own)
        self.cookie = _kernel.cookie(tcp)
        return error, where


def _deafen(fd: Fd, family: int) -> int:
    """Let it hear no SYN. 0 or an errno.

    There are kernels that let only the privileged attach a filter; there what has crossed a router, as each packet with
    less than the highest TTL seems to have, is dropped: ip(7), RFC 5082 section 3.
    """
    error = _kernel.attach_filter(fd, _DROP_ALL)
    if error != errno.EPERM:
        return error
    for level, option in _MIN_TTL[family]:
        error = _kernel.setsockopt(fd, level, option, _HIGHEST_TTL)
    return error


def _reusable(family: int) -> Fd:
    fd = _kernel.socket(family, _STREAM | NONBLOCK, 0)
    _kernel.setsockopt(fd, _SOL_SOCKET, _SO_REUSEPORT, _ON)
    return fd
