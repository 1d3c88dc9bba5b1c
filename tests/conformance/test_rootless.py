"""A daemon and apps without root: the same answers."""

from __future__ import annotations

import difflib

import pytest
from harness import Daemon, Rootless
from harness.differences import DIFFERENT
from harness.probes import Probes, sections

# Not ``bind``: a port below 1024 is root's. Not the slow ones: they are about the same code.
CHOSEN = (
    "socket.c",
    "names.c",
    "connect.c",
    "accept.c",
    "nonblocking.c",
    "sharing.c",
    "polling.c",
    "options.c",
    "data.c",
)


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("probe", CHOSEN)
def test_same_as_bare(probes: Probes, rootless: Rootless, rootless_daemon: Daemon, probe: str, transport: str) -> None:
    """All sections of a probe at once, run by an unprivileged user."""
    bare = probes.bare(probe, "ip4", rootless.uid)
    got = probes.under_ax(rootless_daemon, probe, "ip4", transport)
    problems: list[str] = []
    for section in sections(probe):
        expected = DIFFERENT.expected(probe, section, "ip4", transport, bare[section])
        if got.get(section) != expected:
            problems += difflib.unified_diff(
                expected.splitlines(), got.get(section, "").splitlines(), section, "ax", lineterm="", n=1
            )
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
