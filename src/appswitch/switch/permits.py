"""The addresses that an app has resolved for the names in its egress rules."""

from __future__ import annotations

import time
from collections.abc import Callable

from appswitch.address import ip_bytes, unmap

LIMIT = 4096  # addresses of one app; the oldest goes first


class Permits:
    """Which names of rules stand for an address, each until its answer's time to live is over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._until: dict[bytes, dict[str, float]] = {}
        self._clock = clock

    def add(self, name: str, ips: tuple[str, ...], seconds: float) -> None:
        """``name`` of a rule was resolved to ``ips``. Raises ValueError for what is no address."""
        until = self._clock() + seconds
        for text in ips:
            names = self._until.setdefault(unmap(ip_bytes(text)), {})
            names[name] = max(until, names.get(name, 0.0))
        while len(self._until) > LIMIT:
            del self._until[next(iter(self._until))]

    def names(self, ip: bytes) -> frozenset[str]:
        """The names whose answers held ``ip`` and still count."""
        now = self._clock()
        return frozenset(name for name, until in self._until.get(ip, {}).items() if until > now)
