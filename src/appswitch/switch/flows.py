"""Decisions that were made before.

What routing says depends on the app, the address and the tables, and the tables seldom change.

A connection needs one look-up here. Whenever the table's version changes, everything is forgotten and decided anew.
"""

from __future__ import annotations

import errno

from appswitch.address import Address, is_loopback, loopback_like
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.routing.route import REFUSED, Deny, Flow, Home, Outside, Verdict, route
from appswitch.routing.table import Endpoint, Table
from appswitch.switch import naming
from appswitch.switch.apps import App
from appswitch.switch.call import Failed
from appswitch.switch.datagrams import DNS_PORT

LIMIT = 4096  # decisions that are remembered


class Path:
    """How an app reaches an address.

    ``names`` holds the part of a connection's name that does not vary, by endpoint.
    """

    __slots__ = ("client", "mapped", "names", "source", "to", "verdict")

    def __init__(self, client: App, family: int, to: Address, source: bytes, verdict: Verdict) -> None:
        self.client = client
        self.to = to
        self.mapped = family == AF_INET6 and len(to.ip) == 4  # asked for as ::ffff:a.b.c.d
        self.source = source  # the virtual address it comes from, unless the socket was bound to another
        self.verdict = verdict
        self.names: dict[int, bytes] = {}

    def name(self, endpoint: Endpoint, source: bytes, port: int) -> bytes:
        """A fresh name for a connection from ``source`` and ``port`` to ``endpoint``."""
        if source is not self.source:
            return naming.head(port) + naming.tail(self.client.id, endpoint.app_id, source, self._destination())
        tail = self.names.get(endpoint.id)
        if tail is None:
            tail = naming.tail(self.client.id, endpoint.app_id, source, self._destination())
            self.names[endpoint.id] = tail
        return naming.head(port) + tail

    def _destination(self) -> Address:
        return getattr(self.verdict, "to", self.to)


class Flows:
    """Paths by app, family and raw sockaddr."""

    def __init__(self, table: Table, node: dict[int, bytes]) -> None:
        self._table = table
        self._node = node
        self._paths: dict[tuple[int, int, bytes], Path] = {}
        self._version = -1

    def find(self, app: App, family: int, raw: bytes) -> Path:
        """The path to the address in ``raw`` for a socket of ``family``. Raises Failed(EINVAL, EAFNOSUPPORT)."""
        if self._version != self._table.version or len(self._paths) > LIMIT:
            self._paths.clear()
            self._version = self._table.version
        key = (app.id, family, raw)
        path = self._paths.get(key)
        if path is None:
            path = self._decide(app, family, raw)
            if not app.rules.names:  # what names stand for changes with time
                self._paths[key] = path
        return path

    def _decide(self, app: App, family: int, raw: bytes) -> Path:
        """The checks are those of tcp_v4_connect() and tcp_v6_connect(), in their order."""
        if len(raw) < (sockaddr.LEN4 if family == AF_INET else sockaddr.LEN6_MIN):
            raise Failed(errno.EINVAL)
        if sockaddr.family_of(raw) != family:
            raise Failed(errno.EAFNOSUPPORT)
        to = sockaddr.decode(raw)
        verdict = self._verdict(app, to)
        seen: Address = to if isinstance(verdict, Home) else getattr(verdict, "to", to)  # 0.0.0.0 is seen as loopback
        source = loopback_like(seen.ip) if is_loopback(seen.ip) else app.source_for(seen.ip, self._node)
        return Path(app, family, to, source, verdict)

    def _verdict(self, app: App, to: Address) -> Verdict:
        if to.port == DNS_PORT and to.ip in app.nameservers:
            return Home(app.nameservers[to.ip])
        verdict = route(Flow(app.id, app.labels, to, app.spec.netns == "host"), self._table)
        if is_loopback(to.ip) and to.port in app.host_ports and verdict == REFUSED:
            return Outside(Address(to.ip, app.host_ports[to.port]))
        if isinstance(verdict, Outside) and not app.may_reach(verdict.to.ip):
            return Deny(app.rules.error)
        return verdict
