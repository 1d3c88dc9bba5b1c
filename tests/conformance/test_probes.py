"""Every section of every probe prints under ``ax`` what it prints bare."""

from __future__ import annotations

import difflib

import pytest
from harness import Daemon
from harness.differences import DIFFERENT
from harness.probes import BROKEN, PROBES, Probes, sections

ALL = sorted(path.name for path in PROBES.glob("*.c")) + sorted(path.name for path in PROBES.glob("*.py"))

# Where a probe runs: over loopback, or on the app's virtual IP; IPv4, or IPv6 with an IPv4 address beside it.
PLACES = ("lo4", "ip4", "ip6")
NOT_ABOUT_PLACES = {"lies", "local", "many", "options", "signals", "threads"}  # one place of each family will do
TRANSPORTS = ("unix", "tcp")  # of TCP: nothing to UDP


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each section. tests/conftest.py keeps those of the same run together: see there what the id means."""
    if "section" not in metafunc.fixturenames:
        return
    cases = []
    for probe in ALL:
        places = PLACES[1:] if probe.partition(".")[0] in NOT_ABOUT_PLACES else PLACES
        transports = TRANSPORTS
        if probe.startswith("udp"):
            places, transports = (*PLACES, "lo6"), TRANSPORTS[:1]
        for place in places:
            for transport in transports:
                for section in sections(probe):
                    name = f"{probe.partition('.')[0]}-{section}-{place}-{transport}"
                    cases.append(pytest.param(probe, section, place, transport, id=name))
    metafunc.parametrize(("probe", "section", "place", "transport"), cases)


def test_same_as_bare(probes: Probes, daemon: Daemon, probe: str, section: str, place: str, transport: str) -> None:
    """The two outputs are equal, or differ as harness.differences says, for the reason given there."""
    bare = probes.bare(probe, place)[section]
    assert not BROKEN.search(bare), f"the probe itself fails:\n{bare}"
    expected = DIFFERENT.expected(probe, section, place, transport, bare)
    got = probes.under_ax(daemon, probe, place, transport).get(section, "it did not come that far\n")
    if got != expected:
        lines = difflib.unified_diff(expected.splitlines(), got.splitlines(), "bare", "ax", lineterm="", n=2)
        pytest.fail("\n".join(lines), pytrace=False)
