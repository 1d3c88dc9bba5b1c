"""TCP listening sockets of the host that lead to apps: for `--expose`, and where two apps must talk TCP.

The app waits on a Unix socket, so an arrival here has to wake it: the switch connects a *bell* to the Unix socket,
the app's poll, epoll or select returns, and its accept(2) is answered with the TCP connection. It is accepted only
then: until then it is safe in the kernel's queue. One bell from empty to non-empty, then the door is not watched
until somebody has accepted.

Doors outlive the switch, with what is in their queues: the keeper has them as well (switch/keep.py).
"""

from __future__ import annotations

import errno
import select
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address, is_any
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.switch import naming
from appswitch.switch.exposure import Opening
from appswitch.switch.gates import BATCH, Gates
from appswitch.switch.keep import Keep, Listeners
from appswitch.switch.loop import SHORT, Loop
from appswitch.switch.memory import ArrivalNote, Memory
from appswitch.switch.services import Arrival, Door, Service

_STREAM, _NONBLOCK, _SHUT_RDWR = 1, 0o4000, 2
_SOL_SOCKET, _SO_REUSEADDR, _SO_REUSEPORT, _IPV6, _V6ONLY = 1, 2, 15, 41, 26
_ON = b"\1\0\0\0"
EXPECTED_LIMIT = 10_000  # connections of one app that are on their way
INSIDE = 1024  # doors of one app for others of this host; a connection that needs one more gets ENOBUFS
RING_AGAIN = 0.1  # seconds until another bell where descriptors were short
_LOOPBACK = {AF_INET: b"\x7f\x00\x00\x01", AF_INET6: bytes(15) + b"\1"}


class Doors:
    """Opens, watches and closes them."""

    def __init__(
        self,
        loop: Loop,
        ports: list[range],
        wake: Callable[[Service], None],
        on_dead: Callable[[Service], None],
        on_change: Callable[[Service], None],
        gates: Gates,
        keeping: tuple[Keep, Listeners, Memory],
    ) -> None:
        """``gates``: who judges strangers while there are policies. They are accepted as they come then.

        ``keeping``: who keeps doors, those of an earlier switch, and where it is noted who comes.
        """
        self._loop = loop
        self._wake = wake
        self._ports = ports
        self._on_dead = on_dead
        self._on_change = on_change
        self._gates = gates
        self._next_port = 0
        self.reserved: Callable[[], Collection[int]] = tuple  # ports that apps are to be exposed at
        # A TCP connection that the switch made, by its two actual ends -> what they are to see. By both, for the
        # kernel uses a source port again towards another destination.
        self._expected: dict[tuple[Address, Address], tuple[naming.Connection, int]] = {}  # with the slot of the note
        self._by_client: dict[int, OrderedDict[tuple[Address, Address], None]] = {}
        self._exposed: dict[Address, list[Service]] = {}
        self._unrung: set[int] = set()  # services that wait for a bell
        self._inside: Counter[int] = Counter()  # doors for others of this host, by app
        self._keep, kept, self._memory = keeping
        self._kept: dict[tuple[str, Address], Fd] = {}  # of an earlier switch, by name and address
        for name, fds in kept.items():
            for fd in fds if name.startswith("door-") else ():
                own = _kernel.getsockname(fd)
                if not isinstance(own, int):
                    self._kept[name, sockaddr.decode(own)] = fd

    def expect(self, source: Address, door: Address, link: naming.Connection) -> None:
        """A TCP connection from ``source`` will arrive at ``door``. An app that makes too many loses its own oldest."""
        note = ArrivalNote(source, door, link.client_app, link.server_app, link.client, link.server)
        self._expect(note, link, self._memory.put(0, note))

    def _expect(self, note: ArrivalNote, link: naming.Connection, slot: int) -> None:
        key = note.source, note.door
        self._forget(key)  # the same ends again: whoever had them has given up
        mine = self._by_client.setdefault(link.client_app, OrderedDict())
        mine[key] = None
        self._expected[key] = link, slot
        if len(mine) > EXPECTED_LIMIT:
            self._forget(next(iter(mine)))

    def _forget(self, key: tuple[Address, Address]) -> naming.Connection | None:
        link, slot = self._expected.pop(key, (None, 0))
        self._memory.drop(slot)
        if link is not None:
            mine = self._by_client[link.client_app]
            del mine[key]
            if not mine:
                del self._by_client[link.client_app]
        return link

    def forget_client(self, app_id: int) -> None:
        """The app ended."""
        for key in list(self._by_client.get(app_id, ())):
            self._forget(key)

    # After a crash

    def restore(self, slot: int, note: ArrivalNote) -> None:
        """Who was coming when an earlier switch died."""
        link = naming.Connection(note.client_app, note.server_app, Address(*note.client), Address(*note.server))
        self._expect(note, link, slot)

    def restore_inside(self, service: Service) -> None:
        """The service's doors for this host's apps. Those for strangers `expose` opens, as the first time."""
        name = _name(service, exposed=False)
        for kept, actual in [key for key in self._kept if key[0] == name]:
            fd = self._kept.pop((kept, actual))
            self._keep.again(name, fd)
            self._install(service, Door(fd, actual, service.endpoint.bound.port, exposed=False))
            self._inside[service.app.id] += 1

    def drop_kept(self) -> None:
        """What nobody wanted: its service has gone."""
        for name in {name for name, _ in self._kept}:
            self._keep.forget(name)
        self._kept.clear()

    def expose(self, service: Service, opening: Opening) -> int:
        """Open a door for strangers. 0, or an errno that the app's listen(2) gets."""
        actual = opening.actual
        if any(other.app is not service.app for other in self._exposed_at(actual)):
            return errno.EADDRINUSE  # SO_REUSEPORT would share it, and we are one user to the kernel
        name = _name(service, exposed=True)
        opened = self._kept.pop((name, actual), None)
        if opened is None:
            fresh = self._listen(actual, service.backlog, shared=service.socket.reuseport)
            if isinstance(fresh, int):
                return fresh
            self._keep.listener(name, fresh)
            opened = fresh
        else:
            self._keep.again(name, opened)
        self._install(service, Door(opened, actual, service.endpoint.bound.port, exposed=True))
        self._exposed.setdefault(actual, []).append(service)
        self._gates.comers.exposed[actual.port] += 1
        return 0

    def _exposed_at(self, wanted: Address) -> list[Service]:
        """The services with a door at this address, or at one that overlaps it."""
        return [
            service
            for (ip, port), services in self._exposed.items()
            if port == wanted.port
            and len(ip) == len(wanted.ip)  # doors of IPv6 are for it alone
            and (ip == wanted.ip or is_any(ip) or is_any(wanted.ip))
            for service in services
        ]

    def inside(self, service: Service, family: int) -> Address | int:
        """The door for this host's apps, opened when the first one needs it. Its address, or an errno."""
        size = 4 if family == AF_INET else 16
        for door in service.doors:
            if not door.exposed and len(door.actual.ip) == size:
                return door.actual
        if self._inside[service.app.id] >= INSIDE:
            return errno.ENOBUFS
        for port in self._candidates():
            opened = self._listen(Address(_LOOPBACK[family], port), service.backlog)
            if not isinstance(opened, int):
                actual = Address(_LOOPBACK[family], port)
                self._keep.listener(_name(service, exposed=False), opened)
                self._install(service, Door(opened, actual, service.endpoint.bound.port, exposed=False))
                self._inside[service.app.id] += 1
                self._on_change(service)
                return actual
            if opened == errno.EADDRNOTAVAIL and family == AF_INET6:  # a host without ::1, see `bind_to_loopback`
                return self.inside(service, AF_INET)
            if opened != errno.EADDRINUSE:
                return opened
        return errno.EADDRNOTAVAIL

    def close(self, service: Service) -> None:
        """Close all doors of a service: what waits in their queues is reset, as TCP does when a listener goes.

        The keeper has them as well, for a little longer: who is shut down frees its port at once.
        """
        for door in service.doors:
            self._loop.unwatch(door.fd)
            _kernel.shutdown(door.fd, _SHUT_RDWR)
            door.fd.close()
            if door.exposed:
                self._exposed[door.actual].remove(service)
                if not self._exposed[door.actual]:
                    del self._exposed[door.actual]
                self._gates.comers.exposed[door.actual.port] -= 1
                continue
            self._inside[service.app.id] -= 1
            if not self._inside[service.app.id]:
                del self._inside[service.app.id]
        for exposed in {door.exposed for door in service.doors}:
            self._keep.forget(_name(service, exposed))
        service.doors.clear()

    def take(self, service: Service) -> Arrival | None:
        """The next arrival at any door of the service."""
        for door in service.doors:
            while not (door.exposed and self._gates.judges):
                accepted = _kernel.accept(door.fd)
                if isinstance(accepted, int):
                    break
                fd, raw = accepted
                arrival = self._identify(service, door, fd, sockaddr.decode(raw))
                if arrival is not None:
                    return arrival
        return None

    def watch_again(self, service: Service) -> None:
        """Somebody has accepted: the next arrival may ring again."""
        if service.rung:
            return
        for door in service.doors:
            if not door.armed:
                door.armed = True
                self._loop.rearm(door.fd, select.EPOLLIN)

    def ring(self, service: Service) -> None:
        """Wake whoever waits for the service. A full queue needs no bell: whoever empties it looks here as well."""
        if not service.rung:
            try:
                bell = _kernel.socket(sockaddr.AF_UNIX, _STREAM | _NONBLOCK, 0)
            except OSError:  # no descriptors are left, and nobody else would ring for what is there now
                self._ring_later(service)
                return
            error = _kernel.connect_unix(bell, naming.bell(), service.name)
            service.rung = not error
            if error == errno.ECONNREFUSED:
                self._on_dead(service)

    def _ring_later(self, service: Service) -> None:
        def again() -> None:
            self._unrung.discard(service.id)
            if service.returned or not all(door.armed for door in service.doors):
                self.ring(service)

        if service.id not in self._unrung:
            self._unrung.add(service.id)
            self._loop.after(RING_AGAIN, again)

    def _identify(self, service: Service, door: Door, fd: Fd, source: Address) -> Arrival | None:
        link = self._forget((source, door.actual))
        if link is not None:
            local = service.own(link.server)
            return Arrival(fd, link.client, local, unix=False, client_app=link.client_app, asked=link.server)
        if not door.exposed:
            return None  # not through us: the port is no service of the host's
        return Arrival(fd, source, local_address(service, door, source), unix=False)

    def _listen(self, actual: Address, backlog: int, shared: bool = False) -> Fd | int:
        """``shared``: the app has several listeners by SO_REUSEPORT, and so has the host port."""
        family = AF_INET if len(actual.ip) == 4 else AF_INET6
        try:
            fd = _kernel.socket(family, _STREAM | _NONBLOCK, 0)
        except OSError as problem:
            return problem.errno or errno.EIO
        _kernel.setsockopt(fd, _SOL_SOCKET, _SO_REUSEADDR, _ON)
        if shared:
            _kernel.setsockopt(fd, _SOL_SOCKET, _SO_REUSEPORT, _ON)
        if family == AF_INET6:
            _kernel.setsockopt(fd, _IPV6, _V6ONLY, _ON)
        error = _kernel.bind(fd, sockaddr.encode(family, actual)) or _kernel.listen(fd, backlog)
        return error or fd

    def _install(self, service: Service, door: Door) -> None:
        service.doors.append(door)
        self._loop.watch(door.fd, select.EPOLLIN, lambda _events: self._on_arrival(service, door))

    def _on_arrival(self, service: Service, door: Door) -> None:
        if door.exposed and self._gates.judges:
            self._judge_some(service, door)
            return
        if service.parked:
            self._wake(service)  # strangers are sent away there; whoever is left in the queue reports itself again
            return
        door.armed = False
        self._loop.rearm(door.fd, 0)
        self.ring(service)

    def _judge_some(self, service: Service, door: Door) -> None:
        for _ in range(BATCH):
            accepted = _kernel.accept(door.fd)
            if isinstance(accepted, int):
                if accepted in SHORT:
                    self._loop.pause(door.fd)
                return
            fd, raw = accepted
            source = sockaddr.decode(raw)
            self._gates.admit_to(service, fd, source, local_address(service, door, source))

    def _candidates(self) -> Iterator[int]:
        total = sum(len(ports) for ports in self._ports)
        reserved = self.reserved()
        for _ in range(min(total, 1000)):
            index = self._next_port % total
            self._next_port += 1
            for ports in self._ports:
                if index < len(ports):
                    if ports[index] not in reserved:
                        yield ports[index]
                    break
                index -= len(ports)


def _name(service: Service, exposed: bool) -> str:
    """What the keeper knows the service's doors by."""
    return f"door-{service.id:x}-{'exposed' if exposed else 'inside'}"


def local_address(service: Service, door: Door, source: Address) -> Address:
    """The server's own address, as a stranger's connection has it."""
    ip = service.endpoint.bound.ip
    if is_any(ip):
        size = len(source.ip)
        ip = next((own for own in service.app.ips if len(own) == size), ip)
    return Address(ip, door.port)
