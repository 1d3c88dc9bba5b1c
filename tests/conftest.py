"""Fixtures of all tests that run the real thing."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

# As nohup(1) or the background of a shell leaves them, no program could be tried with them: sh(1), "trap".
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

from harness import Addresses, Daemon, Rootless, leaks, marks  # noqa: E402 - found through the line above
from hypothesis import HealthCheck, settings  # noqa: E402

# Machines are busy: how long an example takes says nothing. `make fuzz` tries as many as it is told.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "fuzz",
    deadline=None,
    suppress_health_check=list(HealthCheck),
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "1000")),
    print_blob=True,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadgroup``, sections of one run of a probe stay together: the run is made once.

    Not by the mark ``xdist_group``: pytest-xdist 3.8 writes it into an attribute that pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, bracket, parameters = nodeid.partition("[")
            if not bracket or not path.endswith("test_probes.py::test_same_as_bare"):
                return nodeid
            probe, _section, place, _transport = parameters.rstrip("]").split("-")
            return f"{probe} {place}"

    return Together(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """The daemon of this worker, shared by its tests."""
    with Daemon() as one:
        yield one


@pytest.fixture
def daemon_factory() -> Iterator[Callable[..., Daemon]]:
    """Start daemons of the test's own: ``daemon_factory("--option", env={…})``; they end with the test."""
    with ExitStack() as stack:

        def make(*options: str, **more: Any) -> Daemon:
            return stack.enter_context(Daemon(*options, **more))

        yield make


@pytest.fixture(scope="session")
def rootless() -> Iterator[Rootless]:
    """An unprivileged user."""
    with Rootless() as one:
        yield one


@pytest.fixture(scope="session")
def rootless_daemon(rootless: Rootless) -> Iterator[Daemon]:
    """A daemon of an unprivileged user; what runs on it is run by that user."""
    with Daemon(user=rootless) as one:
        yield one


@pytest.fixture(scope="session")
def addresses() -> Addresses:
    """Virtual IPs that no other test has."""
    return Addresses()


@pytest.fixture
def ip(addresses: Addresses) -> str:
    """A virtual IPv4 address of the test's own."""
    return addresses.v4()


@pytest.fixture
def ip6(addresses: Addresses) -> str:
    """A virtual IPv6 address of the test's own."""
    return addresses.v6()


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a descriptor, a network namespace, or an entry in a daemon's tables behind fails."""
    before = leaks.Before()
    yield
    left = before.left(request.node.funcargs.clear)
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.fixture(autouse=True)
def no_process_left(request: pytest.FixtureRequest, nothing_left: None) -> Iterator[None]:
    """A test that leaves a process behind fails. They are waited for first: what they have open goes with them."""
    if "unit" in request.node.path.relative_to(HERE).parts:
        yield
        return
    mark = uuid.uuid4().hex
    before = marks.pids()
    os.environ[marks.TEST] = mark
    try:
        yield
    finally:
        del os.environ[marks.TEST]
        left = marks.reap(marks.TEST, mark, besides=before)
    assert not left, "processes left behind:\n" + "\n".join(left)
