"""The apps that are registered or running, found by what new ones are compared with. One writer: `Registry`.

Each question is a look-up: who registers the ten thousandth app waits no longer than who registered the first.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

from appswitch.model import AppSpec
from appswitch.networks import IPAddress

K = TypeVar("K")


class Roster:
    """All of them, by id; owners are user ids."""

    def __init__(self) -> None:
        self._apps: dict[int, AppSpec] = {}
        self._names = _Index[str]()
        self._ips = _Index[str]()
        self._proxies = _Index[str]()
        self._host_ports: Counter[int] = Counter()
        self._waiting: dict[int, int] = {}  # owner, by app: those whose launcher has not come
        self._waiting_of: Counter[int] = Counter()
        self.taken: dict[IPAddress, int] = {}  # addresses, with how many apps have them

    def __contains__(self, app_id: object) -> bool:
        return app_id in self._apps

    def __iter__(self) -> Iterator[AppSpec]:
        return iter(self._apps.values())

    def __len__(self) -> int:
        return len(self._apps)

    # Changes

    def put(self, app: AppSpec, *, waiting: bool) -> None:
        """One that is new, or whose launcher has come: what it is does not change."""
        self._wait(app, waiting)
        if app.id in self._apps:
            return
        self._apps[app.id] = app
        for index, key in self._keys(app):
            index.add(key, app)
        for one in app.expose:
            self._host_ports[one.host_port] += 1
        for ip in map(ipaddress.ip_address, app.ips):
            self.taken[ip] = self.taken.get(ip, 0) + 1

    def drop(self, app_id: int) -> None:
        """It has gone. Unknown ones are ignored."""
        app = self._apps.pop(app_id, None)
        if app is None:
            return
        self._wait(app, False)
        for index, key in self._keys(app):
            index.remove(key, app)
        for one in app.expose:
            _less(self._host_ports, one.host_port)
        for ip in map(ipaddress.ip_address, app.ips):
            _less(self.taken, ip)

    def _wait(self, app: AppSpec, waiting: bool) -> None:
        if waiting and app.id not in self._waiting:
            self._waiting[app.id] = app.uid
            self._waiting_of[app.uid] += 1
        elif not waiting and self._waiting.pop(app.id, None) is not None:
            _less(self._waiting_of, app.uid)

    def _keys(self, app: AppSpec) -> Iterator[tuple[_Index[str], str]]:
        if app.name is not None:
            yield self._names, app.name
        if app.proxy:
            yield self._proxies, app.proxy
        for ip in dict.fromkeys(app.ips):
            yield self._ips, ip

    # Questions

    def named(self, name: str, uid: int) -> AppSpec | None:
        """The oldest app of that name and owner which has an address."""
        return self._names.first(name, uid)

    def owners_of_name(self, name: str) -> set[int]:
        """Whose apps are called so."""
        return self._names.owners(name)

    def owners_of_address(self, ip: str) -> set[int]:
        """Whose apps have that address, which is in canonical form."""
        return self._ips.owners(ip)

    def owners_led_by(self, proxy: str) -> set[int]:
        """Whose apps name that proxy."""
        return self._proxies.owners(proxy)

    def host_ports(self) -> Collection[int]:
        """Those that lead to apps."""
        return self._host_ports.keys()

    def waiting(self, uid: int) -> int:
        """How many registrations of a user no launcher has used yet."""
        return self._waiting_of[uid]


class _Index(Generic[K]):
    """Apps by a key, and by owner: in the order in which they came."""

    def __init__(self) -> None:
        self._by_key: dict[K, dict[int, dict[int, AppSpec]]] = {}

    def add(self, key: K, app: AppSpec) -> None:
        self._by_key.setdefault(key, {}).setdefault(app.uid, {})[app.id] = app

    def remove(self, key: K, app: AppSpec) -> None:
        owners = self._by_key[key]
        del owners[app.uid][app.id]
        if not owners[app.uid]:
            del owners[app.uid]
        if not owners:
            del self._by_key[key]

    def owners(self, key: K) -> set[int]:
        return set(self._by_key.get(key, ()))

    def first(self, key: K, uid: int) -> AppSpec | None:
        apps = self._by_key.get(key, {}).get(uid, {})
        return next((app for app in apps.values() if app.ips), None)


class Either(Collection[K]):
    """What is in one of several collections: none of them is copied."""

    def __init__(self, *parts: Collection[K]) -> None:
        self._parts = parts

    def __contains__(self, one: object) -> bool:
        return any(one in part for part in self._parts)

    def __iter__(self) -> Iterator[K]:
        return (one for part in self._parts for one in part)

    def __len__(self) -> int:
        return sum(map(len, self._parts))


def _less(counts: dict[K, int], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
