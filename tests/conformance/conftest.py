"""Fixtures of the conformance tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Addresses
from harness.probes import Probes


@pytest.fixture(scope="session")
def probes(addresses: Addresses) -> Iterator[Probes]:
    """Where probes are compiled and run. Not in pytest's own directory, which an unprivileged user cannot enter."""
    with tempfile.TemporaryDirectory(prefix="axt-probes-", dir="/tmp") as workshop:
        Path(workshop).chmod(0o755)
        yield Probes(Path(workshop), addresses)
