"""O_NONBLOCK that is lent to an app's file for one call: whoever comes after a switch that is killed takes it back."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import struct
from collections.abc import Callable

import pytest

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel.bpf import JEQ_K, NR, RET_ALLOW, Assembler
from appswitch.switch.estate import take_back
from appswitch.switch.journal import Journal, fresh_memory
from appswitch.switch.syscalls import TABLE

RET_KILL_PROCESS = 0x80000000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2


def die_of(name: str) -> None:
    """From here on this process is killed when it enters the system call."""
    number = next(row.number(platform.machine()) for row in TABLE if row.name == name)
    assert number is not None
    code = Assembler()
    code.load(NR)
    code.jump_if(JEQ_K, number, "kill")
    code.ret(RET_ALLOW)
    code.label("kill")
    code.ret(RET_KILL_PROCESS)
    program = ctypes.create_string_buffer(code.program())
    instructions = (len(program) - 1) // 8
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", instructions, ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, FILTER, fprog, 0, 0) == 0


def killed_in(name: str, call: Callable[[], object], memory: Fd) -> None:
    """A child that does ``call``, noting its loans in ``memory``, and gets no further than the system call."""
    child = os.fork()
    if child == 0:
        try:
            _kernel.note_loans(memory)
            die_of(name)
            call()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGSYS, "it was killed on the way"


def accepting(listener: socket.socket) -> Fd:
    return Fd(os.dup(listener.fileno()))


def waits(sock: socket.socket) -> bool:
    return not _kernel.status_flags(Fd(os.dup(sock.fileno()))) & os.O_NONBLOCK


@pytest.mark.parametrize("name", ["accept4", "connect"])
def test_a_successor_takes_it_back(name: str) -> None:
    memory = fresh_memory()
    journal = Journal(memory)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        address = _kernel.getsockname(accepting(listener))
        assert not isinstance(address, int)
        with socket.create_connection(listener.getsockname()):
            sock = listener if name == "accept4" else client
            fd = Fd(os.dup(sock.fileno()))
            what = (lambda: _kernel.accept(fd)) if name == "accept4" else (lambda: _kernel.connect(fd, address))
            killed_in(name, what, memory)
            assert not waits(sock)
            number, flags = journal.loan()
            assert number == fd.fileno()
            assert not flags & os.O_NONBLOCK
            take_back(journal, [_kernel.pidfd_open(os.getpid(), 0)])  # the table is that of the child
            assert waits(sock)
            assert journal.loan()[0] == 0


def test_whose_number_it_is_must_be_certain() -> None:
    """With two that died one after the other it is not."""
    memory = fresh_memory()
    journal = Journal(memory)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        fd = accepting(listener)
        killed_in("accept4", lambda: _kernel.accept(fd), memory)
        take_back(journal, [_kernel.pidfd_open(os.getpid(), 0)] * 2)
        assert not waits(listener)
        assert journal.loan()[0] == 0


def test_nothing_is_noted_of_a_call_that_is_over() -> None:
    memory = fresh_memory()
    journal = Journal(memory)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        child = os.fork()
        if child == 0:
            try:
                _kernel.note_loans(memory)
                os._exit(isinstance(_kernel.accept(accepting(listener)), int))
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert waits(listener)
        assert journal.loan()[0] == 0
