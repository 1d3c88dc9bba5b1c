"""Network namespaces in which the switch makes sockets. network_namespaces(7), setns(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address, unmap
from appswitch.kernel.sockaddr import AF_INET, AF_INET6

_DGRAM, _RAW, _NONBLOCK, _UDP = 2, 3, 0o4000, 17
_SOL_SOCKET, _SO_NETNS_COOKIE = 1, 71
_AF_NETLINK, _NETLINK_SOCK_DIAG = 16, 4
_ALL_STATES, _ESTABLISHED = 0xFFF, 1
_SO_MARK = 36
_NS_GET_USERNS, _NS_GET_OWNER_UID = 0xB701, 0xB704
MARK = (6664).to_bytes(4, "little")  # of packets that any address is local for: native/launcher.c, steer_udp()


class Bound(NamedTuple):
    """A UDP socket that is bound, as sock_diag(7) shows it."""

    cookie: int
    family: int
    own: Address
    peer: Address | None
    options: int  # struct inet_diag_sockopt, and IPV6_V6ONLY: see `_kernel.dump_inet`


def cookie_of(fd: Fd) -> int:
    """Which network namespace a socket belongs to (SO_NETNS_COOKIE, Linux 5.14); 0 when it is none."""
    raw = _kernel.getsockopt(fd, _SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return 0 if isinstance(raw, int) else int.from_bytes(raw, "little")


class Netns:
    """One of them, held open."""

    __slots__ = ("_diag", "_net", "_user", "cookie")

    def __init__(self, net: Fd, user: Fd | None) -> None:
        """``user``: the user namespace that owns it, where we are nobody outside it. Raises OSError."""
        self._net = net
        self._user = user
        self._diag = self._socket(_AF_NETLINK, _DGRAM, _NETLINK_SOCK_DIAG)
        self.cookie = cookie_of(self._diag)

    def descriptors(self) -> tuple[Fd, ...]:
        """What another process needs to make the same object."""
        return (self._net,) if self._user is None else (self._net, self._user)

    def socket(self, family: int, kind: int) -> Fd:
        """A socket of IP in there. Raises OSError."""
        made = self._socket(family, kind, 0)
        _kernel.setsockopt(made, _SOL_SOCKET, _SO_MARK, MARK)
        return made

    def raw(self, family: int, protocol: int) -> Fd:
        """A raw(7) socket in there, non-blocking. Raises OSError."""
        return self._socket(family, _RAW | _NONBLOCK, protocol)

    def datagrams(self) -> Iterator[int]:
        """The cookies of all UDP sockets in there that are bound. Raises OSError."""
        return (cookie for cookie, *_ in self._dump())

    def bound_datagrams(self, port: int = 0) -> Iterator[Bound]:
        """The same with what else the kernel knows of them; those with one port, if it is not 0."""
        for cookie, _, family, state, ip, own_port, to, to_port, options in self._dump(port):
            peer = Address(unmap(to), to_port) if state == _ESTABLISHED else None
            yield Bound(cookie, family, Address(unmap(ip), own_port), peer, options)

    def _dump(self, port: int = 0) -> Iterator[tuple[int, int, int, int, bytes, int, bytes, int, int]]:
        for family in (AF_INET, AF_INET6):
            yield from _kernel.dump_inet(family, _UDP, _ALL_STATES, self._diag, port)

    def close(self) -> None:
        """Let go of it. Sockets keep it alive."""
        for fd in (*self.descriptors(), self._diag):
            fd.close()

    def _socket(self, family: int, kind: int, protocol: int) -> Fd:
        return _kernel.socket_in(self._net, -1 if self._user is None else self._user, family, kind, protocol)


class Host:
    """Our own, with the same operations."""

    def __init__(self) -> None:
        self.cookie = cookie_of(self.socket(AF_INET, _DGRAM))

    def socket(self, family: int, kind: int) -> Fd:
        """A socket of IP. Raises OSError."""
        return _kernel.socket(family, kind, 0)

    def datagrams(self) -> Iterator[int]:
        """The cookies of all UDP sockets of the host that are bound. Raises OSError."""
        for family in (AF_INET, AF_INET6):
            for cookie, *_ in _kernel.dump_inet(family, _UDP, _ALL_STATES):
                yield cookie


def of_process(pid: int, uid: int) -> Netns:
    """The network namespace of a process of ``uid``, who must own it. Raises OSError.

    We may be root, and shall not make sockets for somebody where he could not: not in a namespace that he only knows
    (they can be opened by name), nor in that of whoever has got a process number after him.
    """
    net = _open(pid, "net")
    if uid and _owner(net) != uid:
        raise PermissionError(errno.EPERM, "it belongs to another user")
    return Netns(net, _open(pid, "user") if os.geteuid() else None)


def _owner(net: Fd) -> int:
    """Who made the user namespace that a network namespace belongs to: ioctl_ns(2)."""
    owner = Fd(fcntl.ioctl(net.fileno(), _NS_GET_USERNS))
    return int.from_bytes(fcntl.ioctl(owner.fileno(), _NS_GET_OWNER_UID, bytes(4)), sys.byteorder)


def _open(pid: int, kind: str) -> Fd:
    return Fd(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
