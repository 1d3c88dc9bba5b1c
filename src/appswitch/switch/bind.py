"""bind(2), listen(2): claims on an app's own ports. Nothing is taken from the host unless a port is exposed."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import ANY4, ANY6, Address, is_any, is_loopback, is_multicast
from appswitch.kernel import procfs, sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_UNIX, AF_UNSPEC
from appswitch.switch import udp
from appswitch.switch.apps import App
from appswitch.switch.call import CONTINUE, Call, Outcome, taken
from appswitch.switch.exposure import announce, complain, openings
from appswitch.switch.services import Service
from appswitch.switch.sockets import LISTENING, NEW, Socket
from appswitch.switch.swap import swap

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_STREAM, _NONBLOCK = 1, 0o4000
_SOL_SOCKET, _SO_REUSEADDR = 1, 2
_SOL_IP, _BIND_ADDRESS_NO_PORT = 0, 24
_LINK_LOCAL = b"\xfe\x80"


def bind(switch: Switch, call: Call) -> Outcome:
    """bind(2). The order of checks is that of inet_bind_sk() and inet6_bind_sk()."""
    fd, cookie, _, raw = call.fetch_sockaddr()
    sock = switch.sockets.identify(fd, cookie, call.app) or switch.sockets.adopt(fd, cookie, call.app, raw)
    if sock is None:
        return udp.bind(switch, call, fd, cookie, raw)
    requested = _requested(sock, taken(raw))
    if isinstance(requested, int):
        return requested
    if not _is_own(sock.app, requested.ip):
        return -errno.EADDRNOTAVAIL
    if sock.bound is not None or sock.phase != NEW:
        return 0 if _repeated(call, sock, requested) else -errno.EINVAL
    sock.answered = call.tid
    if not sock.unix:  # a server, then: and of a TCP socket that is not used yet sock_diag knows nothing
        sock, fd = renew(switch, call, sock, fd)
    call.on_lost = lambda: _take_back(switch, sock)
    if not requested.port and (_SOL_IP, _BIND_ADDRESS_NO_PORT) in sock.options:
        sock.bound = requested  # the port comes with connect(2): ip(7)
        switch.sockets.keep(sock)
        return 0
    return claim(switch, sock, fd, requested)


def _repeated(call: Call, sock: Socket, requested: Address) -> bool:
    """Whether a signal swallowed our reply, and the call is the same once more: see `connect._again`."""
    bound = sock.bound
    return (
        bound is not None
        and (bound.ip, requested.port or bound.port) == (requested.ip, bound.port)
        and (call.again or (sock.answered == call.tid and procfs.catches_passing_signals(call.tid)))
    )


def _requested(sock: Socket, raw: bytes) -> Address | int:
    if len(raw) < (sockaddr.LEN4 if sock.family == AF_INET else sockaddr.LEN6_MIN):
        return -errno.EINVAL
    family = sockaddr.family_of(raw)
    if family != sock.family:
        # For historical reasons AF_UNSPEC means AF_INET where the address is 0.0.0.0 (__inet_bind()).
        if not (sock.family == AF_INET and family == AF_UNSPEC and raw[4:8] == ANY4):
            return -errno.EAFNOSUPPORT
        return Address(ANY4, int.from_bytes(raw[2:4], "big"))
    requested = sockaddr.decode(raw)
    if requested.ip[:2] == _LINK_LOCAL and len(requested.ip) == 16 and raw[24:28] in (b"", bytes(4)):
        return -errno.EINVAL  # without a scope: ipv6(7)
    if sock.v6only and len(requested.ip) == 4:
        return -errno.EINVAL
    return requested


def _is_own(app: App, ip: bytes) -> bool:
    """As inet_bind(2) has it: an address of the app's own; multicast and broadcast may be bound as well."""
    return is_any(ip) or is_loopback(ip) or app.has(ip) or is_multicast(ip)


def claim(switch: Switch, sock: Socket, fd: Fd, requested: Address) -> int:
    """Take a port of the app; port 0 takes any. 0 or -EADDRINUSE."""
    app = sock.app
    sock.reuseaddr = _reuses(fd)
    port = requested.port or app.ephemeral_port()
    wanted = Address(requested.ip, port)
    if not port or any(_conflict(sock, wanted, other) and switch.sweep.holds(other) for other in _others(sock, port)):
        return -errno.EADDRINUSE
    sock.bound, sock.inode = wanted, os.fstat(fd.fileno()).st_ino
    app.bound.setdefault(port, []).append(sock)
    switch.sockets.keep(sock)
    return 0


def release(sock: Socket) -> None:
    """Give the port back."""
    if sock.bound is None:
        return
    holders = sock.app.bound.get(sock.bound.port)
    if holders is not None and sock in holders:
        holders.remove(sock)
        if not holders:
            del sock.app.bound[sock.bound.port]
    sock.bound = None


def pass_on(sock: Socket, made: Socket) -> None:
    """Another socket has taken the place of one, and has its port."""
    release(sock)
    if made.bound is not None and made.bound.port:
        made.app.bound.setdefault(made.bound.port, []).append(made)


def _others(sock: Socket, port: int) -> list[Socket]:
    """Who else has bound the port, and may have gone: close(2) is not reported. `Sweep.holds` asks the kernel."""
    return [other for other in sock.app.bound.get(port, ()) if other is not sock]


def _take_back(switch: Switch, sock: Socket) -> None:
    """Its caller did not hear of it."""
    release(sock)
    switch.sockets.keep(sock)


def _conflict(sock: Socket, wanted: Address, other: Socket) -> bool:
    """inet_csk_bind_conflict(): the same address, or a wildcard, unless both sides agreed to share."""
    if other.bound is None or not _overlap(sock, wanted.ip, other, other.bound.ip):
        return False
    if sock.reuseport and other.reuseport:
        return False
    return not (sock.reuseaddr and other.reuseaddr and other.phase != LISTENING)


def _overlap(one: Socket, ip: bytes, other: Socket, other_ip: bytes) -> bool:
    if ip == other_ip:
        return True
    for wide, sock, narrow in ((ip, one, other_ip), (other_ip, other, ip)):
        if wide == ANY4 and (len(narrow) == 4 or (narrow == ANY6 and not (other if sock is one else one).v6only)):
            return True
        if wide == ANY6 and (len(narrow) == 16 or not sock.v6only):
            return True
    return False


def _reuses(fd: Fd) -> bool:
    value = _kernel.getsockopt(fd, _SOL_SOCKET, _SO_REUSEADDR, 4)
    return not isinstance(value, int) and any(value)


def listen(switch: Switch, call: Call) -> Outcome:
    """listen(2). A second call only changes the backlog."""
    fd, cookie, _ = call.fetch()
    sock = switch.sockets.identify(fd, cookie, call.app)
    if sock is None:
        return CONTINUE
    backlog = call.int32(1)
    service = switch.services.by_id.get(sock.service) if sock.phase == LISTENING else None
    if service is not None:
        if not _kernel.is_shut(fd):
            sock.backlog = backlog
            switch.sockets.keep(sock)
            return -_kernel.listen(fd, backlog)
        switch.close_service(service)
    if sock.phase not in (NEW, LISTENING):
        return -errno.EINVAL
    if sock.phase == LISTENING or sock.named or not sock.unix:
        sock, fd = renew(switch, call, sock, fd)
    if sock.bound is None or not sock.bound.port:
        outcome = claim(switch, sock, fd, sock.bound or Address(ANY4 if sock.family == AF_INET else ANY6, 0))
        if outcome:
            return outcome
    assert sock.bound is not None
    if not _is_own(sock.app, sock.bound.ip):  # it was an app's that has ended
        return -errno.EADDRNOTAVAIL
    if _taken(switch, sock):
        return -errno.EADDRINUSE
    return _open(switch, sock, fd, sock.bound, backlog)


def renew(switch: Switch, call: Call, sock: Socket, fd: Fd) -> tuple[Socket, Fd]:
    """A fresh Unix socket, bound as the old one was, in the place of one that cannot go on.

    That is TCP where it is to listen, or a Unix socket that was shut down or connected: TCP survives both.
    """
    unix = _kernel.socket(AF_UNIX, _STREAM | _kernel.status_flags(fd) & _NONBLOCK, 0)
    _kernel.inherit(fd, unix)
    _kernel.setsockopt(unix, _SOL_SOCKET, _SO_REUSEADDR, int(_reuses(fd)).to_bytes(4, "little"))
    made = switch.sockets.add(unix, sock.app, sock.family, unix=True)
    made.adopt(sock)
    made.inode = os.fstat(unix.fileno()).st_ino
    made.phase, made.answered = NEW, sock.answered
    pass_on(sock, made)
    switch.sockets.keep(made)
    swap(call, fd, unix)
    return made, unix


def _taken(switch: Switch, sock: Socket) -> bool:
    """Sockets may share a port by SO_REUSEADDR until one listens."""
    bound = sock.bound
    assert bound is not None
    return any(
        other.phase == LISTENING
        and other.bound is not None
        and _overlap(sock, bound.ip, other, other.bound.ip)
        and not (sock.reuseport and other.reuseport)
        and switch.sweep.holds(other)
        for other in _others(sock, bound.port)
    )


def open_to_strangers(switch: Switch, service: Service) -> int:
    """Have a service exposed as its app asked for. 0 or the errno of the first that fails."""
    appid, bound = service.app.spec.appid, service.endpoint.bound
    for opening in openings(service.app.spec.expose, "tcp", bound, service.socket.v6only):
        error = switch.doors.expose(service, opening)
        if opening.failed(error):
            complain(switch.log, appid, opening, "tcp", error)
            return error
        if not error:
            announce(switch.log, appid, opening, "tcp")
    return 0


def _open(switch: Switch, sock: Socket, fd: Fd, bound: Address, backlog: int) -> Outcome:
    service = switch.services.open(sock.app, sock, fd, bound, backlog)
    if isinstance(service, int):
        return -service
    sock.phase, sock.named, sock.backlog = LISTENING, True, backlog
    switch.sockets.keep(sock)
    error = open_to_strangers(switch, service)
    if error:
        switch.close_service(service)
        return -error
    switch.watch_listener(service, fd)
    switch.services.announce(service)
    return 0
