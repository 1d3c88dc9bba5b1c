"""The scenario of "Delayering Istio with AppSwitch" on one node; `make demo` runs it.

Three unmodified memcached servers on ONE virtual address and an unmodified Python client (client.py beside this file),
each in an empty network namespace of its own. It ends in seconds and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVICE, CLIENT, PORT = "10.0.0.100", "10.0.0.7", 11211
CONNECTIONS = 300
AX = Path(sys.executable).with_name("ax")
CLIENT_PROGRAM = Path(__file__).with_name("client.py")
PATIENCE = 10.0


def say(text: str = "") -> None:
    print(text, flush=True)


def heading(text: str) -> None:
    say(f"\n{text}\n{'-' * len(text)}")


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Looks until the condition is true; raises RuntimeError when that takes longer than `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {PATIENCE:g} s: {what}")
        time.sleep(0.01)
    return value


class Demo:
    """A daemon in a directory of its own, and what runs on it. Everything ends with it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.run_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ax-demo-", dir="/tmp")))
        self.run_dir.chmod(0o755)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("AX_")}
        self.environment["AX_RUN_DIR"] = str(self.run_dir / "run")
        self._log = stack.enter_context((self.run_dir / "log").open("w+"))
        self.daemon = self.start(str(AX), "daemon", "--rest-port", "0")
        wait_for(self._ready, f"the daemon to be ready; it said:\n{self.log()}")

    def log(self) -> str:
        return (self.run_dir / "log").read_text()

    def _ready(self) -> bool:
        if self.daemon.poll() is not None:
            raise RuntimeError(f"the daemon ended with status {self.daemon.returncode}:\n{self.log()}")
        return "ready" in self.log()

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        more = {"stdout": self._log, "stderr": self._log, "stdin": subprocess.DEVNULL} | more
        process = subprocess.Popen(words, env=self.environment, text=True, **more)
        self._stack.callback(self._end, process)
        return process

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()

    def ax_run(self, ip: str, *words: str) -> list[str]:
        return [str(AX), "run", "--ip", ip, "--", *words]

    def ask(self, words: list[str]) -> dict[str, Any]:
        """Runs the client to its end and reads its JSON."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stderr}{self.log()}")
        return json.loads(done.stdout)

    def ax(self, *words: str) -> str:
        return subprocess.run(
            [str(AX), *words], env=self.environment, capture_output=True, text=True, timeout=30, check=True
        ).stdout


def memcached(*options: str) -> list[str]:
    user = ["-u", "root"] if os.geteuid() == 0 else []
    return ["memcached", *user, *options]


def client(what: str, host: str, port: int, *numbers: int) -> list[str]:
    return [sys.executable, str(CLIENT_PROGRAM), what, host, str(port), *map(str, numbers)]


def interfaces(pid: int) -> str:
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return " ".join(line.split(":")[0].strip() for line in lines)


def sockets(table: str) -> set[str]:
    """The inodes in a table of /proc/net."""
    text = Path("/proc/net", table).read_text(errors="replace")
    words = [line.split() for line in text.splitlines()]
    column = 6 if table == "unix" else 9
    return {line[column] for line in words if len(line) > column}


def socket_of(pid: int, tables: dict[str, set[str]]) -> str:
    """The highest descriptor of a process that is a socket: its number, its inode, and the tables that list it."""
    links = {int(path.name): str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    number, link = max((number, link) for number, link in links.items() if link.startswith("socket:["))
    listed = [f"/proc/net/{name}" for name, inodes in tables.items() if link[8:-1] in inodes]
    return f"{number} -> {link}, listed in {' '.join(listed)}"


def show_spread(demo: Demo, servers: list[subprocess.Popen[str]]) -> None:
    heading(f"{CONNECTIONS} connections from one client: who served them?")
    told = demo.ask(demo.ax_run(CLIENT, *client("spread", SERVICE, PORT, CONNECTIONS)))
    for number, server in enumerate(servers, 1):
        count = told["served"].get(str(server.pid), 0)
        bar = "#" * round(30 * count / CONNECTIONS)
        own = told["total_connections"].get(str(server.pid), "none")
        say(f"  memcached {number}  {bar:<20} {count:4}   total_connections in its own statistics: {own}")


def show_addresses(demo: Demo) -> None:
    heading("What the two ends see, and what the kernel sees")
    holder = demo.start(
        *demo.ax_run(CLIENT, *client("hold", SERVICE, PORT)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout
    assert holder.stdin
    told = json.loads(holder.stdout.readline())
    seen = next(addr.removeprefix("tcp:") for addr in told["conns"] if addr.startswith(f"tcp:{CLIENT}:"))
    say(f"  client, getsockname()       {told['own']}")
    say(f"  client, getpeername()       {told['server']}")
    say(f"  memcached, `stats conns`    {seen}")
    tables = {name: sockets(name) for name in ("unix", "tcp", "tcp6")}
    say(f"  client, descriptor          {socket_of(holder.pid, tables)}")
    say(f"  memcached, descriptor       {socket_of(int(told['pid']), tables)}")
    say("\n  $ ax get connections")
    for line in demo.ax("get", "connections").rstrip().splitlines():
        say(f"  {line}")
    holder.stdin.close()
    holder.wait(PATIENCE)


def descendants() -> list[int]:
    """Every thread of every process that this one has started, and what they have started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return [int(task.name) for pid in family for task in Path(f"/proc/{pid}/task").iterdir()]


def pin(cpus: set[int]) -> None:
    """Lets everything of the demo run on these processors only, the daemon included."""
    for task in descendants():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(task, cpus)


def loopback_memcached(demo: Demo) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    demo.start(*memcached("-l", "127.0.0.1", "-p", str(port)))

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    wait_for(listens, "the memcached on loopback")
    return port


Samples = dict[str, dict[str, list[float]]]


def measure(demo: Demo, port: int) -> Samples:
    """Microseconds, by transport and by what was timed. Both take turns, so that they share the machine's moods."""
    samples: Samples = {"ax": {}, "tcp": {}}
    for _ in range(2):
        for kind, words in (
            ("ax", demo.ax_run(CLIENT, *client("latency", SERVICE, PORT, 200, 3000))),
            ("tcp", client("latency", "127.0.0.1", port, 200, 3000)),
        ):
            for what, values in demo.ask(words).items():
                samples[kind].setdefault(what, []).extend(values)
    return samples


def show_latency(demo: Demo) -> None:
    heading("Latency in microseconds, in turns with the same programs on loopback TCP")
    port = loopback_memcached(demo)
    everywhere = os.sched_getaffinity(0)
    free = measure(demo, port)
    pin({min(everywhere)})
    pinned = measure(demo, port)
    pin(everywhere)
    say(f"  {'':<36}{'any processor':>16}{'the same one':>20}")
    say(f"  {'':<36}{'p50':>8}{'p99':>8}{'p50':>12}{'p99':>8}")
    for what, title in (("round", "get on a connection"), ("connect", "connect"), ("first", "connect, get, answer")):
        for kind, name in (("ax", "AppSwitch"), ("tcp", "loopback TCP")):
            cuts = [statistics.quantiles(samples[kind][what], n=100) for samples in (free, pinned)]
            figures = "    ".join(f"{cut[49]:>8.1f}{cut[98]:>8.1f}" for cut in cuts)
            say(f"  {title if kind == 'ax' else '':<22}{name:<14}{figures}")


def main() -> None:
    if not shutil.which("memcached"):
        sys.exit("demo: memcached is missing: `make setup` as root installs it, or apt install memcached")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        demo = Demo(stack)
        words = demo.ax_run(SERVICE, *memcached())
        heading("Three unmodified memcached servers on one virtual address, none with a network of its own")
        say(f"  $ {shlex.join(['ax', *words[1:]])}   (three times)")
        servers = [demo.start(*words) for _ in range(3)]
        wait_for(lambda: demo.ax("get", "servers").count(f":{PORT}") >= 3, "three servers that listen")
        for number, server in enumerate(servers, 1):
            say(f"  memcached {number}  pid {server.pid}, its network interfaces: {interfaces(server.pid)}")
        show_spread(demo, servers)
        show_addresses(demo)
        show_latency(demo)
    say(f"\nEverything is stopped and gone, after {time.monotonic() - began:.1f} s.")


main()
