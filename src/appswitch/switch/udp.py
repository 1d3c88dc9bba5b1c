"""The calls of UDP sockets: socket(2), bind(2), connect(2), sendto(2), sendmsg(2), sendmmsg(2) and names.

Receiving is never looked at, nor is a send(2) on a connected socket. An address decides once where its socket has to
live (`datagrams.Target`), and the socket is moved there, or linked with that place (relay.py); then the kernel makes
the very call that was asked for. That is safe although its arguments lie in memory: a socket at home or with another
app reaches nothing beyond that app. Only what goes to the host's network is sent by the switch, from a copy.
"""

from __future__ import annotations

import errno
import select
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address, is_any, is_loopback
from appswitch.kernel import procfs, sockaddr
from appswitch.switch import guard
from appswitch.switch.call import CONTINUE, LATER, Call, Failed, Outcome, taken
from appswitch.switch.datagram import Datagram, leave_marks
from appswitch.switch.datagrams import DGRAM, SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET, Target
from appswitch.switch.exposure import announce, complain, openings
from appswitch.switch.moves import TIED, Use, cannot_follow, go_home, is_v6only, move, place_of, reach, stay
from appswitch.switch.syscalls import WINDOWS

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_TYPE_MASK, _NONBLOCK, _CLOEXEC = 0xF, 0o4000, 0o2000000
_UNSPEC = bytes(2)
_ON = b"\1\0\0\0"
_MSG_DONTWAIT = 0x40
_MSG_PASSED = 0x4 | 0x8000 | 0x800 | 0x40  # DONTROUTE, MORE, CONFIRM, DONTWAIT
MAX_DATAGRAM = 65536  # bytes; a longer one is EMSGSIZE anyway
MAX_VECTORS, MAX_CONTROL, MAX_MESSAGES = 1024, 512, 1024
_msghdr = struct.Struct("=QI4xQQQQi4x")  # name, namelen, iov, iovlen, control, controllen, flags
_MMSGHDR = 64  # sizeof(struct mmsghdr)
_iovec = struct.Struct("=QQ")
PROBES = 128  # descriptor numbers that are tried for a new socket


class Message(NamedTuple):
    """One datagram as its sender describes it: where its parts lie, each as (address, size)."""

    name: bytes  # sockaddr, read once; empty: the peer
    data: tuple[int, int]
    scattered: bool  # ``data`` is an array of struct iovec, and how many
    control: tuple[int, int]
    flags: int


# -- socket(2)


def socket(_switch: Switch, call: Call) -> Outcome:
    """socket(2) of UDP: made at home, under a number that has sendmsg(2) notified."""
    kind = call.int32(1)
    if kind & ~(_TYPE_MASK | _NONBLOCK | _CLOEXEC):
        return -errno.EINVAL
    app = call.app
    if app.home is None:
        return CONTINUE  # it shares the host's network, and so do its sockets
    made = app.home.socket(call.int32(0), DGRAM | kind & _NONBLOCK)
    cloexec = bool(kind & _CLOEXEC)
    number = _free_number(call)
    if number >= 0:
        given = _kernel.add_fd(app.listener, call.id, made, number, cloexec, 1)
        if given not in (-errno.EBADF, -errno.EMFILE):  # above RLIMIT_NOFILE: any number will do
            return LATER if given >= 0 or given == -errno.ENOENT else given
    given = call.give(made, cloexec)
    return LATER if given >= 0 or given == -errno.ENOENT else given


def _free_number(call: Call) -> int:
    """A number in the windows (see syscalls.py) that the caller does not use; -1 when there is none."""
    pidfd, app = call.pidfds.get(call.tid), call.app
    for window in WINDOWS:
        for step in range(min(PROBES, len(window))):
            number = window[(app.next_datagram + step) % len(window)]
            if _kernel.fetch(pidfd, number) == errno.EBADF:
                app.next_datagram += step + 1
                return number
    return -1


# -- bind(2)


def bind(switch: Switch, call: Call, fd: Fd, cookie: int, raw: bytes | int) -> Outcome:
    """bind(2): at home the kernel itself knows which addresses are the app's, and which ports are taken."""
    datagram = switch.datagrams.identify(fd, cookie, call.app)
    if datagram is None or datagram.app.home is None:
        return CONTINUE
    name = taken(raw)
    if datagram.bound is None:
        datagram.reuseaddr = _option(fd, SO_REUSEADDR)
        datagram.reuseport = any(_option(fd, SO_REUSEPORT))
        datagram.v6only = is_v6only(fd, datagram)
    error = _kernel.bind(fd, name) if not _taken(switch, datagram, name) else errno.EADDRINUSE
    if error == errno.EADDRINUSE and datagram.reuseaddr == bytes(4) and not _taken(switch, datagram, name, look=True):
        # Only by guests of the app's namespace, who do not mind.
        _kernel.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, _ON)
        error = _kernel.bind(fd, name)
    if error == errno.EINVAL and datagram.answered == call.tid and procfs.catches_passing_signals(call.tid):
        return 0  # a signal swallowed the first reply: see connect.py
    if error:
        return -error
    datagram.answered = call.tid
    if datagram.at_home:
        outcome = _settle(switch, datagram, fd, int.from_bytes(name[2:4], "big") != 0)
        if outcome:
            return outcome
    return 0


def _taken(switch: Switch, datagram: Datagram, name: bytes, look: bool = False) -> bool:
    """Whether the app itself has the port. The kernel knows, unless SO_REUSEADDR makes it blind, or with ``look``."""
    port = int.from_bytes(name[2:4], "big")
    if not port or datagram.bound is not None or len(name) < sockaddr.LEN4:
        return False
    if datagram.reuseaddr == bytes(4) and not look:
        return False
    return switch.datagrams.taken(datagram, sockaddr.decode(name), datagram.v6only)


def _option(fd: Fd, name: int) -> bytes:
    value = _kernel.getsockopt(fd, SOL_SOCKET, name, 4)
    return bytes(4) if isinstance(value, int) else value


def _settle(switch: Switch, datagram: Datagram, fd: Fd, explicit: bool) -> Outcome:
    """It is bound now: others may send to it, guests may have the same port, strangers come in if it is exposed."""
    raw = _kernel.getsockname(fd)
    if isinstance(raw, int):
        return -raw
    datagram.bound = sockaddr.decode(raw)
    datagram.settled = explicit
    _kernel.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, _ON)
    leave_marks(fd, datagram)
    program = guard.program(datagram.bound.ip, datagram.app.ips)
    if program:
        _kernel.attach_filter(fd, program)
    error = open_to_strangers(switch, datagram)
    if error:
        switch.relay.forget(datagram)
        datagram.actual = ()
        return -error
    switch.datagrams.serve(datagram)
    return 0


def open_to_strangers(switch: Switch, datagram: Datagram) -> int:
    """Have a bound socket exposed as its app asked for. 0 or the errno of the first that fails."""
    assert datagram.bound is not None
    for opening in openings(datagram.app.spec.expose, "udp", datagram.bound, datagram.v6only):
        error = switch.relay.expose(datagram, opening)
        if opening.failed(error):
            complain(switch.log, datagram.app.spec.appid, opening, "udp", error)
            return error
        if not error:
            announce(switch.log, datagram.app.spec.appid, opening, "udp")
    return 0


# -- connect(2)


def connect(switch: Switch, call: Call, fd: Fd, cookie: int, status: int, raw: bytes | int) -> Outcome:
    """connect(2): the socket goes where its peer is, and is connected there."""
    datagram = switch.datagrams.identify(fd, cookie, call.app)
    if datagram is None:
        return CONTINUE
    name = taken(raw)
    if name.startswith(_UNSPEC):
        datagram.asked = None
        if datagram.at_home or datagram.bound is not None:
            return -_kernel.connect(fd, name)
        return -go_home(switch, Use(call, fd, status, datagram))
    target = switch.datagrams.aim(datagram, name)
    error = _forbidden(datagram, target)
    if error:
        return -error
    place = place_of(switch, datagram, target)
    if place is datagram.place or cannot_follow(fd, datagram, target):
        error = _kernel.connect(fd, name if place is not None else sockaddr.encode(datagram.family, target.to))
    else:
        error = move(switch, Use(call, fd, status, datagram), place, target, connected=True)
        if error == TIED:
            # A thread would wait for ever, another process keep an unconnected socket, if another file took its place.
            error = stay(switch, Use(call, fd, status, datagram), place, target) or _kernel.connect(fd, name)
    if not error:
        found = switch.datagrams.by_cookie.get(datagram.cookie, datagram)
        found.asked = sockaddr.decode(name) if len(name) >= sockaddr.LEN4 else None
    return -error


def _forbidden(datagram: Datagram, target: Target) -> int:
    """Rules say no; or, as ip_route_output_key() has it, from a loopback address there is no way out."""
    bound = datagram.bound
    if not target.home and not target.error and bound is not None and len(bound.ip) == 4 and is_loopback(bound.ip):
        return errno.EINVAL
    return target.error


def refresh(switch: Switch, call: Call, fd: Fd, cookie: int, status: int) -> Datagram | None:
    """The entry of a UDP socket, None for other files. Where its peer's app has gone, it is pointed at a living one.

    ``fd`` may be closed then: another socket has taken its place.
    """
    datagram = switch.datagrams.by_cookie.get(cookie)
    if datagram is None and switch.recovered:  # an earlier switch may have moved it
        datagram = switch.datagrams.identify(fd, cookie, call.app)
    if datagram is None or datagram.asked is None or datagram.place is None or datagram.place is datagram.app:
        return datagram
    name = sockaddr.encode(datagram.family, datagram.asked)
    target = switch.datagrams.aim(datagram, name)
    if target.home or target.error or datagram.place in target.apps or not target.apps:
        return datagram
    asked = datagram.asked
    place = place_of(switch, datagram, target)
    if move(switch, Use(call, fd, status, datagram), place, target, connected=True) == 0:
        datagram = switch.datagrams.by_cookie[datagram.cookie]
        datagram.asked = asked
    return datagram


# -- sending


def sendto(switch: Switch, use: Use) -> Outcome:
    """sendto(2) with an address."""
    call, datagram = use.call, use.datagram
    name = call.read_sockaddr(call.args[4], call.int32(5))
    outcome = _steer(switch, use, name)
    if outcome != CONTINUE or datagram.place is not None:
        return outcome
    return _carry(switch, call, Message(name, (call.args[1], call.args[2]), False, (0, 0), call.int32(3)))


def sendmsg(switch: Switch, use: Use) -> Outcome:
    """sendmsg(2) of a socket in the window."""
    call, datagram = use.call, use.datagram
    message = _message(call, call.args[1], call.int32(2))
    if not message.name:
        return CONTINUE  # to its peer
    outcome = _steer(switch, use, message.name)
    if outcome != CONTINUE or datagram.place is not None:
        return outcome
    return _carry(switch, call, message)


def sendmmsg(switch: Switch, use: Use) -> Outcome:
    """sendmmsg(2) of a socket in the window: like one sendmsg(2) after the other."""
    call, flags = use.call, use.call.int32(3)
    places = [call.args[1] + index * _MMSGHDR for index in range(min(call.args[2] & 0xFFFFFFFF, MAX_MESSAGES))]
    messages = [_message(call, address, flags) for address in places]
    if use.datagram.place is not None and all(_is_near(switch, use, message.name) for message in messages):
        return CONTINUE
    for index, (address, message) in enumerate(zip(places, messages, strict=True)):
        use = use._replace(fd=call.fetch()[0])  # the one before may have moved it
        sent = _steer(switch, use, message.name) if message.name else CONTINUE
        if sent == CONTINUE:
            sent = _transmit(switch, call, message)
        if sent < 0:
            return index or sent
        call.write(address + _msghdr.size, sent.to_bytes(4, "little"))
    return len(messages)


def _is_near(switch: Switch, use: Use, name: bytes) -> bool:
    """Whether the socket is where ``name`` can be reached."""
    if not name:
        return True
    target = switch.datagrams.aim(use.datagram, name)
    return not target.error and place_of(switch, use.datagram, target) is use.datagram.place


def _steer(switch: Switch, use: Use, name: bytes) -> Outcome:
    """Have the socket where ``name`` can be reached: CONTINUE, or a negative errno."""
    datagram = use.datagram
    target = switch.datagrams.aim(datagram, name)
    error = _forbidden(datagram, target)
    if error:
        return -error
    place = place_of(switch, datagram, target)
    if place is not datagram.place and not cannot_follow(use.fd, datagram, target):
        error = reach(switch, use, place, target)
        if error:
            return -error
    elif datagram.at_home:
        datagram.settled = True  # a reply may come
    if datagram.place is not None:
        switch.datagrams.steady[datagram.cookie] = name
    return CONTINUE


def _carry(switch: Switch, call: Call, message: Message) -> Outcome:
    """Send a copy on the app's behalf; wait for room if the app would."""
    outcome = _transmit(switch, call, message)
    fd, _, status = call.fetch()
    if outcome != -errno.EAGAIN or message.flags & _MSG_DONTWAIT or status & _NONBLOCK:
        return outcome

    def attempt() -> Outcome | None:
        again = _transmit(switch, call, message)
        return None if again == -errno.EAGAIN else again

    switch.parking.park(call, fd, select.EPOLLOUT, attempt, None, -errno.EAGAIN)
    return LATER


def _transmit(switch: Switch, call: Call, message: Message) -> Outcome:
    """One datagram, to the address that was judged."""
    fd, cookie, _ = call.fetch()
    datagram = switch.datagrams.by_cookie.get(cookie)
    if datagram is None:
        return -errno.EBADF
    name = message.name
    if name and datagram.place is None:
        target = switch.datagrams.aim(datagram, message.name)
        if target.error or target.apps or cannot_follow(fd, datagram, target):
            return -(target.error or errno.ENETUNREACH)
        name = sockaddr.encode(datagram.family, target.to)
    data = _gather(call, message)
    control = call.read(*message.control) if 0 < message.control[1] <= MAX_CONTROL else b""
    control = control if datagram.place is not None else without_source(control)
    return _kernel.send_to(fd, data, name, control, message.flags & _MSG_PASSED)


def without_source(control: bytes) -> bytes:
    """Control messages for the host: without a source address (IP_PKTINFO), which would be a virtual one. cmsg(3)."""
    kept, offset = b"", 0
    while offset + 16 <= len(control):
        size = int.from_bytes(control[offset : offset + 8], "little")
        level, kind = struct.unpack_from("=ii", control, offset + 8)
        if size < 16 or offset + size > len(control):
            break
        step = size + 7 & ~7
        if (level, kind) not in ((0, 8), (41, 50)) and level != SOL_SOCKET:
            kept += control[offset : offset + step].ljust(step, b"\0")
        offset += step
    return kept


def _message(call: Call, address: int, flags: int) -> Message:
    name, length, vectors, count, control, control_size, _ = _msghdr.unpack(call.read(address, _msghdr.size))
    raw = call.read_sockaddr(name, min(length, sockaddr.MAX_LEN)) if name and length else b""
    return Message(raw, (vectors, count), True, (control, control_size), flags)


def _gather(call: Call, message: Message) -> bytes:
    """Raises Failed(EMSGSIZE, EFAULT), Vanished."""
    vectors: Iterable[tuple[int, ...]] = (message.data,)
    if message.scattered:
        address, count = message.data
        if count > MAX_VECTORS:
            raise Failed(errno.EMSGSIZE)
        vectors = _iovec.iter_unpack(call.read(address, _iovec.size * count))
    parts, room = [], MAX_DATAGRAM
    for base, size in vectors:
        part = min(size, room)
        if part:
            parts.append(call.read(base, part))
            room -= part
    return b"".join(parts)


# -- names


def getsockname(switch: Switch, call: Call, fd: Fd, cookie: int, status: int) -> Outcome:
    """getsockname(2): of a socket elsewhere what it would show at home."""
    datagram = refresh(switch, call, fd, cookie, status)
    if datagram is None or datagram.at_home or datagram.source is None:
        return CONTINUE
    raw = _kernel.getsockname(call.fetch()[0])
    if isinstance(raw, int):
        return -raw
    shown = Address(datagram.source.ip, sockaddr.decode(raw).port)
    if datagram.asked is None and (datagram.bound is None or is_any(datagram.bound.ip)):
        shown = Address(sockaddr.decode(sockaddr.any_of(datagram.family)).ip, shown.port)  # not connected: no address
    call.write_result(call.args[1], call.args[2], sockaddr.encode(datagram.family, shown))
    return 0


def getpeername(switch: Switch, call: Call, fd: Fd, cookie: int, status: int) -> Outcome:
    """getpeername(2): the kernel's own, or what was asked for where the host has it at another port."""
    datagram = refresh(switch, call, fd, cookie, status)
    if datagram is None or datagram.place is not None or datagram.asked is None:
        return CONTINUE
    if isinstance(_kernel.getpeername(call.fetch()[0]), int):
        return -errno.ENOTCONN
    call.write_result(call.args[1], call.args[2], sockaddr.encode(datagram.family, datagram.asked))
    return 0


def setsockopt(switch: Switch, call: Call, fd: Fd, cookie: int, status: int) -> Outcome:
    """setsockopt(2): the kernel's own, but for SO_REUSEADDR, which stays on once the socket is bound."""
    datagram = refresh(switch, call, fd, cookie, status)
    if datagram is None or (call.int32(1), call.int32(2)) != (SOL_SOCKET, SO_REUSEADDR):
        return CONTINUE
    if (datagram.at_home and datagram.bound is None) or call.int32(4) < 4:
        return CONTINUE
    datagram.reuseaddr = int(call.read_int(call.args[3]) != 0).to_bytes(4, "little")
    return 0


def getsockopt(switch: Switch, call: Call, fd: Fd, cookie: int, status: int) -> Outcome:
    """getsockopt(2): the kernel's own, but for SO_REUSEADDR, which is on for our sake (see `_settle`)."""
    datagram = refresh(switch, call, fd, cookie, status)
    if datagram is None or (call.int32(1), call.int32(2)) != (SOL_SOCKET, SO_REUSEADDR):
        return CONTINUE
    if datagram.at_home and datagram.bound is None:
        return CONTINUE
    room = call.read_int(call.args[4])
    if room < 0:
        return -errno.EINVAL
    value = datagram.reuseaddr[:room]
    call.write(call.args[3], value)
    call.write(call.args[4], len(value).to_bytes(4, "little"))
    return 0
