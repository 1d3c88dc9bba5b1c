"""Carrying a connect(2) out: in place between two Unix sockets, or by a TCP socket that takes the Unix one's place."""

from __future__ import annotations

import errno
import select
from typing import TYPE_CHECKING, NamedTuple, Protocol

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address, is_any
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET
from appswitch.routing.route import Flow
from appswitch.routing.table import Endpoint
from appswitch.switch import bind
from appswitch.switch.accept import purge, receive_timeout, wake
from appswitch.switch.call import LATER, Call, Outcome
from appswitch.switch.flows import Path
from appswitch.switch.naming import Connection as Ends
from appswitch.switch.parking import Parked
from appswitch.switch.reflexes import Settle
from appswitch.switch.reflexes import Target as Known
from appswitch.switch.services import Service
from appswitch.switch.sockets import CONNECTED, CONNECTING, FINISHING, NEW, Socket
from appswitch.switch.swap import swap

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

STREAM, NONBLOCK = 1, 0o4000
_SO_SNDTIMEO = 21
UNSPEC = bytes(16)  # a sockaddr of AF_UNSPEC: dissolves what was begun, connect(2)

# What `local` says of listeners beside an outcome: none of them is there any more; those that are have no room.
GONE: Outcome = 1 << 42
FULL: Outcome = 1 << 43


class Attempt(NamedTuple):
    """One connect(2): who, with which socket."""

    call: Call
    fd: Fd
    sock: Socket
    status: int  # file status flags
    reply: bool  # answer the call; else a connection that was made at once is 0


class Target(Protocol):
    """Where a TCP socket is being connected to."""

    ends: Ends
    patience: float | None  # seconds after which `again` is asked instead of waiting on

    def start(self, tcp: Fd, family: int) -> tuple[int, bytes]:
        """Begin to connect: 0, EINPROGRESS or an errno, and the sockaddr it is connecting to."""

    def again(self, tcp: Fd, family: int, error: int) -> bytes | None:
        """It failed with ``error``: begin to connect elsewhere. The sockaddr, or None where there is nobody left."""

    def succeeded(self) -> None:
        """It is connected."""


class Fixed:
    """One address of the host's network, or a door of a service on this host."""

    patience: float | None = None

    def __init__(self, switch: Switch, actual: Address, ends: Ends, flow: Flow | None = None) -> None:
        """``flow``: of an app, to an address that may be the host's."""
        self._switch = switch
        self._actual = actual
        self.ends = ends
        self._flow = flow

    def start(self, tcp: Fd, family: int) -> tuple[int, bytes]:
        """See `Target`."""
        where = sockaddr.encode(family, self._actual)
        error = _kernel.connect(tcp, where)
        if error in (0, errno.EINPROGRESS) and self.ends.server_app:
            announce(self._switch, tcp, self._actual, self.ends)
        elif self._flow is not None:
            self._switch.comers.expect(tcp, self._actual, error, self._flow)
        return error, where

    def again(self, _tcp: Fd, _family: int, _error: int) -> bytes | None:
        """See `Target`."""
        return None

    def succeeded(self) -> None:
        """See `Target`."""


def announce(switch: Switch, tcp: Fd, door: Address, ends: Ends) -> None:
    """Tell the door who is coming."""
    source = _kernel.getsockname(tcp)
    if not isinstance(source, int):
        switch.doors.expect(sockaddr.decode(source), door, ends)


def source_of(sock: Socket, path: Path) -> Address:
    """The virtual address a connection comes from."""
    bound = sock.bound
    if bound is None:
        return Address(path.source, sock.app.ephemeral_port())
    return Address(path.source if is_any(bound.ip) else bound.ip, bound.port or sock.app.ephemeral_port())


# -- to an app of this host


def local(
    switch: Switch, attempt: Attempt, path: Path, endpoints: tuple[Endpoint, ...], source: Address, patient: bool
) -> Outcome:
    """Connect to one of the listeners; one that turns out to be gone is closed, and another is tried.

    ``patient``: wait for room in a queue that is full, as TCP does; else `FULL`.
    """
    call, fd, sock, status, reply = attempt
    to = path.destination
    while endpoints:
        endpoint = endpoints[switch.pick(len(endpoints))] if len(endpoints) > 1 else endpoints[0]
        service = switch.services.by_id.get(endpoint.id)
        if service is not None:
            if service.parked:
                purge(switch, service)
            if sock.unix and not sock.named and not service.tcp_only:
                sock.named = True
                name = path.name(endpoint, source.ip, source.port)
                error = _kernel.join(call.app.listener, call.id, fd, status, name, service.name, reply)
                if error <= 0:
                    sock.answered = call.tid
                    sock.local, sock.peer = source, to
                    sock.phase = FINISHING if error < 0 or status & NONBLOCK else CONNECTED
                    if service.parked:
                        wake(switch, service)
                    return LATER if reply else 0
                if error != errno.ECONNREFUSED:
                    return by_door(switch, attempt, service, source, to) if patient else FULL
                switch.close_service(service)
            elif switch.sweep.alive(service):
                # A socket that has a name already cannot get another, and a full queue waits only in TCP.
                return by_door(switch, attempt, service, source, to)
        endpoints = tuple(e for e in endpoints if e is not endpoint)
    return GONE


def learn(
    switch: Switch,
    attempt: Attempt,
    raw: bytes,
    path: Path,
    endpoints: tuple[Endpoint, ...],
    settle: Settle,
    drawn: bool = False,
) -> None:
    """A connection was made, and the next to the same sockaddr may be made like it without anybody's look.

    Not where somebody follows what happens, or where something of it is not in the path: a bound address, another one
    for each family.
    """
    sock = attempt.sock
    made = sock.unix and sock.named and sock.phase in (CONNECTED, FINISHING) and attempt.reply
    if not made or path.mapped or path.dry_run or switch.flowlog.followed or not switch.flows.has(sock, raw):
        return
    targets = targets_of(switch, path, endpoints)
    if targets:
        switch.reflexes.lead(sock, raw, targets, drawn, settle)


def targets_of(switch: Switch, path: Path, endpoints: tuple[Endpoint, ...]) -> tuple[Known, ...]:
    """Listeners to which connections of a path may be led without a look; none where one of them wants TCP."""
    source, by_id = path.source, switch.services.by_id
    services = [by_id.get(endpoint.id) for endpoint in endpoints]
    alike = len(source) == len(path.destination.ip) and all(len(source) in (4, len(e.bound.ip)) for e in endpoints)
    if not alike or any(service is None or service.tcp_only for service in services):
        return ()
    return tuple((path.tail(e), s.name, s) for e, s in zip(endpoints, services, strict=True) if s is not None)


def joined(sock: Socket, local: Address, peer: Address, again: bool) -> None:
    """``again``: the next connect(2) is to succeed as well, since EINPROGRESS was said, or nothing was heard at all."""
    sock.local, sock.peer, sock.phase = local, peer, FINISHING if again else CONNECTED


def by_door(switch: Switch, attempt: Attempt, service: Service, source: Address, to: Address) -> Outcome:
    """By TCP to a service of this host."""
    family = attempt.sock.family if attempt.sock.v6only or len(to.ip) == 16 else AF_INET
    door = switch.doors.inside(service, family)
    if isinstance(door, int):
        return -door
    return tcp(switch, attempt, Fixed(switch, door, Ends(attempt.sock.app.id, service.app.id, source, to)))


def refuse(switch: Switch, attempt: Attempt, ends: Ends, error: int) -> Outcome:
    """A refusal that arrives as TCP's does.

    At once when blocking, else by EPOLLERR and SO_ERROR of a real TCP socket.
    """
    if error != errno.ECONNREFUSED or not attempt.status & NONBLOCK:
        return -error
    return tcp(switch, attempt, Fixed(switch, switch.closed_ports[attempt.sock.family], ends))


# -- by TCP


def tcp(switch: Switch, attempt: Attempt, target: Target, at_home: bool = False) -> Outcome:
    """Connect a TCP socket: the app's own if it is one already, else a new one that takes its place."""
    call, fd, sock, status, reply = attempt
    replaced = sock.unix or at_home
    if at_home and sock.app.home is not None:
        made = sock.app.home.socket(sock.family, STREAM)
    else:
        made = _kernel.socket(sock.family, STREAM, 0) if sock.unix else fd
    if replaced:
        copy_options(fd, made, sock)
    error, where = target.start(made, sock.family)
    if error not in (0, errno.EINPROGRESS):
        return -error
    if replaced:
        sock = put(switch, attempt, made)
    ends = target.ends
    sock.local, sock.peer, sock.phase = ends.client, ends.server, CONNECTING
    sock.peer_app, sock.actual = ends.server_app or None, where
    own = _kernel.getsockname(made) if sock.bound is not None else b""
    sock.own = b"" if isinstance(own, int) else own
    switch.sockets.keep(sock)
    if status & NONBLOCK and target.patience is None:
        return -errno.EINPROGRESS
    return wait(switch, Attempt(call, made, sock, status, reply), -errno.EINPROGRESS, target)


def put(switch: Switch, attempt: Attempt, made: Fd) -> Socket:
    """Put a TCP socket behind the app's descriptor."""
    _, fd, sock, status, _ = attempt
    _kernel.set_status_flags(made, 2 | status & NONBLOCK)
    swap(attempt.call, fd, made)
    entry = switch.sockets.add(made, sock.app, sock.family, unix=False)
    entry.adopt(sock)
    bind.pass_on(sock, entry)
    return entry


GRACE = 0.05  # seconds that a non-blocking connect(2) may be held back so that another backend can be tried unnoticed


def wait(switch: Switch, attempt: Attempt, on_timeout: Outcome, target: Target | None = None) -> Outcome:
    """For a connection in progress: what another connect(2) on it says is what the app is to hear."""
    progress = _Progress(switch, attempt, target)
    attempt.call.on_lost = attempt.sock.finish_again
    outcome = progress.look()
    if outcome is not None:
        return outcome
    if attempt.status & NONBLOCK and not progress.held:
        return -errno.EALREADY
    timeout = GRACE if progress.held else receive_timeout(attempt.fd, _SO_SNDTIMEO)
    parked = switch.parking.park(attempt.call, attempt.fd, select.EPOLLOUT, progress.look, timeout, on_timeout)
    if target is not None and target.patience is not None and not progress.held:
        _give_up_after(switch, parked, progress, target.patience)
    return LATER


def _give_up_after(switch: Switch, parked: Parked, progress: _Progress, seconds: float) -> None:
    """Let another backend have its turn when this one says nothing."""

    def expire() -> None:
        if switch.parking.holds(parked):
            progress.late = True
            _give_up_after(switch, parked, progress, seconds)
            switch.parking.retry(parked)

    switch.loop.after(seconds, expire)


class _Progress:
    """A TCP connection that is being made, while its call waits. ``attempt.fd`` is the TCP socket."""

    def __init__(self, switch: Switch, attempt: Attempt, target: Target | None) -> None:
        self._switch = switch
        self._attempt = attempt
        self._target = target
        self.held = bool(attempt.status & NONBLOCK) and target is not None and target.patience is not None
        self.late = False  # whoever it is connecting to has had its time

    def look(self) -> Outcome | None:
        """None: not yet."""
        fd, sock = self._attempt.fd, self._attempt.sock
        error = _kernel.connect(fd, sock.actual)
        if error == errno.EALREADY and not self.late:
            return None
        if error in (0, errno.EISCONN):
            return self._succeeded()
        if self.late:
            _kernel.connect(fd, UNSPEC)
            self.late, error = False, errno.ETIMEDOUT
        where = self._target.again(fd, sock.family, error) if self._target is not None else None
        if where is None:
            return self._failed(error)
        sock.actual = where
        return None

    def _failed(self, error: int) -> Outcome:
        fd, sock = self._attempt.fd, self._attempt.sock
        if self.held and error == errno.ECONNREFUSED:  # is heard of as with TCP: see `refuse`
            sock.actual = sockaddr.encode(sock.family, self._switch.closed_ports[sock.family])
            _kernel.connect(fd, sock.actual)
            return -errno.EINPROGRESS
        sock.phase, sock.answered = NEW, self._attempt.call.tid
        return -error

    def _succeeded(self) -> Outcome:
        sock = self._attempt.sock
        if self._target is not None:
            self._target.succeeded()
        if self.held:
            return -errno.EINPROGRESS  # the app asks again, and is told then
        sock.phase, sock.answered = CONNECTED, self._attempt.call.tid
        return 0


def copy_options(old: Fd, new: Fd, sock: Socket) -> None:
    """Everything that the app has set on its socket so far."""
    _kernel.inherit(old, new)
    for (level, option), written in sock.options.items():
        _kernel.setsockopt(new, level, option, written)
