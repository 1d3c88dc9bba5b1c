"""The C programs, and the places where they run: bare on loopback, or as apps of a node."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from bench.node import Node
from bench.processes import Process, UnavailableError

SOURCES = Path(__file__).parent / "c"
NAMES = ("server", "client", "calls", "datagrams", "lookups", "named", "load")
SPREAD = 8  # addresses of loopback that connections go to in turn: bench/c/client.c tells why


class Programs:
    """Compiled into a directory that goes with them."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="axb-c-", dir="/tmp")
        self.directory = Path(self._place.name)
        self.directory.chmod(0o755)
        try:
            for name in NAMES:
                self._compile(name)
        except BaseException:
            self._place.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._place.cleanup()

    def __getitem__(self, name: str) -> str:
        return str(self.directory / name)

    def _compile(self, name: str) -> None:
        compiler = [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-pthread"]
        words = [*compiler, str(SOURCES / f"{name}.c"), "-o", self[name]]
        try:
            subprocess.run(words, check=True, capture_output=True, text=True)
        except OSError as problem:
            raise UnavailableError(f"a C compiler is needed: {problem}") from None
        except subprocess.CalledProcessError as failed:
            raise UnavailableError(f"`{' '.join(words)}` failed:\n{failed.stderr}") from None


class Place(NamedTuple):
    """``direct``: no daemon, loopback. ``unix``, ``tcp``: each program an app, joined by this transport."""

    name: str
    node: Node | None  # None: direct


DIRECT = Place("direct", None)


def places(node: Node) -> tuple[Place, ...]:
    """Direct first: it is everybody's baseline."""
    return (DIRECT, Place("unix", node), Place("tcp", node))


@contextlib.contextmanager
def pair(programs: Programs, place: Place, cpus: Set[int], workers: int = 1, http: bool = False) -> Iterator[Process]:
    """A client that is connected to nothing yet, and its server, which listens."""
    with (
        serving(programs, place, cpus, workers) as (host, port),
        client_of(programs, place, cpus, host, port, http) as one,
    ):
        yield one


@contextlib.contextmanager
def serving(programs: Programs, place: Place, cpus: Set[int], workers: int = 1) -> Iterator[tuple[str, str]]:
    """A server that listens: its address and port. Bare it has all of loopback."""
    node, program = place.node, programs["server"]
    if node is None:
        with Process([program, "0.0.0.0", "0", str(workers)], dict(os.environ), cpus) as server:
            yield "127.0.0.1", server.line()
        return
    host = node.fresh_ip()
    words = node.run(host, place.name, [program, host, "0", str(workers)])
    with Process(words, node.environment, cpus) as server:
        yield host, server.line()


@contextlib.contextmanager
def client_of(
    programs: Programs, place: Place, cpus: Set[int], host: str, port: str, http: bool = False
) -> Iterator[Process]:
    """A client of that address. ``http``: what it sends first is a request."""
    node = place.node
    words = [programs["client"], host, port, str(SPREAD if node is None else 1), *(["http"] if http else [])]
    if node is not None:
        words = node.run(node.fresh_ip(), place.name, words)
    with Process(words, dict(os.environ) if node is None else node.environment, cpus) as client:
        yield client


@contextlib.contextmanager
def calls(programs: Programs, place: Place, cpus: Set[int]) -> Iterator[Process]:
    """The program that times calls, its own peer."""
    words = [programs["calls"], "127.0.0.1"]
    node = place.node
    environment = dict(os.environ) if node is None else node.environment
    if node is not None:
        words = node.run(node.fresh_ip(), place.name, words)
    with Process(words, environment, cpus) as process:
        yield process


@contextlib.contextmanager
def yardstick(cpus: Set[int]) -> Iterator[Callable[[], float]]:
    """Microseconds of a piece of work that never changes: see `bench.yardstick`."""
    words = [sys.executable, "-I", "-S", str(SOURCES.with_name("yardstick.py"))]
    with Process(words, dict(os.environ), cpus) as process:
        yield lambda: float(process.ask("work")["took"] / 1000)
