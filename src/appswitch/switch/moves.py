"""A UDP socket goes to where its peer is, or comes home: another one takes its place behind the descriptor."""

from __future__ import annotations

import errno
import fcntl
from typing import TYPE_CHECKING, NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import LOOPBACK6, Address, is_any
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.switch.apps import App
from appswitch.switch.call import Call
from appswitch.switch.datagram import Datagram
from appswitch.switch.datagrams import (
    DGRAM,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOL_IPV6,
    SOL_SOCKET,
    Target,
)
from appswitch.switch.netns import Host, Netns
from appswitch.switch.relay import at_any_address, family_of, share_port
from appswitch.switch.swap import swap
from appswitch.switch.waiters import is_tied

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_NONBLOCK = 0o4000
TIED = -1
QUEUED = 256  # datagrams that go with a socket: what SO_RCVBUF usually has room for
_ON = b"\1\0\0\0"


class Use(NamedTuple):
    """A call that uses a UDP socket."""

    call: Call
    fd: Fd  # a duplicate of its descriptor
    status: int  # file status flags
    datagram: Datagram


def is_v6only(fd: Fd, datagram: Datagram) -> bool:
    """IPV6_V6ONLY."""
    return datagram.family == AF_INET6 and _kernel.getsockopt(fd, SOL_IPV6, IPV6_V6ONLY, 4) == _ON


def place_of(switch: Switch, datagram: Datagram, target: Target) -> App | None:
    """One of the places where the target is: the present one if it is among them."""
    if target.home:
        return datagram.app if datagram.app.home is not None else None
    if datagram.at_home and datagram.bound is not None and datagram.bound.ip == LOOPBACK6:
        return datagram.app  # what it sends is lost, as on a host
    if not target.apps:
        return None
    if datagram.place in target.apps:
        return datagram.place
    return target.apps[switch.pick(len(target.apps))] if len(target.apps) > 1 else target.apps[0]


def cannot_follow(fd: Fd, datagram: Datagram, target: Target) -> bool:
    """An IPv6 socket that may not speak IPv4, or an IPv4 one asked for IPv6: the kernel at home has the errno."""
    if len(target.to.ip) == 4:
        return is_v6only(fd, datagram)
    return datagram.family == AF_INET


def move(switch: Switch, use: Use, place: App | None, target: Target, connected: bool) -> int:
    """Put the socket in another place, connected to the target or not. 0, an errno, or TIED: it has to stay at home."""
    call, fd, status, datagram = use
    own = _own_address(switch, fd, datagram, target)
    home = place.home if place is not None else switch.datagrams.host
    if home is None:
        return errno.ENETUNREACH
    made = _made_at(home, fd, datagram, place, own)
    if isinstance(made, int):
        return made
    if datagram.at_home and is_tied(call, call.int32(0)):  # as late as can be: threads begin to wait
        return TIED
    if place is not None and datagram.at_home and datagram.bound is not None:
        _requeue(fd, made, home)  # while anybody may send to it
    error = _kernel.connect(made, sockaddr.encode(datagram.family, target.to)) if connected else 0
    if error:
        return error
    _kernel.set_status_flags(made, 2 | status & _NONBLOCK)
    swap(call, fd, made)
    _replace(switch, datagram, made, place)
    shown = _kernel.getsockname(made)
    datagram.source = Address(own.ip, own.port if isinstance(shown, int) else sockaddr.decode(shown).port)
    if place is not None and place is not datagram.app:
        place.welcome(datagram.source)
    return 0


def _made_at(home: Netns | Host, fd: Fd, datagram: Datagram, place: App | None, own: Address) -> Fd | int:
    """A socket like the one that there is, bound as it has to be where it will live; or an errno."""
    if datagram.at_home and datagram.bound is None:
        reuse = _kernel.getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 4)
        datagram.reuseaddr = bytes(4) if isinstance(reuse, int) else reuse
    made = home.socket(datagram.family, DGRAM)
    _kernel.inherit_datagram(fd, made)
    error = 0
    if place is datagram.app:
        _kernel.setsockopt(made, SOL_SOCKET, SO_REUSEADDR, _ON)
        error = _kernel.bind(made, sockaddr.encode(datagram.family, datagram.bound or own))
    elif place is not None:
        error = _bind_guest(made, datagram.family, own)
    return error or made


def _own_address(switch: Switch, fd: Fd, datagram: Datagram, target: Target) -> Address:
    """What the target is to see: the address and port that the app has bound, else the app's own, and any port."""
    raw = _kernel.getsockname(fd)
    bound = Address(b"", 0) if isinstance(raw, int) else sockaddr.decode(raw)
    if datagram.at_home and bound.port and not is_any(bound.ip) and len(bound.ip) == len(target.to.ip):
        return bound
    return Address(datagram.app.source_for(target.to.ip, switch.node_ips), bound.port)


def _bind_guest(made: Fd, family: int, own: Address) -> int:
    """The port that it had, or (a stranger has it) any other."""
    at_any_address(made, family)
    error = errno.EADDRINUSE
    if own.port:
        share_port(made)
        error = _kernel.bind(made, sockaddr.encode(family, own))
    if error == errno.EADDRINUSE:
        _kernel.setsockopt(made, SOL_SOCKET, SO_REUSEADDR, bytes(4))
        error = _kernel.bind(made, sockaddr.encode(family, Address(own.ip, 0)))
        share_port(made)
    return error


def _requeue(old: Fd, made: Fd, home: Netns | Host) -> None:
    """What waits in the old socket's queue waits in the new one's, from the same addresses. What cannot be is lost."""
    own = _kernel.getsockname(made)
    received = _kernel.receive(old)
    for _ in range(QUEUED):
        if isinstance(received, int) or isinstance(own, int):
            return
        data, source, _ = received
        peer = sockaddr.decode(source)
        family = family_of(peer.ip)
        stand_in = home.socket(family, DGRAM)
        at_any_address(stand_in, family)
        share_port(stand_in)
        if _kernel.bind(stand_in, sockaddr.encode(family, peer)) == 0:
            _kernel.send_to(stand_in, data, sockaddr.encode(family, sockaddr.decode(own)), b"", 0)
        received = _kernel.receive(old)


def _replace(switch: Switch, datagram: Datagram, made: Fd, place: App | None) -> None:
    """The entry follows the descriptor."""
    switch.datagrams.forget(datagram)
    datagram.cookie = _kernel.cookie(made)
    datagram.place, datagram.source = place, None
    switch.datagrams.by_cookie[datagram.cookie] = datagram


def go_home(switch: Switch, use: Use) -> int:
    """A socket without a peer, and without a port that the app chose: as if it were new. 0 or an errno."""
    call, fd, status, datagram = use
    app = datagram.app
    if app.home is None:
        return 0
    made = app.home.socket(datagram.family, DGRAM)
    _kernel.inherit_datagram(fd, made)
    _kernel.setsockopt(made, SOL_SOCKET, SO_REUSEADDR, datagram.reuseaddr)
    _kernel.set_status_flags(made, 2 | status & _NONBLOCK)
    swap(call, fd, made)
    _replace(switch, datagram, made, app)
    return 0


def reach(switch: Switch, use: Use, place: App | None, target: Target) -> int:
    """The address is elsewhere. Nobody expects the socket here: it moves; else it stays or returns, and is linked."""
    datagram = use.datagram
    if datagram.app.home is None:  # of the host's network: it can go to an app, and come back
        return move(switch, use, place, target, connected=False)
    where = datagram.place
    left = where is not None and where.ended  # with the app that it was with
    free = datagram.at_home and not datagram.settled and not switch.relay.links(datagram)
    if left or free:
        error = move(switch, use, place, target, connected=False)
        if error != TIED:
            return error
    if not datagram.at_home:
        error = _retreat(switch, use)
        if error:
            return error
    if place is datagram.app:
        return 0
    return stay(switch, use, place, target)


def stay(switch: Switch, use: Use, place: App | None, target: Target) -> int:
    """Link a socket at home with a place. 0 or an errno."""
    datagram = use.datagram
    if datagram.bound is None:
        fd = use.call.fetch()[0]  # another one, if it has come home just now
        own = _bound_address(fd, datagram)
        if isinstance(own, int):
            return own
        datagram.bound = own
    datagram.settled = True
    return switch.relay.link(datagram, place, target.to)


def _bound_address(fd: Fd, datagram: Datagram) -> Address | int:
    """Its address at home; one that has none is bound, as a first sendto(2) does. An errno if that fails."""
    raw = _kernel.getsockname(fd)
    if not isinstance(raw, int) and sockaddr.decode(raw).port == 0:
        error = _kernel.bind(fd, sockaddr.any_of(datagram.family))
        raw = error or _kernel.getsockname(fd)
    return raw if isinstance(raw, int) else sockaddr.decode(raw)


def _retreat(switch: Switch, use: Use) -> int:
    """A socket with a second peer comes home; what it was remains as its far end, and misses nothing."""
    call, fd, status, datagram = use
    app, was = datagram.app, datagram.place
    if app.home is None:
        return errno.ENETUNREACH
    raw = _kernel.getsockname(fd)
    if isinstance(raw, int):
        return raw
    own = sockaddr.decode(raw)
    if datagram.bound is None or is_any(datagram.bound.ip):
        own = Address(bytes(4 if datagram.family == AF_INET else 16), own.port)
    far = Fd(fcntl.fcntl(fd.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))
    made = app.home.socket(datagram.family, DGRAM)
    _kernel.inherit_datagram(fd, made)
    _kernel.setsockopt(made, SOL_SOCKET, SO_REUSEADDR, _ON)
    error = _kernel.bind(made, sockaddr.encode(datagram.family, own))
    if error:
        return error
    _kernel.set_status_flags(made, 2 | status & _NONBLOCK)
    swap(call, fd, made)
    _replace(switch, datagram, made, app)
    datagram.bound, datagram.settled = own, True
    switch.relay.take_over(datagram, was, far)
    return 0
