"""Virtual addresses that no two tests share, also across xdist workers."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket


class Addresses:
    """Hands out virtual IPs: 10.(64+worker).x.y and fd00:a5:WORKER::n."""

    def __init__(self, worker: str | None = None) -> None:
        name = worker or os.environ.get("PYTEST_XDIST_WORKER", "gw0")
        number = int(name.removeprefix("gw")) if name.startswith("gw") else 0
        self._v4 = (ipaddress.IPv4Address(f"10.{64 + number % 128}.1.1") + n for n in itertools.count())
        self._v6 = (ipaddress.IPv6Address(f"fd00:a5:{number:x}::1") + n for n in itertools.count())

    def v4(self) -> str:
        """A fresh IPv4 address."""
        return str(next(self._v4))

    def v6(self) -> str:
        """A fresh IPv6 address."""
        return str(next(self._v6))


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of the real host that nobody has just now (for --expose and servers outside)."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
