"""Fixtures of the tests with real programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import build, postgres
from e2e.node import Namespaces, NodeDaemon, Plain
from e2e.services import Services
from e2e.world import Bare, Switched, World
from harness import Addresses


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bare", action="store_true", help="e2e: without ax, on a bridge, what plain Linux can do")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "also(kind…): e2e: run the test in these worlds too: tcp, rootless")


def _bare(config: pytest.Config) -> bool:
    return bool(config.getoption("bare", default=False))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``@pytest.mark.also("tcp", "rootless")`` repeats a test over TCP, and as an unprivileged user."""
    also = metafunc.definition.get_closest_marker("also")
    if also and "kind" in metafunc.fixturenames and not _bare(metafunc.config):
        metafunc.parametrize("kind", ["unix", *also.args])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``--bare`` leaves out what uses the daemon itself: there is none."""
    if _bare(config):
        ours = {"switched", "services", "wire", "daemon", "daemon_factory", "rootless_daemon"}
        left_out = [item for item in items if ours & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _daemon(kind: str) -> str:
    """The fixture of the daemon for this kind of world."""
    return "rootless_daemon" if kind == "rootless" else "daemon"


@pytest.fixture
def kind() -> str:
    """Which world: unix, tcp (the same daemon, ``--transport tcp``), or rootless; parametrized by the mark ``also``."""
    return "unix"


@pytest.fixture
def world(request: pytest.FixtureRequest, addresses: Addresses, kind: str) -> Iterator[World]:
    """Where the test's programs run: under ax, or bare with ``--bare``."""
    made: World
    if _bare(request.config):
        made = Bare(addresses)
    elif kind == "rootless":
        made = Switched(request.getfixturevalue("rootless_daemon"), addresses)
    else:
        made = Switched(request.getfixturevalue("daemon"), addresses, "tcp" if kind == "tcp" else "")
    with made:
        yield made


@pytest.fixture
def switched(request: pytest.FixtureRequest, addresses: Addresses, kind: str) -> Iterator[Switched]:
    """As `world`, for what only ax can do; apps are not asked to use TCP."""
    with Switched(request.getfixturevalue(_daemon(kind)), addresses) as made:
        yield made


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """An empty PostgreSQL cluster to be copied: see `postgres.postgres`."""
    with postgres.template() as path:
        yield path


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``programs/web.go``, without C or any library: there is nothing to put anything into."""
    with build.once(tmp_path_factory, "web", build.go("web.go")) as program:
        assert b"/ld-linux" not in program.read_bytes()
        yield program


@pytest.fixture
def services(request: pytest.FixtureRequest, addresses: Addresses, kind: str) -> Iterator[Services]:
    """What a test configures on the daemon that it shares with others; gone after it."""
    with Services(request.getfixturevalue(_daemon(kind)), addresses) as made:
        yield made


@pytest.fixture
def place(request: pytest.FixtureRequest, kind: str) -> Iterator[Path]:
    """A directory that every user can reach, unlike ``tmp_path``, owned by who runs the apps; gone after the test."""
    path = Path(tempfile.mkdtemp(prefix="axt-place-", dir="/tmp"))
    path.chmod(0o755)
    if kind == "rootless":
        user = request.getfixturevalue("rootless")
        os.chown(path, user.uid, user.gid)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def wire() -> Iterator[tuple[Namespaces, NodeDaemon]]:
    """A node of a daemon of its own, and somebody outside; a module may have another."""
    with Namespaces() as namespaces, NodeDaemon(namespaces.node) as daemon:
        yield namespaces, daemon


@pytest.fixture
def apps(wire: tuple[Namespaces, NodeDaemon], addresses: Addresses) -> Iterator[Switched]:
    with Switched(wire[1], addresses) as made:
        yield made


@pytest.fixture
def outside(wire: tuple[Namespaces, NodeDaemon]) -> Iterator[Plain]:
    with contextlib.ExitStack() as stack:
        yield Plain(wire[0].outside, stack)


@pytest.fixture
def host(wire: tuple[Namespaces, NodeDaemon]) -> Iterator[Plain]:
    """The node itself, without ax."""
    with contextlib.ExitStack() as stack:
        yield Plain(wire[0].node, stack)
