"""The arguments of programs' calls: msghdr, iovec and sockaddr as they lie in memory that the program chose."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel import sockaddr
from appswitch.switch import send, udp
from appswitch.switch.call import CONTINUE, Call, Failed, Vanished, taken

BASE = 1 << 20
END = 1 << 64
MSGHDR, IOVEC = struct.Struct("=QI4xQQQQi4x"), struct.Struct("=QQ")


class WrongError(AssertionError):
    """A program would get an errno that Linux does not give there."""


@contextmanager
def failing_only_with(*errors: int) -> Iterator[None]:
    try:
        yield
    except Failed as failed:
        if failed.error not in errors:
            raise WrongError(errno.errorcode[failed.error]) from None


class Memory:
    """Some bytes at BASE, and nothing anywhere else. Addresses are 64 bits wide, as they are in the kernel."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.read_bytes = 0

    def read(self, _listener: Any, _id: int, _tid: int, address: int, size: int) -> bytes | int:
        """As `_kernel.read_argument`."""
        struct.pack("=Qq", address, size)  # it takes no others
        assert size >= 0
        self.read_bytes += size
        if address < BASE or address + size > BASE + len(self.data):
            return errno.EFAULT
        return bytes(self.data[address - BASE : address - BASE + size])

    def write(self, _tid: int, address: int, data: bytes) -> bool:
        """As `_kernel.vm_write`."""
        struct.pack("=Q", address)
        if address < BASE or address + len(data) > BASE + len(self.data):
            return False
        self.data[address - BASE : address - BASE + len(data)] = data
        return True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``made(memory, *arguments)``: a call of a program with that memory."""
    listener = Fd(os.open("/dev/null", os.O_RDONLY))
    app: Any = SimpleNamespace(listener=listener)

    def make(memory: Memory, *arguments: int) -> Call:
        monkeypatch.setattr(_kernel, "read_argument", memory.read)
        monkeypatch.setattr(_kernel, "vm_write", memory.write)
        monkeypatch.setattr(_kernel, "still_valid", lambda *_: True)
        return Call(app, None, (3, 1, 1, 0, *arguments, *[0] * (6 - len(arguments))))  # type: ignore[arg-type]

    yield make
    listener.close()


words = st.one_of(
    st.integers(BASE - 64, BASE + 600),
    st.sampled_from([0, 1, 1024, 1025, 1 << 31, (1 << 32) - 1, 1 << 63, END - 64, END - 1]),
    st.integers(0, END - 1),
)
short = st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1))
one_memory_each = settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
headers = st.builds(
    MSGHDR.pack, words, short, words, words | short, words, words | short, st.integers(-(2**31), 2**31 - 1)
)
vectors = st.builds(IOVEC.pack, words, words | short)
memories = st.lists(headers | vectors | st.binary(max_size=64), max_size=8).map(b"".join)


@one_memory_each
@given(memories, words, st.integers(0, 2**31 - 1))
@example(b"", END - 1, 0)
@example(MSGHDR.pack(BASE, 128, BASE, 1024, 0, 0, 0) + bytes(16 * 1024), BASE, 0)
def test_a_message(made: Any, data: bytes, address: int, flags: int) -> None:
    """Read once, bounded, and whatever is wrong is the program's errno."""
    memory = Memory(data)
    call = made(memory)
    with failing_only_with(errno.EFAULT, errno.EINVAL, errno.EMSGSIZE):
        message = udp._message(call, address, flags)
        assert len(message.name) <= sockaddr.MAX_LEN
        gathered = udp._gather(call, message)
        assert len(gathered) <= udp.MAX_DATAGRAM
    assert memory.read_bytes <= MSGHDR.size + sockaddr.MAX_LEN + 16 * 1024 + udp.MAX_DATAGRAM


@one_memory_each
@given(memories, st.lists(st.tuples(words, words | short), max_size=20))
def test_what_is_sent_with_a_connection(made: Any, data: bytes, where: list[tuple[int, int]]) -> None:
    memory = Memory(data)
    with failing_only_with(errno.EFAULT):
        assert len(send._gather(made(memory), tuple(where))) <= send.MAX_CHUNK
    assert memory.read_bytes <= send.MAX_CHUNK


@one_memory_each
@given(memories, words, words | short)
@example(b"", END - 64, 4)
@example(bytes(64), BASE, 2)
def test_many_messages(made: Any, data: bytes, address: int, count: int) -> None:
    """sendmmsg(2): the array may reach beyond what there is. All of it is read before anything is sent."""
    call = made(Memory(data), 3, address, count, 0)
    near: Any = SimpleNamespace(place="here")
    switch: Any = SimpleNamespace(
        datagrams=SimpleNamespace(aim=lambda *_: SimpleNamespace(error=0, home=True, apps=())), steady={}
    )
    use: Any = SimpleNamespace(call=call, datagram=near, fd=None)
    with failing_only_with(errno.EFAULT, errno.EINVAL, errno.EMSGSIZE), pytest.MonkeyPatch.context() as patch:
        patch.setattr(udp, "place_of", lambda *_: "here")
        assert udp.sendmmsg(switch, use) == CONTINUE


@one_memory_each
@given(memories, words, st.integers(-(2**31), 2**31 - 1))
def test_addresses_and_results(made: Any, data: bytes, address: int, length: int) -> None:
    call = made(Memory(data))
    for use in (
        lambda: call.read_sockaddr(address, length),
        lambda: call.read_int(address),
        lambda: call.write(address, b"1234"),
    ):
        with failing_only_with(errno.EFAULT, errno.EINVAL):
            use()


@given(st.binary(max_size=160) | st.integers(1, 133))
def test_taken(raw: bytes | int) -> None:
    try:
        assert taken(raw) == raw
    except (Failed, Vanished):
        assert isinstance(raw, int)


@given(st.binary(max_size=600))
def test_control_messages(control: bytes) -> None:
    """Whatever cmsg(3) cannot walk through is left out, and nothing of the host's addresses goes with it."""
    kept = udp.without_source(control)
    offset = 0
    while offset < len(kept):
        size, level, kind = struct.unpack_from("=Qii", kept, offset)
        assert size >= 16
        assert (level, kind) not in ((0, 8), (41, 50))
        assert level != 1
        offset += size + 7 & ~7
    assert offset == len(kept)
