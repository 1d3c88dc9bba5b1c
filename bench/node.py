"""A daemon of the run's own, and what /proc and its REST interface tell of it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.processes import BenchError, Process

READY = 60.0  # seconds; a second on a machine that is idle
_JSON = {"Content-Type": "application/json"}


class Node:
    """``ax daemon`` in a directory of its own, which goes with it. ``env``: variables for the daemon.

    ``log``: what it says; ``enter``: words that run a command on the host that it is to serve, if that is a network
    namespace.
    """

    def __init__(
        self, env: Mapping[str, str] | None = None, log: Path | None = None, enter: Sequence[str] = ()
    ) -> None:
        self._enter = list(enter)
        self._ips = (f"10.93.{n // 250}.{n % 250 + 1}" for n in itertools.count())
        self._home = Path(tempfile.mkdtemp(prefix="axb-", dir="/tmp"))  # short: names of Unix sockets are
        self._home.chmod(0o755)
        self.run_dir = self._home / "run"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("AX_")}
        self.environment["AX_RUN_DIR"] = str(self.run_dir)
        words = [*self._enter, *ax(), "daemon", "--rest-port", "0"]
        self._daemon: Process | None = None
        try:
            self._daemon = Process(words, self.environment | dict(env or {}), errors=log)
            while "ready" not in self._daemon.line(READY):
                pass
            self.pids: dict[str, int] = self.status()["pids"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def process(self) -> Process:
        """The daemon, with switch and control as its children."""
        assert self._daemon is not None
        return self._daemon

    def close(self) -> None:
        """End the daemon. Raises BenchError when that does not go well."""
        succeeded = self._end_successor()
        status = self._daemon.end() if self._daemon and not succeeded else 0
        shutil.rmtree(self._home, ignore_errors=True)
        if status:
            raise BenchError(f"the daemon's exit status is {status}")

    def _end_successor(self) -> bool:
        """If the keeper that we started was killed, there is another one. False: there is not."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.run_dir / "daemon.pid").read_text())
            if self._daemon is not None and pid != self._daemon.pid:
                self._daemon.end()
                pidfd = os.pidfd_open(pid)
                try:
                    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                    if not select.select([pidfd], [], [], READY)[0]:
                        raise BenchError(f"the keeper {pid} does not end")
                finally:
                    os.close(pidfd)
                return True
        return False

    # -- running things

    def fresh_ip(self) -> str:
        """A virtual address that no other app of this node has."""
        return next(self._ips)

    def run(self, ip: str, transport: str, command: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        """The words of ``ax run``."""
        words = [*self._enter, *ax(), "run", "--no-start-daemon", "--ip", ip, "--transport", transport]
        return [*words, *options, "--", *command]

    def pin_switch(self, cpus: Set[int]) -> None:
        """Where the switch may run from now on."""
        os.sched_setaffinity(self.pids["switch"], cpus)

    # -- looking

    def status(self) -> dict[str, Any]:
        """GET /v1/status."""
        return self.get("status")

    def get(self, what: str) -> dict[str, Any]:
        """GET /v1/``what``. Raises BenchError."""
        rows: dict[str, Any] = self._ask("GET", what)
        return rows

    def apply(self, *documents: dict[str, Any]) -> None:
        """POST /v1/apply. Raises BenchError when one is rejected."""
        for row in self._ask("POST", "apply", documents)["results"]:
            if row["result"] == "rejected":
                raise BenchError(f"rejected: {row}")

    def delete(self, what: str) -> None:
        """DELETE /v1/``what``. Raises BenchError."""
        self._ask("DELETE", what)

    def _ask(self, method: str, what: str, body: object = None) -> Any:
        connection = UnixConnection(self.run_dir / "rest.sock")
        try:
            connection.request(method, f"/v1/{what}", None if body is None else json.dumps(body), _JSON)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise BenchError(f"{method} /v1/{what}: {answer.status} {text[:200]!r}")
        return json.loads(text or b"null")

    def switch_cpu(self) -> int:
        """Nanoseconds that the switch has run so far, in user mode and in the kernel."""
        return int(Path(f"/proc/{self.pids['switch']}/schedstat").read_text().split()[0])


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))


def ax() -> list[str]:
    """The command as users have it: the script beside the interpreter, or the module where there is none."""
    script = Path(sys.executable).with_name("ax")
    return [str(script)] if script.exists() else [sys.executable, "-m", "appswitch.cli"]


def pss_kib(pid: int) -> int:
    """Proportional set size: shared pages count in parts. proc_pid_smaps(5)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def descriptors(pid: int) -> int:
    """How many are open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def with_children(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found
