"""What is known of sockets and cannot be asked of the kernel, by socket cookie.

Never by (pid, fd): dup, fork, exec and SCM_RIGHTS then need no care. An entry is a memory, not an owner: the socket
is the app's, and when sock_diag no longer lists its cookie the entry goes (switch/sweep.py). An entry that
is missing is made again from what the kernel knows, and from what an earlier switch has noted (switch/memory.py).
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address, is_any, is_loopback
from appswitch.attributes import shown
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET6, AF_UNIX
from appswitch.switch import naming
from appswitch.switch.apps import App
from appswitch.switch.loop import Loop
from appswitch.switch.memory import Memory, SocketNote

# Phases. FINISHING: connected, but the app's next connect(2) must still be told so with 0 (inet_stream_connect()).
NEW, LISTENING, CONNECTING, FINISHING, CONNECTED = range(5)

Option = tuple[int, int]  # level, name
Options = dict[Option, bytes]  # what was set

_SOL_SOCKET, _SO_TYPE, _SO_ACCEPTCONN = int(socket.SOL_SOCKET), int(socket.SO_TYPE), int(socket.SO_ACCEPTCONN)
_STREAM = int(socket.SOCK_STREAM)
_SOL_IPV6, _V6ONLY, _SO_REUSEPORT = 41, 26, 15
NO_OPTIONS: Options = {}
SOON = 0.1  # seconds until options are noted
SOME = 256  # of them in one go


class Socket(_kernel.Sock):
    """A TCP socket as its app believes to have it. ``unix``: the file behind it is a Unix socket.

    What `_kernel.wait` works with, too, is in `_kernel.Sock`. Defaults of the rest stand in the class: most sockets
    only ever have a few of these, and one is made for each connection.
    """

    app: App
    bound: Address | None  # by bind(2)
    options: Options  # replaced, never changed: listener and connections share it
    parent: Socket | None  # of an accepted one that only has a link: its listener
    reuseaddr = False  # as it was at bind(2)
    reuseport = False
    inode = 0  # of one that has bound a port: what the kernel finds it by
    own = b""  # of one that is TCP, with `actual`: the same
    peer_app: int | None = None  # the app at the other end, where the connection's name does not say it
    found: bytes | None = None  # the head of its first request, from `_kernel.wait`: read when somebody asks
    _peeked: dict[str, str] | None = None
    sent = 0  # bytes that went with its connect(2): MSG_FASTOPEN
    actual = b""  # the sockaddr that a TCP socket is being connected to
    _local: Address | None = None
    _peer: Address | None = None
    _asked: Address | None = None
    backlog = 0  # of a listening one
    slot = 0  # where it is noted

    def __init__(self, cookie: int, app: App, family: int, unix: bool) -> None:
        """``family``: AF_INET or AF_INET6, whatever the file is."""
        super().__init__(cookie, app, family, unix, NO_OPTIONS)

    @property
    def local(self) -> Address | None:
        """Of a connection."""
        if self._local is None and self.link is not None:
            self._recall(self.link)
        return self._local

    @local.setter
    def local(self, address: Address | None) -> None:
        self._local = address

    @property
    def peer(self) -> Address | None:
        """The other end."""
        if self._peer is None and self.link is not None:
            self._recall(self.link)
        return self._peer

    @peer.setter
    def peer(self, address: Address | None) -> None:
        self._peer = address

    @property
    def asked(self) -> Address | None:
        """Of an accepted connection: where its client wanted to go, SO_ORIGINAL_DST."""
        if self._asked is None and self.link is not None:
            self._recall(self.link)
        return self._asked

    @asked.setter
    def asked(self, address: Address | None) -> None:
        self._asked = address

    @property
    def peeked(self) -> dict[str, str] | None:
        """What its first bytes were about, as far as that may be told."""
        if self.found is not None:
            self._peeked, self.found = shown({"protocol": "http", **(_kernel.http_request(self.found) or {})}), None
        return self._peeked

    @peeked.setter
    def peeked(self, attributes: dict[str, str] | None) -> None:
        self._peeked, self.found = attributes, None

    def _recall(self, name: bytes) -> None:
        """A connection that was made without anybody's look (native/kernel/reflex.c): its name tells everything."""
        self.link = None
        link = naming.parse_connection(name)
        if link is None:
            return
        if self.accepted:
            bound = self.parent.bound if self.parent is not None else None
            self._local, self._peer = own_address(bound, self.app.ips, link.server), link.client
            self._asked = link.server
        else:
            self._local, self._peer = link.client, link.server

    @property
    def v6only(self) -> bool:
        """IPV6_V6ONLY, whose default is off (net.ipv6.bindv6only)."""
        value = self.options.get((_SOL_IPV6, _V6ONLY))
        return value is not None and any(value)

    def remember(self, option: Option, written: bytes) -> None:
        """An option was set, by us or on a TCP socket; else see `reflexes.Reflexes.set`."""
        self.options = {**self.options, option: written}

    def finish_again(self) -> None:
        """The reply of a successful connect(2) did not arrive: the call comes again, and is to succeed again."""
        if self.phase == CONNECTED:
            self.phase = FINISHING

    def flags(self) -> int:
        """What a listening socket's name says of how it was bound."""
        return self.v6only | self.reuseaddr << 1 | self.reuseport << 2

    def restore_flags(self, flags: int) -> None:
        """The reverse."""
        if flags & 1:
            self.remember((_SOL_IPV6, _V6ONLY), b"\1\0\0\0")
        self.reuseaddr, self.reuseport = bool(flags & 2), bool(flags & 4)

    def note(self) -> SocketNote:
        """What a successor has to know."""
        options = tuple((level, name, value) for (level, name), value in self.options.items())
        return SocketNote(
            self.cookie, self.app.id, self.family, self.unix, self.phase, options, self.bound, self.local, self.peer,
            self.reuseaddr, self.reuseport, self.accepted, self.peer_app, self.asked, self.peeked, self.actual,
            self.backlog,
        )  # fmt: skip

    def recall(self, note: SocketNote, whole: bool = True) -> None:
        """The reverse. Not ``whole``: only what was set on it, for where it is connected the kernel knows better."""
        self.options = {(level, name): value for level, name, value in note.options}
        self.bound, self.reuseaddr, self.reuseport = note.bound, note.reuseaddr, note.reuseport
        self.backlog = note.backlog
        if whole:
            self.phase, self.local, self.peer, self.actual = note.phase, note.local, note.peer, note.actual
            self.accepted, self.peer_app, self.asked, self.peeked = (
                note.accepted, note.peer_app, note.asked, note.peeked,
            )  # fmt: skip
            self.named = self.unix and note.phase != NEW

    def adopt(self, other: Socket) -> None:
        """Take over what another socket was before this one took its place."""
        self.bound, self.options = other.bound, other.options
        self.reuseaddr, self.reuseport = other.reuseaddr, other.reuseport
        self.local, self.peer, self.phase = other.local, other.peer, other.phase


def own_address(bound: Address | None, ips: tuple[bytes, ...], to: Address) -> Address:
    """What a listener's connection to ``to`` has as its local address: that, or behind a vservice the server's own."""
    if bound is None or (to.port == bound.port and (to.ip in ips or is_loopback(to.ip))):
        return to
    if not is_any(bound.ip):
        return bound
    same = (ip for ip in ips if len(ip) == len(to.ip))
    return Address(next(same, next(iter(ips), to.ip)), bound.port)


class Sockets:
    """All of them. One writer: the switch's thread."""

    def __init__(self, by_cookie: dict[int, Socket], listening: dict[bytes, Socket], memory: Memory) -> None:
        self._memory = memory
        self.noted: dict[int, tuple[int, SocketNote]] = {}  # by an earlier switch, of connections: see `recover`
        self.touched: dict[int, Socket] = {}  # not noted yet: see `keep_touched`
        self.written: dict[int, Options] = {}  # of those in ``born``
        self.born: dict[int, int] = {}  # made by an earlier switch, and not used since: as `Journal.births` has them
        self.on_forgotten: Callable[[int], None] = lambda _led: None  # a record of the journal is not needed any more
        self.by_cookie = by_cookie
        self.listening = listening  # by the name of their file

    def add(self, fd: Fd, app: App, family: int, unix: bool) -> Socket:
        """Remember a socket that the switch has just made."""
        cookie = _kernel.cookie(fd)
        made = self.by_cookie[cookie] = Socket(cookie, app, family, unix)
        return made

    def keep(self, sock: Socket) -> None:
        """Note what the kernel does not know of it, and what was just changed."""
        sock.slot = self._memory.put(sock.slot, sock.note())

    def keep_touched(self, loop: Loop) -> None:
        """Options were set, by `_kernel.wait`: in the journal is only what was set last."""
        loop.after(SOON, lambda: self._keep_some(loop))

    def _keep_some(self, loop: Loop) -> None:
        for cookie in list(itertools.islice(self.touched, SOME)):
            sock = self.touched.pop(cookie)
            if self.by_cookie.get(cookie) is sock and sock.phase not in (CONNECTED, FINISHING):
                self.keep(sock)
        if self.touched:
            self.keep_touched(loop)

    def forget(self, cookie: int) -> Socket | None:
        """The kernel no longer lists it. Its entry, if there was one."""
        slot, _ = self.noted.pop(cookie, (0, None))
        self.born.pop(cookie, None)
        sock = self.by_cookie.pop(cookie, None)
        self._memory.drop(sock.slot if sock is not None else slot)
        if sock is not None and sock.led:
            self.on_forgotten(sock.led)
            sock.led = 0
        return sock

    def known(self, cookie: int) -> Socket | SocketNote | None:
        """What is known of a connection, be it by an earlier switch, and not used since."""
        return self.by_cookie.get(cookie) or self.noted.get(cookie, (0, None))[1]

    def identify(self, fd: Fd, cookie: int, app: App) -> Socket | None:
        """The entry of a descriptor; None for what is no TCP socket to its app."""
        known = self.by_cookie.get(cookie)
        if known is not None or cookie < 0:
            if known is not None and known.app.ended:
                known.app, known.bound = app, None  # who holds it now; the address was the other's
            return known
        what = self.born.pop(cookie, None)
        if what is not None:
            made = self.by_cookie[cookie] = Socket(cookie, app, what & ~_kernel.BORN_TCP, not what & _kernel.BORN_TCP)
            made.options = self.written.pop(cookie, NO_OPTIONS)
            return made
        raw = _kernel.getsockname(fd)
        if isinstance(raw, int):
            return None
        family = sockaddr.family_of(raw)
        if family == AF_UNIX:
            found = self._recall_unix(fd, raw, cookie, app)
        elif family in (sockaddr.AF_INET, AF_INET6) and _is_stream(fd):
            found = self._recall_inet(fd, raw, cookie, app)
        else:
            return None
        if found is not None:
            self.by_cookie[cookie] = found
            found.slot, note = self.noted.pop(cookie, (0, None))
            if note is not None:
                found.recall(note, whole=note.phase in (CONNECTING, FINISHING, CONNECTED))
        return found

    def adopt(self, fd: Fd, cookie: int, app: App, raw: bytes | int) -> Socket | None:
        """A Unix socket of ours that an earlier switch made: it is used with an IP address, as no other is."""
        if isinstance(raw, int) or len(raw) < 2 or sockaddr.family_of(raw) not in (sockaddr.AF_INET, AF_INET6):
            return None
        own = _kernel.getsockname(fd) if cookie > 0 else 0
        if isinstance(own, int) or sockaddr.family_of(own) != AF_UNIX or len(own) > 2 or not _is_stream(fd):
            return None
        made = self.by_cookie[cookie] = Socket(cookie, app, sockaddr.family_of(raw), unix=True)
        return made

    def _recall_unix(self, fd: Fd, raw: bytes, cookie: int, app: App) -> Socket | None:
        """An accepted connection has its listener's name, a connecting one its own, and both tell everything."""
        name = sockaddr.unix_name(raw)
        client = naming.parse_connection(name)
        if client is not None:
            made = Socket(cookie, app, AF_INET6 if len(client.server.ip) == 16 else sockaddr.AF_INET, unix=True)
            if isinstance(_kernel.getpeername(fd), int):  # an earlier switch has named it, and was killed then
                made.named = True
                return made
            made.local, made.peer = client.client, client.server
        else:
            parent = self.listening.get(name)
            listener = naming.parse_listener(name) if parent is None else parent
            peer = _kernel.getpeername(fd) if listener is not None else 0
            link = None if isinstance(peer, int) else naming.parse_connection(sockaddr.unix_name(peer))
            if name == naming.LOBBY and parent is None:  # of an earlier switch's
                own = _kernel.getpeername(fd)
                link = None if isinstance(own, int) else naming.parse_connection(sockaddr.unix_name(own))
                if link is None:
                    return None
                family = AF_INET6 if len(link.server.ip) == 16 else sockaddr.AF_INET
                listener = naming.Listener(app.id, family, link.server, 0, 0)
            if listener is None or link is None:
                return None
            made = Socket(cookie, app, listener.family, unix=True)
            made.local, made.peer, made.accepted = own_address(listener.bound, app.ips, link.server), link.client, True
            made.asked = link.server
            if parent is not None:
                made.options = parent.options
        # A client may have been told EINPROGRESS, and is to hear of success then: inet_stream_connect().
        made.phase, made.named = CONNECTED if made.accepted else FINISHING, True
        return made

    def _recall_inet(self, fd: Fd, raw: bytes, cookie: int, app: App) -> Socket | None:
        """A TCP socket that we forgot, or that somebody else made and handed over."""
        made = Socket(cookie, app, sockaddr.family_of(raw), unix=False)
        made.reuseport = _kernel.getsockopt(fd, _SOL_SOCKET, _SO_REUSEPORT, 4) == b"\1\0\0\0"
        v6only = _kernel.getsockopt(fd, _SOL_IPV6, _V6ONLY, 4)
        if not isinstance(v6only, int) and any(v6only):
            made.remember((_SOL_IPV6, _V6ONLY), v6only)
        peer = _kernel.getpeername(fd)
        if not isinstance(peer, int):
            made.phase, made.local, made.peer = CONNECTED, sockaddr.decode(raw), sockaddr.decode(peer)
        elif _kernel.getsockopt(fd, _SOL_SOCKET, _SO_ACCEPTCONN, 4) == b"\1\0\0\0":
            return None  # a listening socket of its own, inherited from outside: the kernel's business
        return made


def _is_stream(fd: Fd) -> bool:
    kind = _kernel.getsockopt(fd, _SOL_SOCKET, _SO_TYPE, 4)
    return not isinstance(kind, int) and kind[0] == _STREAM
