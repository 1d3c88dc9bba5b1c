"""One UDP socket of an app: what is known of it, what of that is left with the kernel, and how it is shown."""

from __future__ import annotations

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.kernel.sockaddr import AF_INET6
from appswitch.model import ConnectionRow, ServerRow, SocketRow
from appswitch.routing.table import Endpoint
from appswitch.switch.apps import App
from appswitch.switch.netns import Bound

OFF, ON = bytes(4), b"\1\0\0\0"

# What a successor of ours cannot ask a socket itself, it asks sock_diag(7). That shows these options, which mean
# nothing on UDP sockets that are bound and have no group, each with its bit in struct inet_diag_sockopt. The last is on
# by default, but off on IPv6 sockets.
SOL_IP, IP_BIND_ADDRESS_NO_PORT, IP_RECVERR_RFC4884, IP_MULTICAST_ALL = 0, 24, 26, 49
_IS_BOUND, _HAS_REUSEADDR, _MULTICAST_ALL, _IS_V6ONLY = 1 << 8, 1 << 9, 1 << 6, 1 << 16


class Datagram:
    """One UDP socket of an app, known from its first bind(2), connect(2) or sendto(2) on."""

    __slots__ = (
        "actual", "answered", "app", "asked", "bound", "cookie", "endpoint", "family", "place", "reuseaddr",
        "reuseport", "settled", "since", "source", "v6only",
    )  # fmt: skip

    def __init__(self, cookie: int, app: App, family: int, place: App | None) -> None:
        self.cookie = cookie
        self.app = app
        self.family = family
        self.place = place  # None: the host
        self.bound: Address | None = None  # by bind(2), at home
        self.settled = False  # others expect it at home
        self.reuseaddr = OFF  # what the app has set; the kernel's own is on once the socket is bound
        self.reuseport = False
        self.v6only = False
        self.source: Address | None = None  # the virtual address that a peer elsewhere sees
        self.asked: Address | None = None  # the virtual address of connect(2)
        self.endpoint: Endpoint | None = None
        self.since = 0.0
        self.actual: tuple[str, ...] = ()  # addresses of the host that lead here
        self.answered = 0

    @property
    def at_home(self) -> bool:
        """Whether it is where it was made."""
        return self.place is self.app


def leave_marks(fd: Fd, datagram: Datagram) -> None:
    """Write on a socket at home what bind(2) has found: `Datagrams.restore` reads it."""
    _kernel.setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, ON)
    if datagram.reuseaddr != OFF:
        _kernel.setsockopt(fd, SOL_IP, IP_RECVERR_RFC4884, ON)
    if datagram.reuseport:
        _kernel.setsockopt(fd, SOL_IP, IP_MULTICAST_ALL, ON if datagram.family == AF_INET6 else OFF)


def restored(found: Bound, app: App) -> Datagram:
    """The entry of a socket at home that an earlier switch has served."""
    made = Datagram(found.cookie, app, found.family, app)
    made.bound, made.asked = found.own, found.peer
    made.settled = bool(found.options & _IS_BOUND)
    made.reuseaddr = ON if found.options & _HAS_REUSEADDR else OFF
    made.reuseport = made.settled and bool(found.options & _MULTICAST_ALL) == (found.family == AF_INET6)
    made.v6only = bool(found.options & _IS_V6ONLY)
    return made


def server_row(datagram: Datagram, endpoint: Endpoint | None = None) -> ServerRow:
    """As `ax get servers` shows it. ``endpoint``: of one that serves no longer."""
    endpoint = endpoint or datagram.endpoint
    assert endpoint is not None
    ip, port = endpoint.bound
    text = str(Address(ip, port)).rsplit(":", 1)[0].strip("[]")
    return ServerRow(
        app_id=datagram.app.id, proto="udp", service_ip=text, service_port=port, actual=datagram.actual,
        since=datagram.since,
    )  # fmt: skip


def socket_row(datagram: Datagram) -> SocketRow:
    """As `ax get sockets` shows it."""
    place = "home" if datagram.at_home else "host" if datagram.place is None else "visiting"
    flags = [flag for flag, on in (("bound", datagram.bound), ("connected", datagram.asked)) if on]
    return SocketRow(
        id=datagram.cookie, app_id=datagram.app.id, inode=0, proto="udp", flags=(*flags, place),
        bind_ip=str(datagram.bound) if datagram.bound else "", backlog=0,
    )  # fmt: skip


def connection_row(datagram: Datagram, source: Address, asked: Address) -> ConnectionRow:
    """As `ax get connections` shows it."""
    return ConnectionRow(
        client_app=datagram.app.id, server_app=datagram.place.id if datagram.place else 0, proto="udp",
        client=str(source), server=str(asked), transport="udp",
    )  # fmt: skip
