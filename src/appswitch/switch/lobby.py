"""Where connections of apps wait that must not reach a server yet: sockets that the switch itself listens on.

A client is connected in place, as to a server of this host, and its program goes on. The other end is the switch's
until it knows which server is to have it: that server's accept(2) gets the very socket. So a choice by first bytes
copies none of them.
"""

from __future__ import annotations

import select
from collections import OrderedDict
from collections.abc import Callable

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6, AF_UNIX
from appswitch.switch import naming
from appswitch.switch.keep import Keep, Listeners
from appswitch.switch.loop import SHORT, Loop
from appswitch.switch.loopback import bind_to_loopback

_STREAM, _NONBLOCK = 1, 0o4000
_BACKLOG = 4096
EXPECTED = 4096  # TCP connections that are on their way here; the oldest is forgotten, and closed when it comes
BATCH = 64  # connections that are accepted in one go, before others have their turn

OnArrival = Callable[[Fd], None]
OnStray = Callable[[Fd, bytes], None]  # with the peer's sockaddr


class Lobby:
    """One Unix socket and a TCP socket of each family, on loopback."""

    def __init__(self, loop: Loop, keep: Keep, listeners: Listeners, stray: OnStray) -> None:
        """``listeners``: an earlier switch's, some of which may be the lobby's; ``stray`` gets whom that expected."""
        self._loop = loop
        self._keep = keep
        self._listeners = listeners
        self._stray = stray
        self.unix = self._kept(AF_UNIX) or self._listen_unix()
        self._tcp: dict[int, tuple[Fd, Address]] = {}
        self._expected: OrderedDict[Address, OnArrival] = OrderedDict()
        self._spare: Fd | None = None
        for family in (AF_INET, AF_INET6):
            kept = self._kept(family)
            if kept is not None:
                self._serve(family, kept)

    def __len__(self) -> int:
        """TCP connections that are on their way here."""
        return len(self._expected)

    def has_room(self) -> bool:
        """Whether the next `take` cannot fail for want of a descriptor: one is kept back for it."""
        if self._spare is None:
            try:
                self._spare = _kernel.socket(AF_UNIX, _STREAM, 0)
            except OSError:
                return False
        return True

    def take(self, name: bytes) -> Fd | None:
        """The other end of a Unix connection that was made just now, with that name. See `has_room`."""
        while True:
            accepted = _kernel.accept(self.unix)
            if accepted in SHORT and self._spare is not None:
                self._spare.close()
                self._spare = None
                continue
            if isinstance(accepted, int):
                return None
            fd, raw = accepted
            if sockaddr.unix_name(raw) == name:
                return fd
            # else: not ours, or of a caller that we gave up: closed with its Fd

    def address(self, family: int) -> Address:
        """Where TCP sockets of a family are connected to. Raises OSError."""
        if family not in self._tcp:
            self._listen(family)
        return self._tcp[family][1]

    def expect(self, source: Address, arrived: OnArrival) -> None:
        """A TCP connection from ``source`` is coming."""
        self._expected.pop(source, None)
        self._expected[source] = arrived
        if len(self._expected) > EXPECTED:
            self._expected.popitem(last=False)

    def is_here(self, own: Address) -> bool:
        """Whether a connection with this address of its own was accepted here."""
        return any(address == own for _, address in self._tcp.values())

    def _kept(self, family: int) -> Fd | None:
        """An earlier switch's, with who waits in its queue."""
        name = lobby_name(family)
        kept = self._listeners.pop(name, None)
        if kept is None:
            return None
        self._keep.again(name, kept[-1])
        return kept[-1]

    def _listen_unix(self) -> Fd:
        fd = _kernel.socket(AF_UNIX, _STREAM | _NONBLOCK, 0)
        error = _kernel.bind_unix(fd, naming.LOBBY) or _kernel.listen(fd, _BACKLOG)
        if error:
            raise OSError(error, "listen on a Unix socket")
        self._keep.listener(lobby_name(AF_UNIX), fd)
        return fd

    def _listen(self, family: int) -> tuple[Fd, Address]:
        fd = _kernel.socket(family, _STREAM | _NONBLOCK, 0)
        error = bind_to_loopback(fd, family) or _kernel.listen(fd, _BACKLOG)
        if error:
            raise OSError(error, "listen on a loopback port")
        self._keep.listener(lobby_name(family), fd)
        return self._serve(family, fd)

    def _serve(self, family: int, fd: Fd) -> tuple[Fd, Address]:
        own = _kernel.getsockname(fd)
        if isinstance(own, int):
            raise OSError(own, "getsockname")
        self._loop.watch(fd, select.EPOLLIN, lambda _events: self._on_arrival(fd))
        self._tcp[family] = fd, sockaddr.decode(own)
        return self._tcp[family]

    def _on_arrival(self, listener: Fd) -> None:
        for _ in range(BATCH):
            accepted = _kernel.accept(listener)
            if isinstance(accepted, int):
                if accepted in SHORT:
                    self._loop.pause(listener)
                return
            fd, raw = accepted
            arrived = self._expected.pop(sockaddr.decode(raw), None)
            if arrived is not None:
                arrived(fd)
            else:
                self._stray(fd, raw)


def lobby_name(family: int) -> str:
    """What the keeper knows a listener by."""
    return f"lobby-{family}"
