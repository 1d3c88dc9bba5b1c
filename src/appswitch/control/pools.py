"""Addresses for apps that have a name and none: drawn from the daemon's pools, each used again as late as can be."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence

from appswitch.control.problems import ProblemError
from appswitch.networks import RESERVED, IPAddress, Network


class Pool:
    """One network. What is in use is the caller's to know: it comes with every call, and nothing must be given back."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._first = int(network.network_address) + RESERVED
        # The last one is a broadcast address where there are such, RFC 919; an IPv6 pool does not miss it.
        self._last = int(network.broadcast_address) - 1
        self._next: int | None = None

    @property
    def size(self) -> int:
        """How many addresses can be drawn."""
        return self._last - self._first + 1

    def used(self, addresses: Iterable[IPAddress]) -> set[int]:
        """Those of ``addresses`` that are the pool's, as numbers."""
        return {int(one) for one in addresses if one.version == self.network.version and one in self.network}

    def draw(self, taken: Collection[IPAddress]) -> str | None:
        """The next address that is not in ``taken``: the one behind the last that was drawn. None: there is none left.

        A daemon's control process that was started anew begins behind the highest that is in use.
        """
        at = max(self.used(taken), default=self._first - 1) + 1 if self._next is None else self._next
        for _ in range(min(self.size, len(taken) + 1)):
            at = at if self._first <= at <= self._last else self._first
            address = type(self.network.network_address)(at)
            at += 1
            if address not in taken:
                self._next = at
                return str(address)
        return None


class Pools:
    """All of them, in the order in which they are drawn from."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.pools = tuple(map(Pool, networks))

    def __contains__(self, address: IPAddress) -> bool:
        return any(address in pool.network for pool in self.pools)

    def draw(self, taken: Collection[IPAddress]) -> tuple[str, ...]:
        """One address of each IP version that has a pool, IPv4 first. Raises ProblemError where there is none."""
        return tuple(self._draw(version, taken) for version in (4, 6) if self._of(version))

    def _of(self, version: int) -> list[Pool]:
        return [pool for pool in self.pools if pool.network.version == version]

    def _draw(self, version: int, taken: Collection[IPAddress]) -> str:
        pools = self._of(version)
        for pool in pools:
            if (drawn := pool.draw(taken)) is not None:
                return drawn
        names = ", ".join(str(pool.network) for pool in pools)
        raise ProblemError(
            "pool-exhausted",
            f"no IPv{version} address is left in {names}: give one with --ip, end apps, or have more --pools",
        )


def addresses_of(texts: Iterable[str]) -> set[IPAddress]:
    """As the pools take them."""
    return {ipaddress.ip_address(one) for one in texts}
