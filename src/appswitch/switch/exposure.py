"""What `--expose` means for one socket that serves: addresses of the host at which strangers come in."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from appswitch.address import ANY4, ANY6, Address, ip_bytes, is_any, is_loopback
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.model import Expose, Protocol

# The host has no IPv6: it was built, booted or set so. ipv6(7).
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
_CURES = {
    errno.EADDRINUSE: "somebody has the host's port (`ss -tulpn` shows who): let him go, or expose at another",
    errno.EADDRNOTAVAIL: "that is no address of this host (`ip address` shows them)",
    errno.EACCES: "the daemon may not bind ports below net.ipv4.ip_unprivileged_port_start",
}


class Opening(NamedTuple):
    """One address and port of the host that is to lead to a socket. ``family``: its own."""

    expose: Expose
    actual: Address
    family: int

    def failed(self, error: int) -> bool:
        """Whether an errno means that it cannot be had; not, if it was not asked for by its address and is IPv6."""
        return bool(error) and not (error in _NO_IPV6 and not self.expose.host_ip and self.actual.ip == ANY6)


def openings(exposes: Iterable[Expose], protocol: Protocol, bound: Address, v6only: bool) -> Iterator[Opening]:
    """For a socket with the address ``bound``. It can show its app only peers of a family that it speaks itself."""
    if is_loopback(bound.ip):
        return
    for expose in exposes:
        if expose.internal == bound.port and expose.protocol in (None, protocol):
            for ip in (ip_bytes(expose.host_ip),) if expose.host_ip else (ANY4, ANY6):
                if _hears(bound.ip, v6only, len(ip)):
                    yield Opening(expose, Address(ip, expose.host_port), AF_INET if len(ip) == 4 else AF_INET6)


def _hears(bound: bytes, v6only: bool, size: int) -> bool:
    """Whether peers with addresses of ``size`` bytes can reach what is bound: ipv6(7), IPV6_V6ONLY."""
    return len(bound) == size or (is_any(bound) and size == 4 and not v6only)


def complain(log: Callable[..., None], appid: str, opening: Opening, protocol: Protocol, error: int) -> None:
    """Tell the operator, and what he may do."""
    log(
        "cannot expose", app=appid, internal=opening.expose.internal, host=str(opening.actual), protocol=protocol,
        error=errno.errorcode.get(error, error), hint=_CURES.get(error, "see the error's manual page"),
    )  # fmt: skip


def announce(log: Callable[..., None], appid: str, opening: Opening, protocol: Protocol) -> None:
    """Tell the operator that strangers can come in."""
    log("exposed", app=appid, internal=opening.expose.internal, host=str(opening.actual), protocol=protocol)
