"""After a crash of the switch: its successor finds the apps with the keeper, and everything else in the kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from appswitch import _kernel
from appswitch.kernel import sockaddr
from appswitch.switch import bind, naming, udp
from appswitch.switch.core import Switch
from appswitch.switch.datagram import Datagram
from appswitch.switch.moves import place_of
from appswitch.switch.services import Service
from appswitch.switch.sockets import LISTENING, Socket

_LISTEN_STATE = 1 << 10
_MAX_SERIAL = 1 << 31


def restore_services(switch: Switch) -> None:
    """Listening sockets carry their app and address as their name: unix(7), sock_diag(7)."""
    files = {os.fsencode(entry) for entry in os.listdir()}  # of our own directory, mode 0700
    for cookie, inode, *_, raw in _kernel.dump_unix(_LISTEN_STATE):
        name = raw.rstrip(b"\0")
        listener = naming.parse_listener(name)
        app = switch.apps.get(listener.app_id) if listener is not None else None
        if listener is None or app is None or name not in files or listener.serial >= _MAX_SERIAL:
            continue  # not one of ours: anybody on the host may listen on a name like that
        sock = Socket(cookie, app, listener.family, unix=True)
        sock.bound, sock.inode, sock.phase, sock.named = listener.bound, inode, LISTENING, True
        sock.restore_flags(listener.flags)
        switch.sockets.by_cookie[cookie] = sock
        app.bound.setdefault(listener.bound.port, []).append(sock)
        _reopen(switch, switch.services.restore(sock, name, listener.serial))
    for leftover in Path().iterdir():
        if leftover.name.encode() not in switch.sockets.listening:
            leftover.unlink()


def restore_datagrams(switch: Switch) -> None:
    """UDP sockets are where they were: those at home are served, exposed and linked again, as they were."""
    for app in list(switch.apps.values()):
        switch.datagrams.restore(app)
    found = switch.datagrams.restored()
    for datagram, bound in found:
        if bound:
            udp.open_to_strangers(switch, datagram)
            switch.datagrams.serve(datagram)
        datagram.settled = True
    for datagram, _ in found:
        if datagram.asked is not None:
            _link_again(switch, datagram, sockaddr.encode(datagram.family, datagram.asked))


def _link_again(switch: Switch, datagram: Datagram, peer: bytes) -> None:
    """A socket at home with a peer, who may be elsewhere: then nobody tells us when it sends."""
    target = switch.datagrams.aim(datagram, peer)
    place = place_of(switch, datagram, target)
    if not target.error and place is not datagram.app:
        error = switch.relay.link(datagram, place, target.to)
        if error:
            app = datagram.app.spec.appid
            switch.log("cannot link again", app=app, peer=str(target.to), error=errno.errorcode[error])


def _reopen(switch: Switch, service: Service) -> None:
    bind.open_to_strangers(switch, service)
    switch.services.announce(service)


def answer_again(switch: Switch, pending: list[tuple[int, ...]]) -> None:
    """Calls that were received but not answered: their callers still wait, so they are simply made again."""
    for notification in pending:
        for app in switch.apps.values():
            if _kernel.still_valid(app.listener, notification[1]):
                switch.early.guard(switch.dispatch.server_for(app, again=True))(
                    (app.listener.fileno(), *notification[1:])
                )
                break
