"""IP networks as users write them: pools of addresses, what users may claim, what an app may reach. Pure, and a leaf.

Every function raises ValueError with a sentence that helps.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

RESERVED = 16  # addresses at the beginning of a pool that are never drawn: routers and name servers like to be there
MIN_POOL = 32  # addresses of the smallest pool, the reserved ones included

# What anybody may use for anything: RFC 1918, 6598, 2544, 5737, 4193, 3849.
DEFAULT_USER_NETWORKS = (
    "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,198.18.0.0/15,192.0.2.0/24,198.51.100.0/24,203.0.113.0/24,"
    "fc00::/7,2001:db8::/32"
)
# Of each family the first that the host does not use (`choose_pools`).
CANDIDATES: dict[int, tuple[str, ...]] = {
    4: ("10.250.0.0/16", "10.199.0.0/16", "172.30.0.0/16", "100.115.0.0/16", "192.168.224.0/20", "10.83.0.0/16"),
    6: ("fd61:7070::/64", "fd61:7070:0:1::/64", "fd61:7071::/64"),
}
# Where no app can be: this host, one link, many; RFC 6890, RFC 4291.
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/16", "fe80::/10", "ff00::/8"),
    )
)
_FORMS = "give a network such as 10.0.0.0/8 or fd00::/8"


def parse_network(text: str) -> Network:
    """``10.0.0.0/8``, or an address alone, which is a network of one."""
    address, slash, prefix = text.partition("/")
    if slash and not re.fullmatch("[0-9]{1,3}", prefix):
        raise ValueError(f"{text!r} has no prefix length behind its slash: {_FORMS}")
    if "%" in text:
        raise ValueError(f"{text!r} is valid on one link only: {_FORMS}")
    try:
        own = ipaddress.ip_address(address)
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network: {_FORMS}") from None
    if isinstance(found, ipaddress.IPv6Network):
        mapped = found.network_address.ipv4_mapped
        if mapped is not None and found.prefixlen >= 96:
            raise ValueError(f"{text!r} is IPv4 written as IPv6: give {mapped}/{found.prefixlen - 96}")
    if own != found.network_address:
        raise ValueError(f"{text!r} has bits set behind its prefix: {found} is the network, {own} the address")
    return found


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Several, each once."""
    return tuple(dict.fromkeys(parse_network(text) for text in texts))


def split(text: str) -> list[str]:
    """The values of a list with commas. One at least, and none of them empty."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"{text!r} is not a list of networks: {_FORMS}")
    return parts


def parse_user_networks(text: str) -> tuple[Network, ...]:
    """A list with commas."""
    return parse_networks(split(text))


def parse_pools(text: str, host: Sequence[Network] = ()) -> tuple[Network, ...]:
    """A list with commas: none may overlap another, or one of the host's."""
    found: list[Network] = []
    for part in split(text):
        pool = parse_network(part)
        if pool.num_addresses < MIN_POOL:
            longest = pool.max_prefixlen - (MIN_POOL - 1).bit_length()
            raise ValueError(f"{part!r} is too small for a pool: at most /{longest}, which is {MIN_POOL} addresses")
        _must_not_overlap(pool, _SPECIAL, "{other}, where no app can be")
        _must_not_overlap(pool, found, "{other}, another pool")
        _must_not_overlap(pool, host, "{other}, a network of this host")
        found.append(pool)
    return tuple(found)


def choose_pools(host: Sequence[Network], versions: Sequence[int] = (4, 6)) -> tuple[Network, ...]:
    """One pool of each IP version that overlaps nothing of the host's. An IPv4 one there must be."""
    found: list[Network] = []
    for version in versions:
        candidates = map(ipaddress.ip_network, CANDIDATES[version])
        free = next((one for one in candidates if not any(overlap(one, other) for other in host)), None)
        if free is not None:
            found.append(free)
        elif version == 4:
            tried = ", ".join(CANDIDATES[4])
            raise ValueError(f"this host has networks everywhere that a pool could be ({tried}): name one with --pools")
    return tuple(found)


def overlap(one: Network, other: Network) -> bool:
    """Whether some address is in both."""
    return one.version == other.version and one.overlaps(other)


def _must_not_overlap(pool: Network, others: Sequence[Network], what: str) -> None:
    for other in others:
        if overlap(pool, other):
            raise ValueError(f"{pool} overlaps {what.format(other=other)}")
