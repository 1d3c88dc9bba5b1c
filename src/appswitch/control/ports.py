"""Ports of the host for `--expose INTERNAL`, which names none: drawn from `ax daemon --ports`. Nothing here waits."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain

import msgspec

from appswitch.control.problems import ProblemError
from appswitch.model import Expose

TRIES = 2000  # ports that are looked at
_KINDS = {"tcp": (socket.SOCK_STREAM,), "udp": (socket.SOCK_DGRAM,), None: (socket.SOCK_STREAM, socket.SOCK_DGRAM)}


def draw(
    exposes: Sequence[Expose], ranges: Sequence[range], taken: Collection[int], is_free: Callable[[Expose], bool]
) -> tuple[Expose, ...]:
    """The same with a port of the host each: none that is ``taken``, and none twice.

    Whoever is told a port is told it before it is opened, so it is drawn by chance: others draw as well. Raises
    ProblemError.
    """
    used = {*taken, *(one.host_port for one in exposes)}
    found = []
    for one in exposes:
        if not one.host_port:
            one = _drawn(one, ranges, used, is_free)  # noqa: PLW2901 - it is completed
            used.add(one.host_port)
        found.append(one)
    return tuple(found)


def _drawn(one: Expose, ranges: Sequence[range], used: Collection[int], is_free: Callable[[Expose], bool]) -> Expose:
    ports = list(chain.from_iterable(ranges))
    for port in random.sample(ports, min(TRIES, len(ports))):
        candidate = msgspec.structs.replace(one, host_port=port)
        if port not in used and is_free(candidate):
            return candidate
    raise ProblemError("port-in-use", f"no port of the host is left for {one.internal} (ax daemon --ports)")


def is_free(one: Expose) -> bool:
    """Whether its host port can be bound just now, at all of its addresses and for all of its protocols."""
    return all(_can_bind(ip, one.host_port, kind) for ip in _addresses(one) for kind in _KINDS[one.protocol])


def _addresses(one: Expose) -> Iterable[str]:
    return (one.host_ip,) if one.host_ip else ("0.0.0.0", "::")  # noqa: S104


def _can_bind(ip: str, port: int, kind: socket.SocketKind) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind) as probe:
            if ":" in ip:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((ip, port))
    except OSError as problem:
        return problem.errno not in (errno.EADDRINUSE, errno.EACCES)  # what else is wrong is so at every port
    return True
