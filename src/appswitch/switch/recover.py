"""After a crash of the switch: its successor finds the apps with the keeper, and everything else in the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from appswitch import _kernel
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_UNIX
from appswitch.switch import bind, naming, udp
from appswitch.switch.apps import App
from appswitch.switch.core import Switch
from appswitch.switch.datagram import Datagram
from appswitch.switch.journal import Journal
from appswitch.switch.lobby import lobby_name
from appswitch.switch.memory import ArrivalNote, Note, PairNote, SocketNote
from appswitch.switch.moves import place_of
from appswitch.switch.services import Service
from appswitch.switch.sockets import CONNECTED, FINISHING, LISTENING, NEW, Socket
from appswitch.switch.sweep import LOOKS

_ALL_STATES, _LISTEN_STATE = 0xFFF, 1 << 10
_MAX_SERIAL = 1 << 31


def restore(switch: Switch, journal: Journal, notes: Sequence[tuple[int, Note]]) -> None:
    """All of it, by what was noted, but for connections that wait. The apps are attached already."""
    unix = _names(_ALL_STATES)
    for slot, note in notes:
        if isinstance(note, PairNote):
            continue
        app = switch.apps.get(note.app_id if not isinstance(note, ArrivalNote) else note.client_app)
        if app is None:
            switch.memory.drop(slot)
        elif isinstance(note, SocketNote):
            _restore_socket(switch, app, slot, note, unix)
        elif isinstance(note, ArrivalNote):
            switch.doors.restore(slot, note)
        else:
            switch.waiting.restore(app, slot, note)
    for cookie, what in journal.births().items():
        # Made, and not used since: of one that was, its name or a note tells.
        if cookie in unix and not unix[cookie][1] and cookie not in switch.sockets.by_cookie:
            switch.sockets.born[cookie] = what
    _restore_options(switch, journal)
    _restore_services(switch)
    _note_led(switch, journal, unix)
    switch.loop.reflex.succeeded = bool(switch.sockets.noted)
    _restore_lobby(switch)
    _restore_datagrams(switch)
    switch.doors.drop_kept()
    switch.relay.drop_kept()


def _names(states: int) -> dict[int, tuple[int, bytes]]:
    """Inodes and names of Unix sockets, by cookie. A list may leave some out while others come and go: see `LOOKS`."""
    return {row[0]: (row[1], row[6].rstrip(b"\0")) for _ in range(LOOKS) for row in _kernel.dump_unix(states)}


def _restore_socket(switch: Switch, app: App, slot: int, note: SocketNote, unix: dict[int, tuple[int, bytes]]) -> None:
    """One that has a name is recalled from that, when it is used; what listens is found by its name as well."""
    inode, name = unix.get(note.cookie, (0, b""))
    if note.unix and name:
        switch.sockets.noted[note.cookie] = slot, note
        return
    sock = switch.sockets.by_cookie[note.cookie] = Socket(note.cookie, app, note.family, note.unix)
    sock.recall(note)
    sock.slot, sock.inode = slot, inode
    if sock.bound is not None and sock.phase == NEW:
        app.bound.setdefault(sock.bound.port, []).append(sock)


def _restore_options(switch: Switch, journal: Journal) -> None:
    """Those that were set so shortly before that nobody had noted them."""
    for cookie, options in journal.written().items():
        sock = switch.sockets.by_cookie.get(cookie)
        if sock is not None and sock.phase == NEW:
            sock.options = {**sock.options, **options}
            switch.sockets.keep(sock)
        elif cookie in switch.sockets.born:
            switch.sockets.written[cookie] = options


def _note_led(switch: Switch, journal: Journal, unix: dict[int, tuple[int, bytes]]) -> None:
    """Connections that were held, and led to a service by `_kernel.wait`: what their names do not say is noted."""
    for client, server, serial in journal.led():
        link = naming.parse_connection(unix[client][1]) if client in unix else None
        service = switch.services.by_id.get(serial)
        if link is None or service is None or server not in unix or link.client_app not in switch.apps:
            continue
        served = Socket(server, service.app, service.family, unix=True)
        served.local, served.peer, served.asked = service.own(link.server), link.client, link.server
        served.phase, served.accepted, served.peer_app = CONNECTED, True, link.client_app
        served.options = service.socket.options
        family = sockaddr.AF_INET6 if len(link.server.ip) == 16 else sockaddr.AF_INET
        asking = Socket(client, switch.apps[link.client_app], family, unix=True)
        asking.local, asking.peer, asking.phase, asking.peer_app = link.client, link.server, FINISHING, service.app.id
        for sock in (served, asking):
            if sock.cookie not in switch.sockets.noted:
                note = sock.note()
                switch.sockets.noted[sock.cookie] = switch.memory.put(0, note), note
    journal.forget_all_led()


def _restore_services(switch: Switch) -> None:
    """Listening sockets carry their app and address as their name: unix(7), sock_diag(7)."""
    files = {os.fsencode(entry) for entry in os.listdir()}  # of our own directory, mode 0700
    for cookie, (inode, name) in _names(_LISTEN_STATE).items():
        listener = naming.parse_listener(name)
        app = switch.apps.get(listener.app_id) if listener is not None else None
        if listener is None or app is None or name not in files or listener.serial >= _MAX_SERIAL:
            continue  # not one of ours: anybody on the host may listen on a name like that
        sock = Socket(cookie, app, listener.family, unix=True)
        sock.slot, note = switch.sockets.noted.pop(cookie, (0, None))
        if note is not None:
            sock.recall(note, whole=False)
        sock.bound, sock.inode, sock.phase, sock.named = listener.bound, inode, LISTENING, True
        sock.restore_flags(listener.flags)
        switch.sockets.by_cookie[cookie] = sock
        app.bound.setdefault(listener.bound.port, []).append(sock)
        _reopen(switch, switch.services.restore(sock, name, listener.serial))
    lobby = {naming.LOBBY} if lobby_name(AF_UNIX) in switch.kept.listeners else set()
    known = switch.sockets.listening.keys() | lobby
    for leftover in Path().iterdir():
        if leftover.name.encode() not in known:
            leftover.unlink()


def _restore_lobby(switch: Switch) -> None:
    """Who was in its queues has been told that he is connected."""
    if any(name.startswith("lobby-") for name in switch.kept.listeners):
        switch.resume.empty(switch.holding.lobby.unix)


def _restore_datagrams(switch: Switch) -> None:
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
    switch.doors.restore_inside(service)
    bind.open_to_strangers(switch, service)
    switch.services.announce(service)


def answer_again(switch: Switch, journal: Journal) -> None:
    """Calls that were received but not answered: their callers still wait, so they are simply made again."""
    for slot, notification in journal.recall():
        for app in switch.apps.values():
            if _kernel.still_valid(app.listener, notification[1]):
                serve = switch.dispatch.server_for(app, again=True)
                switch.early.again(serve, (app.listener.fileno(), *notification[1:]), slot)
                break
        else:
            journal.leave(slot)
