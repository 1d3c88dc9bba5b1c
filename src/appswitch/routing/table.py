"""The service table as routing sees it: who listens where, which virtual addresses exist.

One writer (the switch) replaces small immutable tuples inside; a look-up is one dictionary access, whatever the
number of services.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from appswitch.address import ANY4, ANY6, Address, is_any, is_loopback

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One listening socket of one app. ``bound`` is what it asked for; a wildcard stands for all its addresses."""

    id: int  # of the switch's listener
    app_id: int
    bound: Address
    dual: bool  # an IPv6 wildcard that takes IPv4 too (no IPV6_V6ONLY)
    labels: Labels

    def covers(self, ip: bytes) -> bool:
        """Whether a connection to ``ip``, one of the app's own addresses, arrives here."""
        mine = self.bound.ip
        return mine == ip or (mine == ANY4 and len(ip) == 4) or (mine == ANY6 and (len(ip) == 16 or self.dual))


@dataclass(slots=True)
class Table:
    """What listens, by virtual address and by app."""

    by_address: dict[Address, tuple[Endpoint, ...]] = field(default_factory=dict)
    by_app: dict[tuple[int, int], tuple[Endpoint, ...]] = field(default_factory=dict)  # (app id, port)
    owners: dict[bytes, int] = field(default_factory=dict)  # virtual ip -> number of apps that have it
    version: int = 0  # changes whenever anything does
    on_change: Callable[[], None] = lambda: None

    def _changed(self) -> None:
        self.version += 1
        self.on_change()

    def own(self, ips: tuple[bytes, ...]) -> None:
        """An app has come with these addresses."""
        self._changed()
        for ip in ips:
            self.owners[ip] = self.owners.get(ip, 0) + 1

    def disown(self, ips: tuple[bytes, ...]) -> None:
        """An app with these addresses has gone."""
        self._changed()
        for ip in ips:
            self.owners[ip] -= 1
            if not self.owners[ip]:
                del self.owners[ip]

    def add(self, endpoint: Endpoint, ips: tuple[bytes, ...]) -> None:
        """A listener of an app with the addresses ``ips``."""
        self._changed()
        for index, key in self._places(endpoint, ips):
            index[key] = (*index.get(key, ()), endpoint)

    def remove(self, endpoint: Endpoint, ips: tuple[bytes, ...]) -> None:
        """That listener has gone."""
        self._changed()
        for index, key in self._places(endpoint, ips):
            rest = tuple(e for e in index.get(key, ()) if e.id != endpoint.id)
            if rest:
                index[key] = rest
            else:
                index.pop(key, None)

    def _places(self, endpoint: Endpoint, ips: tuple[bytes, ...]):  # type: ignore[no-untyped-def]
        port = endpoint.bound.port
        yield self.by_app, (endpoint.app_id, port)
        bound = endpoint.bound.ip
        if is_loopback(bound):
            return
        for ip in ips if is_any(bound) else (bound,):
            if endpoint.covers(ip):
                yield self.by_address, Address(ip, port)
