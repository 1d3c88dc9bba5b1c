"""Whoever is connected to the delegation endpoint: a proxy with the connections it has, or an app that offers one."""

from __future__ import annotations

import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from appswitch._kernel import Fd
from appswitch.delegate import messages
from appswitch.delegate.errors import MalformedError, Reason
from appswitch.delegate.metadata import Metadata
from appswitch.routing.route import Delegate
from appswitch.switch.held import Held
from appswitch.switch.loop import Timer

if TYPE_CHECKING:
    from appswitch.switch.core import Switch
    from appswitch.switch.endpoint import Endpoint

_UCRED = struct.Struct("=iII")
MAX_SENT = 253  # descriptors with one packet, SCM_MAX_FD: all are received, and closed where they are too many
PATIENCE = 10.0  # seconds in which whoever connects has to say who it is
TAKEN = 1 << 16  # connections whose end is waited for; of a proxy that never tells, the oldest are forgotten
UNANSWERED = 1024  # connections that a proxy may have without an answer, whatever its capacity
UNSENT = 1024  # connections that a proxy may be behind with reading; more have failed


class Pending:
    """A connection that a proxy has got and not answered yet."""

    __slots__ = ("fd", "held", "offerer", "server_end", "timer", "verdict")

    def __init__(self, fd: Fd, held: Held, verdict: Delegate) -> None:
        self.fd = fd  # the client's other end
        self.held = held
        self.verdict = verdict
        self.server_end: Fd | None = None  # of a pair whose other end the proxy has, for the server to accept
        self.offerer: Guest | None = None  # who handed over a socket of its own
        self.timer: Timer | None = None


class Guest:
    """One connection to the endpoint: a proxy, or an app that offers a socket."""

    def __init__(self, switch: Switch, endpoint: Endpoint, connection: socket.socket) -> None:
        self.pid, self.uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        self.name = ""  # of a proxy
        self.capacity = 0  # 0: no limit
        self.pending: dict[int, Pending] = {}
        self._taken: dict[int, None] = {}
        self._endpoint = endpoint
        self._loop = switch.loop
        self._log = switch.log
        self._connection = connection
        self._unsent: deque[tuple[int, bytes, Sequence[Fd]]] = deque()  # connection, or 0
        self._offered = False
        self._patience: Timer | None = self._loop.after(PATIENCE, self.close)  # to say who it is
        self._loop.watch(connection.fileno(), select.EPOLLIN, self._on_events)

    @property
    def active(self) -> int:
        """Connections that it has taken and not reported as done."""
        return len(self._taken)

    @property
    def idle(self) -> bool:
        """Whether it has not even said who it is."""
        return self._patience is not None

    @property
    def full(self) -> bool:
        """Whether it gets no more for the moment."""
        busy = len(self.pending) + len(self._taken)
        if len(self._unsent) >= UNSENT or len(self.pending) >= UNANSWERED:
            return True
        return bool(self.capacity and busy >= self.capacity)

    def hand_over(self, number: int, metadata: Metadata, descriptors: Sequence[Fd]) -> None:
        """Ask it about a connection."""
        self._post(number, messages.encode(messages.Handover(metadata)), descriptors)

    def post(self, message: messages.FromDaemon) -> None:
        """Say something that goes without descriptors."""
        self._post(0, messages.encode(message), ())

    def _post(self, number: int, packet: bytes, descriptors: Sequence[Fd]) -> None:
        """Now, or when there is room."""
        if self._connection.fileno() >= 0:
            self._unsent.append((number, packet, descriptors))
            self._flush()

    def refuse(self, reason: Reason, detail: str) -> None:
        """Say no, and end the conversation."""
        self.post(messages.Refused(reason, detail))
        self.close()

    def too_late(self, number: int) -> None:
        """It has had its time to answer. What it has not been sent yet is another's from now on."""
        pending = self.pending.pop(number, None)
        if pending is not None:
            self._unsent = deque(one for one in self._unsent if one[0] != number)
            self._endpoint.failed(self.name, pending)

    def close(self) -> None:
        """It has gone, or has to go: what it did not answer goes another way."""
        if self._connection.fileno() < 0:
            return
        self._loop.unwatch(self._connection.fileno())
        Fd(self._connection.detach()).close()  # what is in its queue may linger: native/kernel/patience.c
        self._forget_patience()
        self._unsent.clear()
        self._endpoint.left(self)
        pending, self.pending = self.pending, {}
        for one in pending.values():
            if one.timer is not None:
                one.timer.cancel()
            self._endpoint.failed(self.name, one)

    def _forget_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    # -- packets

    def _on_events(self, events: int) -> None:
        if events & select.EPOLLIN:
            self._read()
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            self.close()
        if events & select.EPOLLOUT:
            self._flush()

    def _read(self) -> None:
        try:
            packet, numbers, _, _ = socket.recv_fds(self._connection, messages.MAX_PACKET + 1, MAX_SENT)
        except (BlockingIOError, ConnectionResetError):
            return  # a reset is told before what was sent earlier: unix(7)
        except OSError:
            self.close()
            return
        descriptors = [Fd(number) for number in numbers]  # owned before they are judged
        if not packet:
            self.close()
            return
        try:
            self._take(messages.decode_to_daemon(packet, len(descriptors)), descriptors)
        except MalformedError as problem:
            self._log("a proxy is cut off", proxy=self.name, pid=self.pid, reason=str(problem))
            self.refuse(Reason.MALFORMED, str(problem))

    def _take(self, message: messages.ToDaemon, descriptors: list[Fd]) -> None:
        """Raises MalformedError for what is out of turn."""
        match message:
            case messages.Hello() if not self.name and not self._offered:
                self._hello(message)
            case messages.Verdict() if self.name:
                self._verdict(message)
            case messages.Done() if self.name:
                self._taken.pop(message.connection, None)
            case messages.Offer() if not self.name and not self._offered:
                self._offered = True
                self._forget_patience()
                self._endpoint.offer(self, message.metadata, descriptors)
            case _:
                raise MalformedError(f"{type(message).__name__} out of turn")

    def _hello(self, message: messages.Hello) -> None:
        self._forget_patience()
        reply = self._endpoint.hello(self, message)
        if isinstance(reply, messages.Refused):
            self.refuse(reply.reason, reply.detail)
            return
        self.name = message.name
        self.post(reply)

    def _verdict(self, message: messages.Verdict) -> None:
        """One that it answers twice, too late, or for another's connection is nobody's any more."""
        pending = self.pending.pop(message.connection, None)
        if pending is None:
            return
        if pending.timer is not None:
            pending.timer.cancel()
        if self._endpoint.answered(self.name, pending, message):
            self._taken[message.connection] = None
            if len(self._taken) > TAKEN:
                del self._taken[next(iter(self._taken))]

    def _flush(self) -> None:
        if self._connection.fileno() < 0:
            return
        try:
            while self._unsent:
                _, packet, descriptors = self._unsent[0]
                socket.send_fds(self._connection, [packet], [fd.fileno() for fd in descriptors])
                self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
        self._loop.rearm(self._connection.fileno(), wanted)
