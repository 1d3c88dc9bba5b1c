"""Types of the native module. Functions that may fail for an app's sake return an errno; the others raise OSError."""

import mmap
from collections.abc import Callable
from typing import Any, TypeAlias

class Fd:
    """An owned descriptor: closed once, by its one owner, at the latest when the object goes."""

    def __init__(self, fd: int) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def detach(self) -> int: ...

_Fd: TypeAlias = Fd | int

# seccomp_unotify(2)
NOTIFIER: int  # added to a descriptor's number, the data of an event that delivers notifications
HELD: int  # the data of an event of a connection that is held: added to its number
TCP_ONLY: int  # added to that: of an app that gets TCP sockets, not Unix ones
BORN_TCP: int  # in the journal's ring of births: a TCP socket
NAME_MAGIC: bytes  # with which the abstract name of a connecting socket begins: see switch/naming.py

class Sock:
    """A TCP socket as its app believes to have it: the part of `switch.sockets.Socket` that `wait` works with, too."""

    cookie: int
    app: object
    family: int
    unix: bool  # the file behind it is a Unix socket
    phase: int
    bound: object
    options: object
    named: bool  # a Unix socket that has its name cannot get another
    link: bytes | None  # the name of a connection that `wait` made, until it is read
    parent: object  # of an accepted one that `wait` recalled: its listener's
    accepted: bool  # by accept(2), else by connect(2)
    answered: int  # the thread whose bind(2) or connect(2) was answered with success
    service: int  # of a listening one
    led: int  # its record in the journal, of one that `wait` has led to its service

    def __init__(self, cookie: int, app: object, family: int, unix: bool, options: object) -> None: ...

class Parked:
    """A call that waits: the part of `switch.parking.Parked` that `wait` works with, too."""

    call: Any
    fd: Fd  # a duplicate of the descriptor
    service: object  # of an accept(2) that waits without an end; else None
    flags: int  # of that
    slot: int  # in the journal
    done: bool  # it was answered by `wait`

    def __init__(self, call: object, fd: Fd, service: object = None, flags: int = 0) -> None: ...

class Ports:
    """The ports that an app's connections come from, one after the other: ``low`` to ``high``, from ``first`` on."""

    def __init__(self, low: int, high: int, first: int, taken: dict[int, Any]) -> None: ...
    def take(self) -> int:
        """The next one that is not in ``taken``; 0 when there is none."""

class Route:
    """Where connect(2) to an address leads: to one of ``targets``, (rest of a name, path, service) each."""

    names: tuple[str, ...]
    decided: dict[tuple[str | None, ...], Any]  # routes of held connections, by the values of ``names``

    def __init__(
        self,
        targets: tuple[tuple[bytes, bytes, Any], ...],
        ports: Ports,
        drawn: bool = False,
        lobby: Fd | None = None,
        app: int = 0,
        limit: int = 0,
        names: tuple[str, ...] = (),
    ) -> None:
        """``drawn``: each target is as likely as any; else by turns.

        With ``lobby``, the listener behind the target, its connections are held until first bytes have come.
        ``limit`` is how many of these are looked at, ``app`` who makes them, ``names`` those of the attributes that
        say what becomes of them: where ``decided`` has a route for these, they are led there.
        """

    def take(self) -> tuple[int, ...] | None:
        """How often each target was taken since the last call; None where none was."""

class Reflex:
    """What is known already, so that `wait` answers calls about it itself. Its dictionaries are for others to fill.

    ``numbers`` are those of the system calls, by name; ``sock`` is the class of ``sockets``, ``options`` what a fresh
    one has set. See switch/reflexes.py.
    """

    apps: dict[int, Any]  # by the number of their notification descriptor
    pidfds: dict[int, Fd]  # of threads that have made calls before
    sockets: dict[int, Any]  # by cookie
    listening: dict[bytes, Any]  # sockets, by the name of their file
    services: dict[int, Any]  # by id
    routes: dict[bytes, Route]  # by listener, family and sockaddr
    own_names: dict[bytes, bytes]  # sockaddrs, by listener's file and server's address
    steps: dict[bytes, tuple[Any, Any]]  # options before and after, by question
    answers: dict[bytes, tuple[Any, bytes]]  # options and a value, by question
    held: dict[int, list[Any]]  # Fd, route, cookie, port, since (CLOCK_MONOTONIC), looks; by the number of the Fd
    crowd: dict[int, int]  # how many are held, by app
    led: int  # how many held connections went to a service without anybody's look
    tickets: dict[
        int, dict[bytes, list[Any]]
    ]  # entries like those of ``held``, of connections that stand in a queue: by
    # the id of the service, and the name of who stands there for them
    ticketed: int  # how many
    first_reserved: int  # descriptors from there on are kept back: see switch/descriptors.py
    most_held: int
    most_by_app: int
    ticking: bool  # somebody looks for how long they are held; set, and ``on_hold`` called, when one is and nobody does
    succeeded: bool  # there is more to know of accepted connections than the kernel tells: see switch/memory.py
    on_arrival: Callable[[Any], None]  # a service has a connection, and somebody may wait in accept(2)
    on_left: Callable[[Any, tuple[Fd, bytes, int], int, int], None]  # a service's connection could not be handed over;
    # the notifier's number and the id of the call, which has no reply yet, or -1 and 0 where that one is parked
    on_wait: Callable[[Any, Fd, int, tuple[int, ...]], None]  # a service, its listener, flags, and a call of accept(2)
    # that finds nothing and may wait without an end
    on_hold: Callable[[], None]
    touched: dict[int, Any]  # sockets that are not connected, of which an option was set, by cookie
    on_unclaimed: Callable[[Any, list[Any]], None]  # a service, and an entry that somebody should have taken
    on_touch: Callable[[], None]  # there is one, and nobody looks after them
    on_bytes: Callable[[int, list[Any], bytes | int], None]  # number, entry, what is there or -errno
    on_refused: Callable[[Any, int, list[Any], bytes | int], None]  # a parked call could not take a held connection,
    # and was told so; then as for ``on_bytes``
    parked: dict[int, Any]  # by the thread that waits
    steady: dict[int, bytes]  # the sockaddr to which a UDP socket's sends need no decision, by cookie

    def __init__(self, numbers: dict[str, int], sock: type[Sock], options: object) -> None: ...
    def served(self) -> dict[str, int]:
        """How many calls were answered, by name."""

    def give_back(self, led: int, /) -> None:
        """A record of the journal may be used again."""

def wait(epoll: _Fd, milliseconds: int, journal: mmap.mmap, reflex: Reflex, /) -> tuple[Any, ...] | None:
    """One event of `epoll_watch`: (data, events); of a notifier (fd, id, tid, nr, six arguments); None after the time.

    Calls that need no decision are answered within, one after the other. What is left to do after one is an event,
    too: a function of ``reflex`` and its arguments. The call in hand stands in the first slot of ``journal``. Raises
    OSError.
    """

def http_request(data: bytes, /) -> dict[str, str] | None:
    """What `routing.l7.http1` finds in the head of a request; None for all but ordinary ones, which it must read."""

def name_head(port: int, /) -> bytes:
    """The first part of a connection's name, which no other has."""

def epoll_watch(epoll: _Fd, operation: int, fd: _Fd, events: int, data: int, /) -> int:
    """epoll_ctl(2) for `wait`. 0 or errno."""

def reply(listener: _Fd, id: int, value: int, error: int, /) -> int:
    """Answer with a value, or with a (positive) error. 0 or an errno: ENOENT when the caller is gone."""

def reply_continue(listener: _Fd, id: int, /) -> int: ...
def still_valid(listener: _Fd, id: int, /) -> bool: ...
def is_notifier(fd: _Fd, /) -> bool: ...
def add_fd(listener: _Fd, id: int, source: _Fd, target: int, cloexec: int, send: int, /) -> int:
    """Put a copy of ``source`` into the caller, at ``target`` or (-1) the lowest number. The number, or -errno."""

def sync_wake_up(listener: _Fd, /) -> int: ...

# other processes
def pidfd_open(pid: int, thread: int, /) -> Fd: ...
def fetch(pidfd: _Fd, number: int, /) -> tuple[Fd, int, int] | int:
    """A duplicate of a descriptor, its SO_COOKIE (-ENOTSOCK for no socket) and its status flags, or an errno."""

def fetch_sockaddr(
    pidfd: _Fd, number: int, listener: _Fd, id: int, tid: int, address: int, length: int, /
) -> tuple[Fd, int, int, bytes | int] | int:
    """`fetch`, and the sockaddr that another argument points to: its bytes, or EINVAL, EFAULT, ENOENT (caller gone)."""

def read_argument(listener: _Fd, id: int, tid: int, address: int, size: int, /) -> bytes | int:
    """Exactly ``size`` bytes of the caller's memory, EFAULT, or ENOENT when it no longer waits."""

def write_result(listener: _Fd, id: int, tid: int, address: int, length_address: int, data: bytes, /) -> int:
    """Fill a value-result pair (accept(2), getsockname(2)). 0, EFAULT, EINVAL or ENOENT."""

def vm_write(tid: int, address: int, data: bytes, /) -> bool: ...
def same_file(tid: int, number: int, other: int, /) -> bool:
    """Whether another process has the very file under the same number. kcmp(2), KCMP_FILE."""

def epoll_has(tid: int, epoll: int, number: int, /) -> bool:
    """Whether an epoll of another process has a registration made under ``number``. kcmp(2), KCMP_EPOLL_TFD."""

# sockets
def socket(domain: int, type: int, protocol: int, /) -> Fd: ...
def cookie(fd: _Fd, /) -> int:
    """SO_COOKIE, or -errno (ENOTSOCK)."""

def status_flags(fd: _Fd, /) -> int: ...
def set_status_flags(fd: _Fd, flags: int, /) -> int: ...
def bind(fd: _Fd, sockaddr: bytes, /) -> int: ...
def connect(fd: _Fd, sockaddr: bytes, /) -> int:
    """0 or errno; never waits, even on a blocking file."""

def connect_unix(fd: _Fd, name: bytes, path: bytes, /) -> int:
    """bind(2) to ``name`` unless it is empty, then connect(2) to ``path``. 0 or errno; never waits."""

def join(listener: _Fd, id: int, fd: _Fd, flags: int, name: bytes, path: bytes, reply: int, /) -> int:
    """Name a Unix socket, connect it, and (with ``reply``) close ``fd`` and answer connect(2), in one step.

    0, -1 when the caller was gone, or the errno of a failure, with no reply sent.
    """

def bind_unix(fd: _Fd, name: bytes, /) -> int: ...
def listen(fd: _Fd, backlog: int, /) -> int: ...
def shutdown(fd: _Fd, how: int, /) -> int: ...
def is_shut(fd: _Fd, /) -> bool: ...
def inherit(source: _Fd, target: _Fd, /) -> None:
    """Set what was set of SOL_SOCKET on one socket on another, too."""

def send(fd: _Fd, data: bytes, flags: int, /) -> int:
    """Bytes sent, or -errno."""

def peek(fd: _Fd, size: int, /) -> bytes | int:
    """What has arrived, up to ``size`` bytes, and stays there; b"" at the end of the stream; or -errno. Never waits."""

def accept(fd: _Fd, /) -> tuple[Fd, bytes] | int:
    """A connection (FD_CLOEXEC here, blocking) and its peer's raw sockaddr, or an errno; never waits."""

def trust(pid: int, /) -> None:
    """Connections that this process made are the switch's: SO_PEERCRED. The last 16 count."""

def accept_give(
    listener: _Fd,
    id: int,
    tid: int,
    fd: _Fd,
    address: int,
    length_address: int,
    family: int,
    flags: int,
    /,
) -> int | tuple[Fd, bytes, int]:
    """accept(2) of a same-host connection, done: the number given, or -errno. ``fd`` is closed when one was taken.

    (Fd, peer, 0) is no connection of an app; (Fd, peer, errno) one that could not be given to the caller.
    """

def getsockname(fd: _Fd, /) -> bytes | int: ...
def getpeername(fd: _Fd, /) -> bytes | int: ...
def getsockopt(fd: _Fd, level: int, option: int, size: int, /) -> bytes | int: ...
def setsockopt(fd: _Fd, level: int, option: int, data: bytes, /) -> int: ...

# other descriptor tables
def open_elsewhere(fd: Fd, /) -> bool:
    """Closes ``fd``, an unconnected stream socket; True when its file lives on because somebody else holds it."""

def epoll_add_at(pidfd: _Fd, epoll: int, number: int, fd: _Fd, events: int, data: int, /) -> int:
    """EPOLL_CTL_ADD ``fd`` to another process' ``epoll`` as if it stood at ``number`` there. 0 or errno."""

def watch_over() -> None:
    """From now on the calling thread waits for no app in connect(2), accept(2) and close(2). Raises OSError.

    See native/kernel/patience.c. To be called once, before `signal_fd`.
    """

def note_loans(memory: _Fd, /) -> None:
    """Write into the journal, a memfd, which app's file has O_NONBLOCK for one call of ours: native/kernel/loan.c.

    Raises OSError, and ValueError when it is too short.
    """

def ended_for_us() -> int:
    """FUSE file systems that were ended since the last call: the watched thread waited for memory behind them."""

def signal_fd(one: int, other: int, /) -> Fd:
    """Readable when one of the two signals has come; all are blocked from now on. signalfd(2). Raises OSError."""

# what outlives this process
def hold(ranges: bytes, arguments: bytes, stack: int, owner: _Fd, keeper: _Fd, seconds: int, /) -> Fd:
    """Start a process that keeps our descriptors open when we end, for so long, or until ``keeper`` is readable.

    ``ranges``: our memory as pairs of uint64_t, the lowest first; ``arguments``: such a pair, for our command line;
    ``stack``: where the stack ends; ``owner``: a pidfd of ours. Its pidfd. Raises OSError. clone(2).
    """

def spawn(words: list[bytes], environment: list[bytes], control: int, /) -> int:
    """Start a program in a session of its own, with no signal blocked and the standard descriptors. Its pid.

    A ``control`` that is not -1 becomes number 3, and the standard ones /dev/null. Raises OSError. posix_spawn(3).
    """

def set_ours(fd: _Fd, ours: int, /) -> int:
    """Whether a successor is to take a connection for ours, as those are that `accept` returns. 0 or errno."""

def give(listener: _Fd, id: int, fd: _Fd, cloexec: int, /) -> int:
    """Put a connection into the caller and make its number the reply. The number or -errno."""

# sock_diag(7)
def dump_unix(states: int, /) -> list[tuple[int, int, int, int, int, int, bytes]]:
    """(cookie, inode, type, state, queued, peer inode, name) of Unix sockets of this network namespace."""

def is_listed(inode: int, cookie: int, /) -> bool:
    """Whether a Unix socket of this network namespace is still there."""

def is_connected(cookie: int, own: bytes, peer: bytes, /) -> bool:
    """Whether a TCP connection of this network namespace is still there, by its sockaddrs."""

def list_begin(family: int, states: int, /) -> Fd:
    """Ask for all Unix sockets, or those of TCP, of this network namespace.

    What is returned is ready to be read, by `list_more`, as long as there are more.
    """

def list_more(answer: _Fd, /) -> list[int] | None:
    """The cookies of some more of them, perhaps of none; None when there are no more."""

def dump_inet(
    family: int, protocol: int, states: int, netlink: _Fd = ..., port: int = ..., /
) -> list[tuple[int, int, int, int, bytes, int, bytes, int, int]]:
    """(cookie, inode, family, state, source, source port, destination, destination port, options).

    Of our network namespace, or of that of a NETLINK_SOCK_DIAG socket; of one source port, if that is not 0. The
    options are those of struct inet_diag_sockopt, its two bytes as a number, and IPV6_V6ONLY as 1 << 16.
    """

def dump_tcp_info(family: int, states: int, /) -> list[tuple[int, int, int, int, int]]:
    """(cookie, bytes sent, bytes received, round trip in microseconds, segments retransmitted) of TCP sockets, tcp(7).

    Of our network namespace. Bytes are the programs': each counts once, however often it was sent.
    """

# other network namespaces
def socket_in(net: _Fd, user: Fd | int, domain: int, type: int, protocol: int, /) -> Fd:
    """A socket of the network namespace ``net``, entered by way of the user namespace ``user`` (-1: we may directly).

    Raises OSError. setns(2).
    """

# UDP
def receive(fd: _Fd, /) -> tuple[bytes, bytes, bytes] | int:
    """The next datagram: data, source sockaddr, destination address (empty without IP_PKTINFO); or -errno."""

def send_to(fd: _Fd, data: bytes, sockaddr: bytes, control: bytes, flags: int, /) -> int:
    """Bytes sent, or -errno; never waits. An empty ``sockaddr`` is the peer; ``control`` is msg_control as it is."""

def inherit_datagram(source: _Fd, target: _Fd, /) -> None:
    """Set what was set on one UDP socket on another of its family, too."""

def attach_filter(fd: _Fd, program: bytes, /) -> int:
    """SO_ATTACH_FILTER of struct sock_filter[]: what the socket does not take is dropped. 0 or errno."""
