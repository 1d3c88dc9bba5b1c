"""Programs that are run bare and under ``ax``, and what they print.

A probe (tests/conformance/probes) is a program of sections; ``== NAME`` begins each in its output. It runs once for a
place and a transport, and every section is judged by a test of its own.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from harness.addresses import Addresses
from harness.app import App
from harness.daemon import Daemon

PROBES = Path(__file__).resolve().parents[1] / "conformance" / "probes"
LIMIT = 50.0  # seconds for all sections of a probe
BROKEN = re.compile(r"^(TIMEOUT|KILLED BY|EXIT |FAILED: |NOT RUN)", re.MULTILINE)

# A network namespace of its own with the addresses on lo: what a plain program would have.
_BARE = (
    'ip link set lo up; for one in $ADDRESSES; do case $one in *:*) ip -6 addr add "$one/128" dev lo nodad;; '
    '*) ip addr add "$one/32" dev lo;; esac; done; '
    'for one in $ADDRESSES; do until ip route show table all | grep -q "^local $one "; do :; done; done; exec "$@"'
)


def sections(probe: str) -> list[str]:
    """The names of a probe's sections, read from its source."""
    source = PROBES / probe
    text = source.read_text()
    if source.suffix == ".py":
        return [node.name for node in ast.parse(text).body if _is_section(node)]
    return re.findall(r"^PROBE\((\w+)\)", text, re.MULTILINE)


def _is_section(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
        isinstance(one, ast.Name) and one.id == "section" for one in node.decorator_list
    )


def split(output: str) -> dict[str, str]:
    """The output by section."""
    parts = re.split(r"^== (\w+)\n", output, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@dataclass
class Probes:
    """Compiles probes, runs them, and remembers what they printed."""

    workshop: Path
    addresses: Addresses
    _built: dict[str, list[str]] = field(default_factory=dict)
    _bare: dict[tuple[str, str, int], dict[str, str]] = field(default_factory=dict)
    _under_ax: dict[tuple[str, str, str, str], dict[str, str]] = field(default_factory=dict)

    def command(self, probe: str) -> list[str]:
        """The words that start a probe, which is compiled when it must be."""
        if probe not in self._built:
            source = PROBES / probe
            if source.suffix == ".py":
                self._built[probe] = [sys.executable, str(source)]
            else:
                program = self.workshop / source.stem
                words = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
                subprocess.run([*words, "-o", program, source], check=True, timeout=120)
                self._built[probe] = [str(program)]
        return self._built[probe]

    def bare(self, probe: str, place: str, uid: int = 0) -> dict[str, str]:
        """What the sections print without ``ax``, in a network namespace of their own, run by that user."""
        key = (probe, place, uid)
        if key not in self._bare:
            arguments, ips = self._place(place)
            user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
            command = ["unshare", "--net", "sh", "-c", _BARE, "sh", *user, *self.command(probe), *arguments]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
                env={"ADDRESSES": " ".join(ips), **PLAIN},
            )
            assert done.returncode == 0, done
            self._bare[key] = split(done.stdout)
        return self._bare[key]

    def under_ax(self, daemon: Daemon, probe: str, place: str, transport: str) -> dict[str, str]:
        """What the sections print as an app."""
        key = (str(daemon.run_dir), probe, place, transport)
        if key not in self._under_ax:
            arguments, ips = self._place(place)
            command = [*self.command(probe), *arguments]
            words = daemon.run_command(command, ip=ips, transport=transport)
            environment = daemon.environment()
            with App(words, environment, cwd=daemon.cwd(), prepare=daemon.user.become if daemon.user else None) as app:
                status = app.wait(LIMIT)
                assert status == 0, f"{app}\n{daemon.output[-4000:]}"
                self._under_ax[key] = split(app.stdout)
        return self._under_ax[key]

    def _place(self, place: str) -> tuple[list[str], list[str]]:
        """The arguments of the probe, and the addresses that it must have."""
        four, six = self.addresses.v4(), self.addresses.v6()
        if place == "lo4":
            return ["127.0.0.1"], []
        if place == "lo6":
            return ["::1", "127.0.0.1"], []
        if place == "ip4":
            return [four], [four]
        if place == "ip6":
            return [six, four], [four, six]
        raise ValueError(place)


PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
