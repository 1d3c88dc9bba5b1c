"""Calls that an app can make wait are ended: native/kernel/patience.c. Each in a process of its own, with threads."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.lingering import LINGERING

DEADLINE = 20  # seconds for what would take minutes

BEGIN = f"""
import array, os, socket, struct
from appswitch import _kernel
from appswitch._kernel import Fd
{LINGERING}"""


def run(code: str, **variables: str) -> str:
    """What it prints, in time."""
    words, env = [sys.executable, "-c", BEGIN + code], {**os.environ, **variables}
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=DEADLINE, env=env).stdout


WAYS = {
    "of its own": "fds = [one.detach()]",
    # Closed with the queue that it waits in: nobody sees it.
    "in a queue": """
this, that = socket.socketpair()
socket.send_fds(this, [b"x"], [one.fileno()])
one.close()
fds = [that.detach()]
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_close_that_lingers(way: str) -> None:
    """SO_LINGER with ten minutes, and nobody who reads: close(2) is over at once, and the data is still sent."""
    code = f"""
_kernel.watch_over()
kept, one = lingering()
{WAYS[way]}
for number in fds:
    Fd(number).close()
peer, _ = kept.accept()
total = 0
while part := peer.recv(1 << 20):
    total += len(part)
print("closed", total > 1 << 16, flush=True)
os._exit(0)
"""
    assert run(code) == "closed True\n"


def test_many_that_linger_leave_room_for_others() -> None:
    """A thread that closes is not held up by each for its whole time either."""
    code = """
_kernel.watch_over()
kept = []
for _ in range(50):
    listener, one = lingering()
    kept.append(listener)
    Fd(one.detach()).close()
listener, last = lingering()
Fd(last.detach()).close()
peer, _ = listener.accept()
while peer.recv(1 << 20):
    pass
print("closed", flush=True)
os._exit(0)
"""
    assert run(code) == "closed\n"


# What another thread does to the file at the worst moment, always: O_NONBLOCK is gone again.
NO_FLAGS = """
#include <sys/syscall.h>
#include <unistd.h>
int fcntl(int fd, int command, long argument) {
    return command == 4 /* F_SETFL */ ? 0 : (int)syscall(SYS_fcntl, fd, command, argument);
}
"""


def test_a_call_on_a_file_that_lost_its_flag(tmp_path: Path) -> None:
    """connect(2) to a full queue says EAGAIN, as if it still had it; to a host that is silent it is in progress."""
    library = tmp_path / "flags.so"
    words = ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"]
    subprocess.run(words, input=NO_FLAGS, text=True, check=True, timeout=60)
    code = """
import errno
_kernel.watch_over()
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0axt-patience-%d" % os.getpid())
listener.listen(0)
silent = socket.create_server(("127.0.0.1", 0), backlog=0)
one, *kept = [socket.socket(socket.AF_UNIX) for _ in range(2)]
kept[0].connect(listener.getsockname())
name = struct.pack("=H", socket.AF_UNIX) + listener.getsockname()
print([errno.errorcode[_kernel.connect(one.fileno(), name)] for _ in range(3)])
where = struct.pack("=HH4s8x", socket.AF_INET, socket.htons(silent.getsockname()[1]), bytes((127, 0, 0, 1)))
while len(kept) < 9:
    kept.append(socket.socket())
    told = _kernel.connect(kept[-1].fileno(), where)
    if told:
        break
print(errno.errorcode[told], flush=True)
os._exit(0)
"""
    assert run(code, LD_PRELOAD=str(library)) == "['EAGAIN', 'EAGAIN', 'EAGAIN']\nEINPROGRESS\n"


SLOW = Path(__file__).with_name("slow_memory.py")


def copied(copy: str, place: Path) -> list[str]:
    """What came of it, and how many file systems were ended."""
    with subprocess.Popen([sys.executable, SLOW, place], stdout=subprocess.PIPE, text=True) as slow:
        try:
            assert slow.stdout is not None
            pid, address = slow.stdout.readline().split()
            return run(f"""
_kernel.watch_over()
pid, address = {pid}, {address}
result = _kernel.{copy}
while not (ended := _kernel.ended_for_us()):  # counted when that is over
    pass
print(result, ended)
""").split()
        finally:
            slow.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts, and becomes another user")
@pytest.mark.parametrize("copy", ["vm_write(pid, address, b'x')", "read_argument(0, 0, pid, address, 1)"])
def test_memory_that_does_not_come(copy: str, tmp_path: Path) -> None:
    """A file system that never answers is ended, so that the copy is over; with an error, as for any bad address."""
    result, ended = copied(copy, tmp_path)
    assert (result, ended) in (("False", "1"), (str(errno.ENOENT), "1"))  # ENOENT: 0 is no notifier
