"""`python -m bench faults`: the daemon's processes are killed at random moments, under load; what apps saw is counted.

See `bench.faults.load` for the load. A *pause* is what one fault cost: the longest call that was under way then.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.node import Node, ax
from bench.processes import BenchError, Process

LOAD = Path(__file__).with_name("load.py")
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
KINDS: dict[str, tuple[str, ...]] = {
    "switch": ("switch",),
    "control": ("control",),
    "both": ("switch", "control"),
    "keeper": ("keeper",),
    "keeper+control": ("keeper", "control"),
}
PATIENCE = 60.0  # seconds for the daemon to be whole again
APPS = 3  # two servers and a client
_MARKS = {"switch": "appswitch.switch", "control": "appswitch.control", "keeper": "keeper/__main__.py"}


def _document(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "appswitch/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


_DOCUMENTS = (
    _document(
        "VService", "web", ips=["10.94.0.1"], ports=["80:7000"], backends=[{"name": "server"}, {"name": "second"}]
    ),
    _document("Policy", "closed", action="deny", ports=["7004"], to=[{"names": ["server"]}]),
)


class Result(NamedTuple):
    """What was seen. Times in seconds."""

    faults: Counter[str]
    made: Counter[str]
    failed: dict[str, list[str]]
    pauses: list[float]  # one for each fault
    changed: list[str]  # what the daemon knows that is not as before

    @property
    def ok(self) -> bool:
        """Whether nothing was lost."""
        return not self.failed and not self.changed

    def text(self) -> str:
        """For people."""
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        lines = [
            f"faults injected  {self.faults.total()} ({faults})",
            f"calls made       {self.made.total()}",
            f"calls failed     {sum(map(len, self.failed.values()))}",
            "pause            " + percentiles(self.pauses),
            "",
        ]
        width = max(map(len, self.made), default=0)
        lines += [f"  {kind:{width}} {self.made[kind]:8} made" for kind in sorted(self.made)]
        for kind, errors in sorted(self.failed.items()):
            lines += [f"  {kind}: {len(errors)} failed", *(f"    {error}" for error in errors[:5])]
        return "\n".join([*lines, *(f"  not as before: {one}" for one in self.changed)])


def percentiles(seconds: Sequence[float]) -> str:
    """``p50 …, p99 …, max …`` in milliseconds."""
    if not seconds:
        return "none"
    ordered = sorted(seconds)

    def at(part: float) -> str:
        return f"{ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1000:.0f} ms"

    return f"p50 {at(0.5)}, p99 {at(0.99)}, max {at(1.0)}"


def processes(run_dir: Path) -> dict[str, int]:
    """The daemon's, by name, as /proc shows them now."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if f"AX_RUN_DIR={run_dir}".encode() not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            for name, mark in _MARKS.items():
                if any(word == mark or word.endswith(f"/{mark}") for word in words):
                    found[name] = int(entry.name)
    return found


def whole(node: Node) -> bool:
    """Whether the daemon answers, and its switch does."""
    with contextlib.suppress(OSError, BenchError, ValueError):
        return bool(node.status()["pids"].get("switch"))
    return False


def kept(node: Node) -> bool:
    """Whether there is a keeper that has what our apps need: until then the switch must not die as well."""
    with contextlib.suppress(OSError, KeyError):
        return _notifiers(processes(node.run_dir)["keeper"]) >= APPS
    return False


def _notifiers(pid: int) -> int:
    links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return links.count("anon_inode:seccomp notify")


def served(node: Node) -> bool:
    """Whether the switch has it as well: until then the keeper must not die."""
    with contextlib.suppress(OSError, KeyError):
        return _notifiers(processes(node.run_dir)["switch"]) >= APPS
    return False


def wait_kept(node: Node) -> None:
    """Raises BenchError."""
    _wait(node, kept, "no keeper")


def wait_whole(node: Node) -> None:
    """Raises BenchError."""
    _wait(node, whole, "not whole")


def _wait(node: Node, wanted: Callable[[Node], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not wanted(node):
        if time.monotonic() > end:
            raise BenchError(f"{what} after {PATIENCE:g} s: {processes(node.run_dir)}")
        time.sleep(0.02)


def known(node: Node) -> dict[str, Any]:
    """What users see, without what may change: times, processes."""
    apps = {row["app"]["id"]: row["app"] for row in node.get("apps")["apps"]}
    servers = sorted((row["app_id"], row["proto"], row["service_ip"], row["service_port"])
                     for row in node.get("servers")["servers"])  # fmt: skip
    mine = {row["id"] for row in apps.values() if row.get("name") in ("server", "second", "client")}
    return {
        "apps": {app_id: row for app_id, row in apps.items() if app_id in mine},
        "servers": [row for row in servers if row[0] in mine and row[3] != 7005],
        "names": node.get("names"),
        "vservices": [row["spec"] for row in node.get("vservices")["vservices"]],
        "policies": [row["spec"] for row in node.get("policies")["policies"]],
    }


class Commands(threading.Thread):
    """Users who start apps and ask questions all the time."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self.stop = threading.Event()
        self.made: Counter[str] = Counter()
        self.failed: dict[str, list[str]] = {}
        self.long: list[tuple[str, float, float]] = []

    def run(self) -> None:
        """Until ``stop``."""
        both = ("run: a new app", ["run", "--no-start-daemon", "--", "echo", "ran"]), ("get apps", ["get", "apps"])
        while not self.stop.is_set():
            for kind, words in both:
                began = time.monotonic()
                done = subprocess.run(
                    [*ax(), *words], env=self._node.environment, check=False, capture_output=True, text=True, timeout=60
                )
                self.made[f"commands: {kind}"] += 1
                self.long.append((kind, began, time.monotonic() - began))
                if done.returncode:
                    self.failed.setdefault(f"commands: {kind}", []).append(done.stderr.strip())


def measure(
    count: int, kinds: Sequence[str], seed: int, longest: float = 1.5, commands: bool = True, log: Path | None = None
) -> Result:
    """``count`` faults of these kinds, up to ``longest`` seconds apart, as ``seed`` has it. Raises BenchError."""
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(Node(log=log))
        servers, clients = _start(stack, node)
        before = known(node)
        users = Commands(node) if commands else None
        if users:
            users.start()
        injected: list[tuple[str, float]] = []
        try:
            for _ in range(count):
                time.sleep(chance.uniform(0.05, longest))
                kind = chance.choice(kinds)
                if "keeper" in KINDS[kind]:
                    _wait(node, served, "no switch")
                injected.append((kind, time.monotonic()))
                _kill(node, KINDS[kind])
                wait_kept(node)
                if chance.random() < 0.7:  # else the next one comes while its successor is starting
                    wait_whole(node)
            wait_whole(node)
        finally:
            if users:
                users.stop.set()
                users.join()
        changed = [f"{what}: {old} → {new}" for what, old, new in _differences(before, known(node))]
        told = [json.loads(_finish(process)) for process in clients]
        told += [_said(server) for server in servers]
    return _result(injected, told, changed, users)


def _said(server: Process) -> dict[str, Any]:
    """What a server had to complain about."""
    text = server.errors().strip()
    return {"made": {}, "failed": {"server": [text] if text else []}, "long": []}


def _start(stack: contextlib.ExitStack, node: Node) -> tuple[list[Process], list[Process]]:
    """Servers and clients, all at work."""
    node.apply(*_DOCUMENTS)
    host = _free_port()
    servers = [
        _app(stack, node, name, more, ["server"], "serving")
        for name, more in (("server", ["--expose", f"7000:{host}"]), ("second", []))
    ]
    address = next(row["app"]["ips"][0] for row in node.get("apps")["apps"] if row["app"].get("name") == "server")
    client = _app(stack, node, "client", [], ["client", address, "10.94.0.1", "server"], "running")
    words = [PYTHON, str(LOAD), "stranger", "127.0.0.1", str(host)]
    stranger = stack.enter_context(Process(words, os.environ))
    assert stranger.line() == "running"
    return servers, [client, stranger]


def _app(
    stack: contextlib.ExitStack, node: Node, name: str, more: Sequence[str], words: Sequence[str], said: str
) -> Process:
    command = [*ax(), "run", "--no-start-daemon", "--name", name, *more, "--", PYTHON, str(LOAD), *words]
    process = stack.enter_context(Process(command, node.environment))
    if process.line() != said:
        raise BenchError(process.errors())
    return process


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _kill(node: Node, names: Sequence[str]) -> None:
    found = processes(node.run_dir)
    for name in names:
        if name in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[name], signal.SIGKILL)


def _finish(process: Process) -> str:
    process.hang_up()
    return process.line()


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for what, old in before.items():
        if old != after[what]:
            yield what, old, after[what]


def _result(
    injected: Sequence[tuple[str, float]], told: Sequence[dict[str, Any]], changed: list[str], users: Commands | None
) -> Result:
    made: Counter[str] = Counter()
    failed: dict[str, list[str]] = {}
    long: list[tuple[str, float, float]] = []
    for one in told:
        made.update(one["made"])
        # The first wait on purpose; a resolver that has lost its question asks again after five seconds of its own.
        long += [row for row in one["long"] if not row[0].startswith(("backlog", "names"))]
        for kind, errors in one["failed"].items():
            if errors:
                failed.setdefault(kind, []).extend(errors)
    if users:
        made += users.made
        for kind, errors in users.failed.items():
            failed.setdefault(kind, []).extend(errors)
    pauses = [
        max((seconds for _, began, seconds in long if began <= when <= began + seconds), default=0.0)
        for _, when in injected
    ]
    return Result(Counter(kind for kind, _ in injected), made, failed, pauses, changed)


def main(count: int, kinds: Sequence[str], seed: int, log: Path | None) -> int:
    """Print what was seen. 1 if anything was lost."""
    result = measure(count, kinds, seed, log=log)
    print(result.text())
    return 0 if result.ok else 1
