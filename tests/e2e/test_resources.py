"""What users configure, with the daemon itself: it outlives what has to be restarted, and is known by name."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from e2e.world import Switched
from harness import Addresses, Daemon, wait_until

DOCUMENTS = """\
kind: VService
metadata: {name: web}
spec: {ports: ["80:8080"], backends: [{labels: {app: web}}]}
---
kind: Policy
metadata: {name: lan}
spec: {action: allow, from: [{networks: [10.0.0.0/8]}], to: [{names: [web]}]}
---
kind: Reference
metadata: {name: olddb}
spec: {network: 10.9.0.5, ports: [5432], to: [{labels: {role: db}}]}
"""
KINDS = ("vservices", "policies", "references")


def documents(daemon: Daemon) -> str:
    return "".join(daemon.ax("get", kind, "-o", "yaml", check=True).stdout for kind in KINDS)


def restart(daemon: Daemon, part: str) -> None:
    """Kill it; the keeper starts another."""
    pid = daemon.rest("GET", "/v1/status")[1]["pids"][part]
    os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        try:
            status, found = daemon.rest("GET", "/v1/status")
        except OSError:
            return False
        return status == 200 and found["pids"][part] not in (0, pid)

    wait_until(back, f"another {part}")


def test_it_outlives_restarts(place: Path) -> None:
    state = place / "state"
    (place / "all.yaml").write_text(DOCUMENTS)
    with Daemon("--state-dir", str(state)) as daemon:
        daemon.ax("apply", "-f", str(place / "all.yaml"), check=True)
        before = documents(daemon)
        assert before.count("kind:") == 3
        restart(daemon, "control")
        assert documents(daemon) == before
        restart(daemon, "switch")
        assert documents(daemon) == before
    with Daemon("--state-dir", str(state)) as daemon:
        assert documents(daemon) == before
        (place / "again.yaml").write_text(before)
        done = daemon.ax("apply", "-f", str(place / "again.yaml"), check=True)
        assert done.stdout.splitlines()[-1] == "3 unchanged"
    with Daemon("--state-dir", str(state), "--clean") as daemon:
        assert documents(daemon) == ""
        restart(daemon, "control")
        daemon.ax("apply", "-f", str(place / "all.yaml"), check=True)
        restart(daemon, "control")
        assert documents(daemon).count("kind:") == 3  # it was to be forgotten once
    assert [path.name for path in state.iterdir()] == ["state.db"]


def test_without_a_state_directory_it_goes_with_the_daemon(daemon_factory: Callable[..., Daemon]) -> None:
    """That no file is left is checked wherever a daemon ends."""
    daemon = daemon_factory()
    daemon.ax("create", "vservice", "web", "--ports", "80", check=True)
    restart(daemon, "control")
    assert "web" in documents(daemon)


def test_names_resolve(switched: Switched, daemon: Daemon, addresses: Addresses) -> None:
    ip = addresses.v4()
    daemon.ax("create", "vservice", "front", "--ip", ip, "--ports", "80", check=True)
    daemon.ax("create", "reference", "old", "--ip", addresses.v4(), "--to", "db", check=True)
    try:
        assert ip in switched.run("getent", "ahostsv4", "front").stdout
        assert switched.run("getent", "ahostsv4", "old.appswitch.local").stdout
        daemon.ax("delete", "vservice", "front", check=True)
        assert "front" not in {row["name"] for row in daemon.get("names")}
    finally:
        daemon.ax("delete", "reference", "old", check=True)
