"""Programs of the tests' own that have to be compiled: once for all workers, without network."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e.world import ENVIRONMENT, PROGRAMS


@contextmanager
def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """What ``make`` has written to the path that it is given, as a copy that every user may run."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    built = shared / name
    with (shared / f"{name}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not built.exists():
            make(built)
    with tempfile.TemporaryDirectory(prefix="axt-built-", dir="/tmp") as place:
        Path(place).chmod(0o755)
        yield Path(shutil.copy2(built, place))


def go(source: str) -> Callable[[Path], None]:
    """A static Go program."""

    def make(built: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="axt-go-") as cache:
            own = {"GOCACHE": cache, "GOPATH": cache, "GO111MODULE": "off", "CGO_ENABLED": "0"}
            build = ["go", "build", "-o", built, PROGRAMS / source]
            subprocess.run(build, check=True, env=os.environ | ENVIRONMENT | own)

    return make


def musl(source: str) -> Callable[[Path], None]:
    """A static C program with the musl library."""

    def make(built: Path) -> None:
        build = ["musl-gcc", "-static", "-O1", "-Wall", "-Werror", "-o", built, PROGRAMS / source]
        subprocess.run(build, check=True, env=os.environ | ENVIRONMENT)

    return make
