"""What an app may reach outside: `model.Egress`, decided for one address."""

from __future__ import annotations

import errno
import ipaddress
from typing import NamedTuple

from appswitch.model import Egress

Network = tuple[bytes, int]  # the first address, and how many leading bits count


class Rules(NamedTuple):
    """An app's rules, ready to be asked. A name's addresses are `Permits`'."""

    default_allow: bool
    error: int
    denied: tuple[Network, ...]
    allowed: tuple[Network, ...]
    denied_names: frozenset[str]
    allowed_names: frozenset[str]

    @property
    def names(self) -> bool:
        """Whether any rule is about a name."""
        return bool(self.denied_names or self.allowed_names)


def compile_rules(egress: Egress) -> Rules:
    """Raises ValueError for a network that is none: control has checked them."""
    networks: dict[bool, list[Network]] = {True: [], False: []}
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for rule in egress.rules:
        if rule.network:
            network = ipaddress.ip_network(rule.network)
            networks[rule.allow].append((network.network_address.packed, network.prefixlen))
        else:
            names[rule.allow].add(rule.name)
    return Rules(
        egress.default == "allow",
        getattr(errno, egress.error),
        tuple(networks[False]),
        tuple(networks[True]),
        frozenset(names[False]),
        frozenset(names[True]),
    )


def allows(rules: Rules, ip: bytes, names: frozenset[str]) -> bool:
    """Whether ``ip`` may be reached. ``names``: the names of rules that the app has resolved to it."""
    if any(_covers(network, ip) for network in rules.denied) or not names.isdisjoint(rules.denied_names):
        return False
    if any(_covers(network, ip) for network in rules.allowed) or not names.isdisjoint(rules.allowed_names):
        return True
    return rules.default_allow


def _covers(network: Network, ip: bytes) -> bool:
    first, bits = network
    if len(first) != len(ip):
        return False
    shift = 8 * len(ip) - bits
    return int.from_bytes(first, "big") >> shift == int.from_bytes(ip, "big") >> shift
