"""The delegation endpoint: where proxies that know of us get connections, by SCM_RIGHTS. docs/delegation-protocol.md.

One Unix SOCK_SEQPACKET socket, ``$AX_RUN_DIR/delegate.sock``. A proxy says its name, is told of each connection, and
gets the descriptors of those that it accepts; the switch keeps its own until they are confirmed. Nothing here waits:
who does not read, or does not answer in time, has failed, and the connection goes where `resources.Proxy.on_failure`
says.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.delegate import messages
from appswitch.delegate.errors import Reason
from appswitch.delegate.metadata import MAX_CHAIN, Metadata
from appswitch.delegate.metadata import App as AppEnd
from appswitch.resources import Proxy
from appswitch.routing.proxies import accepting
from appswitch.routing.route import REFUSED, Balanced, Delegate, Flow, Local
from appswitch.switch.apps import App
from appswitch.switch.crowd import displaced
from appswitch.switch.gates import stranger
from appswitch.switch.guest import Guest
from appswitch.switch.held import Held
from appswitch.switch.loop import SHORT
from appswitch.switch.pending import Pending

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

GUESTS = 256  # connections to the endpoint, of all users; and as many again of administrators
USERS_GUESTS = 64  # of one who is no administrator: the endpoint is open to everybody
PEEKED = 4096  # first bytes that are told


class Endpoint:
    """The listening socket, and the proxies that have come."""

    def __init__(self, switch: Switch, listener: socket.socket, own_uid: int) -> None:
        self._switch = switch
        self._listener = listener
        self._own_uid = own_uid
        self._peers: set[Guest] = set()
        self._proxies: dict[str, Guest] = {}
        self._next = 1
        switch.loop.watch(listener.fileno(), select.EPOLLIN, lambda _events: self._on_peer())

    def guest(self, name: str) -> Guest | None:
        """The proxy of that name, if it is there."""
        return self._proxies.get(name)

    def _on_peer(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as problem:
            if problem.errno in SHORT:
                self._switch.loop.pause(self._listener.fileno())
            return
        connection.setblocking(False)
        guest = Guest(self._switch, self, connection)
        self._peers.add(guest)
        if not self._has_room(guest.uid):
            guest.close()

    def _has_room(self, uid: int) -> bool:
        """For one more, who is among them already. Users do not lock each other out, nor administrators."""
        admin = self._is_admin(uid)
        alike = [peer for peer in self._peers if self._is_admin(peer.uid) == admin]
        if len(alike) > GUESTS:
            other = displaced(alike, [peer for peer in alike if peer.idle and not admin], uid)
            if other is None:
                return False
            other.close()
        return admin or sum(peer.uid == uid for peer in self._peers) <= USERS_GUESTS

    def _is_admin(self, uid: int) -> bool:
        return uid in (0, self._own_uid)

    # -- handing over

    def send(self, fd: Fd, held: Held, verdict: Delegate) -> bool:
        """Ask the proxy. False: it is not there, or has no room."""
        return self._ask(Pending(fd, held, verdict))

    def _ask(self, pending: Pending) -> bool:
        proxy = pending.verdict.proxy
        assert proxy is not None
        guest = self._proxies.get(proxy.name)
        if guest is None or guest.full:
            return False
        number, self._next = self._next, self._next + 1
        guest.ask(pending, number, proxy.timeout)
        return True

    def metadata(self, pending: Pending) -> Metadata:
        """What a proxy is told before it has anything. Raises ValueError where that has no bytes."""
        held, verdict = pending.held, pending.verdict
        assert verdict.proxy is not None
        client = self._switch.apps.get(held.flow.client.app_id)
        server, vservice, rules = None, "", list(verdict.dry_run)
        inner = verdict.inner
        if isinstance(inner, Local):
            server = self._switch.apps.get(inner.endpoints[0].app_id)
        elif isinstance(inner, Balanced):
            vservice = inner.cluster.name
            rules += [inner.route.name] if len(inner.cluster.routes) > 1 else []
        attributes = held.flow.attributes or {}
        peeked = _kernel.peek(pending.fd, PEEKED) if attributes else b""
        return Metadata(
            connection=pending.number, direction="server" if pending.both else "client", source=held.client,
            destination=held.to, client=_end(client), server=_end(server), vservice=vservice,
            proxy=verdict.proxy.name, chain=held.flow.had, rules=tuple(rules), attributes=attributes,
            peeked=b"" if isinstance(peeked, int) else peeked,
        )  # fmt: skip

    def prepare(self, name: str, pending: Pending) -> bool:
        """A proxy has accepted: make what it is to be sent, and tell who offered it. False: it is not to have it."""
        guest, offerer = pending.guest, pending.offerer
        assert guest is not None
        if offerer is not None:  # who may be gone with its sockets: only one that has been told has given them away
            pending.offerer = None
            if not offerer.part(messages.Taken(pending.number)):
                guest.withdraw(pending, Reason.GONE)
                return False
        if pending.verdict.server_side:
            try:
                pending.app_end, pending.server_end = (Fd(end.detach()) for end in socket.socketpair())
            except OSError:
                guest.withdraw(pending, Reason.OTHER)
                self.failed(name, pending)
                return False
        return True

    def taken(self, name: str, pending: Pending) -> None:
        """The proxy has it, for certain. The switch's own descriptors go, and the server gets what stands behind."""
        held, verdict = pending.held, pending.verdict
        self._switch.delegation.counts(name).taken += 1
        self._switch.flowlog.delegated(held.flow, held.client, verdict, name, held.transport)
        pending.fd.close()
        if pending.app_end is not None:
            pending.app_end.close()
        if pending.server_end is not None:
            behind = held._replace(unix=True, cookie=0, pair=True)
            self._switch.holding.settle(pending.server_end, behind, verdict.inner)

    # -- what proxies say

    def hello(self, peer: Guest, message: messages.Hello) -> messages.Welcome | messages.Refused:
        """A proxy has come."""
        refused = self._judge(peer, message.name)
        if refused is not None:
            return refused
        if message.name in self._proxies:
            return messages.Refused(Reason.CONNECTED, f"a proxy {message.name} is here already")
        self._proxies[message.name] = peer
        peer.wanted = message.capacity
        peer.capacity = self._capacity(peer, message.name)
        return messages.Welcome(peer.capacity)

    def _capacity(self, peer: Guest, name: str) -> int:
        sizes = (peer.wanted, self._switch.proxies.by_name[name].capacity)
        return min((size for size in sizes if size), default=0)

    def _judge(self, peer: Guest, name: str) -> messages.Refused | None:
        proxy = self._switch.proxies.by_name.get(name)
        if proxy is None or proxy.listener:
            return messages.Refused(Reason.UNKNOWN, f"no proxy {name} is configured for this endpoint")
        if not self._may_lead(peer.uid, proxy):
            return messages.Refused(Reason.PERMISSION, f"the proxy {name} is another user's")
        return None

    def _may_lead(self, uid: int, proxy: Proxy) -> bool:
        """Whether a user may be this proxy, or give it connections: those it makes for them are in its owner's name."""
        return self._is_admin(uid) or uid == proxy.uid

    def answered(self, name: str, pending: Pending, verdict: messages.Verdict) -> None:
        """It does not take it: carry out what it said instead."""
        counts = self._switch.delegation.counts(name)
        match verdict.action:
            case messages.Action.PASS:
                counts.passed += 1
                self._go_on(pending, pending.held.flow._replace(direct=True))
            case messages.Action.DROP:
                counts.dropped += 1
                self._drop(pending, name, verdict.errno or errno.ECONNREFUSED)
            case messages.Action.NEXT:
                counts.handed_on += 1
                self._hand_on(pending, name, verdict.next)
            case _:
                self.failed(name, pending)

    def _go_on(self, pending: Pending, flow: Flow) -> None:
        if pending.offerer is not None:
            pending.offerer.refuse(Reason.DECLINED, "the proxy does not want it")
            return
        # Not routed anew: a stranger's connection at an exposed port is for that app, whoever else has its address.
        held = pending.held._replace(flow=flow)
        self._switch.holding.settle(pending.fd, held, pending.verdict.inner)

    def _drop(self, pending: Pending, name: str, error: int) -> None:
        if pending.offerer is not None:
            pending.offerer.refuse(Reason.DECLINED, "the proxy has dropped it")
            return
        self._switch.holding.refuse(pending.fd, pending.held, pending.verdict, error, f"proxy {name}")

    def _hand_on(self, pending: Pending, name: str, wanted: str) -> None:
        """To the proxy that was named, or the next one of the chain; without one it goes on directly.

        One that is another user's is none.
        """
        flow = pending.held.flow._replace(had=(*pending.held.flow.had, name))
        proxies = self._switch.proxies
        own, other = proxies.by_name.get(name), proxies.by_name.get(wanted)
        first = own.next if own is not None else ""
        if own is None or len(flow.had) > MAX_CHAIN or (other is not None and not self._may_lead(own.uid, other)):
            self._go_on(pending, flow._replace(direct=True))
            return
        app = self._switch.apps.get(flow.client.app_id)
        uid = app.spec.uid if app is not None else -1
        proxy = proxies.first(wanted or first, flow.client, uid, flow.attributes or {}, flow.had)
        if not isinstance(proxy, Proxy):
            self._go_on(pending, flow._replace(direct=True))
            return
        endpoints = accepting(proxy, self._switch.table, pending.held.to.ip)
        verdict = pending.verdict._replace(proxy=proxy, endpoints=endpoints)
        pending.held, pending.verdict = pending.held._replace(flow=flow), verdict
        if pending.offerer is None:
            self._switch.delegation.take(pending.fd, pending.held, verdict)
        elif proxy.listener or not self._ask(pending):
            pending.offerer.refuse(Reason.AWAY, f"the proxy {proxy.name} does not take it")

    def failed(self, name: str, pending: Pending) -> None:
        """No answer in time, or the proxy has gone. Nobody else has descriptors of it but who has accepted it."""
        if pending.offerer is not None:
            self._switch.delegation.counts(name).failed += 1
            pending.offerer.refuse(Reason.TIMEOUT, "the proxy did not answer")
        else:
            self._switch.delegation.failed(pending.fd, pending.held, pending.verdict)

    def reconcile(self) -> None:
        """Who is not configured any more, or as another user's, has to go: the next of that name is another one."""
        for peer in tuple(self._proxies.values()):
            refused = self._judge(peer, peer.name)
            if refused is not None:
                peer.refuse(refused.reason, refused.detail)
            else:
                peer.capacity = self._capacity(peer, peer.name)

    def left(self, peer: Guest) -> None:
        """A connection to the endpoint has ended."""
        self._peers.discard(peer)
        if self._proxies.get(peer.name) is peer:
            del self._proxies[peer.name]

    # -- sockets that apps hand over themselves

    def offer(self, peer: Guest, metadata: Metadata, descriptors: Sequence[Fd]) -> None:
        """A sidecar-aware app hands over a connection of its own. Answered when the proxy has answered."""
        proxy = self._switch.proxies.by_name.get(metadata.proxy)
        if proxy is None or proxy.listener:
            peer.refuse(Reason.UNKNOWN, f"no proxy {metadata.proxy} takes offers")
            return
        if not self._may_lead(peer.uid, proxy):
            peer.refuse(Reason.PERMISSION, f"the proxy {proxy.name} is another user's")
            return
        if not all(_is_stream(fd) for fd in descriptors):
            peer.refuse(Reason.MALFORMED, "what came is no stream socket")
            return
        app = next((one for one in self._switch.apps.values() if one.is_process(peer.pid)), None)
        client = app.end(metadata.source.ip) if app is not None else stranger(metadata.source.ip)
        flow = Flow(client, metadata.destination, attributes=dict(metadata.attributes) or None)
        held = Held(flow, metadata.source, metadata.destination, unix=False, zone="", since=time.monotonic())
        verdict = Delegate(proxy, (), False, metadata.destination, REFUSED)
        pending = Pending(descriptors[-1], held, verdict, descriptors[0] if len(descriptors) > 1 else None)
        pending.offerer, peer.offered = peer, pending
        if not self._ask(pending):
            self._switch.delegation.counts(proxy.name).failed += 1
            peer.refuse(Reason.AWAY, f"the proxy {proxy.name} is not there, or has no room")


def _end(app: App | None) -> AppEnd | None:
    return AppEnd(app.id, app.spec.name or "", dict(app.spec.labels)) if app is not None else None


def _is_stream(fd: Fd) -> bool:
    kind = _kernel.getsockopt(fd, socket.SOL_SOCKET, socket.SO_TYPE, 4)
    return not isinstance(kind, int) and kind[0] == socket.SOCK_STREAM
