"""DNS: an app's queries to its configured name servers are the daemon's to answer, from those very addresses.

For each of them two sockets are made in the app's own network namespace: UDP at port 53, which its datagrams reach
without a call being looked at, and TCP on its loopback, where connect(2) to port 53 is led. Control answers on them.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from appswitch import _kernel, wire
from appswitch._kernel import Fd
from appswitch.address import LOOPBACK4, Address, ip_bytes
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET
from appswitch.switch.apps import App
from appswitch.switch.datagrams import DGRAM, DNS_PORT
from appswitch.switch.relay import at_any_address, family_of, share_port

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_STREAM, _NONBLOCK = 1, 0o4000
BACKLOG = 128


class NameServers:
    """The sockets of all apps, and the way to control, which is never waited for."""

    def __init__(self, switch: Switch, path: Path) -> None:
        self._switch = switch
        self._path = str(path)
        self._made: dict[int, list[tuple[str, Fd, Fd]]] = {}  # app id -> address, UDP, TCP
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def attach(self, app: App) -> None:
        """Make an app's sockets, and hand them over."""
        if app.home is None or not app.spec.nameservers:
            return
        made = self._made[app.id] = []
        for address in app.spec.nameservers:
            try:
                pair = _make(app, ip_bytes(address))
            except OSError as problem:
                self._switch.log("no DNS for an app", app=app.spec.appid, address=address, error=str(problem))
                continue
            made.append((address, *pair))
            raw = _kernel.getsockname(pair[1])
            assert isinstance(raw, bytes)
            app.nameservers[ip_bytes(address)] = sockaddr.decode(raw)
        self._hand_over(app.id)

    def detach(self, app: App) -> None:
        """The app has ended."""
        self._made.pop(app.id, None)

    def hand_over_all(self) -> None:
        """Control has come, perhaps anew."""
        for app_id in self._made:
            self._hand_over(app_id)

    def _hand_over(self, app_id: int) -> None:
        for address, udp, tcp in self._made[app_id]:
            message = msgspec.msgpack.encode(wire.NameServer(app_id=app_id, address=address))
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(_int(fd) for fd in (udp, tcp)))
            try:
                self._socket.sendmsg([message], [rights], 0, self._path)
            except OSError as problem:  # control is away: it gets everything when it connects
                if problem.errno not in (errno.ENOENT, errno.ECONNREFUSED):
                    self._switch.log("control does not take DNS sockets", error=str(problem))


def _make(app: App, ip: bytes) -> tuple[Fd, Fd]:
    assert app.home is not None
    family = family_of(ip)
    udp = app.home.socket(family, DGRAM | _NONBLOCK)
    at_any_address(udp, family)
    share_port(udp)
    tcp = app.home.socket(AF_INET, _STREAM | _NONBLOCK)
    for error in (
        _kernel.bind(udp, sockaddr.encode(family, Address(ip, DNS_PORT))),
        _kernel.bind(tcp, sockaddr.encode(AF_INET, Address(LOOPBACK4, 0))),
        _kernel.listen(tcp, BACKLOG),
    ):
        if error:
            raise OSError(error, errno.errorcode.get(error, "bind"))
    return udp, tcp


def _int(fd: Fd) -> bytes:
    return fd.fileno().to_bytes(4, "little")
