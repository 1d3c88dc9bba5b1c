"""sendto(2), sendmsg(2) where they are more than data: with an address, or with MSG_FASTOPEN.

And epoll_create(2), noted.

The kernel never gets to make a call with MSG_FASTOPEN: it connects without asking Landlock, and by then another thread
may have put a TCP socket under the number that was looked at. To other sockets the flag means nothing, and no program
is known to give it to one: EOPNOTSUPP.
"""

from __future__ import annotations

import errno
import select
import struct
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel import procfs
from appswitch.switch import udp
from appswitch.switch.call import CONTINUE, LATER, Call, Outcome
from appswitch.switch.connect import connect_to
from appswitch.switch.connecting import Attempt
from appswitch.switch.moves import Use
from appswitch.switch.sockets import CONNECTED, FINISHING, Socket
from appswitch.switch.syscalls import MSG_FASTOPEN

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

MAX_CHUNK = 256 << 10  # bytes carried on an app's behalf in one call; a stream may take less than it was offered
_MSG_PASSED = 0x1 | 0x4 | 0x80 | 0x8000  # MSG_OOB, DONTROUTE, EOR, MORE; not MSG_ZEROCOPY: the memory is ours
_MSG_DONTWAIT, _MSG_NOSIGNAL, _NONBLOCK = 0x40, 0x4000, 0o4000
_msghdr = struct.Struct("=QI4xQQQQi4x")  # struct msghdr: name, namelen, iov, iovlen, control, controllen, flags
_iovec = struct.Struct("=QQ")


def sendto(switch: Switch, call: Call) -> Outcome:
    """sendto(2) with an address. On TCP it is ignored, unless MSG_FASTOPEN makes it a connect(2) with first data."""
    fd, cookie, status = call.fetch()
    flags = call.int32(3)
    datagram = switch.datagrams.identify(fd, cookie, call.app)
    if datagram is not None:
        return -errno.EOPNOTSUPP if flags & MSG_FASTOPEN else udp.sendto(switch, Use(call, fd, status, datagram))
    sock = switch.sockets.identify(fd, cookie, call.app)
    if sock is None:
        return -errno.EOPNOTSUPP if flags & MSG_FASTOPEN else CONTINUE
    if not flags & MSG_FASTOPEN and not sock.unix:
        return CONTINUE  # TCP ignores the address
    address = (call.args[4], call.int32(5))
    if not flags & MSG_FASTOPEN and address[0]:
        call.read_sockaddr(*address)  # not used, but it must be there
    return _send(switch, call, fd, sock, flags, ((call.args[1], call.args[2]),), address)


def sendmsg(switch: Switch, call: Call) -> Outcome:
    """sendmsg(2) with MSG_FASTOPEN, tcp(7), or by a descriptor where UDP sockets are."""
    fd, cookie, status = call.fetch()
    fast = call.int32(2) & MSG_FASTOPEN
    datagram = switch.datagrams.identify(fd, cookie, call.app)
    if datagram is not None:
        return -errno.EOPNOTSUPP if fast else udp.sendmsg(switch, Use(call, fd, status, datagram))
    if not fast:
        return CONTINUE
    sock = switch.sockets.identify(fd, cookie, call.app)
    if sock is None:
        return -errno.EOPNOTSUPP
    name, length, vectors, count, _, _, _ = _msghdr.unpack(call.read(call.args[1], _msghdr.size))
    if count > 1024:  # UIO_MAXIOV
        return -errno.EMSGSIZE
    raw = call.read(vectors, _iovec.size * count)
    return _send(switch, call, fd, sock, call.int32(2), tuple(_iovec.iter_unpack(raw)), (name, length))


def sendmmsg(switch: Switch, call: Call) -> Outcome:
    """The same for sendmmsg(2). With MSG_FASTOPEN no program is known to do it; it may use sendmsg(2)."""
    if call.int32(3) & MSG_FASTOPEN:
        return -errno.EOPNOTSUPP
    fd, cookie, status = call.fetch()
    datagram = switch.datagrams.identify(fd, cookie, call.app)
    return CONTINUE if datagram is None else udp.sendmmsg(switch, Use(call, fd, status, datagram))


def epoll_create(_switch: Switch, call: Call) -> Outcome:
    """An epoll that may come to watch a socket before it is connected: see switch/swap.py."""
    call.app.epoll_generation += 1
    return CONTINUE


def _send(
    switch: Switch,
    call: Call,
    fd: Fd,
    sock: Socket,
    flags: int,
    vectors: tuple[tuple[int, ...], ...],
    address: tuple[int, int],
) -> Outcome:
    connected = sock.phase in (CONNECTED, FINISHING)
    if not flags & MSG_FASTOPEN:
        return _write(switch, call, flags, _gather(call, vectors)) if connected else -errno.EPIPE
    again = connected and sock.answered == call.tid and procfs.catches_passing_signals(call.tid)
    if connected and not again:
        return -errno.EISCONN
    if again and sock.sent:
        return sock.sent  # the reply was swallowed by a signal (see connect.py), not the data
    data = _gather(call, vectors)  # before the connection: its bytes must not be missing afterwards
    if not again:
        outcome = _open(switch, call, fd, sock, address, data)
        if outcome:
            return outcome
    sent = _write(switch, call, flags & ~MSG_FASTOPEN, data)
    sock.sent = sent if 0 < sent < LATER else 0
    return sent


def _open(switch: Switch, call: Call, fd: Fd, sock: Socket, address: tuple[int, int], data: bytes) -> Outcome:
    """The connect(2) in a sendto(2): 0 when the data may follow at once."""
    raw = call.read_sockaddr(*address)
    if not raw:
        return -errno.EINVAL
    status = _kernel.status_flags(fd)
    outcome = connect_to(switch, Attempt(call, fd, sock, status, reply=False), raw)
    if outcome == LATER:
        switch.parking.then(call, lambda: _kernel.send(call.fetch()[0], data, _MSG_DONTWAIT | _MSG_NOSIGNAL))
    elif outcome == 0 and status & _NONBLOCK and sock.unix:
        sock.phase = FINISHING
        return -errno.EINPROGRESS  # as without a cookie: the data is to be sent again
    return outcome


def _gather(call: Call, vectors: tuple[tuple[int, ...], ...]) -> bytes:
    room, parts = MAX_CHUNK, []
    for base, size in vectors:
        part = min(size, room)
        if part:
            parts.append(call.read(base, part))
            room -= part
    return b"".join(parts)


def _write(switch: Switch, call: Call, flags: int, data: bytes) -> Outcome:
    """Send on the app's behalf; SIGPIPE stays with it to raise (EPIPE is what it sees)."""
    fd, _, _ = call.fetch()

    def attempt() -> Outcome | None:
        sent = _kernel.send(fd, data, flags & _MSG_PASSED | _MSG_DONTWAIT | _MSG_NOSIGNAL)
        return None if sent == -errno.EAGAIN else sent

    outcome = attempt()
    if outcome is not None:
        return outcome
    if flags & _MSG_DONTWAIT or _kernel.status_flags(fd) & _NONBLOCK:
        return -errno.EAGAIN
    switch.parking.park(call, fd, select.EPOLLOUT, attempt, None, -errno.EAGAIN)
    return LATER
