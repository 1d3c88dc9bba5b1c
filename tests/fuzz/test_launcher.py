"""The launcher with a daemon that is none: whatever it is sent, it says why it gives up, and runs nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.unit.test_launcher import ALLOW_ALL, FakeSwitch, Launch, explained

OFFER, STATUS = struct.Struct("=4sIIIII"), struct.Struct("=4sI")
MAGIC = b"AXL1"
numbers = st.sampled_from([0, 1, 2, 8, 4096, 4097, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
said = st.binary(max_size=6000).map(lambda one: bytes(byte & 0x7F for byte in one))  # what is said is printed, and read
heads = st.builds(OFFER.pack, st.sampled_from([MAGIC, b"AXL2"]), *[numbers] * 5)
offers = st.one_of(
    said,
    heads,
    st.tuples(heads, said).map(b"".join),
    st.integers(0, 31).map(lambda size: (OFFER.pack(MAGIC, 0, 0, 0, 1, 0) + ALLOW_ALL)[:size]),
    said.map(lambda text: OFFER.pack(MAGIC, 1, 0, 0, 0, 0) + text),
)


def good(offer: bytes) -> bool:
    """One that it would take: then it goes on, which is another test's affair."""
    if len(offer) < OFFER.size:
        return False
    magic, status, _flags, _more, count, _rest = OFFER.unpack(offer[: OFFER.size])
    return bool(magic == MAGIC and status == 0 and count > 0 and len(offer) == OFFER.size + 8 * count)


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[FakeSwitch]:
    one = FakeSwitch(tmp_path)
    yield one
    one.close()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(offers.filter(lambda offer: not good(offer)))
@example(OFFER.pack(MAGIC, 0, 0, 0, 2**32 - 1, 0) + ALLOW_ALL)
@example(b"")
def test_offers_that_are_none(switch: FakeSwitch, offer: bytes) -> None:
    launch = Launch(switch.path, "/bin/echo", "it ran")
    with explained(launch):
        switch.accept()
        if offer:
            switch.send(offer)
        assert switch.peer is not None
        switch.peer.close()
    result = launch.end()
    assert result.status == 125, result
    assert result.out == ""
    assert result.err.startswith("ax run: "), result
    assert len(result.err) < 8192
