"""UDP between two namespaces: for a socket that serves at home and also has peers elsewhere.

A client moves to its peer (switch/udp.py), which needs nobody's help. A socket that others expect where it is cannot
move: one behind `--expose`, or one that talks to several apps at a time. For each place that it has peers in there is
a *far* socket with its address, and for each peer a *stand-in* at home with that peer's address. What arrives at one is
sent on by the other, so that the app sees nothing but the addresses it knows. Nothing here waits.
"""

from __future__ import annotations

import errno
import select
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address, is_any, is_loopback, loopback_like
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.switch.apps import App
from appswitch.switch.datagram import Datagram
from appswitch.switch.datagrams import DGRAM, SO_REUSEADDR, SO_REUSEPORT, SOL_IPV6, SOL_SOCKET
from appswitch.switch.exposure import Opening
from appswitch.switch.loop import Loop

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

PEERS = 1024  # stand-ins of one far socket; the one that was silent longest goes first
PER_APP = 4096  # stand-ins of one app; datagrams of more peers are lost
IDLE = 180.0  # seconds of silence after which a stand-in is forgotten, as conntrack's stream timeout
SWEEP = 15.0
BURST = 16  # datagrams that are carried before somebody else has a turn
SOL_IP, IP_FREEBIND, IP_TRANSPARENT, IP_PKTINFO = 0, 15, 19, 8
IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_V6ONLY, IPV6_TRANSPARENT, IPV6_FREEBIND = 49, 50, 26, 75, 78
LEFT = 2.0  # seconds in which the keeper has surely closed what it was told to forget
_ON, _OFF = b"\1\0\0\0", bytes(4)
_NONBLOCK = 0o4000


def at_any_address(fd: Fd, family: int) -> None:
    """Let a socket be bound to, and send from, an address that its namespace does not have: ip(7), ipv6(7)."""
    options = ((SOL_IP, IP_FREEBIND), (SOL_IP, IP_TRANSPARENT))
    if family == AF_INET6:
        options = ((SOL_IPV6, IPV6_FREEBIND), (SOL_IPV6, IPV6_TRANSPARENT))
    for level, name in options:
        _kernel.setsockopt(fd, level, name, _ON)


def share_port(fd: Fd) -> None:
    """Let others have the same port at other addresses, the wildcard included: for sockets that bind to a given port.

    Not before a bind to port 0, which would then find ports free that are not.
    """
    _kernel.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, _ON)


def family_of(ip: bytes) -> int:
    """The family of sockets that have it as their address."""
    return AF_INET if len(ip) == 4 else AF_INET6


class _StandIn:
    __slots__ = ("control", "fd", "used")

    def __init__(self, fd: Fd, control: bytes) -> None:
        self.fd = fd
        self.used = time.monotonic()
        self.control = control  # the address of the host that the peer has sent to


class _Far:
    """A socket's end in another place, and its peers there.

    Several sockets of an app that have one port, and one address for peers of a family, share what is exposed: the
    kernel at home knows for which of them a peer's stand-in sends.
    """

    __slots__ = ("exposed", "family", "fd", "holders", "peers", "place")

    def __init__(self, datagram: Datagram, place: App | None, family: int, fd: Fd, exposed: Address | None) -> None:
        self.holders = {datagram.cookie: datagram}
        self.place = place
        self.family = family
        self.fd = fd
        self.exposed = exposed
        self.peers: OrderedDict[Address, _StandIn] = OrderedDict()

    @property
    def datagram(self) -> Datagram:
        """One of the sockets at home: they do not differ in what matters here."""
        return next(iter(self.holders.values()))

    def leads_to(self, place: App | None, ip: bytes) -> bool:
        """Whether a peer at an address there can be reached from it."""
        beyond = self.exposed is None or not is_loopback(self.exposed.ip) or is_loopback(ip)
        return self.place is place and self.family == family_of(ip) and beyond


class Relay:
    """All links, by the socket at home that they belong to."""

    def __init__(self, switch: Switch, loop: Loop) -> None:
        self._switch = switch
        self._loop = loop
        self._by_cookie: dict[int, list[_Far]] = {}
        self._exposed: dict[Address, _Far] = {}
        kept = switch.kept.listeners  # an earlier switch's, with the datagrams that have come since
        self._kept = {name: kept[name][-1] for name in kept if name.startswith("udp-")}
        self._left: dict[Address, float] = {}  # ports of the host that were closed just now, and when
        self.carried = 0  # datagrams
        loop.every(SWEEP, self._sweep)

    def __len__(self) -> int:
        return sum(len(far.peers) for far in {far for there in self._by_cookie.values() for far in there})

    def link(self, datagram: Datagram, place: App | None, to: Address) -> int:
        """Make ``to`` reachable from the socket at home. 0 or an errno."""
        family = family_of(to.ip)
        far = next((f for f in self._links(datagram) if f.leads_to(place, to.ip)), None)
        if far is None:
            made = self._far_socket(datagram, place, family)
            if isinstance(made, int):
                return made
            far = self._install(_Far(datagram, place, family, made, None))
        for other in self._links(datagram):
            if other is not far and to in other.peers:
                self._drop(other, to)  # it is somewhere else now
        return 0 if self._peer(far, to, b"") is not None else errno.ENOBUFS

    def send(self, datagram: Datagram, to: Address, data: bytes) -> None:
        """Carry a datagram to a peer that is linked."""
        for far in self._links(datagram):
            if to in far.peers:
                _kernel.send_to(far.fd, data, sockaddr.encode(far.family, to), b"", 0)
                self.carried += 1
                return

    def take_over(self, datagram: Datagram, place: App | None, fd: Fd) -> None:
        """A socket that lived elsewhere has come home: what it was there goes on as its far end."""
        _kernel.set_status_flags(fd, 2 | _NONBLOCK)
        if place is not None:
            place.welcome(self._own(datagram, datagram.family))
        self._install(_Far(datagram, place, datagram.family, fd, None))

    def links(self, datagram: Datagram) -> bool:
        """Whether the socket has peers elsewhere."""
        return datagram.cookie in self._by_cookie

    def expose(self, datagram: Datagram, opening: Opening) -> int:
        """Let strangers in through an address of the host. 0 or an errno."""
        actual = opening.actual
        far = self._exposed.get(actual)
        if far is None:
            made = self._open(datagram.app, opening)
            if isinstance(made, int):
                return made
            far = self._exposed[actual] = self._install(_Far(datagram, None, opening.family, made, actual))
        elif far.datagram.app is not datagram.app:
            return errno.EADDRINUSE
        elif datagram.cookie not in far.holders:
            far.holders[datagram.cookie] = datagram
            self._by_cookie.setdefault(datagram.cookie, []).append(far)
        datagram.actual = (*datagram.actual, str(actual))
        return 0

    def drop_kept(self) -> None:
        """What nobody wanted of an earlier switch's: its socket has gone."""
        for name in self._kept:
            self._switch.keep.forget(name)
        self._kept.clear()

    def leave(self, app: App) -> None:
        """An app has ended: nobody is to be reached in its namespace."""
        for cookie, there in list(self._by_cookie.items()):
            for far in [far for far in there if far.place is app]:
                self._close(far)
                there.remove(far)
            if not there:
                del self._by_cookie[cookie]

    def forget(self, datagram: Datagram) -> None:
        """The socket at home is gone."""
        for far in self._by_cookie.pop(datagram.cookie, []):
            if len(far.holders) == 1:
                self._close(far)
            else:
                del far.holders[datagram.cookie]

    # -- making

    def _links(self, datagram: Datagram) -> list[_Far]:
        return self._by_cookie.get(datagram.cookie, [])

    def _install(self, far: _Far) -> _Far:
        self._by_cookie.setdefault(far.datagram.cookie, []).append(far)
        self._loop.watch(far.fd, select.EPOLLIN, lambda _events: self._inwards(far))
        return far

    def _open(self, app: App, opening: Opening) -> Fd | int:
        """The host's socket for strangers, which the keeper has as well."""
        name = _name(app, opening.actual)
        kept = self._kept.pop(name, None)
        if kept is not None:
            self._switch.keep.again(name, kept)
            return kept
        made = _exposed_socket(opening)
        if made == errno.EADDRINUSE and time.monotonic() - self._left.get(opening.actual, -LEFT) < LEFT:
            made = _exposed_socket(opening, shared=True)
        if not isinstance(made, int):
            self._switch.keep.listener(name, made)
        return made

    def _far_socket(self, datagram: Datagram, place: App | None, family: int) -> Fd | int:
        if place is None:
            return _kernel.socket(family, DGRAM | _NONBLOCK, 0)
        if place.home is None:
            return errno.ENETUNREACH
        fd = place.home.socket(family, DGRAM | _NONBLOCK)
        if self._switch.reserve.touched(fd):
            return errno.ENOBUFS
        at_any_address(fd, family)
        share_port(fd)
        own = self._own(datagram, family)
        error = _kernel.bind(fd, sockaddr.encode(family, own))
        if not error:
            place.welcome(own)
        return error or fd

    def _own(self, datagram: Datagram, family: int) -> Address:
        """The address of the socket at home that a peer of ``family`` sees."""
        bound = datagram.bound
        assert bound is not None
        if not is_any(bound.ip):
            return bound
        return Address(datagram.app.source_for(bytes(4 if family == AF_INET else 16), {}), bound.port)

    def _peer(self, far: _Far, peer: Address, control: bytes) -> _StandIn | None:
        known = far.peers.get(peer)
        if known is not None:
            far.peers.move_to_end(peer)
            known.used, known.control = time.monotonic(), control
            return known
        app = far.datagram.app
        if app.home is None or len(app.stand_ins) >= PER_APP:
            return None
        family = family_of(peer.ip)
        fd = app.home.socket(family, DGRAM | _NONBLOCK)
        if self._switch.reserve.touched(fd):
            return None
        at_any_address(fd, family)
        share_port(fd)
        own = self._own(far.datagram, family)
        if is_loopback(peer.ip) and far.datagram.bound is not None and is_any(far.datagram.bound.ip):
            own = Address(loopback_like(peer.ip), own.port)  # a program of the host: the reply comes from loopback, too
        error = _kernel.bind(fd, sockaddr.encode(family, peer)) or _kernel.connect(fd, sockaddr.encode(family, own))
        if error:
            self._switch.log("no stand-in", app=app.spec.appid, peer=str(peer), error=errno.errorcode.get(error, error))
            return None
        app.stand_ins[peer, own.port] += 1
        made = far.peers[peer] = _StandIn(fd, control)
        self._loop.watch(fd, select.EPOLLIN, lambda _events: self._outwards(far, peer, made))
        if len(far.peers) > PEERS:
            self._drop(far, next(iter(far.peers)))
        return made

    # -- carrying

    def _inwards(self, far: _Far) -> None:
        for _ in range(BURST):
            received = _kernel.receive(far.fd)
            if isinstance(received, int):
                return
            data, source, to = received
            peer = self._peer(far, sockaddr.decode(source), _pktinfo(to) if far.exposed else b"")
            if peer is not None:
                _kernel.send_to(peer.fd, data, b"", b"", 0)
                self.carried += 1

    def _outwards(self, far: _Far, to: Address, peer: _StandIn) -> None:
        for _ in range(BURST):
            received = _kernel.receive(peer.fd)
            if isinstance(received, int):
                return
            peer.used = time.monotonic()
            _kernel.send_to(far.fd, received[0], sockaddr.encode(far.family, to), peer.control, 0)
            self.carried += 1

    # -- ending

    def _drop(self, far: _Far, peer: Address) -> None:
        gone = far.peers.pop(peer)
        bound = far.datagram.bound
        if bound is not None:
            del far.datagram.app.stand_ins[peer, bound.port]
        self._switch.datagrams.steady.clear()  # it may have been sent to without a look
        self._loop.unwatch(gone.fd)
        gone.fd.close()

    def _close(self, far: _Far) -> None:
        for peer in list(far.peers):
            self._drop(far, peer)
        if far.place is not None:
            far.place.dismiss(self._own(far.datagram, far.family))
        if far.exposed is not None:
            del self._exposed[far.exposed]
            # The keeper closes its copy a moment later, and whoever opens the port again is not to wait for that.
            _kernel.setsockopt(far.fd, SOL_SOCKET, SO_REUSEPORT, _ON)
            self._left[far.exposed] = time.monotonic()
            self._switch.keep.forget(_name(far.datagram.app, far.exposed))
        self._loop.unwatch(far.fd)
        far.fd.close()

    def _sweep(self) -> None:
        limit = time.monotonic() - IDLE
        now = time.monotonic()
        self._left = {actual: when for actual, when in self._left.items() if now - when < LEFT}
        for cookie, there in list(self._by_cookie.items()):
            for far in list(there):
                for peer in [peer for peer, one in far.peers.items() if one.used < limit]:
                    self._drop(far, peer)
                if not far.peers and far.exposed is None:
                    self._close(far)
                    there.remove(far)
            if not there:
                del self._by_cookie[cookie]


def _name(app: App, actual: Address) -> str:
    """What the keeper knows the host's socket by."""
    return f"udp-{app.id:x}-{actual.ip.hex()}-{actual.port}"


def _exposed_socket(opening: Opening, shared: bool = False) -> Fd | int:
    """``shared``: an earlier one of ours is being closed. Nobody else gets in with it: SO_REUSEPORT is for one user."""
    try:
        fd = _kernel.socket(opening.family, DGRAM | _NONBLOCK, 0)
    except OSError as problem:
        return problem.errno or errno.EIO
    if opening.family == AF_INET6:
        _kernel.setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, _ON)
        _kernel.setsockopt(fd, SOL_IPV6, IPV6_RECVPKTINFO, _ON)
    else:
        _kernel.setsockopt(fd, SOL_IP, IP_PKTINFO, _ON)
    if shared:
        _kernel.setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, _ON)
    error = _kernel.bind(fd, sockaddr.encode(opening.family, opening.actual))
    if shared:
        _kernel.setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, _OFF)
    return error or fd


def _pktinfo(ip: bytes) -> bytes:
    """Control message to send from ``ip``: struct in_pktinfo, struct in6_pktinfo behind a struct cmsghdr."""
    if len(ip) == 4:
        return (
            (28).to_bytes(8, "little")
            + SOL_IP.to_bytes(4, "little")
            + IP_PKTINFO.to_bytes(4, "little")
            + (bytes(4) + ip + bytes(4) + bytes(4))
        )
    if len(ip) == 16:
        head = (36).to_bytes(8, "little") + SOL_IPV6.to_bytes(4, "little") + IPV6_PKTINFO.to_bytes(4, "little")
        return head + ip + bytes(4) + bytes(4)
    return b""
