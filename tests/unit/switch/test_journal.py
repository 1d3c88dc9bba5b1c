"""The record of waiting calls: what a switch leaves behind, its successor finds."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from appswitch._kernel import Fd
from appswitch.switch.journal import SLOTS, Journal, fresh_memory

SLOT_SIZE = 80


def call(id: int) -> tuple[int, ...]:
    return (5, id, 1234, 42, 1, 2, 3, 4, 5, 2**64 - 1)


@pytest.fixture
def memory() -> Iterator[Fd]:
    one = fresh_memory()
    yield one
    one.close()


def test_nothing_is_found_in_fresh_memory(memory: Fd) -> None:
    assert os.fstat(memory.fileno()).st_size == SLOTS * SLOT_SIZE
    assert not os.get_inheritable(memory.fileno())
    assert Journal(memory).take_all() == []


def test_a_successor_finds_what_was_entered_and_not_left(memory: Fd) -> None:
    first = Journal(memory)
    slots = [first.enter(call(id)) for id in (7, 8, 9)]
    assert 0 not in slots
    first.leave(slots[1])
    first.map.close()
    assert sorted(Journal(memory).take_all()) == [call(7), call(9)]


def test_what_was_taken_is_gone(memory: Fd) -> None:
    journal = Journal(memory)
    journal.enter(call(7))
    journal.take_all()
    assert journal.take_all() == []
    assert Journal(memory).take_all() == []


def test_the_call_in_hand_is_found_too(memory: Fd) -> None:
    journal = Journal(memory)
    journal.map[:SLOT_SIZE] = b"".join(word.to_bytes(8, "little") for word in call(3))
    assert Journal(memory).take_all() == [call(3)]


def test_slots_are_used_again_until_none_is_left(memory: Fd) -> None:
    journal = Journal(memory)
    slots = []
    while slot := journal.enter(call(len(slots) + 1)):
        slots.append(slot)
    assert len(set(slots)) == len(slots) > SLOTS - 10
    journal.leave(0)
    assert journal.enter(call(SLOTS)) == 0
    journal.leave(slots[17])
    assert journal.enter(call(SLOTS)) == slots[17]
    assert len(journal.take_all()) == len(slots)


def test_a_full_journal_leaves_the_call_in_hand_and_the_switches_alone(memory: Fd) -> None:
    journal = Journal(memory)
    journal.switches(4711)
    journal.map[:SLOT_SIZE] = b"".join(word.to_bytes(8, "little") for word in call(3))
    count = 0
    while slot := journal.enter(call(count + 100)):
        journal.leave(slot) if count % 2 else None
        count += 1
        if count > SLOTS * 2:
            break
    assert call(3) in journal.take_all()
    assert journal.switches(4712) == (4712, 4711)


def test_predecessors_are_remembered_the_last_ones_first(memory: Fd) -> None:
    assert Journal(memory).switches(1) == (1,)
    assert Journal(memory).switches(2) == (2, 1)
    for pid in range(3, 20):
        seen = Journal(memory).switches(pid)
    assert seen == tuple(range(19, 9, -1))


def test_predecessors_are_no_calls(memory: Fd) -> None:
    journal = Journal(memory)
    journal.switches(1)
    journal.switches(2)
    assert journal.take_all() == []
    assert journal.switches(3) == (3, 2, 1)
