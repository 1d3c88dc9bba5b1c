"""connect(2): what routing says of it, and who carries that out."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch.address import ANY4, ANY6, Address, is_any
from appswitch.kernel import procfs
from appswitch.kernel.sockaddr import AF_INET
from appswitch.routing.route import Balanced, Delegate, Deny, Home, Local, Outside, Wait
from appswitch.switch import udp
from appswitch.switch.bind import renew
from appswitch.switch.call import Call, Outcome, taken
from appswitch.switch.connecting import GONE, UNSPEC, Attempt, Fixed, learn, local, refuse, source_of, tcp, wait
from appswitch.switch.dial import balanced
from appswitch.switch.flows import Path
from appswitch.switch.naming import Connection as Ends
from appswitch.switch.sockets import CONNECTED, CONNECTING, FINISHING, LISTENING, NEW

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_AF_UNSPEC = bytes(2)


def connect(switch: Switch, call: Call) -> Outcome:
    """connect(2)."""
    fd, cookie, status, raw = call.fetch_sockaddr()
    sock = switch.sockets.identify(fd, cookie, call.app) or switch.sockets.adopt(fd, cookie, call.app, raw)
    if sock is None:
        return udp.connect(switch, call, fd, cookie, status, raw)
    if isinstance(raw, int):
        raw = taken(raw)
    return connect_to(switch, Attempt(call, fd, sock, status, True), raw)


def connect_to(switch: Switch, attempt: Attempt, raw: bytes) -> Outcome:
    """The order of checks is that of inet_stream_connect()."""
    sock = attempt.sock
    if len(raw) < 2:
        return -errno.EINVAL
    if raw.startswith(_AF_UNSPEC):
        return _disconnect(switch, attempt)
    if sock.phase != NEW:
        return _again(switch, attempt)
    path = switch.flows.find(sock.app, sock.family, raw, attempt.call.tid)
    if path.mapped and (sock.v6only or _is_native6(sock.bound)):
        return -errno.ENETUNREACH
    return carry_out(switch, attempt, raw, path)


def carry_out(switch: Switch, attempt: Attempt, raw: bytes, path: Path) -> Outcome:
    """Do what the verdict says. ``raw``: the sockaddr that was asked for."""
    verdict = path.verdict
    # No `match`: a class pattern makes a set, whatever it says, and this is every connection's way.
    if isinstance(verdict, Local):
        return _local(switch, attempt, raw, path, verdict)
    if isinstance(verdict, Balanced):
        if verdict.hold is not None:
            return switch.holding.connect(attempt, path, verdict.hold, raw=raw)
        return balanced(switch, attempt, raw, path, verdict)
    if isinstance(verdict, Delegate):
        return switch.delegation.connect(attempt, raw, path, verdict)
    if isinstance(verdict, Wait):
        return switch.waiting.connect(attempt, raw, path, verdict)
    return _elsewhere(switch, attempt, path, verdict)


def _local(switch: Switch, attempt: Attempt, raw: bytes, path: Path, verdict: Local) -> Outcome:
    source = source_of(attempt.sock, path)
    outcome = local(switch, attempt, path, verdict.endpoints, source, patient=True)
    log = switch.flowlog
    if outcome == GONE:
        log.refused(path.flow, source, verdict, errno.ECONNREFUSED, "")
        return refuse(switch, attempt, Ends(attempt.sock.app.id, 0, source, verdict.to), errno.ECONNREFUSED)
    log.made(1)
    if log.followed or path.dry_run:
        log.told(path.flow, source, verdict, attempt.sock.unix)
    learn(switch, attempt, raw, path, verdict.endpoints, lambda taken: log.made(sum(taken)))
    return outcome


def _elsewhere(switch: Switch, attempt: Attempt, path: Path, verdict: Deny | Outside | Home) -> Outcome:
    source = source_of(attempt.sock, path)
    ends = Ends(attempt.sock.app.id, 0, source, path.to)
    if isinstance(verdict, Deny):
        switch.flowlog.refused(path.flow, source, verdict, verdict.error, verdict.rule)
        return refuse(switch, attempt, ends, verdict.error)
    if isinstance(verdict, Outside):
        switch.flowlog.outside(path.flow, source, verdict)
    if isinstance(verdict, Home):
        return tcp(switch, attempt, Fixed(switch, verdict.to, ends), at_home=True)
    return tcp(switch, attempt, Fixed(switch, verdict.to, ends, path.flow))


def _again(switch: Switch, attempt: Attempt) -> Outcome:
    """connect(2) on a socket that is connected, connecting or listening."""
    sock, tid = attempt.sock, attempt.call.tid
    if sock.phase == FINISHING:
        sock.phase = CONNECTED
        return 0
    if sock.answered == tid and sock.phase == CONNECTED and procfs.catches_passing_signals(tid):
        # A signal may come between our reply and the caller, who then never hears it, though the reply went well
        # (seccomp_do_user_notification()), and makes the call again: the thread is told once more.
        return 0
    if sock.phase == CONNECTING:
        return wait(switch, attempt, -errno.EALREADY)
    return -errno.EISCONN


def _is_native6(bound: Address | None) -> bool:
    return bound is not None and len(bound.ip) == 16 and not is_any(bound.ip)


def _disconnect(switch: Switch, attempt: Attempt) -> Outcome:
    """AF_UNSPEC dissolves the association: connect(2). A Unix socket cannot, so a fresh one takes its place."""
    call, fd, sock, *_ = attempt
    if sock.phase == LISTENING:
        switch.close_service_of(sock)
    left = Address(ANY4 if sock.family == AF_INET else ANY6, sock.local.port) if sock.local else None
    if not sock.unix:
        error = _kernel.connect(fd, UNSPEC)
        sock.local, sock.peer = left, None
        sock.phase = NEW
        switch.sockets.keep(sock)
        return -error
    if sock.phase == NEW:
        return 0
    _kernel.shutdown(fd, 2)
    made, _ = renew(switch, call, sock, fd)
    made.local, made.peer = left, None
    switch.sockets.keep(made)
    return 0
