"""What children tell the keeper: it holds or closes every descriptor, its accounts are right, and it goes on."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path
from typing import Any

from harness.descriptors import is_open
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appswitch.keeper.daemon import Keeper
from appswitch.keeper.notify import NotifySocket

PID = 2**22 + 1  # no process has it

FILES = ("memfd", "pipe", "socket", "null", "epoll", "directory")
names = st.sampled_from(["app-1", "spec-1", "net-1", "journal"]) | st.text(max_size=300)
fields = st.one_of(
    st.sampled_from(["FDSTORE=1", "FDSTOREREMOVE=1", "FDPOLL=0", "READY=1", "BARRIER=1", "FDSTORE=2", "=", "FDNAME="]),
    names.map("FDNAME={}".format),
    st.text(max_size=50).map("STATUS={}".format),
    st.text(max_size=80),
)
said = st.tuples(st.lists(fields, max_size=6).map("\n".join), st.lists(st.sampled_from(FILES), max_size=6))


class Held:
    """A keeper with one child that never runs, in this process."""

    def __init__(self, directory: Path) -> None:
        self.keeper = Keeper(str(directory), {"toy": ["/bin/true"]})
        (self.child,) = self.keeper.children
        self.child.pid, self.child.pidfd = PID, -1
        self.keeper.epoll = select.epoll()
        self.keeper.notify = NotifySocket(str(directory / "notify.sock"))
        self._others: list[Any] = []

    def file(self, kind: str) -> int:
        match kind:
            case "memfd":
                return os.memfd_create("x")
            case "pipe":
                reader, writer = os.pipe()
                os.close(writer)  # hung up from the beginning
                return reader
            case "socket":
                ours, theirs = socket.socketpair()
                self._others.append(ours)
                return theirs.detach()
            case "epoll":
                return os.dup(self.keeper.epoll.fileno())  # it cannot watch itself
            case "directory":
                return os.open("/", os.O_RDONLY)
        return os.open("/dev/null", os.O_RDONLY)

    def close(self) -> None:
        self.keeper._discard(self.child.store.take(lambda _name, _fd: True))
        self.keeper.epoll.close()
        self.keeper.notify.socket.close()
        for one in self._others:
            one.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(said, max_size=8))
def test_whatever_a_child_says(tmp_path: Path, messages: list[tuple[str, list[str]]]) -> None:
    held = Held(tmp_path)
    try:
        numbers: list[int] = []
        for text, kinds in messages:
            fds = [held.file(kind) for kind in kinds]
            numbers += fds
            held.keeper._told(PID, text, fds)
            store = held.child.store
            stored = [fd for _, fd in store.entries]
            assert len(set(stored)) == len(stored)
            assert all(map(is_open, stored))
            assert store.names == sum(len(name) + 1 for name, _ in store.entries)
            for name, _ in store.entries:
                assert ":" not in name
                assert name.isprintable()
            open_now = {fd for fd in fds if is_open(fd)}
            assert open_now <= set(stored), "what is not kept is closed"
    finally:
        held.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000), st.lists(st.sampled_from(FILES), max_size=20))
def test_whatever_arrives(tmp_path: Path, data: bytes, kinds: list[str]) -> None:
    """As packets, whose bytes need be no text: all their descriptors are the receiver's."""
    held = Held(tmp_path)
    fds = [held.file(kind) for kind in kinds]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(held.keeper.notify.path)
            socket.send_fds(sock, [data], fds)
        message = held.keeper.notify.receive()
        assert message is not None
        pid, text, received = message
        assert pid == os.getpid()
        assert len(received) == len(fds)
        held.keeper._told(pid, text, received)
        assert not any(map(is_open, received)), "of a stranger nothing is kept"
    finally:
        for fd in fds:
            os.close(fd)
        held.close()
