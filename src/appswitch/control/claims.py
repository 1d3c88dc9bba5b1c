"""What an app may call its own: which addresses and names are free for whom, and where drawn ones come from."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from appswitch.control.access import Caller, same_hands
from appswitch.control.pools import Pools
from appswitch.control.problems import ProblemError
from appswitch.control.resources.catalog import Catalog
from appswitch.control.roster import Either, Roster
from appswitch.networks import IPAddress, Network


class Claims:
    """Judges names and addresses of new apps by those of the ones there are (``roster``).

    What is configured (``catalog``) has names and addresses, too.
    """

    def __init__(self, pools: Pools, user_networks: Sequence[Network], catalog: Catalog, roster: Roster) -> None:
        self.pools = pools
        self._roster = roster
        self.user_networks = tuple(user_networks)
        self._catalog = catalog

    def addresses(self, name: str | None, ips: Sequence[str], caller: Caller) -> tuple[str, ...]:
        """Those that the app gets. Raises ProblemError: a name or address that is not the caller's, an empty pool.

        Nobody but an administrator becomes a backend beside another user's app, by address or by name.
        """
        if not caller.admin:
            self._check_name(name, caller)
            for ip in ips:
                self._check_ip(ip, caller)
        if ips or name is None:
            return tuple(ips)
        shared = self._roster.named(name, caller.uid)
        return shared.ips if shared is not None else self.draw()

    def draw(self) -> tuple[str, ...]:
        """Addresses that nobody has, of each IP version that has a pool. Raises ProblemError: there is none left."""
        return self.pools.draw(Either(self._roster.taken, *self._catalog.pooled()))

    def check_proxy(self, name: str | None, caller: Caller) -> None:
        """Whether the caller's app may name this proxy: its own, or one that is not there. Raises ProblemError."""
        if name and not all(same_hands(caller.uid, uid) for uid in self._catalog.owners_of_proxy(name)):
            detail = f"{name} is another user's proxy"
            raise ProblemError("forbidden", detail, [{"path": ["proxy"], "detail": detail}])

    def _check_name(self, name: str | None, caller: Caller) -> None:
        if name is None:
            return
        if self._roster.owners_of_name(name) - {caller.uid}:
            raise ProblemError("name-in-use", f"{name} is the name of another user's app")
        if self._catalog.owners_of_name(name) - {caller.uid}:
            raise ProblemError("name-in-use", f"{name} is the name of a service that another user has configured")
        if self._catalog.owners_of_proxies_of(name) - {caller.uid}:
            raise ProblemError("name-in-use", f"{name} is the name of a proxy that another user has configured")

    def _check_ip(self, ip: str, caller: Caller) -> None:
        owners = self._roster.owners_of_address(ip)
        if owners - {caller.uid}:
            raise ProblemError("ip-in-use", f"{ip} is in use by an app of another user")
        configured = self._catalog.owners_of_address(ip)
        if configured - {caller.uid}:
            raise ProblemError("ip-in-use", f"{ip} is the address of a service that another user has configured")
        if self._catalog.owners_of_proxies_of(ip) - {caller.uid}:
            raise ProblemError("ip-in-use", f"{ip} is the address of a proxy that another user has configured")
        owners |= configured
        address = ipaddress.ip_address(ip)
        if not any(address in network for network in self.user_networks):
            networks = ", ".join(map(str, self.user_networks))
            raise ProblemError("ip-forbidden", f"{ip} is in none of the networks that users may claim: {networks}")
        if address in self.pools and not owners:
            raise ProblemError("ip-forbidden", f"{ip} is in a pool, from which --name without --ip draws addresses")
        if is_hosts(address):
            raise ProblemError("ip-forbidden", f"{ip} is an address of this host")


def is_hosts(address: IPAddress) -> bool:
    """Whether the host has the address: a datagram to oneself comes from where it goes to. None is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), 9))
            return ipaddress.ip_address(sock.getsockname()[0]) == address
    except OSError:  # no route to it, so it is not ours
        return False
