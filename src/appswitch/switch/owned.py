"""Which descriptors of this process somebody owns: objects that can be reached from given ones, a few at a time."""

from __future__ import annotations

import gc
import os
import select
import socket
from collections.abc import Generator, Iterable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

from appswitch._kernel import Fd

BATCH = 2000  # objects that are looked at in one go
_LEAVES = (str, bytes, int, float, type, ModuleType, type(None))
_HOLDERS = (Fd, socket.socket, select.epoll)
# The kernel's names of what is held without a descriptor's number anywhere: mmap(2)s of journal and memory, and in
# native/kernel/netns.c our own network namespace.
_UNNUMBERED = ("/memfd:appswitch-journal", "/memfd:appswitch-memory", "net:[")
_STANDARD = 3


def reachable(roots: Iterable[object]) -> Generator[None, None, set[int]]:
    """The numbers that objects hold which can be reached from ``roots``; between two batches it yields."""
    seen: set[int] = set()
    numbers: set[int] = set()
    rest = list(roots)
    steps = 0
    while rest:
        one = rest.pop()
        if isinstance(one, _LEAVES) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, _HOLDERS):
            numbers |= _number(one)
        else:
            rest += _referents(one)
        steps += 1
        if steps % BATCH == 0:
            yield
    return numbers


def unowned(numbers: set[int]) -> dict[int, str]:
    """Open descriptors that are not among ``numbers``, with the kernel's names for them. proc_pid_fd(5)."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number < _STANDARD or number in numbers:
            continue
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the list itself
            continue
        if not link.startswith(_UNNUMBERED):
            found[number] = link
    return found


def _number(holder: Fd | socket.socket | select.epoll) -> set[int]:
    try:
        return {holder.fileno()}
    except ValueError:  # closed
        return set()


def _referents(one: object) -> list[object]:
    """What an object holds. Of a function that is what it was made with, not the module that it is from."""
    if isinstance(one, FunctionType):
        return [*(one.__closure__ or ()), *(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
    if isinstance(one, MethodType | BuiltinFunctionType):
        return [one.__self__, *([one.__func__] if isinstance(one, MethodType) else [])]
    return gc.get_referents(one)
