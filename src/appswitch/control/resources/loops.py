"""Vservices that lead to vservices, proxies that hand on to proxies: allowed, as long as every way ends. Pure.

What leads on is a virtual port, as in `routing.clusters`: a backend's address leads to the vservice that has the port
at which it is reached, its name to the vservice's virtual port of that number, or else to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from appswitch.resources import BackendSpec, Proxy, ServicePort, VService

MAX_WORK = 1_000_000  # backends that are looked at for one vservice: roughly half a second


class Services(Protocol):
    """The vservices there are: `catalog.Catalog`."""

    def vservice(self, name: str) -> VService | None:
        """By its name."""

    def serves(self, ip: str) -> bool:
        """Whether an address is a vservice's."""

    def vservice_at(self, ip: str, port: int) -> VService | None:
        """The one that has this virtual port of the address."""


class TooManyError(Exception):
    """There are more ways than are looked at."""


class With:
    """``services`` as they will be with ``new``, in place of the one of its name."""

    def __init__(self, services: Services, new: VService) -> None:
        self._services = services
        self._new = new

    def vservice(self, name: str) -> VService | None:
        """See `Services`."""
        return self._new if name == self._new.name else self._services.vservice(name)

    def serves(self, ip: str) -> bool:
        """See `Services`; an address that it had before may be taken for its own."""
        return ip in self._new.ips or self._services.serves(ip)

    def vservice_at(self, ip: str, port: int) -> VService | None:
        """See `Services`."""
        if ip in self._new.ips and any(one.port == port for one in self._new.ports):
            return self._new
        found = self._services.vservice_at(ip, port)
        return found if found is not None and found.name != self._new.name else None


class _Step(NamedTuple):
    vservice: VService
    port: ServicePort

    def __str__(self) -> str:
        return f"{self.vservice.name}:{self.port.port}"


def loop(start: VService, services: Services) -> list[str] | None:
    """The steps of a loop that ``start`` is in, "name:port", both ends included. Each is looked at once.

    ``services`` know ``start`` as it will be; without it they are known to be without a loop. Raises TooManyError.
    """
    search = _Search(services)
    seen: set[str] = set()
    way: dict[str, Iterator[_Step]] = {"": (_Step(start, port) for port in start.ports)}
    while way:
        one = next(way[next(reversed(way))], None)
        if one is None:
            way.popitem()
        elif str(one) in way:
            names = list(way)
            return [*names[names.index(str(one)) :], str(one)]
        elif str(one) not in seen:
            seen.add(str(one))
            way[str(one)] = search.behind(one)
    return None


def chain(start: Proxy, named: Callable[[str], Proxy | None]) -> list[str] | None:
    """The names on the way from ``start`` along ``next`` back to it, both ends included.

    All others are known to be without a loop of their own.
    """
    way = [start.name]
    name = start.next
    while name:
        way.append(name)
        if name == start.name:
            return way
        proxy = named(name)
        name = proxy.next if proxy is not None else ""
    return None


def backends(vservice: VService) -> Iterator[tuple[list[str | int], BackendSpec]]:
    """All of a vservice, those of its routes included, with where they stand in its spec."""
    for number, one in enumerate(vservice.backends):
        yield ["backends", number], one
    for index, route in enumerate(vservice.routes):
        for number, one in enumerate(route.backends):
            yield ["routes", index, "backends", number], one


class _Search:
    """Knows how much it has looked at, and which backends of a vservice lead on at all: few do, and ports are many."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._leading: dict[str, list[BackendSpec]] = {}
        self._work = 0

    def behind(self, step: _Step) -> Iterator[_Step]:
        """The virtual ports that a virtual port leads to."""
        name = step.vservice.name
        if name not in self._leading:
            self._leading[name] = [one for _, one in backends(step.vservice) if self._leads(one)]
        for one in self._leading[name]:
            self._worked()
            if (found := self._reached(one, one.port or step.port.target)) is not None:
                yield found

    def _leads(self, one: BackendSpec) -> bool:
        self._worked()
        services = self._services
        return bool(services.vservice(one.name) if one.name else one.ip and services.serves(one.ip))

    def _reached(self, one: BackendSpec, port: int) -> _Step | None:
        found = self._services.vservice(one.name) if one.name else self._services.vservice_at(one.ip, port)
        if found is None:
            return None
        return _Step(found, next((each for each in found.ports if each.port == port), found.ports[0]))

    def _worked(self) -> None:
        self._work += 1
        if self._work > MAX_WORK:
            raise TooManyError
