"""Control's connection: requests in, replies and events out. Nothing here waits.

What control does not read piles up, bounded.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from appswitch import wire
from appswitch.model import AppRow, ServerRow
from appswitch.switch import views
from appswitch.switch.attach import Attach
from appswitch.switch.audit import audit
from appswitch.switch.configure import configure
from appswitch.switch.explain import explain
from appswitch.switch.kill import kill_forbidden
from appswitch.switch.pieces import in_pieces

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

MAX_PENDING = (
    16 << 20
)  # bytes that control may be behind; beyond that it is cut off, and connects again for a new Welcome
MAX_PENDING_FLOWS = 1 << 20
_UCRED = struct.Struct("=iII")


class Channel:
    """The listening socket and the (few) connections. Only root and our own uid may connect."""

    def __init__(self, switch: Switch, attach: Attach, listener: socket.socket, own_uid: int) -> None:
        self._switch = switch
        self._attach = attach
        self._listener = listener
        self._own_uid = own_uid
        self._peers: set[_Peer] = set()
        switch.reports.send = self._broadcast
        switch.loop.watch(listener.fileno(), select.EPOLLIN, lambda _events: self._on_peer())

    def _on_peer(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in (0, self._own_uid):
            connection.close()
            return
        connection.setblocking(False)
        peer = _Peer(self._switch, connection, self._reply, self._peers.discard)
        self._peers.add(peer)
        peer.send(self._welcome())
        if self._switch.nameservers is not None:
            self._switch.nameservers.hand_over_all()

    def _broadcast(self, message: wire.ToControl) -> None:
        for peer in list(self._peers):
            peer.send(message)

    def _welcome(self) -> wire.Welcome:
        return wire.Welcome(version=wire.VERSION, pid=os.getpid(), apps=self._apps(), servers=self._servers())

    def _reply(self, message: wire.ToSwitch, peer: _Peer) -> wire.ToControl | None:
        """The answer, whatever happens: who asks must not have to wait for one that never comes."""
        try:
            return self._answer(message, peer)
        except Exception as problem:
            return self._failed(message.seq, type(message).__name__, problem)

    def _answer(self, message: wire.ToSwitch, peer: _Peer) -> wire.ToControl | None:
        match message:
            case wire.Register():
                return self._register(message)
            case wire.Forget(seq=seq, app_id=app_id):
                if not self._attach.forget(app_id):
                    return wire.Done(
                        seq=seq, error="no-such-registration", detail=f"no registration {app_id:08x} waits"
                    )
                self._broadcast(wire.AppGone(app_id=app_id))
                return wire.Done(seq=seq)
            case wire.Permit(seq=seq, app_id=app_id):
                app = self._switch.apps.get(app_id)
                if app is None:
                    return wire.Done(seq=seq, error="no-such-app", detail=f"no app {app_id:08x} runs")
                app.permits.add(message.name, message.ips, message.seconds)
                return wire.Done(seq=seq)
            case wire.Configure(seq=seq):
                configure(self._switch, message)
                return wire.Done(seq=seq)
            case wire.Follow(seq=seq, flows=flows):
                self._switch.flowlog.followed = flows
                self._switch.reflexes.forget()  # what nobody looks at nobody tells
                return wire.Done(seq=seq)
            case wire.Explain():
                return explain(self._switch, message)
            case wire.Kill(seq=seq):
                kill_forbidden(
                    self._switch,
                    lambda rows: peer.send(wire.Killed(seq=seq, connections=rows)),
                    lambda problem: peer.send(self._failed(seq, "Kill", problem)),
                )
                return None  # answered when it is done
            case wire.Check(seq=seq):
                in_pieces(
                    self._switch.loop,
                    audit(self._switch),
                    lambda found: peer.send(wire.Checked(seq, found.differences, found.looked)),
                    lambda problem: peer.send(self._failed(seq, "Check", problem)),
                )
                return None
            case wire.Query():
                return self._query(message, peer)

    def _query(self, message: wire.Query, peer: _Peer) -> wire.ToControl | None:
        """Sockets are shown when those that are gone have been forgotten: the reply comes later then."""
        seq, what = message.seq, message.what
        if what not in ("servers", "sockets"):
            return self._rows(seq, what)
        self._switch.sweep.then(lambda: peer.send(self._rows(seq, what)))
        return None

    def _register(self, message: wire.Register) -> wire.Done:
        try:
            self._attach.register(message)
        except KeyError:
            return wire.Done(seq=message.seq, error="app-exists", detail=f"app id {message.app.appid} is in use")
        self._broadcast(wire.AppChanged(row=self._attach.registered[message.app.id].row()))
        return wire.Done(seq=message.seq)

    def _failed(self, seq: int, what: str, problem: Exception) -> wire.Done:
        """A mistake of ours in the middle of what control asked for: it is answered all the same."""
        self._switch.loop.on_fault(problem)
        return wire.Done(seq=seq, error="internal", detail=f"{what} failed: {problem}; the daemon's log says more")

    def _rows(self, seq: int, what: str) -> wire.ToControl:
        switch = self._switch
        match what:
            case "apps":
                return wire.Rows(seq=seq, apps=self._apps())
            case "servers":
                return wire.Rows(seq=seq, servers=self._servers())
            case "sockets":
                return wire.Rows(seq=seq, sockets=views.socket_rows(switch))
            case "backends":
                return wire.Rows(seq=seq, backends=switch.census.rows())
            case "proxies":
                return wire.Rows(seq=seq, proxies=switch.delegation.rows())
            case "connections":
                return wire.Rows(seq=seq, connections=views.connection_rows(switch))
            case "log":
                return wire.Rows(seq=seq, log=tuple(switch.log.recent))
            case "stats":
                return wire.Rows(seq=seq, stats=views.stats(switch))
        return wire.Done(seq=seq, error="unknown-query", detail=f"no rows of {what!r}")

    def _apps(self) -> tuple[AppRow, ...]:
        waiting = self._attach.rows()
        return waiting + tuple(app.row() for app in self._switch.apps.values())

    def _servers(self) -> tuple[ServerRow, ...]:
        streams = (s.announced for s in self._switch.services.by_id.values() if s.announced is not None)
        return (*streams, *self._switch.datagrams.server_rows())


class _Peer:
    """One connection of control."""

    def __init__(
        self,
        switch: Switch,
        connection: socket.socket,
        answer: Callable[[wire.ToSwitch, _Peer], wire.ToControl | None],
        on_close: Callable[[_Peer], None],
    ) -> None:
        self._loop = switch.loop
        self._log = switch.log
        self._connection = connection
        self._answer = answer
        self._on_close = on_close
        self._unframer = wire.Unframer()
        self._pending = bytearray()
        self._loop.watch(connection.fileno(), select.EPOLLIN, self._on_events)

    def send(self, message: wire.ToControl) -> None:
        """Queue a message and write what goes; of a connection that is closed, nothing."""
        if self._connection.fileno() < 0:
            return
        if isinstance(message, wire.FlowSeen) and len(self._pending) > MAX_PENDING_FLOWS:
            return  # who is told of flows may miss some; everything else has to arrive
        self._pending += wire.frame(message)
        if len(self._pending) > MAX_PENDING:
            self._close()
        else:
            self._flush()

    def _on_events(self, events: int) -> None:
        if events & select.EPOLLIN:
            self._read()
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            self._close()
        if events & select.EPOLLOUT:
            self._flush()

    def _read(self) -> None:
        try:
            data = self._connection.recv(65536)
            bodies = self._unframer.feed(data)
            for body in bodies:
                reply = self._answer(wire.decode_to_switch(body), self)
                if reply is not None:
                    self.send(reply)
        except BlockingIOError:
            return
        except (OSError, ValueError, msgspec.MsgspecError) as problem:
            self._log("control cut off", reason=str(problem))
            self._close()
            return
        if not data:
            self._close()

    def _flush(self) -> None:
        if self._connection.fileno() < 0:
            return
        try:
            while self._pending:
                del self._pending[: self._connection.send(self._pending)]
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return
        self._loop.rearm(self._connection.fileno(), select.EPOLLIN | (select.EPOLLOUT if self._pending else 0))

    def _close(self) -> None:
        if self._connection.fileno() >= 0:
            self._loop.unwatch(self._connection.fileno())
            self._connection.close()
            self._pending.clear()
            self._on_close(self)
