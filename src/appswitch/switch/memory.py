"""What the switch alone knows of sockets, in memory that outlives it (a memfd that the keeper holds).

Most is in the kernel: names, states, peers. Noted here is what is not: options of a Unix socket that stands for TCP, a
port that is bound but does not listen yet, the virtual addresses of TCP connections, who waits for a service, for whom
a pair of ours is. A note is written before the call is answered that it comes from.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator

import msgspec

from appswitch._kernel import Fd
from appswitch.address import Address

SLOTS, SIZE = 32_768, 512  # a page is used when the first of its slots is: what nobody needs costs nothing
_LENGTH = struct.Struct("=H")


class SocketNote(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A `sockets.Socket`."""

    cookie: int
    app_id: int
    family: int
    unix: bool
    phase: int
    options: tuple[tuple[int, int, bytes], ...] = ()
    bound: Address | None = None
    local: Address | None = None
    peer: Address | None = None
    reuseaddr: bool = False
    reuseport: bool = False
    accepted: bool = False
    peer_app: int | None = None
    asked: Address | None = None
    peeked: dict[str, str] | None = None
    actual: bytes = b""
    backlog: int = 0


class ArrivalNote(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A TCP connection that an app makes to another's door, and who that is."""

    source: Address  # both ends as they are
    door: Address
    client_app: int
    server_app: int
    client: Address  # both ends as they are to be seen
    server: Address


class GuestNote(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A client in the waiting room: `waiting.Guest`."""

    source: Address
    app_id: int
    family: int
    raw: bytes
    tid: int
    number: int
    cookie: int
    client: Address
    user_timeout: bytes
    who: tuple[int | None, str | None]
    since: float
    until: float


class PairNote(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The end of a pair of the switch's own that waits for accept(2): `services.Arrival`. It has no name to tell."""

    cookie: int
    service: int
    peer: Address
    local: Address
    client_app: int | None
    asked: Address | None


Note = SocketNote | ArrivalNote | GuestNote | PairNote
_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Note] = msgspec.msgpack.Decoder(Note)


class Memory:
    """Slots of one note each. With none left, or for a note that is too long, nothing is noted."""

    def __init__(self, memory: Fd) -> None:
        self.memory = memory
        if os.fstat(memory.fileno()).st_size < SLOTS * SIZE:
            os.ftruncate(memory.fileno(), SLOTS * SIZE)
        self._map = mmap.mmap(memory.fileno(), SLOTS * SIZE)
        self._free: list[int] = []
        self._next = 1  # slot 0 stands for none

    def put(self, slot: int, note: Note) -> int:
        """Write it in place of what is in ``slot``, if that is not 0. The slot where it is."""
        data = _encode(note)
        if len(data) > SIZE - _LENGTH.size:
            self.drop(slot)
            return 0
        if not slot:
            if self._free:
                slot = self._free.pop()
            elif self._next < SLOTS:
                slot, self._next = self._next, self._next + 1
            else:
                return 0
        at = slot * SIZE
        # Whoever reads this after we were killed in the middle finds nothing rather than half of it.
        _LENGTH.pack_into(self._map, at, 0)
        self._map[at + 2 : at + 2 + len(data)] = data
        _LENGTH.pack_into(self._map, at, len(data))
        return slot

    def drop(self, slot: int) -> None:
        """Forget it."""
        if slot:
            _LENGTH.pack_into(self._map, slot * SIZE, 0)
            self._free.append(slot)

    def close(self) -> None:
        """Give it back."""
        self._map.close()
        self.memory.close()

    def recall(self) -> list[tuple[int, Note]]:
        """What an earlier switch noted, with the slots, which stay taken. To be called before anything is noted."""
        found: list[tuple[int, Note]] = []
        for slot, data in self._written():
            try:
                found.append((slot, _decoder.decode(data)))
            except msgspec.MsgspecError:  # of another version, whose words we do not know
                _LENGTH.pack_into(self._map, slot * SIZE, 0)
        self._next = max((slot for slot, _ in found), default=0) + 1
        taken = {slot for slot, _ in found}
        self._free = [slot for slot in range(self._next - 1, 0, -1) if slot not in taken]
        return found

    def _written(self) -> Iterator[tuple[int, bytes]]:
        """By lseek(2) and read(2): to look at a page of the map would be to use it."""
        fd, at = self.memory.fileno(), 0
        with contextlib.suppress(OSError):  # ENXIO: nothing but holes from here on
            while True:
                at = os.lseek(fd, at, os.SEEK_DATA)
                end = os.lseek(fd, at, os.SEEK_HOLE)
                data = os.pread(fd, end - at, at)
                for offset in range(0, len(data), SIZE):
                    (length,) = _LENGTH.unpack_from(data, offset)
                    if length:
                        yield (at + offset) // SIZE, data[offset + 2 : offset + 2 + length]
                at = end


def fresh_memory() -> Fd:
    """Room for notes."""
    return Fd(os.memfd_create("appswitch-memory", os.MFD_CLOEXEC))
