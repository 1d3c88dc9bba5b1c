"""What calls are answered with at once: `_kernel.Reflex` answers them, and learns here what was decided or found.

One writer of its memory, so that everything in there is known to hold: a route as long as the tables are as they were,
what an option's setting or reading gives for the same question for ever, a local address as long as its listener lives.
Whatever is not in there is asked of the handlers in this package, and the first answer is remembered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from typing import Any

from appswitch import _kernel
from appswitch._kernel import Fd, Reflex
from appswitch.kernel import sockaddr
from appswitch.resources import Peek
from appswitch.switch import naming
from appswitch.switch.flows import Path
from appswitch.switch.services import Service
from appswitch.switch.sockets import CONNECTED, FINISHING, NEW, NO_OPTIONS, Option, Options, Socket
from appswitch.switch.syscalls import TABLE

LIMIT = 4096  # of each kind; an app that asks strange things makes us begin anew, not grow
_UP, _BOUND, _HALF_CLOSED = 1, 2, 4
_question = struct.Struct("=Qiiiii")  # reflex.c: options, family, state, level, name, value or room
_route = struct.Struct("=ii")  # listener, family; then the sockaddr
_LISTENER = 4  # bytes
_server = struct.Struct(">16sBH")
_INT = 4

Target = tuple[bytes, bytes, Service]  # the rest of a connection's name, its listener's file, its service


def fresh(arch: str) -> Reflex:
    """One that knows nothing yet."""
    numbers = {row.name: number for row in TABLE if (number := row.number(arch)) is not None}
    return Reflex(numbers, Socket, NO_OPTIONS)


Settle = Callable[[tuple[int, ...]], None]  # so many connections more were made to each of the targets


class Route(_kernel.Route):
    """Where connect(2) to an address leads. ``settle`` is told how many connections were made without any look."""

    settle: Settle

    def bring_up_to_date(self) -> None:
        """The accounts of who is concerned."""
        taken = self.take()
        if taken is not None:
            self.settle(taken)


class Held(Route):
    """Where a connection is held for its first bytes before anybody decides.

    ``decided`` has where it was led then, by the values of the attributes in ``names``: None where it has to be decided
    each time.
    """

    path: Path
    peek: Peek
    decided: dict[tuple[str | None, ...], Route | None]
    led: dict[tuple[Hashable, ...], Route | None]  # the same routes: by what was hashed, the listeners, and the route

    def bring_up_to_date(self) -> None:
        """See `Route`."""
        super().bring_up_to_date()
        for route in self.led.values():
            if route is not None:
                route.bring_up_to_date()

    def key(self, attributes: dict[str, str]) -> tuple[str | None, ...]:
        """What matters of them."""
        return tuple(attributes.get(name) for name in self.names)


class Reflexes:
    """The memory of a `Reflex`."""

    def __init__(self, reflex: Reflex) -> None:
        self._reflex = reflex
        self._routes: dict[bytes, Any] = reflex.routes
        self._decided = 0  # in the routes where connections are held

    # -- options

    def set(self, sock: Socket, option: Option, value: bytes, length: int) -> None:
        """An app has set an option of a Unix socket: from now on the same comes from the same."""
        after: Options = {**sock.options, option: value}
        state = _state(sock)
        if state is None or length != _INT:
            sock.options = after
            return
        steps = self._reflex.steps
        key = _key(sock, state, option, int.from_bytes(value, "little", signed=True))
        if key not in steps:
            if len(steps) >= LIMIT:
                steps.clear()
            steps[key] = (sock.options, after)  # the first only lives on: the key has its address
        sock.options = steps[key][1]

    def read(self, sock: Socket, option: Option, room: int, value: bytes, *, half_closed: bool) -> None:
        """An app has read an option of a Unix socket."""
        state = _state(sock)
        if state is None:
            return
        answers = self._reflex.answers
        if len(answers) >= LIMIT:
            answers.clear()
        key = _key(sock, state | _HALF_CLOSED * half_closed, option, room)
        answers[key] = (sock.options, value)

    # -- names

    def own_name(self, sock: Socket, fd: Fd, shown: bytes) -> None:
        """The local address of an accepted connection, which depends on its listener and on where its client went."""
        own, peer = _kernel.getsockname(fd), _kernel.getpeername(fd)
        if isinstance(own, int) or isinstance(peer, int) or not sock.accepted:
            return
        name, link = sockaddr.unix_name(own), naming.parse_connection(sockaddr.unix_name(peer))
        if link is None or name not in self._reflex.listening:
            return
        known = self._reflex.own_names
        if len(known) >= LIMIT:
            known.clear()
        known[name + _server.pack(link.server.ip, len(link.server.ip), link.server.port)] = shown

    # -- routes

    def lead(self, sock: Socket, raw: bytes, targets: tuple[Target, ...], drawn: bool, settle: Settle) -> None:
        """Connections of the socket's app to that sockaddr go to one of the targets until `forget`.

        ``drawn``: each as likely as any; else by turns.
        """
        self._add(sock, raw, Route(targets, sock.app.ports, drawn), settle)

    def _add(self, sock: Socket, raw: bytes, route: Route, settle: Settle) -> None:
        key = _route.pack(sock.app.listener.fileno(), sock.family) + raw
        if key in self._routes:  # with accounts that are not settled yet; it holds, or it would have been forgotten
            return
        if len(self._routes) >= LIMIT:
            self.settle()
            own = [one for one in self._routes if one[:_LISTENER] == key[:_LISTENER]]
            for one in own or list(self._routes):  # who asks for many addresses forgets its own
                del self._routes[one]
        route.settle = settle
        self._routes[key] = route

    def hold(
        self, sock: Socket, raw: bytes, path: Path, peek: Peek, lobby: Fd, names: tuple[str, ...], settle: Settle
    ) -> None:
        """Connections of the socket's app to that sockaddr are held for their first bytes, until `forget`.

        ``names``: of the attributes that matter to where they are led then.
        """
        target = (path.unnamed_tail(), naming.LOBBY, None)
        route = Held((target,), sock.app.ports, False, lobby, sock.app.id, peek.bytes, names)
        route.path, route.peek, route.led = path, peek, {}
        self._add(sock, raw, route, settle)

    def lead_held(self, held: Held, attributes: dict[str, str], route: Route | None) -> None:
        """Held connections with such first bytes are led there; None: they have to be decided each time."""
        if self._decided >= LIMIT:
            self.forget()
        self._decided += 1
        held.decided[held.key(attributes)] = route

    def settle(self) -> None:
        """Bring the accounts up to date: of those who asked for it with `lead`."""
        for route in self._routes.values():
            route.bring_up_to_date()

    def forget(self) -> None:
        """Something that routes depend on has changed."""
        if self._routes:
            self.settle()
            self._routes.clear()
        self._decided = 0


def _state(sock: Socket) -> int | None:
    """What of a socket's state an option may depend on. None: of these nothing is remembered."""
    if sock.phase not in (NEW, CONNECTED, FINISHING):
        return None
    return (_UP if sock.phase != NEW else 0) | (_BOUND if sock.bound is not None else 0)


def _key(sock: Socket, state: int, option: Option, value: int) -> bytes:
    return _question.pack(id(sock.options), sock.family, state, *option, value)
