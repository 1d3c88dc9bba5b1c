"""Names, addresses and services of the apps that run, by what is asked for. One writer: `service.Dns`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from appswitch.control.dns.asker import Asker, Labels
from appswitch.control.link import ServerKey, server_key
from appswitch.model import AppPhase, AppRow, AppSpec, Protocol, ServerRow

K = TypeVar("K")
ServiceName = Callable[[int, Protocol], str | None]  # what a port is called: services(5)


class Apps:
    """An app is found by whom it shares a label with, and by itself: names lead where connections do."""

    def __init__(self, service_name: ServiceName) -> None:
        self._service_name = service_name
        self._apps: dict[int, AppSpec] = {}
        self._labels: dict[int, frozenset[tuple[str, str]]] = {}
        self._by_name: dict[bytes, dict[int, AppSpec]] = {}
        self._by_pointer: dict[Labels, dict[int, AppSpec]] = {}
        self._servers: dict[int, dict[ServerKey, tuple[Protocol, int]]] = {}

    # Changes

    def reset(self, apps: Mapping[int, AppRow], servers: Mapping[ServerKey, ServerRow]) -> None:
        """Forget everything, and begin with these."""
        for app_id in list(self._apps):
            self.drop(app_id)
        self._servers.clear()
        for row in apps.values():
            self.put(row)
        for server in servers.values():
            self.listen(server)

    def put(self, row: AppRow) -> None:
        """An app runs; one that is only registered is not there yet."""
        app = row.app
        if row.phase is not AppPhase.RUNNING or app.id in self._apps:
            return
        self._apps[app.id] = app
        self._labels[app.id] = frozenset(app.labels.items())
        if app.name is not None:
            self._by_name.setdefault(app.name.lower().encode(), {})[app.id] = app
        for ip in app.ips:
            self._by_pointer.setdefault(pointer(ip), {})[app.id] = app

    def drop(self, app_id: int) -> None:
        """It has ended."""
        self._servers.pop(app_id, None)
        app = self._apps.pop(app_id, None)
        if app is None:
            return
        del self._labels[app_id]
        if app.name is not None:
            _discard(self._by_name, app.name.lower().encode(), app.id)
        for ip in app.ips:
            _discard(self._by_pointer, pointer(ip), app.id)

    def listen(self, row: ServerRow) -> None:
        """A server of an app; one on the app's own loopback is nobody else's business."""
        if not ipaddress.ip_address(row.service_ip).is_loopback:
            self._servers.setdefault(row.app_id, {})[server_key(row)] = (row.proto, row.service_port)

    def unlisten(self, row: ServerRow) -> None:
        """It has gone."""
        self._servers.get(row.app_id, {}).pop(server_key(row), None)

    # Questions

    def addresses(self, name: bytes, asker: Asker) -> tuple[str, ...] | None:
        """Of all apps with this name; None if there is none."""
        apps = list(self._visible(self._by_name.get(name), asker))
        return tuple(dict.fromkeys(ip for app in apps for ip in app.ips)) if apps else None

    def owned(self, name: Labels) -> bool:
        """Whether a name of in-addr.arpa or ip6.arpa is that of an app's address."""
        return name in self._by_pointer

    def names(self, name: Labels, asker: Asker) -> tuple[bytes, ...]:
        """What the apps with this address are called."""
        apps = self._visible(self._by_pointer.get(name), asker)
        return tuple(dict.fromkeys(app.name.lower().encode() for app in apps if app.name is not None))

    def ports(self, name: bytes, proto: Protocol, service: bytes | None, asker: Asker) -> tuple[int, ...]:
        """Where apps with this name listen: for a service by its number or name, or (None) for any."""
        apps = self._visible(self._by_name.get(name), asker)
        ports = {port for app in apps for one, port in self._servers.get(app.id, {}).values() if one == proto}
        return tuple(sorted(port for port in ports if service is None or self._is_called(port, proto, service)))

    def _is_called(self, port: int, proto: Protocol, service: bytes) -> bool:
        if service == str(port).encode():
            return True
        called = self._service_name(port, proto)
        return called is not None and service == called.encode()

    def _visible(self, apps: Mapping[int, AppSpec] | None, asker: Asker) -> Iterator[AppSpec]:
        for app_id, app in (apps or {}).items():
            if app_id == asker.app_id or not asker.labels.isdisjoint(self._labels[app_id]):
                yield app


def pointer(ip: str) -> Labels:
    """The name that PTR is asked for: RFC 1035 section 3.5, RFC 3596 section 2.5."""
    return tuple(ipaddress.ip_address(ip).reverse_pointer.encode().split(b"."))


def _discard(table: dict[K, dict[int, AppSpec]], key: K, app_id: int) -> None:
    del table[key][app_id]
    if not table[key]:
        del table[key]
