"""Which processes are an app's, and what they use: with real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appswitch.control.analyzer import processes
from appswitch.control.analyzer.processes import Figures, Seat

# Each writes a line when it is ready, and ends with its standard input.
IDLE = "print(flush=True); input()"
GREEDY = f"b = bytearray(b'x') * (40 << 20); {IDLE}"
THREADED = (
    f"import threading; [threading.Thread(target=threading.Event().wait, daemon=True).start() for _ in 'abc']; {IDLE}"
)
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', {IDLE!r}], stdout=subprocess.PIPE)
child.stdout.readline()
{IDLE}
"""

Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program and wait until it is ready; its pid."""
    with ExitStack() as stack:

        def run(program: str, *wrapper: str) -> int:
            words = [*wrapper, sys.executable, "-c", program]
            child = stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert child.stdin is not None
            assert child.stdout is not None
            stack.callback(child.stdin.close)
            assert child.stdout.readline() == b"\n"
            return child.pid

        yield run


def seat(pid: int, *, own_netns: bool = False) -> Seat:
    found = processes.seat(pid, time.time(), own_netns)
    assert found is not None
    return found


def look(pid: int) -> Figures:
    return processes.survey({1: seat(pid)})[1].figures


def test_what_a_process_uses(start: Start) -> None:
    idle, greedy = look(start(IDLE)), look(start(GREEDY))
    assert (idle.processes, idle.threads, greedy.processes) == (1, 1, 1)
    assert idle.descriptors == 3
    assert 0 < idle.stack < idle.data
    assert 0 < idle.anonymous < idle.resident
    assert greedy.resident - idle.resident > 35 << 20
    assert greedy.anonymous - idle.anonymous > 35 << 20
    assert greedy.data - idle.data > 35 << 20


def test_cpu_time(start: Start) -> None:
    busy = f"import time\nwhile time.process_time() < 0.2: pass\n{IDLE}"
    assert 0.15 < look(start(busy)).cpu < 5


def test_threads_and_children(start: Start) -> None:
    assert look(start(THREADED)).threads == 4
    family = look(start(PARENT))
    assert (family.processes, family.threads) == (2, 2)


def test_a_look_at_oneself() -> None:
    mine = processes.figures([os.getpid()])
    status = Path("/proc/self/status").read_text()
    assert mine.resident == pytest.approx(int(status.split("VmRSS:")[1].split()[0]) * 1024, rel=0.2)


def test_a_pid_that_is_somebody_elses_by_now(start: Start) -> None:
    pid = start(IDLE)
    known = seat(pid)
    assert processes.survey({1: known._replace(members={pid: known.members[pid] - 1})}) == {}
    assert processes.seat(pid, time.time() - 3600, False) is None, "it attached before this process was started"
    assert processes.seat(0, time.time(), False) is None
    assert processes.seat(2**22 + 1, time.time(), True) is None


def test_nothing_of_what_has_ended() -> None:
    assert processes.figures([2**22 + 1]) == Figures()
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
        assert processes.figures([child.pid]) == Figures()


def test_the_host_namespace_tells_nothing(start: Start) -> None:
    assert seat(start(IDLE), own_netns=True).netns == 0


def test_who_detaches_is_found_if_known_before(start: Start) -> None:
    """Of an app in the host's namespace: by what was seen at the last look."""
    pid = start(PARENT)
    found = processes.survey({1: seat(pid)})[1]
    (child,) = found.members.keys() - {pid}
    alone = Seat(0, {child: found.members[child]})
    assert processes.survey({1: alone})[1].figures.processes == 1


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_detaches_is_found_by_its_namespace(start: Start) -> None:
    pid = start(IDLE, "unshare", "--net")
    mine = seat(pid, own_netns=True)
    assert mine.netns
    assert processes.survey({1: mine._replace(members={})})[1].members.keys() == {pid}
    assert processes.survey({1: mine}, frozenset([pid])) == {}, "the daemon's own is nobody's"
    assert processes.survey({1: mine}, frozenset([os.getpid()])) == {}, "nor are its children"
