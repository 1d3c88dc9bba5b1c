"""Which calls wait for a reply, in memory that outlives the switch (a memfd that the keeper holds).

The kernel hands out a notification once. A switch that dies with one in its hands would leave the caller waiting for
ever; its successor finds it here. Slot 0 is the call in hand, written by `_kernel.wait`; the others are parked calls.
"""

from __future__ import annotations

import mmap
import os
import struct

from appswitch._kernel import Fd

SLOTS = 8192
_SLOT = struct.Struct("=10Q")  # as `_kernel.wait` returns it: fd, id, tid, nr, six arguments
_ID = struct.Struct("=8xQ64x")
_EMPTY = bytes(_SLOT.size)


class Journal:
    """A slot per waiting call. Beyond `SLOTS` calls are not recorded, and not answered after a crash."""

    def __init__(self, memory: Fd) -> None:
        self.memory = memory
        self.map = mmap.mmap(memory.fileno(), SLOTS * _SLOT.size)
        self._free = list(range(SLOTS - 2, 0, -1))  # the last slot holds the pids of the switches

    def enter(self, notification: tuple[int, ...]) -> int:
        """The slot it was put in, 0 when there is none left."""
        if not self._free:
            return 0
        slot = self._free.pop()
        _SLOT.pack_into(self.map, slot * _SLOT.size, *notification)
        return slot

    def leave(self, slot: int) -> None:
        """The call is answered, or its caller gone."""
        if slot:
            self.map[slot * _SLOT.size : (slot + 1) * _SLOT.size] = _EMPTY
            self._free.append(slot)

    def used(self) -> set[int]:
        """The slots of parked calls."""
        ids = _ID.iter_unpack(memoryview(self.map)[: (SLOTS - 1) * _SLOT.size])
        return {slot for slot, (id_,) in enumerate(ids) if id_ and slot}

    def take_all(self) -> list[tuple[int, ...]]:
        """What an earlier switch left behind. The journal is empty afterwards."""
        size = (SLOTS - 1) * _SLOT.size
        found = [entry for entry in _SLOT.iter_unpack(self.map[:size]) if entry[1]]
        self.map[:size] = bytes(size)
        return found

    def switches(self, pid: int) -> tuple[int, ...]:
        """This switch and its last predecessors: what waits in a listener's queue was connected by one of them."""
        offset = (SLOTS - 1) * _SLOT.size
        pids = (pid, *_SLOT.unpack_from(self.map, offset)[:-1])
        _SLOT.pack_into(self.map, offset, *pids)
        return tuple(one for one in pids if one)


def fresh_memory() -> Fd:
    """Room for a journal."""
    memory = Fd(os.memfd_create("appswitch-journal", os.MFD_CLOEXEC))
    os.ftruncate(memory.fileno(), SLOTS * _SLOT.size)
    return memory
