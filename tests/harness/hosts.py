"""Two plain hosts on one wire: network namespaces joined by a veth pair. What programs would have without ``ax``."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.app import App
from harness.waiting import wait_until


class TwoHosts:
    """Namespaces that live as long as this, each with one address (and lo)."""

    def __init__(self, first: str, second: str) -> None:
        self.ips = (first, second)
        self._holders: list[App] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._holders = [
                stack.enter_context(App(["unshare", "--net", "sleep", "infinity"], dict(os.environ))) for _ in self.ips
            ]
            self._join()
            self._stack = stack.pop_all()
        return self

    def _join(self) -> None:
        here = Path("/proc/self/ns/net").readlink()
        for holder in self._holders:
            place = Path(f"/proc/{holder.pid}/ns/net")
            wait_until(lambda place=place: place.readlink() != here, "a network namespace")
        second = str(self._holders[1].pid)
        self._in(0, "ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", second)
        for number, (mine, other) in enumerate((self.ips, self.ips[::-1])):
            width = "128" if ":" in mine else "32"
            more = ["nodad"] if ":" in mine else []
            self._in(number, "ip", "link", "set", "lo", "up")
            for limit in ("ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"):  # loopback has none either
                self._in(number, "sh", "-c", f"echo 0 > /proc/sys/net/{limit}")
            self._in(number, "ip", "addr", "add", f"{mine}/{width}", "dev", "wire", *more)
            self._in(number, "ip", "link", "set", "wire", "up")
            self._in(number, "ip", "route", "add", f"{other}/{width}", "dev", "wire", "src", mine)
        for number, mine in enumerate(self.ips):
            wait_until(
                lambda number=number, mine=mine: (
                    f"local {mine} " in self._in(number, "ip", "route", "show", "table", "all")
                ),
                "the addresses to be usable",
            )

    def command(self, number: int, *command: str) -> list[str]:
        """The words that run a command on one of the two."""
        return ["nsenter", f"--net=/proc/{self._holders[number].pid}/ns/net", "--", *command]

    def _in(self, number: int, *command: str) -> str:
        words = self.command(number, *command)
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done
        return done.stdout

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()
