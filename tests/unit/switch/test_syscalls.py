"""The table, against the kernel's headers where they are installed and a copy of their numbers everywhere."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from appswitch.switch.dispatch import HANDLERS
from appswitch.switch.syscalls import AARCH64, TABLE, X86_64

HEADERS = {
    X86_64: ("/usr/include/asm/unistd_64.h", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    AARCH64: ("/usr/include/asm-generic/unistd.h",),
}
# name: (x86_64, aarch64), of syscall_64.tbl and asm-generic/unistd.h
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "ioctl": (16, 29),
    "getsockopt": (55, 209),
    "setsockopt": (54, 208),
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "bind": (49, 200),
    "listen": (50, 201),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}


def numbers(arch: str) -> dict[str, int | None]:
    """By the first header that is there, else by the copy above."""
    for path in map(Path, HEADERS[arch]):
        if path.exists():
            found = re.findall(r"^#define __NR_(\w+)\s+(\d+)$", path.read_text(), re.MULTILINE)
            return {name: int(number) for name, number in found}
    return {name: pair[arch == AARCH64] for name, pair in NUMBERS.items()}


@pytest.mark.parametrize("arch", [X86_64, AARCH64])
def test_numbers_are_those_of_the_headers(arch: str) -> None:
    known = numbers(arch)
    assert {row.name: row.number(arch) for row in TABLE} == {row.name: known.get(row.name) for row in TABLE}


def test_numbers_are_those_of_the_copy() -> None:
    assert {row.name: (row.x86_64, row.aarch64) for row in TABLE} == NUMBERS


@pytest.mark.parametrize("arch", [X86_64, AARCH64])
def test_no_number_stands_twice(arch: str) -> None:
    there = [number for row in TABLE if (number := row.number(arch)) is not None]
    assert len(there) == len(set(there))


def test_a_row_has_a_handler_or_an_error() -> None:
    for row in TABLE:
        assert bool(row.handler) != bool(row.error and not row.refused), row.name
        assert bool(row.refused) == (row.error == errno.EAFNOSUPPORT)
        assert row.error in (0, errno.ENOSYS, errno.EAFNOSUPPORT)


def test_every_handler_is_there_and_has_a_row() -> None:
    assert {row.handler for row in TABLE if row.handler} == set(HANDLERS)
