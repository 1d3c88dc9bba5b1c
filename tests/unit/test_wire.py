"""Frames and messages between switch and control."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appswitch import wire
from appswitch.model import AppPhase, AppRow, AppSpec, ConnectionRow, ServerRow, SocketRow

APP = AppSpec(
    id=7,
    uid=1000,
    gid=1000,
    node="n",
    cluster="c",
    command=("sleep", "1"),
    created=1.5,
    ips=("10.0.0.1",),
    netns="host",
)
ROW = AppRow(app=APP, phase=AppPhase.RUNNING, pid=9, attached=2.5)
SERVER = ServerRow(app_id=7, proto="tcp", service_ip="::", service_port=80, actual=("127.0.0.1:41000",), since=3.0)
SOCKET = SocketRow(id=2**63, app_id=7, inode=5, proto="tcp", flags=("listening",), bind_ip="10.0.0.1:80", backlog=5)
LINK = ConnectionRow(client_app=7, server_app=0, proto="tcp", client="1.2.3.4:5", server="1.2.3.4:6", transport="tcp")
TO_SWITCH = [wire.Register(1, APP, bytes(32), 5.0), wire.Forget(2, 7), wire.Query(3, "apps")]
TO_CONTROL = [
    wire.Done(1, "taken", "by another"),
    wire.Rows(2, (ROW,), (SERVER,), (SOCKET,), (LINK,), stats={"calls": 1.0}),
    wire.Welcome(wire.VERSION, 4, (ROW,), (SERVER,)),
    wire.AppChanged(ROW),
    wire.AppGone(7),
    wire.ServerUp(SERVER),
    wire.ServerDown(SERVER),
]


@pytest.mark.parametrize("message", TO_SWITCH, ids=lambda m: type(m).__name__)
def test_requests_arrive_as_sent(message: wire.ToSwitch) -> None:
    (body,) = wire.Unframer().feed(wire.frame(message))
    assert wire.decode_to_switch(body) == message


@pytest.mark.parametrize("message", TO_CONTROL, ids=lambda m: type(m).__name__)
def test_replies_and_events_arrive_as_sent(message: wire.ToControl) -> None:
    (body,) = wire.Unframer().feed(wire.frame(message))
    assert wire.decode_to_control(body) == message


def test_each_side_refuses_the_other_sides_messages() -> None:
    for message in TO_CONTROL:
        with pytest.raises(msgspec.ValidationError):
            wire.decode_to_switch(wire.frame(message)[4:])
    for message in TO_SWITCH:
        with pytest.raises(msgspec.ValidationError):
            wire.decode_to_control(wire.frame(message)[4:])


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2**32), max_size=6), st.lists(st.integers(0, 200), max_size=12))
def test_frames_survive_any_cut(seqs: list[int], cuts: list[int]) -> None:
    messages = [wire.Query(seq, "x" * (seq % 40)) for seq in seqs]
    stream = b"".join(wire.frame(message) for message in messages)
    unframer, bodies, start = wire.Unframer(), [], 0
    for end in [*sorted(min(cut, len(stream)) for cut in cuts), len(stream)]:
        bodies += unframer.feed(stream[start:end])
        start = end
    assert [wire.decode_to_switch(body) for body in bodies] == messages


def test_a_frame_comes_with_its_last_byte_and_not_before() -> None:
    unframer = wire.Unframer()
    data = wire.frame(wire.AppGone(1))
    for byte in data[:-1]:
        assert unframer.feed(bytes([byte])) == []
    assert unframer.feed(data[-1:] + data[:2]) == [data[4:]]
    assert unframer.feed(data[2:]) == [data[4:]]


def test_a_frame_may_be_empty() -> None:
    assert wire.Unframer().feed(bytes(8)) == [b"", b""]


def test_an_overlong_frame_is_refused_by_its_head() -> None:
    assert wire.Unframer().feed(wire.MAX_FRAME.to_bytes(4, "big")) == []
    with pytest.raises(ValueError, match=f"frame of {wire.MAX_FRAME + 1} bytes"):
        wire.Unframer().feed((wire.MAX_FRAME + 1).to_bytes(4, "big"))


@settings(max_examples=100)
@given(
    st.binary(max_size=80)
    | st.builds(
        msgspec.msgpack.encode,
        st.dictionaries(
            st.sampled_from(["type", "seq", "app", "app_id", "row", "what", "token"]),
            st.integers(-(2**63), 2**64 - 1)
            | st.text(max_size=5)
            | st.sampled_from(["Query", "Done", "Register", "AppGone"]),
            max_size=4,
        ),
    )
)
def test_garbage_raises_nothing_else(body: bytes) -> None:
    for decode in (wire.decode_to_switch, wire.decode_to_control):
        try:
            message = decode(body)
        except msgspec.MsgspecError:
            continue
        assert isinstance(message, msgspec.Struct)


def test_a_message_of_the_wrong_type_is_refused() -> None:
    for garbage in (b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"type": "Query", "seq": "1", "what": "apps"})):
        with pytest.raises(msgspec.MsgspecError):
            wire.decode_to_switch(garbage)


def test_a_message_that_is_nested_deeply_is_refused() -> None:
    """A field that nobody knows is skipped, with all that is in it."""
    for decode, name in ((wire.decode_to_switch, b"\xa5Query"), (wire.decode_to_control, b"\xa4Done")):
        with pytest.raises(msgspec.MsgspecError, match="deep"):
            decode(b"\x83\xa4type" + name + b"\xa3seq\x01\xa1z" + b"\x91" * 100_000 + b"\xc0")


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e300])
def test_times_are_finite(seconds: float) -> None:
    for message in (wire.Register(1, APP, bytes(32), seconds), wire.Permit(1, 7, "a.example", (), seconds)):
        with pytest.raises(msgspec.ValidationError):
            wire.decode_to_switch(wire.frame(message)[4:])


def test_text_that_is_none_is_refused() -> None:
    with pytest.raises(msgspec.MsgspecError, match="text"):
        wire.decode_to_switch(b"\x83\xa4type\xa5Query\xa3seq\x01\xa4what\xa3a\xa3\xff")
