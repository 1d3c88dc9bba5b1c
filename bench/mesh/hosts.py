"""Hosts and pods: network namespaces, joined by a veth pair, or by VXLAN between two hosts. ip-netns(8), ip-link(8)."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from bench.processes import UnavailableError

PREFIX = "axm"
HERE = Path("/run/netns")
CLIENT, SERVER, NETWORK = "10.90.0.1", "10.90.0.2", "10.90.0.0/24"
VIP, VIPS = "10.96.0.10", "10.96.0.0/16"
OVERHEAD = 50  # bytes of a VXLAN header and what is around it

# Ports for a minute's worth of short connections: a closed one keeps its port that long, unless it may be used again.
SYSCTLS = {"ipv4/ip_local_port_range": "10240 65000", "ipv4/tcp_tw_reuse": "1"}


class Host(NamedTuple):
    """A namespace with one address."""

    name: str
    ip: str

    @property
    def enter(self) -> list[str]:
        """The words that run a command there."""
        return ["nsenter", f"--net={HERE / self.name}", "--"]


class Pair(NamedTuple):
    """Who asks and who answers."""

    client: Host
    server: Host


class Namespaces:
    """All that one run makes, by names that no other run has; `close` removes them. Raises UnavailableError."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise UnavailableError("network namespaces as hosts: root is needed")
        self._names: list[str] = []

    def __enter__(self) -> Namespaces:
        sweep()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make(self, label: str) -> str:
        """A namespace with lo, of this name in this run: its full name."""
        name = f"{PREFIX}-{os.getpid()}-{label}"
        self._names.append(name)  # first: whoever is interrupted in between removes it
        do("ip", "netns", "add", name)
        links(name, "link set lo up")
        for key, value in SYSCTLS.items():
            do("nsenter", f"--net={HERE / name}", "--", "sh", "-c", f"echo {value} > /proc/sys/net/{key}")
        return name

    def close(self) -> None:
        """Remove all of them, also after one could not be. Raises the last error."""
        with contextlib.ExitStack() as stack:
            while self._names:
                name = self._names.pop()
                if (HERE / name).exists():
                    stack.callback(do, "ip", "netns", "delete", name)


def sweep() -> None:
    """Remove what a run that was killed has left: namespaces named by processes that are no more."""
    for path in HERE.glob(f"{PREFIX}-*"):
        found = re.match(rf"{PREFIX}-(\d+)-", path.name)
        if found and not Path("/proc", found[1]).exists():
            do("ip", "netns", "delete", path.name)


def alone(spaces: Namespaces, label: str) -> Host:
    """One that has only loopback."""
    return Host(spaces.make(label), "127.0.0.1")


def veth(spaces: Namespaces, label: str) -> Pair:
    """Two that are joined by a cable."""
    one, other = (spaces.make(f"{label}-{side}") for side in "cs")
    links(one, f"link add eth0 type veth peer name eth0 netns {other}")
    return _addressed(one, other)


def vxlan(spaces: Namespaces, label: str) -> Pair:
    """Two pods, each on a bridge of its host; the hosts are joined by a cable, and the bridges by VXLAN over it."""
    one, other = (spaces.make(f"{label}-{side}") for side in "cs")
    hosts = [spaces.make(f"{label}-h{side}") for side in "cs"]
    links(hosts[0], f"link add eth0 type veth peer name eth0 netns {hosts[1]}")
    for host, pod, me, peer in ((hosts[0], one, 1, 2), (hosts[1], other, 2, 1)):
        links(
            host,
            f"addr add 192.0.2.{me}/24 dev eth0",
            "link set eth0 up",
            f"link add pod0 type veth peer name eth0 netns {pod}",
            "link add cni0 type bridge",
            f"link add vx0 type vxlan id 42 local 192.0.2.{me} remote 192.0.2.{peer} dstport 4789",
            *(f"link set {port} master cni0" for port in ("vx0", "pod0")),
            *(f"link set {port} up" for port in ("cni0", "vx0", "pod0")),
        )
        links(pod, f"link set eth0 mtu {1500 - OVERHEAD}")
    return _addressed(one, other)


def _addressed(one: str, other: str) -> Pair:
    """The service's address has a route: a packet needs one before the filter redirects it."""
    for name, ip in ((one, CLIENT), (other, SERVER)):
        links(name, f"addr add {ip}/24 dev eth0", "link set eth0 up", f"route add {VIPS} dev eth0")
    return Pair(Host(one, CLIENT), Host(other, SERVER))


def links(name: str, *lines: str) -> None:
    """Commands of ip(8) in a namespace. Raises UnavailableError."""
    do("ip", "-n", name, "-batch", "-", text="\n".join(lines) + "\n")


def do(*words: str, text: str = "") -> str:
    """Its output. Raises UnavailableError when it is not there or fails."""
    try:
        done = subprocess.run(words, check=True, capture_output=True, text=True, input=text)
    except OSError as problem:
        raise UnavailableError(f"{words[0]}: {problem.strerror}") from None
    except subprocess.CalledProcessError as failed:
        raise UnavailableError(f"`{' '.join(words)}`: {failed.stderr.strip()}\n{text}".strip()) from None
    return done.stdout


def redirect(host: Host, rules: str) -> None:
    """Rules of iptables-restore(8), which go with the namespace. Raises UnavailableError."""
    do(*host.enter, "iptables-restore", "--wait", text=rules)
