"""What an earlier switch had in its hands when it died: connections that were taken from a queue, and not given yet.

Its descriptors are still open (switch/holder.py). Which of them are connections of ours, and nobody else's, the kernel
tells; nothing of them was consumed, so they are decided about again, as if they had just come.

- One descriptor that does not close on execve(2): we have accepted it, and nobody else has it (`_kernel.accept`).
- One that closes: it was borrowed from an app for the call in hand (pidfd_getfd(2)), or it was given away.
- One that the journal has as led to a service: it was being given to a caller of accept(2).
- One of which a note says that it waits for a service: the end of a pair that we have made (`memory.PairNote`).
- Two: it was being given. Where the second one closes on execve(2), to somebody who may have it without our knowing (a
  proxy, the splicer: `descriptors.twin`); else to a caller of accept(2) (`_kernel.give`), who has it if the call was
  answered.

What is not ours is closed, by ending the process that holds it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6, AF_UNIX
from appswitch.switch import naming
from appswitch.switch.journal import Journal
from appswitch.switch.memory import PairNote
from appswitch.switch.syscalls import TABLE

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_STANDARD = 3
_PID = "Pid:"
_CLOEXEC = 0o2000000
_UCRED = struct.Struct("=iII")
_UNNAMED = b""
_FOR_US = (naming.LOBBY, _UNNAMED)  # others have the name of an app's listener
Pairs = dict[int, tuple[int, PairNote]]  # slot and note of those that wait for a service, by cookie


class Found(NamedTuple):
    """A connection that is ours: both its ends as the kernel has them. ``pair``: what is noted of one without names."""

    fd: Fd
    own: bytes
    peer: bytes
    pair: tuple[int, PairNote] | None = None


class Descriptor(NamedTuple):
    """One of the dead switch's descriptors. ``ours``: it does not close on execve(2)."""

    fd: Fd
    own: bytes
    peer: bytes
    ours: bool


def take(
    switch: Switch, journal: Journal, holders: Sequence[Fd], attach: bytes, pairs: Pairs
) -> tuple[list[Found], list[Fd]]:
    """Its connections, and those of launchers to ``attach``, a path. What else its holders have, `end` closes.

    Mostly there is one. A switch that was killed while it did this has left its own as well, with some of them again.
    To be called while the journal is as it was.
    """
    given = _Given(switch, journal)
    led = {server for _, server, _ in journal.led()}
    found: dict[int, Found] = {}
    launchers: dict[int, Fd] = {}
    for holder in holders:
        for cookie, descriptors in _connections(holder, attach, launchers, pairs).items():
            if cookie not in found and _is_ours(descriptors, given, cookie in led):
                one = descriptors[0]
                _kernel.set_ours(one.fd, 1)
                found[cookie] = Found(one.fd, one.own, one.peer, pairs.get(cookie))
    for cookie in pairs.keys() - found.keys():
        switch.memory.drop(pairs[cookie][0])
    return list(found.values()), list(launchers.values())


def take_back(journal: Journal, holders: Sequence[Fd]) -> None:
    """O_NONBLOCK that was lent to an app's file for the call in hand, which is to wait as before: native/kernel/loan.c.

    Of two dead switches nobody knows whose number it is.
    """
    number, flags = journal.loan()
    got = _kernel.fetch(holders[0], number) if number and len(holders) == 1 else errno.EBADF
    if not isinstance(got, int):
        _kernel.set_status_flags(got[0], flags)
    journal.forget_loan()


def _connections(
    holder: Fd, attach: bytes, launchers: dict[int, Fd], pairs: Container[int]
) -> dict[int, list[Descriptor]]:
    """What it has of each, by the socket's cookie."""
    by_cookie: dict[int, list[Descriptor]] = {}
    pid = _pid(holder)
    for number in _numbers(pid):
        got = _kernel.fetch(holder, number)
        if isinstance(got, int):
            continue
        if _is_launcher(got[0], attach):
            launchers.setdefault(got[1], got[0])
            continue
        found = _look(pid, got[0], number, got[1] in pairs)
        if found is not None:
            by_cookie.setdefault(got[1], []).append(found)
    return by_cookie


def end(holder: Fd) -> None:
    """It is not needed any more."""
    with contextlib.suppress(ProcessLookupError):  # nobody came in time
        signal.pidfd_send_signal(holder.fileno(), signal.SIGKILL)
    holder.close()


def _pid(pidfd: Fd) -> int:
    """Of a pidfd; -1 when it has ended. proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{pidfd.fileno()}") as info:
        return next((int(line[len(_PID) :]) for line in info if line.startswith(_PID)), -1)


def _numbers(pid: int) -> list[int]:
    """The sockets it holds. Those of another process, if this one has ended meanwhile, `_look` does not find."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []
    return [int(name) for name in names if int(name) >= _STANDARD and _is_socket(f"/proc/{pid}/fd/{name}")]


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except OSError:
        return False


def _is_launcher(fd: Fd, path: bytes) -> bool:
    """Whether it is a connection to the attach socket: nobody else ever has our end of it."""
    own = _kernel.getsockname(fd)
    if isinstance(own, int) or sockaddr.family_of(own) != AF_UNIX or sockaddr.unix_name(own) != path:
        return False
    return _type(fd) == socket.SOCK_SEQPACKET and not isinstance(_kernel.getpeername(fd), int)


def _look(pid: int, fd: Fd, number: int, pair: bool = False) -> Descriptor | None:
    """A descriptor of it that is the server's end of a connection; None: it is something else.

    What socketpair(2) has made is mostly none: only what is noted (``pair``) is.
    """
    own, peer = _kernel.getsockname(fd), _kernel.getpeername(fd)
    if isinstance(own, int) or isinstance(peer, int) or _type(fd) != socket.SOCK_STREAM:
        return None
    family = sockaddr.family_of(own)
    if family == AF_UNIX:
        name = sockaddr.unix_name(own)
        listens = name == naming.LOBBY or naming.parse_listener(name) is not None
        comes = naming.parse_connection(sockaddr.unix_name(peer)) is not None
        if not (pair if name == _UNNAMED else listens and comes):
            return None
    elif family not in (AF_INET, AF_INET6):
        return None
    return Descriptor(fd, own, peer, not _flags(pid, number) & _CLOEXEC)


def _type(fd: Fd) -> int:
    kind = _kernel.getsockopt(fd, socket.SOL_SOCKET, socket.SO_TYPE, 4)
    return 0 if isinstance(kind, int) else kind[0]


def _flags(pid: int, number: int) -> int:
    """As fcntl(2) has them, and O_CLOEXEC. proc_pid_fdinfo(5)."""
    try:
        with open(f"/proc/{pid}/fdinfo/{number}") as info:
            return next((int(line[6:], 8) for line in info if line.startswith("flags:")), _CLOEXEC)
    except OSError:
        return _CLOEXEC


def _is_ours(descriptors: list[Descriptor], given: _Given, led: bool) -> bool:
    """Whether nobody else can have it. ``led``: the journal has it."""
    one = descriptors[0]
    if not all(each.ours for each in descriptors):
        return False
    if sockaddr.family_of(one.own) != AF_UNIX:
        linger = _kernel.getsockopt(one.fd, socket.SOL_SOCKET, socket.SO_LINGER, 8)
        if isinstance(linger, int) or any(linger[:4]):  # it was being reset, or waited to be closed: patience.c
            return False
    elif sockaddr.unix_name(one.own) not in _FOR_US:  # taken from an app's own queue: for a call in hand, mostly
        return _is_trusted(one.fd, given.switches) and not given()
    return (len(descriptors) == 1 and not led) or not given()


def _is_trusted(fd: Fd, switches: tuple[int, ...]) -> bool:
    """Whether a switch has connected it, as `_kernel.accept_give` asks."""
    peer = _kernel.getsockopt(fd, socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return not isinstance(peer, int) and _UCRED.unpack(peer)[0] in switches


class _Given:
    """Whether a call of accept(2) that was waited for, or was in hand, has been answered since it was noted.

    It may as well have been interrupted; that is rare, and then a connection is lost rather than served twice.
    """

    def __init__(self, switch: Switch, journal: Journal) -> None:
        self.switches = journal.recent()
        self._switch = switch
        self._journal = journal
        self._answer: bool | None = None

    def __call__(self) -> bool:
        if self._answer is None:
            self._answer = any(self._answered(call) for _, call in self._journal.recall() if call[3] in _ACCEPT)
        return self._answer

    def _answered(self, call: tuple[int, ...]) -> bool:
        return not any(_kernel.still_valid(app.listener, call[1]) for app in self._switch.apps.values())


def _accept_numbers() -> Iterator[int]:
    arch = os.uname().machine
    for row in TABLE:
        number = row.number(arch) if row.name in ("accept", "accept4") else None
        if number is not None:
            yield number


_ACCEPT = frozenset(_accept_numbers())
