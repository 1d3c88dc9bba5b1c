"""Vservices that lead to vservices, proxies that hand on to proxies: allowed, as long as every way ends. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from appswitch.resources import BackendSpec, Proxy, VService

Find = Callable[[str], VService | None]  # by name, by address


def loop(start: VService, named: Find, at: Find) -> list[str] | None:
    """The names on a way from ``start`` back to it, both ends included. Every way through it is looked at once.

    ``named`` and ``at`` know ``start`` as it will be. All others are known to be without a loop of their own.
    """
    seen = {start.name}
    ways: list[tuple[list[str], Iterator[VService]]] = [([start.name], _next(start, named, at))]
    while ways:
        way, rest = ways[-1]
        one = next(rest, None)
        if one is None:
            ways.pop()
        elif one.name == start.name:
            return [*way, start.name]
        elif one.name not in seen:
            seen.add(one.name)
            ways.append(([*way, one.name], _next(one, named, at)))
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


def _next(vservice: VService, named: Find, at: Find) -> Iterator[VService]:
    for _, one in backends(vservice):
        found = named(one.name) if one.name else at(one.ip) if one.ip else None
        if found is not None:
            yield found
