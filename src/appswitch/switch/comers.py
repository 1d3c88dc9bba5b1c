"""Apps that come to a port of this host that leads to an app: known before they arrive, for they are no strangers.

Their connect(2) goes to an address of the host, so it is an ordinary TCP connection of the host's; who accepts it sees
the two actual ends, and finds here who made it.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address, is_loopback
from appswitch.kernel import sockaddr
from appswitch.routing.route import Flow

LIMIT = 1 << 16  # on their way; more than the ports that a host has for one destination. The oldest are forgotten


class Comers:
    """By both actual ends, until they are there."""

    def __init__(self, judges: Callable[[], bool]) -> None:
        """``judges``: whether it matters who comes to exposed ports."""
        self._judges = judges
        self.gates: Counter[int] = Counter()  # ports of external vservices
        self.exposed: Counter[int] = Counter()
        self._flows: dict[tuple[Address, Address], Flow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def expect(self, tcp: Fd, to: Address, error: int, flow: Flow) -> None:
        """A connection has been begun (``error``: as connect(2) said) to an actual address, for this flow of an app."""
        if not self.gates[to.port] and not (self.exposed[to.port] and self._judges()):
            return
        if error not in (0, errno.EINPROGRESS):
            return
        raw = _kernel.getsockname(tcp)
        if isinstance(raw, int):
            return
        source = sockaddr.decode(raw)
        if source.ip == to.ip or is_loopback(source.ip):  # an address of this host: that is how it goes to itself
            self._flows[source, to] = flow
            if len(self._flows) > LIMIT:
                del self._flows[next(iter(self._flows))]

    def known(self, source: Address, to: Address, flow: Flow) -> None:
        """The same of one that an earlier switch has accepted already."""
        self._flows[source, to] = flow

    def take(self, fd: Fd, source: Address) -> Flow | None:
        """Which app's flow a connection is that was accepted; None: it is a stranger's."""
        if not self._flows:
            return None
        raw = _kernel.getsockname(fd)
        return None if isinstance(raw, int) else self._flows.pop((source, sockaddr.decode(raw)), None)
