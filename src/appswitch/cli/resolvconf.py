"""Where the programs of this host send DNS queries. An app's go there, too, and the daemon answers them."""

from __future__ import annotations

import socket

PATH = "/etc/resolv.conf"
MAX = 3  # MAXNS: a resolver reads no more, resolv.conf(5)
LOCAL = "127.0.0.1"  # what glibc and musl ask where none is named


def nameservers(path: str = PATH) -> list[str]:
    """The addresses of the file's first `nameserver` lines, without scope ids, as a resolver reads them."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return [LOCAL]
    found: list[str] = []
    for line in lines:
        words = line.split()
        # The keyword must begin the line, and the value is on the same one.
        if len(words) < 2 or words[0] != "nameserver" or not line.startswith("nameserver"):
            continue
        address = words[1].partition("%")[0]
        if _is_address(address) and len(found) < MAX:
            found.append(address)
    return found or [LOCAL]


def _is_address(text: str) -> bool:
    """As inet_pton(3) sees it. What else old resolvers take (10.1 for 10.0.0.1) nobody writes there."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False
