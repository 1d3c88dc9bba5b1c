"""The switch's end of ax-splice: a process that carries bytes between an app's Unix socket and a TCP socket.

Needed only where the first bytes of a connection decide which destination outside it goes to. The process is started
with the first pair, ends with its last one once its control socket is closed, and goes on when the switch ends: a
successor starts its own, and no longer lists the pairs of the old one. The messages are those of native/splicer.c.
Nothing here waits. See docs/design/splicer.md.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.switch.descriptors import twin
from appswitch.switch.held import Splice
from appswitch.switch.loop import Loop, Timer

VERSION = 1
CONTROL = 3  # the descriptor of the process
QUEUE = 1024  # messages that the process may be behind; more pairs are refused with ENOBUFS
ASK = 1.0  # seconds between questions for the counts of bytes
HELLO, PAIR, QUERY, CLOSED, REFUSED, ROW, END = range(1, 8)
_REQUEST = struct.Struct("=IIQ")
_RECORD = struct.Struct("=IIQQQ")  # kind, value, id, bytes up, bytes down
_PACKET = 128 * _RECORD.size
_DEAD = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)  # of send(2), when the process is

OnClosed = Callable[[int, int, int, int], None]  # id, bytes up, bytes down, errno or 0
Log = Callable[..., None]  # `report.Log`


class Pair(NamedTuple):
    """A connection that is carried. Bytes are as of the last answer, at most a few seconds old."""

    id: int
    info: Splice
    up: int = 0  # bytes from the app
    down: int = 0  # bytes to the app


def binary() -> str:
    """Where the program is installed."""
    return str(Path(__file__).parent.parent / "_bin" / "ax-splice")


class Splicer:
    """The process and its pairs. ``on_closed`` is called once for every pair, from the loop, whatever ended it."""

    def __init__(self, loop: Loop, binary_path: str, log: Log) -> None:
        self.on_closed: OnClosed = lambda _id, _up, _down, _error: None
        self.spliced_total = 0  # pairs so far
        self._ended_bytes = 0
        self._loop = loop
        self._binary = binary_path
        self._log = log
        self._pairs: dict[int, Pair] = {}
        self._queue: deque[tuple[bytes, tuple[Fd, ...]]] = deque()
        self._process: _Process | None = None
        self._timer: Timer | None = None
        self._unanswered = False  # a QUERY

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def spliced_bytes(self) -> int:
        """Of all pairs so far, both ways; of those that live as of the last answer."""
        return self._ended_bytes + sum(pair.up + pair.down for pair in self._pairs.values())

    @property
    def pid(self) -> int:
        """Of the process; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def rows(self) -> list[Pair]:
        """The pairs that live, the oldest first."""
        return list(self._pairs.values())

    def pair(self, info: Splice, unix: Fd, tcp: Fd) -> int:
        """Carry bytes between two connected stream sockets, which are given away. The id of the pair, never 0.

        Raises OSError, and closes both, when the process cannot be started or does not read. What goes wrong later
        comes to ``on_closed``: EMFILE when there are too many pairs, ECONNABORTED when the process died.
        """
        try:
            self._make_ready()
        except OSError:
            unix.close()
            tcp.close()
            raise
        self.spliced_total += 1
        number = self.spliced_total
        self._pairs[number] = Pair(number, info)
        self._send(_REQUEST.pack(PAIR, 0, number), (unix, tcp))
        self._ask_later()
        return number

    def _make_ready(self) -> None:
        if len(self._queue) >= QUEUE:
            raise OSError(errno.ENOBUFS, "the splicer does not read")
        if self._process is None:
            self._start()

    def close(self) -> None:
        """Leave the process alone: it goes on with its pairs, but for those that it has not been told of yet."""
        process, self._process = self._process, None
        if process is not None:
            process.forget(self._loop)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._queue.clear()
        self._pairs.clear()

    # -- the process

    def _start(self) -> None:
        process = self._process = _Process(self._binary)
        self._unanswered = False
        self._loop.watch(process.control.fileno(), select.EPOLLIN, self._on_events)
        self._loop.watch(process.pidfd, select.EPOLLIN, lambda _events: self._on_death())

    def _on_death(self) -> None:
        process = self._process
        assert process is not None
        self._read(process)  # what it said before
        status = process.reap()
        self._log("the splicer ended", pid=process.pid, status=status, pairs=len(self._pairs))
        process.forget(self._loop)
        self._process = None
        self._queue = deque((packet, fds) for packet, fds in self._queue if fds)
        waiting = {_number(packet) for packet, _ in self._queue}
        for number in [number for number in self._pairs if number not in waiting]:
            self._ended(number, 0, 0, errno.ECONNABORTED)
        self._go_on()

    def _go_on(self) -> None:
        """Give a new process the pairs that the old one was not told of: they have lost nothing."""
        if not self._queue:
            return
        try:
            if self._process is None:
                self._start()
        except OSError as problem:
            self._log("no splicer", error=str(problem))
            lost, self._queue = self._queue, deque()
            for packet, fds in lost:
                self._failed(packet, fds, problem.errno or errno.ECONNABORTED)
            return
        self._flush()

    # -- telling it

    def _send(self, packet: bytes, fds: tuple[Fd, ...]) -> None:
        self._queue.append((packet, fds))
        if len(self._queue) == 1:
            self._flush()

    def _flush(self) -> None:
        process = self._process
        if process is None:
            return
        while self._queue and self._process is process:
            packet, fds = self._queue[0]
            twins = [twin(fd) for fd in fds]  # until ours are closed
            error = process.send(packet, fds)
            if error in _DEAD:
                return  # its pidfd will say so, and the next one gets what is left
            if error == errno.EAGAIN:
                break
            self._queue.popleft()
            if error:
                self._failed(packet, fds, error)
            for fd in fds:
                fd.close()
            twins.clear()
        if self._process is process:
            process.want_to_send(self._loop, bool(self._queue))

    def _failed(self, packet: bytes, fds: tuple[Fd, ...], error: int) -> None:
        """It was not told: ETOOMANYREFS, ENOBUFS."""
        if fds:
            self._ended(_number(packet), 0, 0, error)
        else:
            self._unanswered = False

    def _ask_later(self) -> None:
        if self._timer is None and self._pairs:
            self._timer = self._loop.after(ASK, self._ask)

    def _ask(self) -> None:
        self._timer = None
        if self._process is not None and not self._unanswered and not self._queue:
            self._unanswered = True
            self._send(_REQUEST.pack(QUERY, 0, 0), ())
        self._ask_later()

    # -- hearing it

    def _on_events(self, events: int) -> None:
        process = self._process
        if process is None:
            return
        if events & (select.EPOLLIN | select.EPOLLHUP) and not self._read(process):
            self._loop.unwatch(process.control.fileno())
        elif events & select.EPOLLOUT:
            self._flush()

    def _read(self, process: _Process) -> bool:
        """Everything that is there. Whether there will be more."""
        while self._process is process:
            packet = process.receive()
            if packet is None:
                return True
            if not packet:
                return False
            for record in _RECORD.iter_unpack(packet):
                self._on_record(process, *record)
        return False

    def _on_record(self, process: _Process, kind: int, value: int, number: int, up: int, down: int) -> None:
        if kind in (CLOSED, REFUSED):
            self._ended(number, up, down, value)
        elif kind == ROW and number in self._pairs:
            self._pairs[number] = self._pairs[number]._replace(up=up, down=down)
        elif kind == END:
            self._unanswered = False
        elif kind == HELLO and value != VERSION:
            self._log("the splicer is of another version", version=value, wanted=VERSION)
            process.kill()

    def _ended(self, number: int, up: int, down: int, error: int) -> None:
        pair = self._pairs.pop(number, None)
        if pair is None:
            return
        up, down = max(up, pair.up), max(down, pair.down)  # a dead process has not told its last counts
        self._ended_bytes += up + down
        self.on_closed(number, up, down, error)


def _number(packet: bytes) -> int:
    number: int = _REQUEST.unpack(packet)[2]
    return number


class _Process:
    """A running ax-splice. It shares nothing with the switch but the control socket. Raises OSError."""

    def __init__(self, path: str) -> None:
        self._wants_to_send = False
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        with theirs:
            try:
                self.pid = _spawn(path, theirs.fileno())
            except OSError:
                self.control.close()
                raise
        try:
            self.pidfd = Fd(os.pidfd_open(self.pid))
        except OSError:
            self.control.close()
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)  # it has hardly begun
            raise

    def send(self, packet: bytes, fds: tuple[Fd, ...]) -> int:
        """0 or an errno."""
        try:
            socket.send_fds(self.control, [packet], [fd.fileno() for fd in fds])
        except OSError as problem:
            return problem.errno or errno.EIO
        return 0

    def receive(self) -> bytes | None:
        """A packet; empty at the end; None when there is none yet."""
        while True:
            try:
                return self.control.recv(_PACKET)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue  # it died without having read everything; what it has said is still there

    def want_to_send(self, loop: Loop, wanted: bool) -> None:
        """Whether `Splicer._on_events` is to be called when there is room for a packet."""
        if wanted != self._wants_to_send:
            self._wants_to_send = wanted
            loop.rearm(self.control.fileno(), select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def kill(self) -> None:
        """At once. Its pidfd will say so."""
        signal.pidfd_send_signal(self.pidfd.fileno(), signal.SIGKILL)

    def reap(self) -> int:
        """Of a process that has ended, its exit status or the negative number of a signal."""
        result = os.waitid(os.P_PIDFD, self.pidfd.fileno(), os.WEXITED | os.WNOHANG)
        if result is None:
            return 0
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def forget(self, loop: Loop) -> None:
        """Close what is ours."""
        for one in (self.control, self.pidfd):
            loop.unwatch(one.fileno())
            one.close()


def _spawn(path: str, control: int) -> int:
    """In a session of its own, so that ^C at the daemon's terminal does not end it; with nothing else of ours."""
    variables = [name + b"=" + value for name, value in os.environb.items()]
    return _kernel.spawn([os.fsencode(path)], variables, control)
