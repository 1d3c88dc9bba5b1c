"""The service table as routing sees it: who is there, who listens where, which virtual addresses exist.

One writer (the switch) replaces small immutable tuples inside; a look-up is one dictionary access, whatever the
number of services.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from appswitch.address import ANY4, ANY6, Address, is_any, is_loopback

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Member:
    """An app that runs, as the selectors of backends and policies see it."""

    id: int
    name: str
    ips: tuple[bytes, ...]
    labels: Labels
    proxy: str = ""  # that gets the connections which it makes
    uid: int = 0  # who ran it


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
    members: dict[int, Member] = field(default_factory=dict)
    by_ip: dict[bytes, dict[int, Member]] = field(default_factory=dict)
    by_name: dict[str, dict[int, Member]] = field(default_factory=dict)
    by_label: dict[tuple[str, str], dict[int, Member]] = field(default_factory=dict)
    version: int = 0  # changes whenever anything does
    on_change: Callable[[], None] = lambda: None

    def changed(self) -> None:
        """Something that decisions depend on is different now: in here, or in what else they are made from."""
        self.version += 1
        self.on_change()

    def join(self, member: Member) -> None:
        """An app has come."""
        self.members[member.id] = member
        for index, key in self._indexes(member):
            index.setdefault(key, {})[member.id] = member
        self.changed()

    def leave(self, app_id: int) -> None:
        """It has gone."""
        member = self.members.pop(app_id)
        for index, key in self._indexes(member):
            del index[key][app_id]
            if not index[key]:
                del index[key]
        self.changed()

    def _indexes(self, member: Member) -> Iterator[tuple[dict[Any, dict[int, Member]], Any]]:
        yield from ((self.by_ip, ip) for ip in member.ips)
        yield from ((self.by_label, label) for label in member.labels)
        if member.name:
            yield self.by_name, member.name

    def labelled(self, labels: Mapping[str, str]) -> Iterator[Member]:
        """The apps that have all of some labels; at least one must be given."""
        found = [self.by_label.get(label, {}) for label in labels.items()]
        smallest = min(found, key=len)
        return (member for app_id, member in smallest.items() if all(app_id in other for other in found))

    def add(self, endpoint: Endpoint, ips: tuple[bytes, ...]) -> None:
        """A listener of an app with the addresses ``ips``."""
        for index, key in self._places(endpoint, ips):
            index[key] = (*index.get(key, ()), endpoint)
        self.changed()

    def remove(self, endpoint: Endpoint, ips: tuple[bytes, ...]) -> None:
        """That listener has gone."""
        for index, key in self._places(endpoint, ips):
            rest = tuple(e for e in index.get(key, ()) if e.id != endpoint.id)
            if rest:
                index[key] = rest
            else:
                index.pop(key, None)
        self.changed()

    def _places(
        self, endpoint: Endpoint, ips: tuple[bytes, ...]
    ) -> Iterator[tuple[dict[Any, tuple[Endpoint, ...]], Any]]:
        port = endpoint.bound.port
        yield self.by_app, (endpoint.app_id, port)
        bound = endpoint.bound.ip
        if is_loopback(bound):
            return
        for ip in ips if is_any(bound) else (bound,):
            if endpoint.covers(ip):
                yield self.by_address, Address(ip, port)
