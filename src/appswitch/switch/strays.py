"""IPv6 datagrams that were sent from home to nobody there, by a call that is not looked at: they lead to a link.

sendmsg(2) is notified by descriptors of a window only (syscalls.WINDOWS). What another one sends to an address outside
finds no socket at home, and the kernel says so by ICMPv6, quoting it. Those messages are heard here, at no cost to any
datagram that arrives: the socket is linked with the place where the address is (relay.py), and what it sent is
delivered, if it was quoted whole (RFC 4443 section 2.4: 1280 bytes). For IPv4 the kernel says nothing: it sends no ICMP
from addresses that are not in its table "local" (__ip_dev_find() in net/ipv4/devinet.c), and if they were, anybody
could bind them.
"""

from __future__ import annotations

import errno
import select
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET6
from appswitch.switch import guard
from appswitch.switch.apps import App
from appswitch.switch.moves import place_of

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

ICMPV6, UDP = 58, 17
ICMP6_FILTER = 1
_UNREACHABLE_ONLY = (0xFFFFFFFF & ~(1 << 1)).to_bytes(4, "little") + b"\xff" * 28  # RFC 3542 section 3.2
_PORT_UNREACHABLE = b"\1\4"  # type and code: RFC 4443 section 3.1
_QUOTED, _UDP = 8, 48  # where the datagram's own headers begin
ROUND, HEARD = 1.0, 256  # seconds, and messages of one app that are looked at in them: each look asks the kernel
BURST = 16  # messages that are looked at before somebody else has a turn


class Stray(NamedTuple):
    """A datagram that nobody took. ``data`` is None if it was not quoted whole."""

    source: Address
    to: Address
    data: bytes | None


def parse(message: bytes) -> Stray | None:
    """What an ICMPv6 message is about; None where it is not that a UDP port is unreachable."""
    if message[:2] != _PORT_UNREACHABLE or len(message) < _UDP + 8 or message[_QUOTED + 6] != UDP:
        return None
    ports = int.from_bytes(message[_UDP : _UDP + 4], "big")
    end = _UDP + int.from_bytes(message[_UDP + 4 : _UDP + 6], "big")
    return Stray(
        Address(message[_QUOTED + 8 : _QUOTED + 24], ports >> 16),
        Address(message[_QUOTED + 24 : _UDP], ports & 0xFFFF),
        message[_UDP + 8 : end] if len(message) == end else None,
    )


class Strays:
    """The ears of all apps."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._ears: dict[int, Fd] = {}  # by app id
        self._heard: Counter[int] = Counter()  # by app id, in this round
        switch.loop.every(ROUND, self._heard.clear)

    def attach(self, app: App) -> None:
        """Listen in an app's namespace. Where that is not possible, such datagrams stay lost."""
        if app.home is None:
            return
        try:
            ear = app.home.raw(AF_INET6, ICMPV6)
        except OSError as problem:
            if problem.errno != errno.EAFNOSUPPORT:
                self._switch.log("strays stay lost", app=app.spec.appid, error=str(problem))
            return
        _kernel.attach_filter(ear, guard.of_unheard(app.ips))
        _kernel.setsockopt(ear, ICMPV6, ICMP6_FILTER, _UNREACHABLE_ONLY)
        self._ears[app.id] = ear
        self._switch.loop.watch(ear, select.EPOLLIN, lambda _events: self._hear(app, ear))

    def detach(self, app: App) -> None:
        """The app has ended."""
        ear = self._ears.pop(app.id, None)
        if ear is not None:
            self._switch.loop.unwatch(ear)
            ear.close()

    def _hear(self, app: App, ear: Fd) -> None:
        for _ in range(BURST):
            received = _kernel.receive(ear)
            if isinstance(received, int):
                return
            stray = parse(received[0])
            self._heard[app.id] += 1
            if stray is not None and self._heard[app.id] <= HEARD:
                self._lead(app, stray)

    def _lead(self, app: App, stray: Stray) -> None:
        """As sendto(2) would have done, had it been called: `udp._steer`."""
        switch = self._switch
        datagram = switch.datagrams.at_home(app, stray.source)
        if datagram is None:
            return  # a guest's, or of one that has a peer and is told by the kernel
        target = switch.datagrams.aim(datagram, sockaddr.encode(datagram.family, stray.to))
        if target.home or target.error:
            return
        if target.apps and not switch.datagrams.somebody_serves(target.apps, target.to.port):
            return  # a late answer to a client that has gone
        datagram.bound, datagram.settled = datagram.bound or stray.source, True
        error = switch.relay.link(datagram, place_of(switch, datagram, target), target.to)
        if not error and stray.data is not None:
            switch.relay.send(datagram, target.to, stray.data)
