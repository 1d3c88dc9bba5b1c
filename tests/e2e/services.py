"""What tests configure: vservices, policies, references, proxies, by `ax apply`; all is taken away at the end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness import Addresses, Daemon, wait_until

Spec = dict[str, Any]


class Services:
    """Documents on one daemon. As a context manager it deletes them, and sees that the switch holds nobody back."""

    def __init__(self, daemon: Daemon, addresses: Addresses) -> None:
        self.daemon = daemon
        self.addresses = addresses

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for plural in ("vservices", "policies", "references", "proxies"):
            for one in self.daemon.get(plural):
                status, told = self.daemon.rest("DELETE", f"/v1/{plural}/{one['metadata']['name']}")
                assert status == 200, told
        if error is None:
            self.wait_settled()

    def apply(self, *documents: Spec, kill: bool = False) -> Spec:
        """`ax apply -f -`; each of them has to be taken. What it printed as JSON."""
        words = ["apply", "-f", "-", "-o", "json", *(["--kill"] if kill else [])]
        told = self.daemon.ax(*words, input=json.dumps(documents), check=True)
        applied: Spec = json.loads(told.stdout)
        assert {row["result"] for row in applied["results"]} <= {"created", "changed", "unchanged"}, told
        return applied

    def vservice(self, name: str, *backends: Spec | str, ports: str = "80", ip: str = "", **spec: Any) -> str:
        """Make or change one; backends as words are virtual addresses. Returns its address."""
        ip = ip or self.addresses.v4()
        rows = [{"ip": one} if isinstance(one, str) else one for one in backends]
        self.apply(document("VService", name, ips=ip.split(","), ports=ports.split(","), backends=rows, **spec))
        return ip

    def policy(self, name: str, action: str, kill: bool = False, **spec: Any) -> Spec:
        """Make or change one; ``from_`` and ``to`` are selectors, or lists of them."""
        given = {key.rstrip("_"): [value] if isinstance(value, dict) else value for key, value in spec.items()}
        return self.apply(document("Policy", name, action=action, **given), kill=kill)

    def reference(self, name: str, network: str, *to: Spec, **spec: Any) -> None:
        self.apply(document("Reference", name, network=network, to=list(to), **spec))

    def proxy(self, name: str, **spec: Any) -> None:
        self.apply(document("Proxy", name, **spec))

    def proxies(self) -> dict[str, Spec]:
        """`ax get proxies -o json`: how each of them is doing."""
        told = self.daemon.ax("get", "proxies", "-o", "json", check=True).stdout
        return {one["metadata"]["name"]: one["status"] for one in json.loads(told)}

    def delete(self, kind: str, name: str, *options: str) -> str:
        """`ax delete`; what it said."""
        return self.daemon.ax("delete", kind, name, *options, check=True).stdout

    def backends(self, name: str) -> dict[str, Spec]:
        """`ax get backends NAME -o json`, by the backend's address."""
        told = self.daemon.ax("get", "backends", name, "-o", "json", check=True).stdout
        return {row["backend"].rpartition(":")[0]: row for row in json.loads(told)}

    def stats(self) -> dict[str, float]:
        status, told = self.daemon.rest("GET", "/v1/status")
        assert status == 200, told
        stats: dict[str, float] = told["stats"]
        return stats

    def wait_settled(self) -> None:
        """No connection is held for its first bytes, and nobody waits for a service."""
        kinds = ("held", "waiting")
        wait_until(lambda: not any(self.stats()[kind] for kind in kinds), lambda: f"nobody held: {self.stats()}")

    def descriptors(self) -> int:
        """How many sockets the switch has open. (Others, such as pidfds, it keeps because they may be of use again.)"""
        status, told = self.daemon.rest("GET", "/v1/status")
        assert status == 200, told
        return sum("socket:[" in link for link in _links(told["pids"]["switch"]))


def document(kind: str, name: str, **spec: Any) -> Spec:
    """As a file would have it."""
    return {"apiVersion": "appswitch/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _links(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            yield str(entry.readlink())
