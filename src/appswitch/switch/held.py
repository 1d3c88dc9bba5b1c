"""One end of a connection that the switch has, and the client the other: what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.model import Transport
from appswitch.routing.clusters import Cluster
from appswitch.routing.route import Flow

if TYPE_CHECKING:
    from appswitch.switch.flows import Path

_SOL_SOCKET, _SO_LINGER = 1, 13
_AT_ONCE = (1).to_bytes(4, "little") + bytes(4)  # struct linger: on, zero seconds


class Held(NamedTuple):
    """The client believes to be connected to ``to``."""

    flow: Flow
    client: Address  # as the server is to see it
    to: Address
    unix: bool
    zone: str
    since: float  # monotonic
    cookie: int = 0  # of the client's socket; 0: it is not an app's
    path: Path | None = None  # how it came to be held, where that is an app's connect(2)
    header: bytes = b""  # of the PROXY protocol, that stands before the client's own bytes
    pair: bool = False  # it is one end of a pair that the switch has made: no name tells whose it is

    @property
    def transport(self) -> Transport:
        """What it is made of."""
        return "unix" if self.unix else "tcp"


class Splice(NamedTuple):
    """A connection whose bytes the splicer carries."""

    client: Address  # virtual
    to: Address  # virtual
    cluster: Cluster | None
    backend: Address  # outside


def reset(fd: Fd, held: Held) -> None:
    """Close it so that the client notices: a Unix socket does by what was not read, TCP by SO_LINGER of zero."""
    if not held.unix:
        reset_tcp(fd)
    fd.close()


def reset_tcp(fd: Fd) -> None:
    """The same of a TCP connection of which nothing else is known."""
    _kernel.setsockopt(fd, _SOL_SOCKET, _SO_LINGER, _AT_ONCE)
    fd.close()
