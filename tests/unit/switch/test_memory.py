"""What a switch has noted of sockets, its successor finds, and nothing that was only half written."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.switch import memory as module
from appswitch.switch.memory import SIZE, ArrivalNote, GuestNote, Memory, PairNote, SocketNote, fresh_memory

BOUND = SocketNote(77, 1, 2, True, 0, options=((6, 1, b"\1\0\0\0"),), bound=Address(b"\x7f\0\0\1", 80), reuseaddr=True)
COMING = ArrivalNote(Address(b"abcd", 1), Address(b"efgh", 2), 3, 4, Address(b"ijkl", 5), Address(b"mnop", 6))
WAITING = GuestNote(Address(b"abcd", 1), 1, 2, b"raw", 3, 4, 5, Address(b"efgh", 6), bytes(4), (None, "x"), 7.5, 8.5)
BEHIND = PairNote(77, 3, Address(b"abcd", 1), Address(b"efgh", 2), 0, None)


@pytest.fixture
def fd() -> Iterator[Fd]:
    one = fresh_memory()
    yield one
    one.close()


def again(fd: Fd) -> Memory:
    """A successor's."""
    return Memory(Fd(os.dup(fd.fileno())))


def test_a_successor_finds_what_was_noted(fd: Fd) -> None:
    first = again(fd)
    slots = [first.put(0, note) for note in (BOUND, COMING, WAITING, BEHIND)]
    assert 0 not in slots
    first.close()
    second = again(fd)
    assert second.recall() == list(zip(slots, (BOUND, COMING, WAITING, BEHIND), strict=True))
    second.drop(slots[1])
    assert second.put(0, BOUND) == slots[1], "a slot is used again, others stay"
    second.close()


def test_a_note_is_written_over(fd: Fd) -> None:
    one = again(fd)
    slot = one.put(0, BOUND)
    assert one.put(slot, COMING) == slot
    assert one.recall() == [(slot, COMING)]
    one.close()


def test_what_is_too_long_is_forgotten(fd: Fd) -> None:
    one = again(fd)
    slot = one.put(0, BOUND)
    long = SocketNote(77, 1, 2, True, 0, options=((6, 1, bytes(SIZE)),))
    assert one.put(slot, long) == 0
    assert one.recall() == []
    one.close()


def test_with_no_slots_left_nothing_is_noted(fd: Fd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOTS", 3)
    one = again(fd)
    assert [one.put(0, BOUND) for _ in range(3)] == [1, 2, 0]
    one.drop(0)
    one.close()


def test_words_of_another_version_are_ignored(fd: Fd) -> None:
    one = again(fd)
    slot = one.put(0, BOUND)
    one._map[slot * SIZE + 2] = 0xC1  # never used: the MessagePack specification
    assert one.recall() == []
    assert one.put(0, BOUND) == slot
    one.close()


def test_memory_that_nobody_used_takes_no_room(fd: Fd) -> None:
    one = again(fd)
    one.put(0, BOUND)
    one.recall()
    assert os.fstat(fd.fileno()).st_blocks * 512 <= 8192
    one.close()
