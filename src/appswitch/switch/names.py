"""socket(2), getsockname(2), getpeername(2): a socket shows the addresses that its app knows."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.switch import udp
from appswitch.switch.call import LATER, Call, Outcome
from appswitch.switch.sockets import CONNECTED, CONNECTING, FINISHING, Socket

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_NONBLOCK, _CLOEXEC, _TYPE_MASK, _DGRAM = 0o4000, 0o2000000, 0xF, 2
_IPPROTO_TCP, _IPPROTO_MAX = 6, 262


def socket(switch: Switch, call: Call) -> Outcome:
    """socket(2) of UDP; of TCP with arguments that are wrong, or that are for a cousin of TCP.

    TCP's common call never comes here: `_kernel.Reflex` answers it with a Unix socket.
    """
    kind, protocol = call.int32(1), call.int32(2)
    if kind & _TYPE_MASK == _DGRAM:
        return udp.socket(switch, call)
    if kind & ~(_TYPE_MASK | _NONBLOCK | _CLOEXEC) or not 0 <= protocol <= _IPPROTO_MAX:
        return -errno.EINVAL
    if protocol not in (0, _IPPROTO_TCP):
        return -errno.EPROTONOSUPPORT  # MPTCP, SCTP: callers fall back to TCP
    if call.again:
        return _make(switch, call, call.int32(0), kind)
    return -errno.ENOBUFS  # the switch itself could not make one


def _make(switch: Switch, call: Call, family: int, kind: int) -> Outcome:
    """As `_kernel.wait` does, for a call that came to an earlier switch."""
    tcp = call.app.spec.transport == "tcp"
    made = _kernel.socket(family if tcp else sockaddr.AF_UNIX, kind & ~_CLOEXEC, 0)
    switch.sockets.keep(switch.sockets.add(made, call.app, family, unix=not tcp))
    number = call.give(made, bool(kind & _CLOEXEC))
    return LATER if number >= 0 else number


def getsockname(switch: Switch, call: Call) -> Outcome:
    """getsockname(2): of a connection its local end, else what was bound, else the unspecified address."""
    fd, cookie, status = call.fetch()
    sock = switch.sockets.identify(fd, cookie, call.app)
    if sock is None:
        return udp.getsockname(switch, call, fd, cookie, status)
    outcome = _tell(call, sock, sock.local or sock.bound)
    if sock.accepted and sock.local is not None:
        switch.reflexes.own_name(sock, fd, sockaddr.encode(sock.family, sock.local))
    return outcome


def getpeername(switch: Switch, call: Call) -> Outcome:
    """getpeername(2). Raises Failed(ENOTCONN) by its result."""
    fd, cookie, status = call.fetch()
    sock = switch.sockets.identify(fd, cookie, call.app)
    if sock is None:
        return udp.getpeername(switch, call, fd, cookie, status)
    if not _connected(fd, sock):
        return -errno.ENOTCONN
    return _tell(call, sock, sock.peer)


def _connected(fd: Fd, sock: Socket) -> bool:
    if sock.phase not in (CONNECTING, CONNECTED, FINISHING):
        return False
    if sock.unix and sock.phase != CONNECTING:
        return True
    return not isinstance(_kernel.getpeername(fd), int)  # of TCP a reset by the peer ends it


def _tell(call: Call, sock: Socket, address: Address | None) -> Outcome:
    raw = sockaddr.any_of(sock.family) if address is None else sockaddr.encode(sock.family, address)
    call.write_result(call.args[1], call.args[2], raw)
    return 0
