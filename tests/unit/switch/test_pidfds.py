"""Descriptors of threads that have called: few, also where each thread calls once."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from appswitch._kernel import Fd
from appswitch.switch.call import PidFds, Vanished


def children(count: int) -> list[subprocess.Popen[bytes]]:
    words = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    return [subprocess.Popen(words, stdin=subprocess.PIPE) for _ in range(count)]


def end(one: subprocess.Popen[bytes]) -> None:
    one.communicate()


def test_threads_that_have_ended_are_forgotten_some_at_a_time() -> None:
    by_tid: dict[int, Fd] = {}
    gone: list[int] = []
    pidfds = PidFds(by_tid, lambda tid, _fd: gone.append(tid))
    pidfds.SOME = 2
    there = children(5)
    for one in there:
        pidfds.get(one.pid)
    pidfds.get(os.getpid())
    for one in there:
        end(one)
    looks = 0
    while len(gone) < len(there):
        pidfds.sweep()
        looks += 1
        assert looks <= 3, "each is looked at once a round"
    assert sorted(gone) == sorted(one.pid for one in there)
    assert list(by_tid) == [os.getpid()]
    with pytest.raises(Vanished):
        pidfds.get(there[0].pid)


def test_there_are_never_more_than_a_part_of_what_we_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (12, 12))
    by_tid: dict[int, Fd] = {}
    pidfds = PidFds(by_tid, lambda *_: None)
    there = children(4)
    for one in there:
        pidfds.get(one.pid)
    assert list(by_tid) == [one.pid for one in there[1:]]
    for one in there:
        end(one)
