"""The record of waiting calls: what a switch leaves behind, its successor finds."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from appswitch._kernel import Fd
from appswitch.switch.journal import SLOTS, Journal, fresh_memory

SLOT_SIZE = 80


def call(id: int) -> tuple[int, ...]:
    return (5, id, 1234, 42, 1, 2, 3, 4, 5, 2**64 - 1)


def received(id: int) -> bytes:
    """The same as the kernel writes it: struct seccomp_notif of linux/seccomp.h, with an address and all."""
    _, _, tid, nr, *arguments = call(id)
    return struct.pack("=QIIiIQ6Q", id, tid, 0, nr, 0xC000003E, 0x7F0000001234, *arguments)


def left(memory: Fd) -> list[tuple[int, ...]]:
    """What a successor finds."""
    return [entry for _, entry in Journal(memory).recall()]


@pytest.fixture
def memory() -> Iterator[Fd]:
    one = fresh_memory()
    yield one
    one.close()


def test_nothing_is_found_in_fresh_memory(memory: Fd) -> None:
    assert not os.get_inheritable(memory.fileno())
    assert left(memory) == []


def test_a_successor_finds_what_was_entered_and_not_left(memory: Fd) -> None:
    first = Journal(memory)
    slots = [first.enter(call(id)) for id in (7, 8, 9)]
    assert 0 not in slots
    first.leave(slots[1])
    first.map.close()
    assert sorted(left(memory)) == [call(7), call(9)]


def test_what_was_found_is_there_until_it_is_answered(memory: Fd) -> None:
    """Who dies before that leaves it to the next one."""
    Journal(memory).enter(call(7))
    journal = Journal(memory)
    ((slot, found),) = journal.recall()
    assert found == call(7)
    assert journal.enter(call(8)) != slot
    journal.leave(slot)
    assert left(memory) == [call(8)]


def test_the_call_in_hand_that_waits_as_well_is_found_once(memory: Fd) -> None:
    journal = Journal(memory)
    journal.map[:SLOT_SIZE] = received(3)
    journal.enter(call(3))
    assert left(memory) == [call(3)]


def test_the_last_births_are_found(memory: Fd) -> None:
    journal = Journal(memory)
    assert journal.births() == {}
    struct.pack_into("=4Q", journal.map, SLOTS * SLOT_SIZE, 1, 0, 77, 10)
    assert Journal(memory).births() == {77: 10}


def test_the_call_in_hand_is_found_too(memory: Fd) -> None:
    journal = Journal(memory)
    journal.map[:SLOT_SIZE] = received(3)
    assert left(memory) == [(0, *call(3)[1:])]


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
    assert len([entry for _, entry in journal.recall()]) == len(slots)


def test_a_full_journal_leaves_the_call_in_hand_and_the_switches_alone(memory: Fd) -> None:
    journal = Journal(memory)
    journal.switches(4711)
    journal.map[:SLOT_SIZE] = received(3)
    count = 0
    while slot := journal.enter(call(count + 100)):
        journal.leave(slot) if count % 2 else None
        count += 1
        if count > SLOTS * 2:
            break
    assert (0, *call(3)[1:]) in [entry for _, entry in journal.recall()]
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
    assert [entry for _, entry in journal.recall()] == []
    assert journal.switches(3) == (3, 2, 1)


LEDS, LED, BIRTHS = 32768, 24, 4096
LEDS_AT = SLOTS * SLOT_SIZE + (1 + BIRTHS) * 16
SETS_AT, SETS = LEDS_AT + LEDS * LED, 4096


def test_who_serves_a_client_is_found(memory: Fd) -> None:
    journal = Journal(memory)
    for number in (1, 2, LEDS - 1):
        struct.pack_into("=3Q", journal.map, LEDS_AT + number * LED, number, 100 + number, 7)
    journal.forget_led(2)
    found = Journal(memory)
    assert found.led() == [(1, 101, 7), (LEDS - 1, LEDS + 99, 7)]
    assert found.births() == {}
    assert found.written() == {}
    found.forget_all_led()
    assert Journal(memory).led() == []


def put(journal: Journal, count: int, cookie: int, name: int, value: int) -> None:
    """As reflex_options.c writes one down."""
    struct.pack_into("=Qiii", journal.map, SETS_AT + (1 + count % SETS) * 24, cookie, 6, name, value)
    struct.pack_into("=Q", journal.map, SETS_AT, count + 1)


def test_the_last_value_of_an_option_is_found(memory: Fd) -> None:
    journal = Journal(memory)
    put(journal, 0, 77, 1, 1)
    put(journal, 1, 77, 1, -1)
    put(journal, 2, 78, 1, 1)
    assert Journal(memory).written() == {77: {(6, 1): b"\xff" * 4}, 78: {(6, 1): b"\1\0\0\0"}}
    assert Journal(memory).led() == []


def test_also_where_the_ring_has_gone_round(memory: Fd) -> None:
    journal = Journal(memory)
    put(journal, SETS - 1, 77, 1, 1)
    put(journal, SETS, 77, 1, 2)
    assert Journal(memory).written()[77] == {(6, 1): b"\2\0\0\0"}
