"""In place of ax-launch, with its options: has the switch killed in the middle, waits for another one, and goes on.

``AX_MOMENT``: "registered" (the token was not shown yet), "connected", "offered" (the filter has come), "handed over".
``AX_REAL``: the real launcher.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import struct
import sys
import time
from pathlib import Path

RUN = Path(os.environ["AX_RUN_DIR"])
MOMENT = os.environ.pop("AX_MOMENT")
REAL = os.environ.pop("AX_REAL")
WORDS = sys.argv[1:]
TOKEN_FD = int(WORDS[WORDS.index("--token-fd") + 1])
ATTACH = WORDS[WORDS.index("--attach") + 1]
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[platform.machine()]
SECCOMP = {"x86_64": 317, "aarch64": 277}[platform.machine()]
PATIENCE = 30.0


def switch() -> int:
    """Its pid; 0: there is none."""
    for line in (RUN / "children").read_text().splitlines():
        name, pid, _ = line.split()
        if name == "switch" and Path(f"/proc/{pid}").exists():
            return int(pid)
    return 0


def succeed() -> None:
    """Kill it, and wait for another one."""
    dead = switch()
    os.kill(dead, signal.SIGKILL)
    wait(lambda: switch() not in (0, dead))


def wait(there) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


def connections() -> int:
    """To the attach socket, accepted ones. proc_net_unix(5)."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.split()[5] == "03" and line.endswith(ATTACH) for line in lines)


def become(token: bytes = b"") -> None:
    words = list(WORDS)
    if token:
        reader, writer = os.pipe()
        os.write(writer, token)
        os.set_inheritable(reader, True)
        os.close(writer)
        words[words.index("--token-fd") + 1] = str(reader)
    os.execv(REAL, [REAL, *words])


def late_token() -> None:
    """The real launcher is connected, and waits for its token while another switch comes."""
    before = connections()
    reader, writer = os.pipe()
    if os.fork():
        os.set_inheritable(reader, True)
        os.close(writer)
        WORDS[WORDS.index("--token-fd") + 1] = str(reader)
        become()
    os.close(reader)
    wait(lambda: connections() > before)
    succeed()
    os.write(writer, os.read(TOKEN_FD, 32))


def by_hand() -> None:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect(ATTACH)
    link.send(struct.pack("=4sIII32s", b"AXL1", 1, 0, ARCH, os.read(TOKEN_FD, 32)))
    offer = link.recv(1 << 20)
    magic, status, _, flags, count, _ = struct.unpack_from("=4sIIIII", offer)
    assert (magic, status) == (b"AXL1", 0), offer
    if MOMENT == "offered":
        succeed()
    program = ctypes.create_string_buffer(offer[24:])
    filters = struct.pack("=Hxxxxxx" + "Q", count, ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    dead = switch()
    listener = libc.syscall(SECCOMP, 1, 8 | flags, filters)
    assert listener >= 0, os.strerror(ctypes.get_errno())
    if MOMENT == "handed over":  # it finds this in the queue, or has not come to the end of it
        os.kill(dead, signal.SIGSTOP)
    socket.send_fds(link, [struct.pack("=4sI", b"AXL1", 0)], [listener])
    if MOMENT == "handed over":
        os.kill(dead, signal.SIGKILL)
    os.close(listener)
    while len(said := link.recv(1 << 20)) > 8:
        pass  # the program once more
    assert struct.unpack("=4sI", said) == (b"AXL1", 0), said
    words = WORDS[WORDS.index("--") + 1 :]
    os.execvp(words[0], words)


if MOMENT == "registered":
    succeed()
    become()
elif MOMENT == "connected":
    late_token()
else:
    by_hand()
