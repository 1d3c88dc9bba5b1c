"""connect(2): to an app on this host in place, as Unix sockets; to anywhere else by a TCP socket in its stead."""

from __future__ import annotations

import errno
import select
from typing import TYPE_CHECKING, NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import ANY4, ANY6, Address, is_any
from appswitch.kernel import procfs, sockaddr
from appswitch.kernel.sockaddr import AF_INET
from appswitch.routing.route import Deny, Home, Local
from appswitch.switch import udp
from appswitch.switch.accept import purge, receive_timeout, wake
from appswitch.switch.bind import renew
from appswitch.switch.call import LATER, Call, Outcome, taken
from appswitch.switch.flows import Path
from appswitch.switch.naming import Connection as Ends
from appswitch.switch.services import Service
from appswitch.switch.sockets import CONNECTED, CONNECTING, FINISHING, LISTENING, NEW, Socket
from appswitch.switch.swap import swap

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_STREAM, _NONBLOCK = 1, 0o4000
_SO_SNDTIMEO = 21
_UNSPEC = bytes(2)  # AF_UNSPEC


class Attempt(NamedTuple):
    """One connect(2): who, with which socket."""

    call: Call
    fd: Fd
    sock: Socket
    status: int  # file status flags
    reply: bool  # answer the call; else a connection that was made at once is 0


def connect(switch: Switch, call: Call) -> Outcome:
    """connect(2)."""
    fd, cookie, status, raw = call.fetch_sockaddr()
    sock = switch.sockets.identify(fd, cookie, call.app) or switch.sockets.adopt(fd, cookie, call.app, raw)
    if sock is None:
        return udp.connect(switch, call, fd, cookie, status, raw)
    return connect_to(switch, Attempt(call, fd, sock, status, reply=True), taken(raw))


def connect_to(switch: Switch, attempt: Attempt, raw: bytes) -> Outcome:
    """The order of checks is that of inet_stream_connect()."""
    sock = attempt.sock
    if len(raw) < 2:
        return -errno.EINVAL
    if raw.startswith(_UNSPEC):
        return _disconnect(switch, attempt)
    if sock.phase != NEW:
        return _again(switch, attempt)
    path = switch.flows.find(sock.app, sock.family, raw)
    if path.mapped and (sock.v6only or _is_native6(sock.bound)):
        return -errno.ENETUNREACH
    verdict = path.verdict
    if isinstance(verdict, Local):
        return _local(switch, attempt, path, verdict)
    ends = Ends(sock.app.id, 0, _source(sock, path), path.to)
    if isinstance(verdict, Deny):
        return _refuse(switch, attempt, ends, verdict.error)
    return _tcp(switch, attempt, verdict.to, ends, at_home=isinstance(verdict, Home))


def _again(switch: Switch, attempt: Attempt) -> Outcome:
    """connect(2) on a socket that is connected, connecting or listening."""
    sock, tid = attempt.sock, attempt.call.tid
    if sock.phase == FINISHING:
        sock.phase = CONNECTED
        return 0
    if sock.answered == tid and sock.phase == CONNECTED and procfs.catches_passing_signals(tid):
        # A signal may come between our reply and the caller, who then never hears it, though the reply went well
        # (seccomp_do_user_notification()), and makes the call again: the thread is told once more.
        return 0
    if sock.phase == CONNECTING:
        return _wait(switch, attempt, -errno.EALREADY)
    return -errno.EISCONN


def _is_native6(bound: Address | None) -> bool:
    return bound is not None and len(bound.ip) == 16 and not is_any(bound.ip)


def _local(switch: Switch, attempt: Attempt, path: Path, verdict: Local) -> Outcome:
    """Connect to one of the listeners; one that turns out to be gone is closed, and another is tried."""
    call, fd, sock, status, reply = attempt
    source, endpoints = _source(sock, path), verdict.endpoints
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
                    _joined(switch, sock, service, source, verdict.to, error < 0 or bool(status & _NONBLOCK))
                    return LATER if reply else 0
                if error != errno.ECONNREFUSED:
                    return _local_tcp(switch, attempt, service, Ends(sock.app.id, service.app.id, source, verdict.to))
                switch.close_service(service)
            elif switch.alive(service):
                # A socket that has a name already cannot get another, and a full queue waits only in TCP.
                return _local_tcp(switch, attempt, service, Ends(sock.app.id, service.app.id, source, verdict.to))
        endpoints = tuple(e for e in endpoints if e is not endpoint)
    return _refuse(switch, attempt, Ends(sock.app.id, 0, source, verdict.to), errno.ECONNREFUSED)


def _joined(switch: Switch, sock: Socket, service: Service, local: Address, peer: Address, again: bool) -> None:
    """``again``: the next connect(2) is to succeed as well, since EINPROGRESS was said, or nothing was heard at all."""
    sock.local, sock.peer, sock.phase = local, peer, FINISHING if again else CONNECTED
    if service.parked:
        wake(switch, service)


def _local_tcp(switch: Switch, attempt: Attempt, service: Service, ends: Ends) -> Outcome:
    family = attempt.sock.family if attempt.sock.v6only or len(ends.server.ip) == 16 else AF_INET
    door = switch.doors.inside(service, family)
    if isinstance(door, int):
        return -door
    return _tcp(switch, attempt, door, ends)


def _refuse(switch: Switch, attempt: Attempt, ends: Ends, error: int) -> Outcome:
    """A refusal that arrives as TCP's does.

    At once when blocking, else by EPOLLERR and SO_ERROR of a real TCP socket.
    """
    if error != errno.ECONNREFUSED or not attempt.status & _NONBLOCK:
        return -error
    return _tcp(switch, attempt, switch.closed_ports[attempt.sock.family], ends)


def _source(sock: Socket, path: Path) -> Address:
    """The virtual address a connection comes from."""
    bound = sock.bound
    if bound is None:
        return Address(path.source, sock.app.ephemeral_port())
    return Address(path.source if is_any(bound.ip) else bound.ip, bound.port or sock.app.ephemeral_port())


def _tcp(switch: Switch, attempt: Attempt, actual: Address, ends: Ends, at_home: bool = False) -> Outcome:
    """Connect a TCP socket: the app's own if it is one already, else a new one that takes its place."""
    call, fd, sock, status, reply = attempt
    replaced = sock.unix or at_home
    if at_home and sock.app.home is not None:
        tcp = sock.app.home.socket(sock.family, _STREAM)
    else:
        tcp = _kernel.socket(sock.family, _STREAM, 0) if sock.unix else fd
    if replaced:
        copy_options(fd, tcp, sock)
    where = sockaddr.encode(sock.family, actual)
    error = _kernel.connect(tcp, where)
    if error not in (0, errno.EINPROGRESS):
        return -error
    source = _kernel.getsockname(tcp)
    if ends.server_app and not isinstance(source, int):
        switch.doors.expect(sockaddr.decode(source), actual, ends)
    if replaced:
        _kernel.set_status_flags(tcp, 2 | status & _NONBLOCK)
        swap(call, fd, tcp)
        made = switch.sockets.add(tcp, sock.app, sock.family, unix=False)
        made.adopt(sock)
        sock = made
    sock.local, sock.peer, sock.phase = ends.client, ends.server, CONNECTING
    sock.peer_app, sock.actual = ends.server_app or None, where
    if status & _NONBLOCK:
        return -errno.EINPROGRESS
    return _wait(switch, Attempt(call, tcp, sock, status, reply), -errno.EINPROGRESS)


def _wait(switch: Switch, attempt: Attempt, on_timeout: Outcome) -> Outcome:
    """For a connection in progress: what another connect(2) on it says is what the app is to hear."""
    call, tcp, sock, status, _ = attempt

    def look() -> Outcome | None:
        error = _kernel.connect(tcp, sock.actual)
        if error == errno.EALREADY:
            return None
        sock.phase = CONNECTED if error in (0, errno.EISCONN) else NEW
        sock.answered = call.tid
        return 0 if error == errno.EISCONN else -error  # connected, and the app has not heard of it yet

    call.on_lost = sock.finish_again
    outcome = look()
    if outcome is not None:
        return outcome
    if status & _NONBLOCK:
        return -errno.EALREADY
    timeout = receive_timeout(tcp, _SO_SNDTIMEO)
    switch.parking.park(call, tcp, select.EPOLLOUT, look, timeout, on_timeout)
    return LATER


def copy_options(old: Fd, new: Fd, sock: Socket) -> None:
    """Everything that the app has set on its socket so far."""
    _kernel.inherit(old, new)
    for (level, option), written in sock.options.items():
        _kernel.setsockopt(new, level, option, written)


def _disconnect(switch: Switch, attempt: Attempt) -> Outcome:
    """AF_UNSPEC dissolves the association: connect(2). A Unix socket cannot, so a fresh one takes its place."""
    call, fd, sock, *_ = attempt
    if sock.phase == LISTENING:
        switch.close_service_of(sock)
    left = Address(ANY4 if sock.family == AF_INET else ANY6, sock.local.port) if sock.local else None
    if not sock.unix:
        error = _kernel.connect(fd, bytes(16))
        sock.local, sock.peer = left, None
        sock.phase = NEW
        return -error
    if sock.phase == NEW:
        return 0
    _kernel.shutdown(fd, 2)
    made, _ = renew(switch, call, sock, fd)
    made.local, made.peer = left, None
    return 0
