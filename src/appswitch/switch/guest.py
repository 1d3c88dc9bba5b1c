"""Whoever is connected to the delegation endpoint: a proxy with the connections it has, or an app that offers one."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from appswitch._kernel import Fd
from appswitch.delegate import messages
from appswitch.delegate.errors import MalformedError, Reason, VersionError
from appswitch.switch.descriptors import twin
from appswitch.switch.loop import Timer
from appswitch.switch.pending import Pending, Phase
from appswitch.switch.turns import in_turn

if TYPE_CHECKING:
    from appswitch.switch.core import Switch
    from appswitch.switch.endpoint import Endpoint

_UCRED = struct.Struct("=iII")
MAX_SENT = 253  # descriptors with one packet, SCM_MAX_FD: all are received, and closed where they are too many
PATIENCE = 10.0  # seconds in which whoever connects has to say who it is
TAKEN = 1 << 16  # connections whose end is waited for; of a proxy that never tells, the oldest are forgotten
UNANSWERED = 1024  # connections that a proxy may have without an answer, whatever its capacity
UNSENT = 1024  # packets that a proxy may be behind with reading; more have failed
STRAYS = 64  # words about connections that it does not have, beyond those that were withdrawn; more is a flood
_SHORT = frozenset((errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM, errno.EMSGSIZE))  # of sendmsg(2): not the link's


class Guest:
    """One connection to the endpoint: a proxy, or an app that offers a socket."""

    def __init__(self, switch: Switch, endpoint: Endpoint, connection: socket.socket) -> None:
        self.pid, self.uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        self.name = ""  # of a proxy
        self.capacity = 0  # 0: no limit
        self.wanted = 0  # the same, as it has said itself
        self.pending: dict[int, Pending] = {}
        self.offered: Pending | None = None  # by an app, until it has been told what became of it
        self._taken: dict[int, None] = {}
        self._endpoint = endpoint
        self._loop = switch.loop
        self._log = switch.log
        self._connection = connection
        self._unsent: deque[Pending | bytes] = deque()
        self._has_offered = False
        self._credit = STRAYS
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

    @property
    def closed(self) -> bool:
        """Whether it has gone."""
        return self._connection.fileno() < 0

    def ask(self, pending: Pending, number: int, seconds: float) -> None:
        """Ask it about a connection, under a number that no other one has."""
        pending.guest, pending.number, pending.phase = self, number, Phase.QUEUED
        pending.timer = self._loop.after(seconds, lambda: self._too_late(pending))
        self.pending[number] = pending
        self._post(pending)

    def post(self, message: messages.FromDaemon, version: int = messages.VERSION) -> None:
        """Say something that goes without descriptors."""
        self._post(messages.encode(message, version))

    def _post(self, one: Pending | bytes) -> None:
        """Now, or when there is room."""
        if not self.closed:
            self._unsent.append(one)
            self._flush()

    def refuse(self, reason: Reason, detail: str, version: int = messages.VERSION) -> None:
        """Say no, and end the conversation."""
        self.part(messages.Refused(reason, detail), version)

    def part(self, message: messages.FromDaemon, version: int = messages.VERSION) -> bool:
        """The last word. Whether it has been sent."""
        self.offered = None
        self.post(message, version)
        told = not self.closed and not self._unsent
        self.close()
        return told

    def withdraw(self, pending: Pending, reason: Reason) -> None:
        """It is not to have a connection that it was not sent: whatever it says of it has no effect any more."""
        if pending.number not in self.pending:
            return
        self._forget(pending)
        if pending.phase is not Phase.QUEUED:
            self._credit += 2  # an ACCEPT may cross with it, and the FAIL of one that gives up waiting
            self.post(messages.Withdrawn(pending.number, reason))

    def _forget(self, pending: Pending) -> None:
        del self.pending[pending.number]
        pending.settled()
        with contextlib.suppress(ValueError):
            self._unsent.remove(pending)

    def _too_late(self, pending: Pending) -> None:
        """It has had its time to accept, and to read what it then was to be sent."""
        self.withdraw(pending, Reason.TIMEOUT)
        self._endpoint.failed(self.name, pending)

    def close(self) -> None:
        """It has gone, or has to go: what it does not have goes another way."""
        if self.closed:
            return
        self._loop.unwatch(self._connection.fileno())
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        confirmed = self._hear_out()
        Fd(self._connection.detach()).close()  # what is in its queue may linger: native/kernel/patience.c
        self._forget_patience()
        self._unsent.clear()
        self._endpoint.left(self)
        for one in self.pending.values():
            one.settled()
        has = [self.pending.pop(number) for number in confirmed]
        then = [partial(self._endpoint.taken, self.name, one) for one in has]
        then += [partial(self._endpoint.failed, self.name, one) for one in self.pending.values()]
        in_turn(self._loop, then)
        self.pending = {}
        offered, self.offered = self.offered, None
        if offered is not None and offered.guest is not None:
            offered.offerer = None  # or the two would keep each other, and the descriptors
            offered.guest.withdraw(offered, Reason.GONE)

    def _hear_out(self) -> list[int]:
        """What it has confirmed it has, though nobody has read that yet; since `shutdown` no more can come.

        One that has said more than a proxy can owe is given the benefit of the doubt: two may not have a connection.
        """
        sent = {number for number, one in self.pending.items() if one.phase is Phase.SENT}
        confirmed: list[int] = []
        for _ in range(4 * UNANSWERED if sent else 0):
            with contextlib.suppress(ConnectionResetError, MalformedError):
                try:
                    packet = self._connection.recv(messages.MAX_PACKET)
                except BlockingIOError:
                    return confirmed
                if not packet:
                    return confirmed
                message = messages.decode_to_daemon(packet)
                if isinstance(message, messages.Received | messages.Done) and message.connection in sent:
                    sent.discard(message.connection)
                    confirmed.append(message.connection)
        return [*confirmed, *sent]

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
            packet, numbers, _, _ = socket.recv_fds(
                self._connection, messages.MAX_PACKET + 1, MAX_SENT, socket.MSG_CMSG_CLOEXEC
            )
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
        except VersionError as problem:
            ours, theirs = messages.VERSION, problem.version or messages.VERSION
            self.refuse(Reason.VERSION, f"this daemon speaks version {ours} of the protocol: {problem}", theirs)
        except MalformedError as problem:
            self._log("a proxy is cut off", proxy=self.name, pid=self.pid, reason=str(problem))
            self.refuse(Reason.MALFORMED, str(problem))

    def _take(self, message: messages.ToDaemon, descriptors: list[Fd]) -> None:
        """Raises MalformedError for what is out of turn."""
        match message:
            case messages.Verdict() if self.name:
                self._verdict(message)
            case messages.Received() if self.name:
                self._received(message.connection)
            case messages.Done() if self.name:
                self._done(message.connection)
            case messages.Hello() if not self.name and not self._has_offered:
                self._hello(message)
            case messages.Offer() if not self.name and not self._has_offered:
                self._has_offered = True
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
        pending = self.pending.get(message.connection)
        gives_back = message.action is messages.Action.FAIL and pending is not None and pending.phase.accepted
        if pending is None or not (pending.phase is Phase.ASKED or gives_back):
            self._stray()
            return
        if message.action is not messages.Action.ACCEPT:
            self._forget(pending)
            self._endpoint.answered(self.name, pending, message)
        elif self._endpoint.prepare(self.name, pending):
            pending.phase = Phase.ACCEPTED
            self._post(pending)

    def _received(self, number: int) -> None:
        pending = self.pending.get(number)
        if pending is None or pending.phase is not Phase.SENT:
            self._stray()
            return
        del self.pending[number]
        pending.settled()
        self._taken[number] = None
        if len(self._taken) > TAKEN:
            del self._taken[next(iter(self._taken))]
            self._credit += 1
        self._endpoint.taken(self.name, pending)

    def _done(self, number: int) -> None:
        if number in self.pending:
            self._received(number)
        if self._taken.pop(number, 0) is not None:
            self._stray()

    def _stray(self) -> None:
        """It may have crossed with a time-out; a proxy that has had as many is none. Raises MalformedError."""
        self._credit -= 1
        if self._credit < 0:
            raise MalformedError("more words about other connections than its own")

    def _flush(self) -> None:
        while self._unsent and not self.closed:
            one = self._unsent[0]
            try:
                packet, descriptors = self._packet(one)
                socket.send_fds(self._connection, [packet], [fd.fileno() for fd in descriptors])
            except BlockingIOError:
                break
            except Exception as problem:  # whatever it is: the next ones are not to wait for it
                self._not_sent(one, problem)
                continue
            self._unsent.popleft()
            if isinstance(one, Pending):
                self._sent(one)
        if not self.closed:
            wanted = select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
            self._loop.rearm(self._connection.fileno(), wanted)

    def _packet(self, one: Pending | bytes) -> tuple[bytes, Sequence[Fd]]:
        """Made when there is room, not kept: metadata may be long."""
        if isinstance(one, bytes):
            return one, ()
        if one.phase is Phase.QUEUED:
            return messages.encode(messages.Ask(self._endpoint.metadata(one))), ()
        if one.away is None:
            one.away = twin(one.fd)
        return messages.encode(messages.Handover(one.number)), one.descriptors

    def _sent(self, pending: Pending) -> None:
        if pending.phase is Phase.QUEUED:
            pending.phase = Phase.ASKED
            return
        pending.phase = Phase.SENT
        if pending.timer is not None:  # from here on nobody else may have it while the proxy lives
            pending.timer.cancel()

    def _not_sent(self, one: Pending | bytes, problem: Exception) -> None:
        """The link is broken, or it is this connection alone that cannot be sent."""
        if isinstance(one, bytes) or (isinstance(problem, OSError) and problem.errno not in _SHORT):
            self.close()
            return
        self._log("a connection cannot be handed over", proxy=self.name, connection=one.number, error=repr(problem))
        self.withdraw(one, Reason.OTHER)
        self._endpoint.failed(self.name, one)
