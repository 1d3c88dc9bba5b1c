"""Decisions that were made before.

What routing says depends on the app, the address and the tables, and the tables seldom change.

A connection needs one look-up here. Whenever the table's version changes, everything is forgotten and decided anew.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable

from appswitch.address import Address, is_loopback, loopback_like
from appswitch.kernel import procfs, sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.routing.policy import End
from appswitch.routing.route import REFUSED, Balanced, Flow, Home, Leave, Local, Verdict, World, outside, route
from appswitch.routing.table import Endpoint
from appswitch.switch import naming
from appswitch.switch.apps import App
from appswitch.switch.call import Failed
from appswitch.switch.datagrams import DNS_PORT
from appswitch.switch.sockets import Socket

Identity = tuple[int | None, str | None]  # of a process: user, executable
_PROTOCOL = "protocol"  # an attribute that all first bytes have
LIMIT = 512  # decisions of one app that are remembered: who goes to very many places makes nobody else forget


class Path:
    """How an app reaches an address.

    ``names`` holds the part of a connection's name that does not vary, by endpoint.
    """

    __slots__ = (
        "alike", "asked_for", "chosen", "client", "destination", "dry_run", "flow", "mapped", "names", "source",
        "tcp_only", "to", "verdict", "version",
    )  # fmt: skip

    def __init__(self, client: App, family: int, flow: Flow, source: bytes, verdict: Verdict, version: int) -> None:
        self.client = client
        self.flow = flow
        self.to = flow.to
        self.mapped = family == AF_INET6 and len(flow.to.ip) == 4  # asked for as ::ffff:a.b.c.d
        self.source = source  # the virtual address it comes from, unless the socket was bound to another
        self.verdict = verdict
        self.destination: Address = getattr(verdict, "to", flow.to)  # what the client sees as its peer
        self.dry_run = bool(getattr(verdict, "dry_run", ()))  # whether some policy would have denied it
        self.version = version  # of the table from which that was decided
        self.names: dict[int, bytes] = {}
        self.tcp_only: bool | None = None  # whether some server wants no Unix socket; None: nobody has asked yet
        self.chosen: dict[Hashable, Verdict] = {}  # what became of held connections, by what matters of first bytes
        self.alike: dict[Hashable, Balanced] = {}  # the same, once each
        self.asked_for: tuple[str, ...] = ()  # names of the attributes that matter

    def otherwise(self, verdict: Verdict) -> Path:
        """The same with another verdict."""
        family = AF_INET6 if self.mapped else AF_INET
        return Path(self.client, family, self.flow, self.source, verdict, self.version)

    def name(self, endpoint: Endpoint, source: bytes, port: int) -> bytes:
        """A fresh name for a connection from ``source`` and ``port`` to ``endpoint``."""
        if len(source) == 16:  # a vservice may lead from one family to the other
            source = self.client.seen_as(source, endpoint.bound.ip)
        if source is not self.source:
            return naming.head(port) + naming.tail(self.client.id, endpoint.app_id, source, self.destination)
        return naming.head(port) + self.tail(endpoint)

    def tail(self, endpoint: Endpoint) -> bytes:
        """What does not vary of such a name, where the client's address is the path's."""
        tail = self.names.get(endpoint.id)
        if tail is None:
            tail = naming.tail(self.client.id, endpoint.app_id, self.source, self.destination)
            self.names[endpoint.id] = tail
        return tail

    def unnamed(self, source: bytes, port: int) -> bytes:
        """The same while nobody knows who will serve it."""
        if source is not self.source:
            return naming.head(port) + naming.tail(self.client.id, 0, source, self.destination)
        return naming.head(port) + self.unnamed_tail()

    def unnamed_tail(self) -> bytes:
        """What does not vary of such a name."""
        tail = self.names.get(0)
        if tail is None:
            tail = self.names[0] = naming.tail(self.client.id, 0, self.source, self.destination)
        return tail


class Flows:
    """Paths by app, and by family and raw sockaddr."""

    def __init__(self, world: World, node: dict[int, bytes]) -> None:
        self._world = world
        self._table = world.table
        self._node = node
        self._paths: dict[int, dict[tuple[int, bytes], Path]] = {}
        self._version = -1

    def find(self, app: App, family: int, raw: bytes, tid: int, who: Identity | None = None) -> Path:
        """The path to the address in ``raw`` for a socket of ``family``. Raises Failed(EINVAL, EAFNOSUPPORT).

        ``tid``: who asks, where policies are about single programs and users; ``who``: as that was found before.
        """
        if self._version != self._table.version:  # also when an app has ended
            self._paths.clear()
            self._version = self._table.version
        paths = self._paths.get(app.id)
        if paths is None:
            paths = self._paths[app.id] = {}
        path = paths.get((family, raw))
        if path is None:
            path = self._decide(app, family, raw, tid, who)
            # What names stand for changes with time, and who a process is with the process.
            if not app.rules.names and path.flow.client.executable is None:
                if len(paths) >= LIMIT:
                    paths.clear()
                paths[family, raw] = path
        return path

    def has(self, sock: Socket, raw: bytes) -> bool:
        """Whether the path of a socket to the address in ``raw`` is remembered."""
        return (sock.family, raw) in self._paths.get(sock.app.id, ()) and self._version == self._table.version

    def choose(self, path: Path, flow: Flow) -> Verdict:
        """What routing says of a held connection, the path's ``flow`` with the attributes of its first bytes."""
        held = path.verdict
        if not isinstance(held, Balanced) or path.version != self._table.version:
            return route(flow, self._world)
        if self._world.proxies:  # first bytes may say which proxy, too
            return route(flow, self._world)
        attributes = flow.attributes or {}
        key: Hashable = id(held.cluster.taken(attributes))
        if not held.by_route:
            key = tuple(map(attributes.get, (_PROTOCOL, *path.asked_for)))
        verdict = path.chosen.get(key)
        if verdict is None:
            verdict = route(flow, self._world)
            if isinstance(verdict, Balanced):  # balancers know their backends by the tuple that they are in
                same = id(verdict.route), verdict.hold, verdict.dry_run, tuple(one.key for one in verdict.upstreams)
                verdict = path.alike.setdefault(same, verdict)
            if len(path.chosen) >= LIMIT:
                path.chosen.clear()
                path.alike.clear()
            path.chosen[key] = verdict
        return verdict

    def chosen(self, path: Path, attributes: dict[str, str]) -> Balanced | Local | None:
        """What `choose` says of each connection with the same attributes, as far as the path asks for them.

        None where they are not led on at once, or have to be told of.
        """
        held = path.verdict
        if not isinstance(held, Balanced) or path.version != self._table.version or self._world.proxies:
            return None
        verdict = self.choose(path, path.flow._replace(attributes=attributes))
        if isinstance(verdict, Local) or (isinstance(verdict, Balanced) and verdict.hold is None):
            return None if verdict.dry_run else verdict
        return None

    def _decide(self, app: App, family: int, raw: bytes, tid: int, who: Identity | None) -> Path:
        """The checks are those of tcp_v4_connect() and tcp_v6_connect(), in their order."""
        if len(raw) < (sockaddr.LEN4 if family == AF_INET else sockaddr.LEN6_MIN):
            raise Failed(errno.EINVAL)
        if sockaddr.family_of(raw) != family:
            raise Failed(errno.EAFNOSUPPORT)
        to = sockaddr.decode(raw)
        source = self._source(app, to)
        flow = Flow(
            self._client(app, source, tid, who), to, app.spec.netns == "host", Leave(app.may_reach, app.rules.error)
        )
        verdict = self._verdict(app, flow)
        seen: Address = to if isinstance(verdict, Home) else getattr(verdict, "to", to)  # 0.0.0.0 is seen as loopback
        path = Path(app, family, flow, self._source(app, seen), verdict, self._table.version)
        if isinstance(verdict, Balanced):
            names = verdict.cluster.names
            path.asked_for = (
                names if verdict.by_route else tuple(dict.fromkeys(names + self._world.policies.attributes))
            )
        return path

    def _source(self, app: App, to: Address) -> bytes:
        return loopback_like(to.ip) if is_loopback(to.ip) else app.source_for(to.ip, self._node)

    def _client(self, app: App, source: bytes, tid: int, who: Identity | None) -> End:
        end = app.end(source)
        policies, proxies = self._world.policies, self._world.proxies
        if not policies.needs_process(end) and not (proxies and proxies.needs_process(end)):
            return end
        uid, executable = who or procfs.identity(tid)
        return end._replace(uid=uid, executable=executable)

    def _verdict(self, app: App, flow: Flow) -> Verdict:
        to = flow.to
        if to.port == DNS_PORT and to.ip in app.nameservers:
            return Home(app.nameservers[to.ip])
        verdict = route(flow, self._world)
        if is_loopback(to.ip) and to.port in app.host_ports and verdict == REFUSED:
            # Named one by one, so the app's own egress rules do not matter.
            return outside(flow._replace(leave=Leave()), Address(to.ip, app.host_ports[to.port]), self._world)
        return verdict
