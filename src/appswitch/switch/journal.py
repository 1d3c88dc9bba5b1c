"""Which calls wait for a reply, in memory that outlives the switch (a memfd that the keeper holds).

The kernel hands out a notification once. A switch that dies with one in its hands would leave the caller waiting for
ever; its successor finds it here. Slot 0 is the call in hand, written by the kernel itself (`_kernel.wait`); the others
are calls that wait.
Behind the slots is a ring of the sockets that were made last, written by `_kernel.wait` as well (BIRTHS of kernel.h):
nobody else knows of a Unix socket that nothing was done with yet whether it stands for IPv4 or IPv6.
Behind that is who serves the connections that were held and then led without Python (LEDS of kernel.h), a ring of the
options that were set last on sockets that are not connected (SETS), and which file of an app's has O_NONBLOCK from us
(native/kernel/loan.c).
"""

from __future__ import annotations

import mmap
import os
import struct

from appswitch._kernel import Fd

SLOTS = 8192
_SLOT = struct.Struct("=10Q")  # as `_kernel.wait` returns it: fd, id, tid, nr, six arguments
_ID = struct.Struct("=8xQ64x")
_RECEIVED = struct.Struct("=QI4xi4x8x6Q")  # struct seccomp_notif, as the kernel wrote it: it has the size of a slot
_EMPTY = bytes(_SLOT.size)
BIRTHS = 4096
_BIRTH = struct.Struct("=2Q")  # cookie, and what it is: as in `sockets.Sockets.born`, without the notifier
_RING = SLOTS * _SLOT.size  # where it begins: with the number of births so far
_LEDS = _RING + (1 + BIRTHS) * _BIRTH.size  # where records of held connections begin; the first is none
LEDS = 32768
_LED = struct.Struct("=3Q")  # cookies of both ends, client's and server's, and the service's id
_SETS = _LEDS + LEDS * _LED.size  # the ring of options: with the number of them so far
SETS = 4096
_SET = struct.Struct("=Qiii4x")  # cookie, level, name, value
LOAN_AT = _SETS + (1 + SETS) * _SET.size
LOAN = struct.Struct("=2i")
SIZE = LOAN_AT + LOAN.size


class Journal:
    """A slot per waiting call. Beyond `SLOTS` calls are not recorded, and not answered after a crash."""

    def __init__(self, memory: Fd) -> None:
        self.memory = memory
        if os.fstat(memory.fileno()).st_size < SIZE:  # a fresh one, or of an older version
            os.ftruncate(memory.fileno(), SIZE)
        self.map = mmap.mmap(memory.fileno(), SIZE)
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

    def recall(self) -> list[tuple[int, tuple[int, ...]]]:
        """What an earlier switch left behind, with the slots, which stay taken until `leave`.

        To be called before anything is entered: whoever dies before these are answered leaves them behind again.
        """
        size = (SLOTS - 1) * _SLOT.size
        slots = _SLOT.iter_unpack(self.map[_SLOT.size : size])
        found = [(slot, entry) for slot, entry in enumerate(slots, 1) if entry[1]]
        taken = {slot for slot, _ in found}
        self._free = [slot for slot in self._free if slot not in taken]
        id, tid, nr, *arguments = _RECEIVED.unpack_from(self.map)
        if id and all(id != entry[1] for _, entry in found):
            in_hand = (0, id, tid, nr, *arguments)
            found.append((self.enter(in_hand), in_hand))
        return found

    def births(self) -> dict[int, int]:
        """The sockets that were made last, by cookie."""
        ring = self.map[_RING + _BIRTH.size : _LEDS]
        return {cookie: what for cookie, what in _BIRTH.iter_unpack(ring) if cookie}

    def led(self) -> list[tuple[int, int, int]]:
        """Held connections that an earlier switch led to a service: both cookies, client's and server's, and its id."""
        data = self.map[_LEDS:_SETS]
        return [record for record in _LED.iter_unpack(data) if record[0]]

    def forget_led(self, number: int) -> None:
        """One of them is no more."""
        at = _LEDS + number * _LED.size
        self.map[at : at + _LED.size] = bytes(_LED.size)

    def forget_all_led(self) -> None:
        """They are noted elsewhere."""
        self.map[_LEDS:_SETS] = bytes(_SETS - _LEDS)

    def written(self) -> dict[int, dict[tuple[int, int], bytes]]:
        """The options, by cookie, level and name."""
        found: dict[int, dict[tuple[int, int], bytes]] = {}
        head, *ring = _SET.iter_unpack(self.map[_SETS:LOAN_AT])
        first = head[0] % SETS if head[0] > SETS else 0  # the oldest
        for cookie, level, name, value in ring[first:] + ring[:first]:
            if cookie:
                found.setdefault(cookie, {})[level, name] = value.to_bytes(4, "little", signed=True)
        return found

    def loan(self) -> tuple[int, int]:
        """The number of an app's file, in an earlier switch's table, that has O_NONBLOCK from it; its flags without.

        0: there is none.
        """
        number, flags = LOAN.unpack_from(self.map, LOAN_AT)
        return number, flags

    def forget_loan(self) -> None:
        """It was taken back."""
        LOAN.pack_into(self.map, LOAN_AT, 0, 0)

    def switches(self, pid: int) -> tuple[int, ...]:
        """This switch and its last predecessors: what waits in a listener's queue was connected by one of them."""
        offset = (SLOTS - 1) * _SLOT.size
        pids = (pid, *_SLOT.unpack_from(self.map, offset)[:-1])
        _SLOT.pack_into(self.map, offset, *pids)
        return tuple(one for one in pids if one)

    def recent(self) -> tuple[int, ...]:
        """The same as they were told last."""
        offset = (SLOTS - 1) * _SLOT.size
        return tuple(one for one in _SLOT.unpack_from(self.map, offset) if one)


def fresh_memory() -> Fd:
    """Room for a journal."""
    return Fd(os.memfd_create("appswitch-journal", os.MFD_CLOEXEC))
