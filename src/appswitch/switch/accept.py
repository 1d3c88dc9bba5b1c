"""accept(2), accept4(2)."""

from __future__ import annotations

import errno
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.switch import naming
from appswitch.switch.call import CONTINUE, LATER, Call, Failed, Outcome, Vanished
from appswitch.switch.flows import Path
from appswitch.switch.parking import Parked
from appswitch.switch.services import Arrival, Service
from appswitch.switch.sockets import CONNECTED, LISTENING

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_NONBLOCK, _CLOEXEC = 0o4000, 0o2000000
_SOL_SOCKET, _SO_REUSEADDR, _SO_RCVTIMEO = 1, 2, 20
_timeval = struct.Struct("=qq")
Entry = list[Any]  # of `Reflex.held`


def accept(switch: Switch, call: Call) -> Outcome:
    """accept(2): no flags."""
    return _accept(switch, call, 0)


def accept4(switch: Switch, call: Call) -> Outcome:
    """accept4(2): SOCK_NONBLOCK and SOCK_CLOEXEC, others are EINVAL."""
    flags = call.int32(3)
    if flags & ~(_NONBLOCK | _CLOEXEC):
        return -errno.EINVAL
    return _accept(switch, call, flags)


def _accept(switch: Switch, call: Call, flags: int) -> Outcome:
    fd, cookie, status = call.fetch()
    sock = switch.sockets.identify(fd, cookie, call.app)
    if sock is None:
        return CONTINUE
    service = switch.services.by_id.get(sock.service) if sock.phase == LISTENING else None
    if service is None:
        return -errno.EINVAL
    if not service.watched:  # it listened before this switch was there
        switch.watch_listener(service, fd)
    outcome = _take(switch, service, call, fd, flags)
    if outcome is not None:
        return outcome
    if status & _NONBLOCK:
        return -errno.EAGAIN
    return _park(switch, service, call, fd, flags, receive_timeout(fd, _SO_RCVTIMEO))


def _park(switch: Switch, service: Service, call: Call, fd: Fd, flags: int, timeout: float | None) -> Outcome:
    """Wait for a connection. The listener is held meanwhile, as a thread in accept(2) holds it."""

    def take(parked: Parked) -> Outcome | None:
        return _take(switch, service, parked.call, parked.fd, parked.flags)

    if timeout is None:
        parked = switch.parking.park_for(service, call, fd, flags, take)
    else:
        again = partial(_take, switch, service, call, fd, flags)
        parked = switch.parking.park(call, fd, 0, again, timeout, -errno.EAGAIN)
    switch.parking.enqueue(parked, service.parked)
    return LATER


def waits(switch: Switch, service: Service, fd: Fd, flags: int, notification: tuple[int, ...]) -> None:
    """`_kernel.Reflex` has found nothing for a call that may wait without an end."""
    call = Call(service.app, switch.pidfds, notification)
    try:
        _park(switch, service, call, fd, flags, None)
    except Failed as failed:
        call.answer(-failed.error)


def arrived(switch: Switch, service: Service) -> None:
    """`_kernel.Reflex` has made a connection, and somebody may wait for it."""
    if service.parked:
        wake(switch, service)


def left(switch: Switch, service: Service, taken: tuple[Fd, bytes, int], listener: int, id: int) -> None:
    """`_kernel.Reflex` has taken a connection that could not be handed over: it stays the next one of the service.

    The caller, if it is still there, gets its errno when others may see that there is one; or it is parked, and gets it
    when it tries again (``listener`` -1).
    """
    connection, raw, error = taken
    link = naming.parse_connection(sockaddr.unix_name(raw))
    if link is not None and service.id in switch.services.by_id:
        service.returned.append(Arrival(connection, link.client, link.server, unix=True))
        if listener < 0:
            wake(switch, service)
        if service.returned:
            switch.doors.ring(service)
    if listener >= 0:
        _kernel.reply(listener, id, 0, error)


def unclaimed(switch: Switch, service: Service, entry: Entry) -> None:
    """A held connection had its turn in the queue, and whoever accepted could not take it: it is the next one."""
    arrival = _arrival(service, entry)
    if service.id not in switch.services.by_id or not switch.offer(service, arrival, patient=True):
        arrival.fd.close()


def _claim(switch: Switch, service: Service, ticket: bytes) -> Arrival | None:
    """The held connection for which a ticket stands in the queue."""
    reflex = switch.loop.reflex
    entry = reflex.tickets.get(service.id, {}).pop(ticket, None)
    if entry is None:
        return None
    reflex.ticketed -= 1
    return _arrival(service, entry)


def _arrival(service: Service, entry: Entry) -> Arrival:
    fd, route, _, port, *_ = entry
    path: Path = route.path
    client = Address(path.client.seen_as(path.source, service.endpoint.bound.ip), port)
    return Arrival(fd, client, service.own(path.destination), True, path.client.id, path.destination)


def purge(switch: Switch, service: Service) -> None:
    """Let go of the listener where its holder is gone: it may be that nobody else has it."""
    while service.parked and not switch.parking.waits(next(iter(service.parked))):
        pass


def wake(switch: Switch, service: Service) -> None:
    """Something arrived, or the socket was shut down: let those who wait try, the longest waiting first."""
    while service.parked:
        first = next(iter(service.parked))
        switch.parking.retry(first)
        if first in service.parked:
            return  # nothing for it, so nothing for the others


def receive_timeout(fd: Fd, option: int) -> float | None:
    """SO_RCVTIMEO or SO_SNDTIMEO in seconds; None for no limit. socket(7)."""
    raw = _kernel.getsockopt(fd, _SOL_SOCKET, option, 16)
    if isinstance(raw, int) or raw == bytes(16):
        return None
    seconds, micro = _timeval.unpack(raw)
    return float(seconds + micro / 1e6)


def _take(switch: Switch, service: Service, call: Call, fd: Fd, flags: int) -> Outcome | None:
    """Give the caller the next connection of a service, wherever it waits; None when there is none.

    A bell goes with the arrival that it was rung for. Were it left in the queue, the listener would seem to be ready,
    and a server that trusts poll(2) and accepts from a blocking socket would hang there until somebody else comes.
    """
    if service.returned and not service.rung:  # the queue was too full for a bell, or the caller waited already
        arrival = _next(switch, service)
        assert arrival is not None
        return _hand_over(switch, service, call, fd, flags, arrival)
    while True:
        taken = _kernel.accept_give(
            call.app.listener, call.id, call.tid, fd, call.args[1], call.args[2], service.family, flags
        )
        if isinstance(taken, int):
            if taken == -errno.EAGAIN:
                break
            if service.doors:
                switch.doors.watch_again(service)
            return LATER if taken >= 0 else taken
        connection, raw, error = taken
        name = sockaddr.unix_name(raw)
        if error:
            link = naming.parse_connection(name)
            assert link is not None
            return _keep(switch, service, Arrival(connection, link.client, link.server, unix=True), error)
        if naming.is_ticket(name):
            claimed = _claim(switch, service, name)
            if claimed is not None:
                return _hand_over(switch, service, call, fd, flags, claimed)
        elif naming.is_bell(name):
            service.rung = False
            arrival = _next(switch, service)
            if arrival is not None:
                return _hand_over(switch, service, call, fd, flags, arrival)
        # else: somebody who has no business there; closed with its Fd
    arrival = _next(switch, service)
    return None if arrival is None else _hand_over(switch, service, call, fd, flags, arrival)


def _next(switch: Switch, service: Service) -> Arrival | None:
    """The next of those that do not come through the Unix socket's own queue. The one after it rings again."""
    arrival = service.returned.popleft() if service.returned else switch.doors.take(service)
    if service.returned:
        switch.doors.ring(service)
    else:
        switch.doors.watch_again(service)
    return arrival


def _hand_over(switch: Switch, service: Service, call: Call, fd: Fd, flags: int, arrival: Arrival) -> Outcome:
    """Give a connection that the switch holds to the caller."""
    try:
        if call.args[1]:
            call.write_result(call.args[1], call.args[2], sockaddr.encode(service.family, arrival.peer))
    except Vanished:
        return _keep(switch, service, arrival, errno.ENOENT)
    _kernel.set_status_flags(arrival.fd, 2 | flags & _NONBLOCK)
    if arrival.client_app is not None or not arrival.unix:  # else its name says everything
        _dress(switch, service, fd, arrival)
    number = call.give_connection(arrival.fd, bool(flags & _CLOEXEC))
    if number < 0:
        return _keep(switch, service, arrival, -number)
    switch.memory.drop(arrival.slot)
    return LATER


def _keep(switch: Switch, service: Service, arrival: Arrival, error: int) -> Outcome:
    """A connection whose caller could not take it stays the next one of the service. Raises Vanished for ENOENT."""
    service.returned.append(arrival)
    switch.doors.ring(service)
    if error == errno.ENOENT:
        raise Vanished
    return -error


def _dress(switch: Switch, service: Service, fd: Fd, arrival: Arrival) -> None:
    """A connection without a name that says it gets its virtual addresses, and its listener's options."""
    sock = switch.sockets.add(arrival.fd, service.app, service.family, unix=arrival.unix)
    sock.local, sock.peer, sock.phase = arrival.local, arrival.peer, CONNECTED
    sock.accepted, sock.peer_app = True, arrival.client_app
    sock.asked = arrival.asked
    sock.options = service.socket.options
    _kernel.inherit(fd, arrival.fd)
    switch.sockets.keep(sock)
    if arrival.unix:
        sock.named = True
        return
    _kernel.setsockopt(arrival.fd, _SOL_SOCKET, _SO_REUSEADDR, int(service.socket.reuseaddr).to_bytes(4, "little"))
    for (level, option), written in sock.options.items():
        _kernel.setsockopt(arrival.fd, level, option, written)
