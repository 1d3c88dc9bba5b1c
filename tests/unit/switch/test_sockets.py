"""What is known of a socket, and what is recalled from the kernel when nothing is."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Callable, Iterator

import pytest

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6, AF_UNIX
from appswitch.model import AppSpec
from appswitch.switch import naming
from appswitch.switch.apps import App, Origin
from appswitch.switch.memory import Memory, fresh_memory
from appswitch.switch.sockets import CONNECTED, FINISHING, LISTENING, NEW, Socket, Sockets

STREAM, DGRAM = int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM)
CLIENT, SERVER = Address(b"\x0a\0\0\1", 40000), Address(b"\x0a\0\0\2", 80)
CLIENT6, SERVER6 = Address(b"\xfd" + bytes(15), 40000), Address(b"\xfd" + bytes(14) + b"\2", 80)
V6ONLY, NODELAY = (41, 26), (6, 1)


def app(id: int) -> App:
    spec = AppSpec(id=id, uid=0, gid=0, node="n", cluster="c", command=("x",), created=0.0)
    return App(spec, Fd(os.open("/dev/null", os.O_RDONLY)), Origin(1))


@pytest.fixture
def apps() -> tuple[App, App]:
    return app(1), app(2)


@pytest.fixture
def sockets() -> Sockets:
    return Sockets({}, {}, Memory(fresh_memory()))


@pytest.fixture
def place(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listening sockets are files of the working directory."""
    monkeypatch.chdir(str(tmp_path))


def unix() -> Fd:
    return _kernel.socket(AF_UNIX, STREAM, 0)


# --- one socket -----------------------------------------------------------------------------------------------------


def entry(apps: tuple[App, App], **values: object) -> Socket:
    sock = Socket(1, apps[0], AF_INET, unix=True)
    for name, value in values.items():
        setattr(sock, name, value)
    return sock


def test_options_are_shared_and_never_changed(apps: tuple[App, App]) -> None:
    first, second = entry(apps), entry(apps)
    first.remember(NODELAY, b"\1\0\0\0")
    second.options = first.options
    second.remember(NODELAY, bytes(4))
    assert (first.options, second.options) == ({NODELAY: b"\1\0\0\0"}, {NODELAY: bytes(4)})
    assert entry(apps).options == {}


@pytest.mark.parametrize(
    ("written", "v6only"), [(None, False), (bytes(4), False), (b"\1\0\0\0", True), (b"\0\1\0\0", True)]
)
def test_v6only_is_any_int_but_0(apps: tuple[App, App], written: bytes | None, v6only: bool) -> None:
    sock = entry(apps)
    if written is not None:
        sock.remember(V6ONLY, written)
    assert sock.v6only is v6only


@pytest.mark.parametrize("flags", range(8))
def test_flags_come_back(apps: tuple[App, App], flags: int) -> None:
    sock, again = entry(apps), entry(apps)
    sock.restore_flags(flags)
    assert sock.flags() == flags
    again.restore_flags(sock.flags())
    assert (again.v6only, again.reuseaddr, again.reuseport) == (bool(flags & 1), bool(flags & 2), bool(flags & 4))


@pytest.mark.parametrize(("before", "after"), [(CONNECTED, FINISHING), (NEW, NEW), (LISTENING, LISTENING)])
def test_a_connection_may_finish_again(apps: tuple[App, App], before: int, after: int) -> None:
    sock = entry(apps, phase=before)
    sock.finish_again()
    assert sock.phase == after


def test_a_socket_takes_over_what_another_was(apps: tuple[App, App]) -> None:
    old = entry(apps, phase=CONNECTED, bound=CLIENT, local=CLIENT, peer=SERVER, reuseaddr=True, reuseport=True)
    old.remember(NODELAY, b"\1")
    new = Socket(2, apps[0], AF_INET, unix=False)
    new.adopt(old)
    for name in ("phase", "bound", "local", "peer", "reuseaddr", "reuseport", "options"):
        assert getattr(new, name) == getattr(old, name), name
    assert (new.cookie, new.unix) == (2, False)


# --- sockets that we know -------------------------------------------------------------------------------------------


def test_a_socket_that_was_added_is_known_by_any_number(sockets: Sockets, apps: tuple[App, App]) -> None:
    fd = unix()
    made = sockets.add(fd, apps[0], AF_INET6, unix=True)
    copy = Fd(os.dup(fd.fileno()))
    assert sockets.identify(copy, _kernel.cookie(copy), apps[1]) is made
    assert (made.app, made.family, made.unix, made.phase) == (apps[0], AF_INET6, True, NEW)


def test_a_socket_of_an_app_that_ended_is_its_holders(sockets: Sockets, apps: tuple[App, App]) -> None:
    fd = unix()
    made = sockets.add(fd, apps[0], AF_INET, unix=True)
    apps[0].ended = True
    assert sockets.identify(fd, made.cookie, apps[1]) is made
    assert made.app is apps[1]


# --- sockets that we forgot -----------------------------------------------------------------------------------------


def identify(sockets: Sockets, fd: Fd, user: App) -> Socket | None:
    return sockets.identify(fd, _kernel.cookie(fd), user)


@pytest.mark.parametrize(
    "make",
    [
        unix,
        lambda: _kernel.socket(AF_UNIX, DGRAM, 0),
        lambda: _kernel.socket(AF_INET, DGRAM, 0),
        lambda: _kernel.socket(int(socket.AF_NETLINK), DGRAM, 0),
        lambda: Fd(os.open("/dev/null", os.O_RDONLY)),
    ],
    ids=["unix", "unix-datagram", "udp", "netlink", "file"],
)
def test_what_is_none_of_ours(sockets: Sockets, apps: tuple[App, App], make: Callable[[], Fd]) -> None:
    assert identify(sockets, make(), apps[0]) is None
    assert sockets.by_cookie == {}


class Link:
    """A same-host connection, as the switch makes them."""

    def __init__(self, client: Address, server: Address, path: bytes) -> None:
        self.listener, self.client = unix(), unix()
        assert _kernel.bind_unix(self.listener, path) == 0
        assert _kernel.listen(self.listener, 1) == 0
        assert _kernel.connect_unix(self.client, naming.connection(1, 2, client, server), path) == 0
        accepted = _kernel.accept(self.listener)
        assert not isinstance(accepted, int)
        self.server = accepted[0]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("client", "server", "family"), [(CLIENT, SERVER, AF_INET), (CLIENT6, SERVER6, AF_INET6)], ids=["v4", "v6"]
)
def test_both_ends_of_a_connection_are_recalled(
    sockets: Sockets, apps: tuple[App, App], client: Address, server: Address, family: int
) -> None:
    link = Link(client, server, naming.listener(naming.Listener(2, family, server, 0, 1)))
    near, far = identify(sockets, link.client, apps[0]), identify(sockets, link.server, apps[1])
    assert near is not None
    assert far is not None
    for sock, local, peer, user in ((near, client, server, apps[0]), (far, server, client, apps[1])):
        # A client that was told EINPROGRESS makes the call once more, and is to hear of success then.
        phase = FINISHING if sock is near else CONNECTED
        assert (sock.phase, sock.local, sock.peer, sock.family) == (phase, local, peer, family)
        assert (sock.unix, sock.named, sock.app) == (True, True, user)
    assert (near.accepted, far.accepted) == (False, True)
    assert identify(sockets, link.client, apps[0]) is near


def test_one_that_was_named_and_not_connected_is_connected_another_way(sockets: Sockets, apps: tuple[App, App]) -> None:
    """A switch was killed between the two."""
    fd = unix()
    assert _kernel.bind_unix(fd, naming.connection(1, 2, CLIENT, SERVER)) == 0
    sock = identify(sockets, fd, apps[0])
    assert sock is not None
    assert (sock.phase, sock.local, sock.peer, sock.named) == (NEW, None, None, True)


@pytest.mark.usefixtures("place")
def test_an_accepted_connection_has_its_listeners_options(sockets: Sockets, apps: tuple[App, App]) -> None:
    path = naming.listener(naming.Listener(2, AF_INET6, SERVER, 0, 1))
    link = Link(CLIENT, SERVER, path)
    parent = Socket(0, apps[1], AF_INET6, unix=True)
    parent.remember(NODELAY, b"\1\0\0\0")
    sockets.listening[path] = parent
    far = identify(sockets, link.server, apps[1])
    assert far is not None
    assert (far.options, far.family) == ({NODELAY: b"\1\0\0\0"}, AF_INET6)


def test_a_connection_through_another_listener_is_none_of_ours(sockets: Sockets, apps: tuple[App, App]) -> None:
    link = Link(CLIENT, SERVER, b"\0appswitch-test-" + secrets.token_hex(8).encode())
    assert identify(sockets, link.server, apps[1]) is None
    assert identify(sockets, link.listener, apps[1]) is None


@pytest.mark.usefixtures("place")
def test_a_listening_socket_is_no_connection(sockets: Sockets, apps: tuple[App, App]) -> None:
    link = Link(CLIENT, SERVER, naming.listener(naming.Listener(2, AF_INET, SERVER, 0, 1)))
    assert identify(sockets, link.listener, apps[1]) is None


@pytest.mark.usefixtures("place")
def test_a_connection_of_somebody_without_a_name_is_none_of_ours(sockets: Sockets, apps: tuple[App, App]) -> None:
    path = naming.listener(naming.Listener(2, AF_INET, SERVER, 0, 1))
    link, other = Link(CLIENT, SERVER, path), unix()
    assert _kernel.connect_unix(other, b"", path) == 0
    accepted = _kernel.accept(link.listener)
    assert not isinstance(accepted, int)
    assert identify(sockets, accepted[0], apps[1]) is None


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        yield server, client


def test_a_tcp_connection_is_recalled(
    sockets: Sockets, apps: tuple[App, App], tcp: tuple[socket.socket, socket.socket]
) -> None:
    server, client = tcp
    made = identify(sockets, Fd(os.dup(client.fileno())), apps[0])
    assert made is not None
    loopback = b"\x7f\0\0\1"
    assert (made.phase, made.unix, made.family) == (CONNECTED, False, AF_INET)
    assert made.local == Address(loopback, client.getsockname()[1])
    assert made.peer == Address(loopback, server.getsockname()[1])


def test_a_tcp_listener_from_outside_is_the_kernels(
    sockets: Sockets, apps: tuple[App, App], tcp: tuple[socket.socket, socket.socket]
) -> None:
    assert identify(sockets, Fd(os.dup(tcp[0].fileno())), apps[0]) is None


def test_a_fresh_tcp_socket_is_recalled_with_what_was_set(sockets: Sockets, apps: tuple[App, App]) -> None:
    fd = _kernel.socket(AF_INET6, STREAM, 0)
    _kernel.setsockopt(fd, *V6ONLY, b"\1\0\0\0")
    _kernel.setsockopt(fd, 1, 15, b"\1\0\0\0")
    made = identify(sockets, fd, apps[0])
    assert made is not None
    assert (made.phase, made.unix, made.v6only, made.reuseport) == (NEW, False, True, True)
    plain = identify(sockets, _kernel.socket(AF_INET6, STREAM, 0), apps[0])
    assert plain is not None
    assert (plain.v6only, plain.reuseport) == (False, False)


# --- sockets that an earlier switch made ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_a_unix_socket_used_with_an_ip_address_is_ours(sockets: Sockets, apps: tuple[App, App], family: int) -> None:
    fd = unix()
    made = sockets.adopt(fd, _kernel.cookie(fd), apps[0], sockaddr.encode(family, SERVER))
    assert made is not None
    assert (made.family, made.unix, made.app, made.phase) == (family, True, apps[0], NEW)
    assert identify(sockets, fd, apps[1]) is made


def test_what_is_not_adopted(sockets: Sockets, apps: tuple[App, App]) -> None:
    raw = sockaddr.encode(AF_INET, SERVER)
    named = unix()
    _kernel.bind_unix(named, naming.bell())
    for fd in (named, _kernel.socket(AF_UNIX, DGRAM, 0), _kernel.socket(AF_INET, STREAM, 0)):
        assert sockets.adopt(fd, _kernel.cookie(fd), apps[0], raw) is None
    fresh = unix()
    for bad in (errno.EFAULT, b"", b"\2", AF_UNIX.to_bytes(2, "little") + b"\0x", bytes(16)):
        assert sockets.adopt(fresh, _kernel.cookie(fresh), apps[0], bad) is None
    null = Fd(os.open("/dev/null", os.O_RDONLY))
    assert sockets.adopt(null, _kernel.cookie(null), apps[0], raw) is None
    assert sockets.by_cookie == {}
