"""What ``ax daemon`` has to find out about the host: its address, and which ports apps may have."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterable

SIOCGIFADDR = 0x8915  # netdevice(7)
FLOOR = (5, 14)  # the oldest kernel: ADDFD with SEND
# Where no packet is ever sent: connecting a datagram socket only asks the routing table (RFC 5737, RFC 3849).
_FAR = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


class NodeError(ValueError):
    """The host cannot do what the daemon was told. The text is for the user."""


def kernel_version(release: str) -> tuple[int, int]:
    """``6.1.0-13-amd64`` is (6, 1)."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def check_kernel(release: str | None = None) -> None:
    """Raises NodeError if the kernel is older than the floor."""
    release = release or os.uname().release
    if kernel_version(release) < FLOOR:
        floor = ".".join(map(str, FLOOR))
        raise NodeError(f"this is Linux {release}, and AppSwitch needs {floor} or newer; `ax doctor` says for what")


def node_ips(given: str | None) -> list[str]:
    """The node's addresses, at most one of each family: as given, of the interface given, or towards the default route.

    Raises NodeError: no such address or interface, or no address on it.
    """
    if given is None:
        return _default_ips()
    try:
        address = ipaddress.ip_address(given)
    except ValueError:
        return _interface_ips(given)
    _check_own(address)
    return [str(address)]


def _default_ips() -> list[str]:
    found = []
    for family, far in _FAR:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((far, 9))
                found.append(str(sock.getsockname()[0]))
        except OSError:
            continue
    return found or ["127.0.0.1"]


def _check_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((str(address), 0))
    except OSError as err:
        raise NodeError(f"{address} is not an address of this host ({err.strerror})") from None
    if address.is_unspecified:
        raise NodeError(f"{address} is no address in particular: name one of this host's, or an interface")


def _interface_ips(name: str) -> list[str]:
    known = sorted(one for _, one in socket.if_nameindex())
    if name not in known:
        raise NodeError(f"{name!r} is neither an IP address nor an interface of this host ({', '.join(known)})")
    found = []
    # No IPv4 address is an error here, too.
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found.append(socket.inet_ntoa(fcntl.ioctl(sock, SIOCGIFADDR, struct.pack("256s", name.encode()))[20:24]))
    for line in _if_inet6():
        address, _, _, scope, _, interface = line.split()  # proc(5)
        if interface == name and scope in ("00", "10"):  # global, host
            found.append(str(ipaddress.ip_address(bytes.fromhex(address))))
            break
    if not found:
        raise NodeError(f"interface {name} has no address")
    return found


def _if_inet6() -> Iterable[str]:
    try:
        with open("/proc/net/if_inet6") as file:
            return file.read().splitlines()
    except OSError:
        return ()


def ports(text: str) -> str:
    """``40000-60000,61000`` in order, overlaps joined. Raises NodeError."""
    ranges = sorted(_range(part.strip()) for part in text.split(",") if part.strip())
    if not ranges:
        raise NodeError("no port at all")
    joined = [ranges[0]]
    for low, high in ranges[1:]:
        if low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    if joined[0][0] < 1024 and os.geteuid() != 0:
        raise NodeError(f"port {joined[0][0]}: only root may use ports below 1024")
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in joined)


def _range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if match is None:
        raise NodeError(f"{text!r} is neither a port nor a range of ports such as 40000-60000")
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high <= 65535:
        raise NodeError(f"{text!r} is not a range of ports from 1 to 65535")
    return low, high


def host_name(text: str) -> str:
    """A node's name: labels of RFC 1123 with dots between them. Raises NodeError."""
    label = r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
    if len(text) > 253 or not re.fullmatch(rf"{label}(\.{label})*", text):
        raise NodeError(f"{text!r} is not a host name")
    return text
