"""Messages of the delegation endpoint."""

from __future__ import annotations

import contextlib
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.delegate import strategies as some
from tests.unit.delegate.vectors import FULL, SMALL

from appswitch.delegate import messages
from appswitch.delegate.errors import MalformedError, Reason, VersionError
from appswitch.delegate.messages import (
    Action,
    Ask,
    Done,
    Handover,
    Hello,
    Offer,
    Received,
    Refused,
    Taken,
    Verdict,
    Welcome,
    Withdrawn,
)

verdicts = st.one_of(
    st.builds(
        Verdict, some.connections, st.sampled_from([Action.ACCEPT, Action.PASS, Action.FAIL]), st.just(0), st.just("")
    ),
    st.builds(Verdict, some.connections, st.just(Action.DROP), st.integers(0, 4095), st.just("")),
    st.builds(Verdict, some.connections, st.just(Action.NEXT), st.just(0), some.names),
)
to_daemon = st.one_of(
    st.builds(Hello, some.names.filter(bool), some.counts),
    verdicts,
    st.builds(Received, some.connections),
    st.builds(Done, some.connections, some.connections, some.connections),
    st.builds(Offer, some.metadata),
)
from_daemon = st.one_of(
    st.builds(Welcome, some.counts),
    st.builds(Refused, st.sampled_from(list(Reason)), some.texts),
    st.builds(Ask, some.metadata),
    st.builds(Handover, some.connections),
    st.builds(Withdrawn, some.connections, st.sampled_from(list(Reason))),
    st.builds(Taken, some.connections),
)


def descriptors(message: object) -> int:
    if isinstance(message, Offer):
        return {"client": 1, "server": 2}[message.metadata.direction]
    return int(isinstance(message, Handover))


@given(to_daemon)
def test_to_daemon(message: messages.ToDaemon) -> None:
    assert messages.decode_to_daemon(messages.encode(message), descriptors(message)) == message


@given(from_daemon)
def test_from_daemon(message: messages.FromDaemon) -> None:
    assert messages.decode_from_daemon(messages.encode(message), descriptors(message)) == message


@given(st.binary(max_size=60), st.binary(min_size=1, max_size=1), st.sampled_from([0, 1, 2, 3]))
def test_random_bodies(body: bytes, kind: bytes, count: int) -> None:
    for packet in (body, b"AXD\2" + kind + bytes(3) + body):
        for decode in (messages.decode_to_daemon, messages.decode_from_daemon):
            with contextlib.suppress(MalformedError):
                decode(packet, count)


@given(to_daemon | from_daemon, st.data())
def test_truncations_and_mutations(message: messages.ToDaemon | messages.FromDaemon, draw: st.DataObject) -> None:
    packet = bytearray(messages.encode(message))
    packet[draw.draw(st.integers(0, len(packet) - 1))] = draw.draw(st.integers(0, 255))
    for data in (bytes(packet), bytes(packet[: draw.draw(st.integers(0, len(packet)))])):
        for decode in (messages.decode_to_daemon, messages.decode_from_daemon):
            with contextlib.suppress(MalformedError):
                decode(data, descriptors(message))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("message", [Hello("a"), Done(1), Verdict(1, Action.PASS), Offer(SMALL), Offer(FULL)])
def test_descriptors_are_counted(message: messages.ToDaemon, count: int) -> None:
    if count == descriptors(message):
        assert messages.decode_to_daemon(messages.encode(message), count) == message
    else:
        with pytest.raises(MalformedError, match="descriptors"):
            messages.decode_to_daemon(messages.encode(message), count)


@pytest.mark.parametrize(("count", "taken"), [(0, False), (1, True), (2, True), (3, False)])
def test_descriptors_of_a_handover(count: int, taken: bool) -> None:
    packet = messages.encode(Handover(7))
    with contextlib.nullcontext() if taken else pytest.raises(MalformedError, match="descriptors"):
        assert messages.decode_from_daemon(packet, count) == Handover(7)


def test_a_question_has_none() -> None:
    with pytest.raises(MalformedError, match="descriptors"):
        messages.decode_from_daemon(messages.encode(Ask(SMALL)), 1)


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_can_be_told(version: int) -> None:
    packet = messages.encode(Hello("a")).replace(b"AXD\2", b"AXD" + bytes((version,)))
    with pytest.raises(VersionError) as raised:
        messages.decode_to_daemon(packet)
    assert raised.value.version == version
    refused = messages.encode(Refused(Reason.VERSION, "another"), version)
    assert refused.startswith(b"AXD" + bytes((version,)))
    assert messages.decode_from_daemon(refused) == Refused(Reason.VERSION, "another")


def test_a_reason_of_a_later_release() -> None:
    packet = bytearray(messages.encode(Refused(Reason.OTHER, "because")))
    packet[8:10] = b"\xff\xff"
    assert messages.decode_from_daemon(bytes(packet)) == Refused(Reason.OTHER, "because")


def test_a_long_detail_is_cut_between_characters() -> None:
    refused = messages.decode_from_daemon(messages.encode(Refused(Reason.OTHER, "x" + "é" * 2000)))
    assert isinstance(refused, Refused)
    assert len(refused.detail.encode()) == messages.MAX_DETAIL - 1


@pytest.mark.parametrize(
    "message",
    [
        Hello("x" * 256),
        Hello("x", 2**32),
        Hello("x", -1),
        Verdict(2**64, Action.ACCEPT),
        Verdict(1, Action.ACCEPT, errno.EACCES),
        Verdict(1, Action.DROP, 4096),
        Verdict(1, Action.DROP, 0, "x"),
        Done(1, -1),
    ],
)
def test_beyond_the_bounds(message: messages.ToDaemon) -> None:
    with pytest.raises(ValueError, match=r"."):
        messages.encode(message)
