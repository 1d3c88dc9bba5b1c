"""Connections that a process carries, because their first bytes decide where they go: the splicer, beside none at all
and beside haproxy (TCP mode: read and write). The client's end is a Unix socket, the server's is TCP on loopback."""

from __future__ import annotations

import array
import contextlib
import functools
import os
import shutil
import socket
import statistics
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

import appswitch
from bench.cases import Run
from bench.pairing import Figure, Target, ratios, take_turns
from bench.processes import BenchError, Process, UnavailableError
from bench.programs import DIRECT, Programs, pair

ROUNDS = 500  # a turn
MILLISECONDS = 30  # a turn of throughput
SPLICER = Path(appswitch.__file__).parent / "_bin" / "ax-splice"
WAYS = {
    "round_trip": "round trip of 16 bytes",
    "upload": "client to server, writes of 64 KiB",
    "download": "server to client, writes of 64 KiB",
}


def measure(run: Run) -> Iterator[Figure]:
    """Each against both baselines."""
    haproxy = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    doors: dict[str, Door] = {"ax": _splicer} | ({"haproxy": functools.partial(_haproxy, haproxy)} if haproxy else {})
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            clients = {"direct": stack.enter_context(pair(run.programs, DIRECT, cpus))}
            for name, door in doors.items():
                clients[name] = stack.enter_context(_through(run.programs, door, cpus))
            for way, what in WAYS.items():
                results = take_turns({name: _turn(client, way) for name, client in clients.items()}, run.turns)
                ours = results.pop("ax")
                for other, theirs in results.items():
                    yield _figure(f"{pin}.{way}", what, ours, other, theirs)
    if haproxy is None:
        raise UnavailableError("beside haproxy: it is not installed")


def _figure(name: str, what: str, ours: Sequence[float], other: str, theirs: Sequence[float]) -> Figure:
    low = name.endswith("round_trip")
    target = Target(at_most=1.0) if low else Target(at_least=1.0)
    return Figure(
        name=f"splice.{other}.{name}",
        what=f"{what}, against {other}",
        unit="x",
        samples=ratios(ours, theirs),
        target=target if other == "haproxy" else None,
        steady=name.startswith("pinned"),
        lower_is_better=low,
        sides={"ax": statistics.median(ours), other: statistics.median(theirs)},
        side_unit="us" if low else "GB/s",
    )


def _turn(client: Process, way: str) -> Callable[[], float]:
    def turn() -> float:
        if way == "round_trip":
            return statistics.median(client.ask(f"rounds {ROUNDS}")["round"]) / 1000
        answer = client.ask(f"{way} {MILLISECONDS}")
        return float(answer["bytes"] / answer["took"])

    return turn


# -- who stands between: a Unix socket at a path, behind which is a port of loopback

Door = Callable[[Path, int, Set[int]], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _through(programs: Programs, door: Door, cpus: Set[int]) -> Iterator[Process]:
    """A client whose connections go through it, to a server of their own."""
    with (
        tempfile.TemporaryDirectory(prefix="axb-s-", dir="/tmp") as place,
        Process([programs["server"], "127.0.0.1", "0", "1"], dict(os.environ), cpus) as server,
    ):
        path = Path(place) / "door"
        with (
            door(path, int(server.line()), cpus),
            Process([programs["client"], str(path), "0", "1"], dict(os.environ), cpus) as client,
        ):
            yield client


@contextlib.contextmanager
def _splicer(path: Path, port: int, cpus: Set[int]) -> Iterator[None]:
    """What the switch does for a connection is done by a thread: it is not measured."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control, socket.socket(socket.AF_UNIX) as listener:
        process = subprocess.Popen(
            [SPLICER], preexec_fn=lambda: _become_splicer(theirs.fileno(), cpus), close_fds=False
        )
        theirs.close()
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=_hand_over, args=(listener, port, control), daemon=True).start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            process.terminate()
            process.wait()


def _become_splicer(control: int, cpus: Set[int]) -> None:
    os.dup2(control, 3)
    os.sched_setaffinity(0, cpus)


def _hand_over(listener: socket.socket, port: int, control: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the end
        while True:
            near, _ = listener.accept()
            with near, socket.create_connection(("127.0.0.1", port)) as far:
                fds = array.array("i", [near.fileno(), far.fileno()])
                control.sendmsg([struct.pack("=IIQ", 2, 0, 1)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen door
    bind unix@{path}
    server one 127.0.0.1:{port}
"""


@contextlib.contextmanager
def _haproxy(binary: str, path: Path, port: int, cpus: Set[int]) -> Iterator[None]:
    configuration = path.with_name("haproxy.cfg")
    configuration.write_text(HAPROXY.format(path=path, port=port))
    with Process([binary, "-db", "-f", str(configuration)], dict(os.environ), cpus) as process:
        while not path.exists():
            if not process.running():
                raise BenchError(f"haproxy ended\n{process.errors()}")
        yield
