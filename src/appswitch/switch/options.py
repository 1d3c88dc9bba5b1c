"""getsockopt(2), setsockopt(2), some ioctls: a Unix socket answers as the TCP socket that its app believes to have.

What TCP would say is not guessed: a scratch TCP socket is asked, once for each distinct question, and its answer
(errno and value read back) remembered. So ranges, rounding and errors are the kernel's own. Only options on the lists
below reach the scratch socket: the switch may have privileges that the app has not.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.switch import syscalls, udp
from appswitch.switch.call import CONTINUE, Call, Failed, Outcome
from appswitch.switch.sockets import CONNECTED, FINISHING, LISTENING, NEW, Option, Socket

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_STREAM = 1
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_IP, _SOCKET, _TCP, _IPV6 = syscalls.SOL_IP, syscalls.SOL_SOCKET, syscalls.SOL_TCP, syscalls.SOL_IPV6
_TCP_CONGESTION = 13
_TCP_INFO, _TCP_MAXSEG, _TCP_ULP, _IP_MTU, _IPV6_MTU = 11, 2, 31, 14, 24
_TCP_ESTABLISHED, _TCP_CLOSE, _TCP_CLOSE_WAIT, _TCP_LISTEN = 1, 7, 8, 10
_MTU_LOOPBACK, _MSS_LOOPBACK = 65536, 65483
_PAGE = 4096
MAX_VALUE = 4096  # bytes of a value that are given to an app
_SIZES = {
    (_TCP, 13): 15,
    (_TCP, 33): 32,
}  # TCP_CONGESTION, TCP_FASTOPEN_KEY: more than the usual int is read from an app
_CONNECTED_VALUES = {
    (_IP, _IP_MTU): 65535,
    (_IPV6, _IPV6_MTU): _MTU_LOOPBACK,
    (_TCP, _TCP_MAXSEG): _MSS_LOOPBACK,
}

# tcp(7), linux/tcp.h: without TCP_REPAIR*, TCP_MD5SIG*, TCP_AO_*, which are privileged or about segments on a wire.
_TCP_ALLOWED = frozenset(
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18, 23, 25, 26, 27, 28, 30, 33, 34, 36, 37)
)
# ip(7), linux/in.h: without IP_TRANSPARENT, IP_HDRINCL, IPsec policies, multicast and the netfilter range (64..95).
_IP_ALLOWED = frozenset((1, 2, 6, 7, 8, 10, 11, 12, 13, 14, 15, 20, 21, 23, 24, 25, 26, 32, 33, 34, 49, 50, 51))
_SO_ORIGINAL_DST = 80  # only read: nothing redirected this connection
# ipv6(7), linux/in6.h.
_IPV6_ALLOWED = frozenset((16, 17, 18, 19, 23, 24, 25, 26, 31, 49, 51, 56, 58, 61, 62, 66, 67, 70, 72, 73, 74, 76))
_ALLOWED = {_TCP: _TCP_ALLOWED, _IP: _IP_ALLOWED, _IPV6: _IPV6_ALLOWED}
_GET_ORIGINAL = {_IP: AF_INET, _IPV6: AF_INET6}  # IP6T_SO_ORIGINAL_DST has the same number
_GET_ONLY = frozenset(((_IP, _SO_ORIGINAL_DST), (_IPV6, _SO_ORIGINAL_DST), (_TCP, _TCP_INFO)))

Answer = tuple[int, bytes]  # errno, value


def _read_words(path: str) -> list[bytes]:
    try:
        return Path(path).read_bytes().split()
    except OSError:
        return []


class Scratch:
    """TCP sockets that answer questions. Every answer is remembered: the questions that programs ask are few."""

    LIMIT = 4096

    def __init__(self) -> None:
        self.congestion = frozenset(_read_words("/proc/sys/net/ipv4/tcp_allowed_congestion_control"))
        self.available = frozenset(_read_words("/proc/sys/net/ipv4/tcp_available_congestion_control"))
        self._set: dict[tuple[int, Option, bytes], int] = {}
        self._get: dict[tuple[int, Option, bytes | None, int], Answer] = {}

    def set(self, family: int, option: Option, value: bytes) -> int:
        """The errno of setting it."""
        key = (family, option, value)
        error = self._set.get(key)
        if error is None:
            error = _kernel.setsockopt(_kernel.socket(family, _STREAM, 0), *option, value)
            _remember(self._set, key, error, self.LIMIT)
        return error

    def get(self, family: int, option: Option, written: bytes | None, size: int) -> Answer:
        """What is read into ``size`` bytes, from a socket where ``written`` was set (or nothing)."""
        key = (family, option, written, size)
        answer = self._get.get(key)
        if answer is None:
            fd = _kernel.socket(family, _STREAM, 0)
            if written is not None:
                _kernel.setsockopt(fd, *option, written)
            result = _kernel.getsockopt(fd, *option, size)
            answer = (result, b"") if isinstance(result, int) else (0, result)
            _remember(self._get, key, answer, self.LIMIT)
        return answer


def _remember(answers: dict[_Key, _Value], key: _Key, value: _Value, limit: int) -> None:
    if len(answers) >= limit:  # an app asks strange things: start again rather than grow
        answers.clear()
    answers[key] = value


def setsockopt(switch: Switch, call: Call) -> Outcome:
    """setsockopt(2)."""
    fd, cookie, status = call.fetch()
    sock = switch.sockets.identify(fd, cookie, call.app)
    if sock is None:
        return udp.setsockopt(switch, call, fd, cookie, status)
    level, name, length = call.int32(1), call.int32(2), call.int32(4)
    if level == _SOCKET:
        return _set_socket(switch, call, fd, sock, name, length)
    if not sock.unix and (length < 0 or name not in _ALLOWED.get(level, ())):
        return CONTINUE  # a TCP socket: its own kernel code, with the app's own privileges
    if length < 0:
        return -errno.EINVAL
    if level == _IPV6 and sock.family == AF_INET:
        return -errno.ENOPROTOOPT
    if name not in _ALLOWED.get(level, ()) or (level, name) in _GET_ONLY:
        return -(errno.ENOENT if (level, name) == (_TCP, _TCP_ULP) else errno.ENOPROTOOPT)
    value = _value(call, (level, name), length)
    if sock.unix and _too_late(sock, (level, name), value):
        return -errno.EINVAL
    if (level, name) == (_TCP, _TCP_CONGESTION) and value.partition(b"\0")[0] not in switch.scratch.congestion:
        return CONTINUE if not sock.unix else -_not_allowed(switch, value)
    if sock.unix:
        error = switch.scratch.set(sock.family, (level, name), value)
    else:  # set, and remembered for the Unix socket that takes its place in listen(2)
        error = _kernel.setsockopt(fd, level, name, value)
    if not error and sock.unix:
        switch.reflexes.set(sock, (level, name), value, length)
    elif not error:
        sock.remember((level, name), value)
        switch.sockets.keep(sock)
    return -error


def _value(call: Call, option: Option, length: int) -> bytes:
    """What setsockopt(2) reads.

    An int of a longer value, a name up to its NUL (which may be the last byte that there is).
    """
    size, address = min(length, _SIZES.get(option, 4)), call.args[3]
    try:
        return call.read(address, size) if size else b""
    except Failed:
        left = _PAGE - address % _PAGE
        if option not in _SIZES or left >= size:
            raise
        return call.read(address, left)


def _too_late(sock: Socket, option: Option, value: bytes) -> bool:
    """Options whose time depends on the socket's state, which a scratch socket does not have. tcp(7), ipv6(7)."""
    match option:
        case (syscalls.SOL_IPV6, 26):  # IPV6_V6ONLY
            return sock.bound is not None or sock.phase != NEW
        case (syscalls.SOL_TCP, 23):  # TCP_FASTOPEN
            return sock.phase not in (NEW, LISTENING)
        case (syscalls.SOL_TCP, 10):  # TCP_WINDOW_CLAMP
            return sock.phase != NEW and not any(value)
    return False


def _not_allowed(switch: Switch, value: bytes) -> int:
    """What choosing it fails with (tcp(7)), without asking the kernel: a name may make it load a module."""
    name = value.partition(b"\0")[0]
    if not value:
        return errno.EINVAL
    return errno.EPERM if name in switch.scratch.available else errno.ENOENT


def _set_socket(switch: Switch, call: Call, fd: Fd, sock: Socket, name: int, length: int) -> Outcome:
    match name:
        case syscalls.SO_REUSEADDR:
            return CONTINUE
        case syscalls.SO_REUSEPORT:  # meant for our ports, and refused by Unix sockets
            return _set_reuseport(switch, call, fd, sock, length)
    return -errno.EOPNOTSUPP  # SO_PASSCRED and its like: who the peer is shall not be seen


def _set_reuseport(switch: Switch, call: Call, fd: Fd, sock: Socket, length: int) -> Outcome:
    if length < 4:
        return -errno.EINVAL
    value = call.read_int(call.args[3])
    if not sock.unix:
        _kernel.setsockopt(fd, _SOCKET, syscalls.SO_REUSEPORT, value.to_bytes(4, "little", signed=True))
    sock.reuseport = bool(value)
    switch.sockets.keep(sock)
    return 0


def getsockopt(switch: Switch, call: Call) -> Outcome:
    """getsockopt(2)."""
    fd, cookie, status = call.fetch()
    sock = switch.sockets.identify(fd, cookie, call.app)
    if sock is None:
        return udp.getsockopt(switch, call, fd, cookie, status)
    level, name = call.int32(1), call.int32(2)
    if (level, name) == (_SOCKET, syscalls.SO_REUSEADDR):
        return CONTINUE
    if level != _SOCKET and not sock.unix and not _original(sock, level, name):
        return CONTINUE
    room = call.read_int(call.args[4])
    if room < 0:
        return -errno.EINVAL
    half_closed = (level, name) == (_TCP, _TCP_INFO) and sock.phase in (CONNECTED, FINISHING) and _kernel.is_shut(fd)
    error, value = _get(switch, sock, level, name, room, half_closed=half_closed)
    if error:
        return -error
    if sock.unix and (level, name) != (_SOCKET, syscalls.SO_REUSEPORT) and name != _SO_ORIGINAL_DST:
        switch.reflexes.read(sock, (level, name), room, value, half_closed=half_closed)
    if value:
        call.write(call.args[3], value)
    call.write(call.args[4], len(value).to_bytes(4, "little"))
    return 0


def _get(switch: Switch, sock: Socket, level: int, name: int, room: int, *, half_closed: bool) -> Answer:
    if level == _SOCKET:
        return _get_socket_level(sock, name, room)
    if sock.family == AF_INET and level not in (_IP, _TCP):  # a level that it does not have
        return errno.EOPNOTSUPP, b""
    if name not in _ALLOWED.get(level, ()) and (level, name) not in _GET_ONLY:
        return errno.ENOPROTOOPT, b""
    connected = sock.phase in (CONNECTED, FINISHING)
    original = _original(sock, level, name)
    if original:
        return (0, original) if room >= len(original) else (errno.EINVAL, b"")
    if (level, name) == (_TCP, _TCP_INFO):
        error, value = switch.scratch.get(sock.family, (level, name), None, MAX_VALUE)
        return error, _tcp_info(sock, value, half_closed=half_closed)[:room]
    written = sock.options.get((level, name))
    if written is None and connected:
        known = _CONNECTED_VALUES.get((level, name))
        if known is not None:
            return 0, known.to_bytes(4, "little")[:room]
    return switch.scratch.get(sock.family, (level, name), written, min(room, MAX_VALUE))


def _original(sock: Socket, level: int, name: int) -> bytes:
    """Where an accepted connection was to go before it was led here: getorigdst() in nf_conntrack_proto.c.

    Nothing for other options, and for who was led nowhere.
    """
    asked, family = sock.asked, _GET_ORIGINAL.get(level)
    if name != _SO_ORIGINAL_DST or family is None or asked is None or asked == sock.local:
        return b""
    if len(asked.ip) != (4 if family == AF_INET else 16):
        return b""
    return sockaddr.encode(family, asked)


def _get_socket_level(sock: Socket, name: int, room: int) -> Answer:
    """What a Unix socket says differently, or would give away. socket(7), unix(7)."""
    nobody = bytes(4) + b"\xff" * 8  # struct ucred of a socket without a peer process
    match name:
        case syscalls.SO_DOMAIN:
            value = sock.family.to_bytes(4, "little")
        case syscalls.SO_PROTOCOL:
            value = syscalls.SOL_TCP.to_bytes(4, "little")
        case syscalls.SO_REUSEPORT:
            value = int(sock.reuseport).to_bytes(4, "little")
        case syscalls.SO_PEERCRED:
            value = nobody
        case syscalls.SO_PEERGROUPS | syscalls.SO_PEERPIDFD:
            return errno.ENODATA, b""
        case _:
            return errno.ENOPROTOOPT, b""
    return 0, value[:room]


def _tcp_info(sock: Socket, value: bytes, half_closed: bool) -> bytes:
    """struct tcp_info (linux/tcp.h) of a fresh socket, with what a healthy connection on one host would show."""
    info = bytearray(value)
    state = {LISTENING: _TCP_LISTEN, CONNECTED: _TCP_ESTABLISHED, FINISHING: _TCP_ESTABLISHED}.get(
        sock.phase, _TCP_CLOSE
    )
    shown = _TCP_CLOSE_WAIT if half_closed else state
    fields = {0: shown.to_bytes(1, "little")}
    if state == _TCP_ESTABLISHED:
        mss = _MSS_LOOPBACK.to_bytes(4, "little")
        fields |= {
            16: mss,  # tcpi_snd_mss
            20: mss,  # tcpi_rcv_mss
            60: _MTU_LOOPBACK.to_bytes(4, "little"),  # tcpi_pmtu
            68: (20).to_bytes(4, "little"),  # tcpi_rtt, microseconds
            72: (10).to_bytes(4, "little"),  # tcpi_rttvar
            80: (10).to_bytes(4, "little"),  # tcpi_snd_cwnd
        }
    for offset, data in fields.items():
        if offset + len(data) <= len(info):
            info[offset : offset + len(data)] = data
    return bytes(info)


def ioctl(switch: Switch, call: Call) -> Outcome:
    """SIOCOUTQNSD (tcp(7)): bytes not sent yet. A Unix socket has sent everything it took."""
    fd, cookie, _ = call.fetch()
    sock = switch.sockets.identify(fd, cookie, call.app)
    if sock is None or not sock.unix:
        return CONTINUE
    if sock.phase == LISTENING:
        return -errno.EINVAL
    call.write(call.args[2], bytes(4))
    return 0
