"""THE table of system calls: what is looked at, when, and by whom. The filter and the dispatch derive from it.

A call is notified when one of its alternatives holds, and an alternative holds when all its tests do. Tests see scalar
arguments only (a filter cannot follow pointers), so a call whose meaning lies behind the descriptor (connect of a Unix
or of an IP socket?) is always notified and sorted out by its handler. read, write, send and recv are not here: the data
path is never seen.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

X86_64, AARCH64 = "x86_64", "aarch64"

SOL_IP, SOL_SOCKET, SOL_TCP, SOL_IPV6, SOL_NETLINK = 0, 1, 6, 41, 270
SO_REUSEADDR, SO_REUSEPORT, SO_PEERCRED, SO_PEERSEC, SO_PROTOCOL, SO_DOMAIN = 2, 15, 17, 31, 38, 39
SO_PEERGROUPS, SO_PEERPIDFD = 59, 77
SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD = 16, 34, 76
SIOCOUTQNSD = 0x894B
MSG_FASTOPEN = 0x20000000
SOCK_TYPE_MASK = 0xF


@dataclass(frozen=True)
class OneOf:
    """The low word of an argument, masked, is one of the values."""

    arg: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True)
class NoneOf:
    """The low word of an argument is none of the values."""

    arg: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class AnyBit:
    """At least one of the bits is set in the low word of an argument."""

    arg: int
    bits: int


@dataclass(frozen=True)
class NonNull:
    """A pointer is not NULL (both words are looked at)."""

    arg: int


@dataclass(frozen=True)
class Within:
    """The low word of an argument is a number of the range."""

    arg: int
    values: range


Test = OneOf | NoneOf | AnyBit | NonNull | Within
Alternatives = tuple[tuple[Test, ...], ...]
ALWAYS: Alternatives = ((),)


@dataclass(frozen=True)
class Syscall:
    """One row. ``handler`` names a function of `appswitch.switch.dispatch`.

    Without one the filter itself answers ``error``, as it does first of all to what is ``refused``.
    """

    name: str
    x86_64: int | None
    aarch64: int | None
    when: Alternatives = ALWAYS
    handler: str = ""
    error: int = 0
    refused: Alternatives = ()

    def number(self, arch: str) -> int | None:
        """The call's number, None where the architecture has no such call."""
        return self.x86_64 if arch == X86_64 else self.aarch64


# Descriptor numbers of UDP sockets. The address that sendmsg(2) sends to lies behind a pointer, where a filter cannot
# look; to be told of every sendmsg(2) would put us into the data path of TCP. So UDP sockets get high numbers, and only
# those are looked at. The first range is below FD_SETSIZE and the usual RLIMIT_NOFILE, the second for who needs more.
WINDOWS = (range(896, 1024), range(15360, 16384))

_IP_SOCKETS: Alternatives = (
    (OneOf(0, (2, 10)), OneOf(1, (1,), SOCK_TYPE_MASK)),
    (OneOf(0, (2, 10)), OneOf(1, (2,), SOCK_TYPE_MASK), OneOf(2, (0, 17))),
)
# Families that reach others past any policy: AF_VSOCK, which no network namespace holds back (the hypervisor, by its
# loopback everybody on this host), AF_SMC (which begins with TCP of its own), AF_RDS, AF_QIPCRTR, AF_RXRPC, AF_KCM.
_WITHOUT_POLICY: Alternatives = ((OneOf(0, (40, 43, 21, 42, 33, 41)),),)
_IN_WINDOWS: Alternatives = tuple((Within(0, window),) for window in WINDOWS)
_OTHER_LEVELS = NoneOf(1, (SOL_SOCKET, SOL_NETLINK))
_SET_OPTIONS: Alternatives = (
    (_OTHER_LEVELS,),
    (OneOf(1, (SOL_SOCKET,)), OneOf(2, (SO_REUSEADDR, SO_REUSEPORT, SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD))),
)
_GET_OPTIONS: Alternatives = (
    (_OTHER_LEVELS,),
    (
        OneOf(1, (SOL_SOCKET,)),
        OneOf(
            2,
            (
                SO_DOMAIN,
                SO_PROTOCOL,
                SO_REUSEADDR,
                SO_REUSEPORT,
                SO_PEERCRED,
                SO_PEERSEC,
                SO_PEERGROUPS,
                SO_PEERPIDFD,
            ),
        ),
    ),
)

TABLE: tuple[Syscall, ...] = (
    # Often called with arguments that need no look: first, so that they cost the fewest comparisons.
    Syscall("sendto", 44, 206, ((NonNull(4),), (AnyBit(3, MSG_FASTOPEN),)), "sendto"),
    Syscall("sendmsg", 46, 211, ((AnyBit(2, MSG_FASTOPEN),), *_IN_WINDOWS), "sendmsg"),
    Syscall("sendmmsg", 307, 269, ((AnyBit(3, MSG_FASTOPEN),), *_IN_WINDOWS), "sendmmsg"),
    Syscall("ioctl", 16, 29, ((OneOf(1, (SIOCOUTQNSD,)),),), "ioctl"),
    Syscall("getsockopt", 55, 209, _GET_OPTIONS, "getsockopt"),
    Syscall("setsockopt", 54, 208, _SET_OPTIONS, "setsockopt"),
    # Rows of socket(2) are tried in this order.
    Syscall("socket", 41, 198, _IP_SOCKETS, "socket", errno.EAFNOSUPPORT, _WITHOUT_POLICY),
    Syscall("connect", 42, 203, ALWAYS, "connect"),
    Syscall("accept", 43, 202, ALWAYS, "accept"),
    Syscall("accept4", 288, 242, ALWAYS, "accept4"),
    Syscall("bind", 49, 200, ALWAYS, "bind"),
    Syscall("listen", 50, 201, ALWAYS, "listen"),
    Syscall("getsockname", 51, 204, ALWAYS, "getsockname"),
    Syscall("getpeername", 52, 205, ALWAYS, "getpeername"),
    # Only noted: an epoll made before a connect may have to learn of another file (switch/swap.py).
    Syscall("epoll_create", 213, None, ALWAYS, "epoll_create"),
    Syscall("epoll_create1", 291, 20, ALWAYS, "epoll_create"),
    # A ring would make network calls that no filter sees. Programs fall back on ENOSYS.
    Syscall("io_uring_setup", 425, 425, error=errno.ENOSYS),
    Syscall("io_uring_enter", 426, 426, error=errno.ENOSYS),
    Syscall("io_uring_register", 427, 427, error=errno.ENOSYS),
)

# Network calls of the 32-bit interface (arch/x86/entry/syscalls/syscall_32.tbl): socketcall, socket..shutdown,
# io_uring.
I386_REFUSED: tuple[tuple[int, int], ...] = ((102, 102), (359, 359), (361, 373), (337, 337), (345, 345), (425, 427))
