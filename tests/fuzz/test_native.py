"""appswitch._kernel with arguments that nobody meant: an exception of Python's or an errno, and nothing else.

Under `make sanitize` the module is instrumented: then a read or write beyond what is there ends the process.
"""

from __future__ import annotations

import ast
import contextlib
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import appswitch
from appswitch import _kernel
from appswitch._kernel import Fd

NOBODY = 2**22 + 1  # more than any pid: nobody's memory, nobody's descriptors
UNIX, INET, INET6, STREAM, DGRAM = 1, 2, 10, 1, 2
STUB = ast.parse((Path(appswitch.__file__).parent / "_kernel.pyi").read_text("utf-8"))
FUNCTIONS = {
    one.name: [ast.unparse(argument.annotation) for argument in one.args.posonlyargs if argument.annotation]
    for one in STUB.body
    if isinstance(one, ast.FunctionDef)
}
NOT_HERE = {
    "signal_fd",  # blocks every signal of this process
    "wait",  # has a test of its own
    "watch_over",  # from then on other threads close some descriptors, at their time
}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
MAY_FAIL = (TypeError, ValueError, OverflowError, OSError, MemoryError)
here = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

numbers = st.one_of(
    st.integers(-3, 3), st.sampled_from([NOBODY, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**63, 2**64 - 1, 2**64, 2**80])
)
local = st.binary(max_size=300).map(lambda one: one.replace(b"/", b"_"))
things = st.one_of(
    numbers,
    st.none(),
    st.binary(max_size=200),
    st.text(max_size=5),
    st.floats(),
    st.just({}),
    st.just(()),
    st.just([1]),
)


class Files:
    """What a function may be given as a descriptor: nothing of anybody else's."""

    def __init__(self) -> None:
        self.closed = Fd(os.dup(0))
        self.closed.close()
        self.made: list[Fd] = []
        self.maker = {
            "null": lambda: Fd(os.open("/dev/null", os.O_RDWR)),
            "unix": lambda: _kernel.socket(UNIX, STREAM, 0),
            "tcp": lambda: _kernel.socket(INET, STREAM, 0),
            "tcp6": lambda: _kernel.socket(INET6, STREAM, 0),
            "udp": lambda: _kernel.socket(INET, DGRAM, 0),
            "epoll": lambda: Fd(os.dup(self.epoll.fileno())),
            "memfd": lambda: Fd(os.memfd_create("x")),
            "closed": lambda: self.closed,
        }
        self.epoll = select.epoll()

    def make(self, kind: str) -> Fd:
        fd = self.maker[kind]()
        self.made.append(fd)
        return fd

    def clear(self) -> None:
        for fd in self.made:
            fd.close()
        self.made.clear()

    def close(self) -> None:
        self.clear()
        self.epoll.close()


KINDS = ("null", "unix", "tcp", "tcp6", "udp", "epoll", "memfd", "closed")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """In an empty directory: some functions make files there."""
    monkeypatch.chdir(tmp_path)
    one = Files()
    yield one
    one.close()


def opened() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names will do


def arguments(types: list[str]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Mostly as the stub has them; some are something else, some are missing, some are too many."""
    fds = st.sampled_from(KINDS).map(lambda kind: ("fd", kind))
    by_type: dict[str, st.SearchStrategy[tuple[str, Any]]] = {
        "_Fd": fds,
        "Fd": fds,
        "Fd | int": fds | st.just(("is", -1)),
        "int": numbers.map(lambda one: ("is", one)),
        "bytes": local.map(lambda one: ("is", one)),
    }
    anything = fds | things.map(lambda one: ("is", one))
    good = [by_type.get(one, anything) for one in types]
    return st.one_of(
        st.tuples(*good).map(list),
        st.tuples(*good).map(list),
        st.tuples(*(one | anything for one in good)).map(list),
        st.lists(anything, max_size=8),
    )


def test_the_stub_has_all_of_them() -> None:
    assert set(FUNCTIONS) == {name for name in dir(_kernel) if name[0].islower()}


@settings(here, max_examples=10 * EXAMPLES)
@given(st.sampled_from(sorted(FUNCTIONS.keys() - NOT_HERE)), st.data())
def test_any_arguments(files: Files, name: str, data: st.DataObject) -> None:
    """Numbers are never descriptors that are open here, nor processes that live."""
    chosen = data.draw(arguments(FUNCTIONS[name]))
    given_arguments = [files.make(one) if what == "fd" else _harmless(one) for what, one in chosen]
    before = opened()
    with contextlib.suppress(*MAY_FAIL):
        result: Any = getattr(_kernel, name)(*given_arguments)
        del result
    files.clear()
    assert opened() <= before, "it has left something open"
    for left in Path().iterdir():
        left.unlink()


def _harmless(one: Any) -> Any:
    """Small numbers would be standard input and output; a path would be a file's that is not ours."""
    if isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 1024:
        return one + NOBODY
    return one.replace(b"/", b"_") if isinstance(one, bytes) else one


# --- addresses: well formed, cut off, too long, of other families; never one that is reached over a network


v4 = st.builds(
    lambda port, rest: struct.pack(">H4s", port, b"\x7f\0\0\1") + rest, st.integers(0, 65535), st.binary(max_size=130)
)
v6 = st.builds(
    lambda port, flow, rest: struct.pack(">HI16s", port, flow, bytes(15) + b"\1") + rest,
    st.integers(0, 65535), st.integers(0, 2**32 - 1), st.binary(max_size=130),
)  # fmt: skip
sockaddrs = st.one_of(
    v4.map(lambda one: b"\2\0" + one),
    v6.map(lambda one: b"\x0a\0" + one),
    local.map(lambda one: b"\1\0" + one),
    st.tuples(st.sampled_from([b"\0\0", b"\x10\0", b"\x11\0", b"\x28\0", b"\xff\xff", b""]), local).map(b"".join),
).flatmap(lambda one: st.just(one) | st.integers(0, len(one)).map(lambda size: one[:size]))
sockets = st.sampled_from(["unix", "tcp", "tcp6", "udp"])


@settings(here, max_examples=4 * EXAMPLES)
@given(
    st.sampled_from(["bind", "connect", "connect_unix", "bind_unix", "send_to", "listen_and_accept"]),
    sockets,
    sockaddrs,
    local,
    st.binary(max_size=600),
    st.integers(-(2**31), 2**31 - 1),
)
def test_any_address(files: Files, call: str, kind: str, raw: bytes, name: bytes, data: bytes, number: int) -> None:
    fd = files.make(kind)
    functions: dict[str, Callable[[], Any]] = {
        "bind": lambda: _kernel.bind(fd, raw),
        "connect": lambda: _kernel.connect(fd, raw),
        "connect_unix": lambda: _kernel.connect_unix(fd, name, data.replace(b"/", b"_")),
        "bind_unix": lambda: _kernel.bind_unix(fd, name),
        "send_to": lambda: _kernel.send_to(fd, data, raw, data[::-1], number & 0x40),
        "listen_and_accept": lambda: (_kernel.bind(fd, raw), _kernel.listen(fd, number), _kernel.accept(fd)),
    }
    before = opened()
    with contextlib.suppress(*MAY_FAIL):
        functions[call]()
        for ask in (_kernel.getsockname, _kernel.getpeername, _kernel.cookie, _kernel.status_flags, _kernel.is_shut):
            ask(fd)
    assert opened() <= before
    files.clear()
    for left in Path().iterdir():
        left.unlink()


@here
@given(sockets, st.integers(-5, 300), st.integers(-5, 300), st.binary(max_size=300), st.integers(-1, 70000))
def test_any_option(files: Files, kind: str, level: int, option: int, data: bytes, size: int) -> None:
    fd = files.make(kind)
    for use in (
        lambda: _kernel.setsockopt(fd, level, option, data),
        lambda: _kernel.getsockopt(fd, level, option, size),
        lambda: _kernel.attach_filter(fd, data),
        lambda: _kernel.peek(fd, size),
        lambda: _kernel.inherit(fd, files.make("tcp")),
        lambda: _kernel.inherit_datagram(fd, files.make("udp")),
    ):
        with contextlib.suppress(*MAY_FAIL):
            use()
    files.clear()


@here
@given(local.filter(lambda one: 0 < len(one) <= 100))
def test_names_of_others_in_the_list_of_sockets(files: Files, name: bytes) -> None:
    """Anybody on the host may have a socket with any name: it is listed as it is."""
    fd = files.make("unix")
    if _kernel.bind_unix(fd, b"\0" + name) == 0 and _kernel.listen(fd, 1) == 0:
        cookie = _kernel.cookie(fd)
        (found,) = (row for row in _kernel.dump_unix(0xFFF) if row[0] == cookie)
        assert found[6] == b"\0" + name
    files.clear()


@here
@given(
    st.dictionaries(numbers, things, max_size=3),
    st.dictionaries(numbers, things, max_size=3),
    st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 3) | st.tuples(things, things),
    st.sampled_from([0, 1, 8, 79, 80, 4096]),
)
def test_waiting(files: Files, born: dict[int, Any], steady: dict[int, Any], calls: Any, size: int) -> None:
    """With dictionaries that hold anything, journals of any size, and an event of a file that is no notifier."""
    ours, theirs = socket.socketpair()
    with ours, theirs, mmap.mmap(-1, size) if size else mmap.mmap(-1, 1) as journal:
        number = ours.fileno()
        assert _kernel.epoll_watch(files.epoll.fileno(), 1, number, select.EPOLLOUT, number + _kernel.NOTIFIER) == 0
        with contextlib.suppress(*MAY_FAIL):
            _kernel.wait(files.epoll.fileno(), 0, calls, born, journal, {NOBODY: 1}, steady)
        _kernel.epoll_watch(files.epoll.fileno(), 2, number, 0, 0)
