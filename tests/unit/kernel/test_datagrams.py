"""appswitch._kernel: sockets in other network namespaces, and datagrams."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address, ip_bytes
from appswitch.kernel import sockaddr
from appswitch.switch.apps import App
from appswitch.switch.datagram import OFF, ON, Datagram, leave_marks, restored
from appswitch.switch.netns import Bound, cookie_of

INET, INET6, STREAM, DGRAM = (int(n) for n in (socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM))
NETLINK, SOCK_DIAG = 16, 4
ALL = 0xFFF
IP_PKTINFO = 8


@pytest.fixture
def namespaces() -> Iterator[tuple[Fd, Fd]]:
    """A network namespace, and the user namespace that owns it."""
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "ip link set lo up; echo; read end"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        net, user = (Fd(os.open(f"/proc/{process.pid}/ns/{kind}", os.O_RDONLY)) for kind in ("net", "user"))
        yield net, user
        process.stdin.close()
        net.close()
        user.close()


def pair() -> tuple[socket.socket, socket.socket]:
    one, two = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (one, two):
        sock.bind(("127.0.0.1", 0))
    one.connect(two.getsockname())
    return one, two


def test_a_socket_in_another_namespace(namespaces: tuple[Fd, Fd]) -> None:
    net, user = namespaces
    there = _kernel.socket_in(net, user, INET, DGRAM, 0)
    here = _kernel.socket(INET, DGRAM, 0)
    assert cookie_of(there) not in (0, cookie_of(here))
    assert not os.get_inheritable(there.fileno())
    # We are where we were, and what we make is made there.
    assert cookie_of(_kernel.socket(INET, DGRAM, 0)) == cookie_of(here)
    assert cookie_of(_kernel.socket_in(net, user, INET6, STREAM, 0)) == cookie_of(there)


def test_what_is_bound_in_another_namespace(namespaces: tuple[Fd, Fd]) -> None:
    net, user = namespaces
    there, diag = _kernel.socket_in(net, user, INET, DGRAM, 0), _kernel.socket_in(net, user, NETLINK, DGRAM, SOCK_DIAG)
    assert _kernel.dump_inet(INET, 17, ALL, diag) == []
    assert _kernel.bind(there, sockaddr.encode(INET, Address(ip_bytes("127.0.0.1"), 53))) == 0
    (row,) = _kernel.dump_inet(INET, 17, ALL, diag)
    assert (row[0], row[4], row[5]) == (_kernel.cookie(there), ip_bytes("127.0.0.1"), 53)
    assert _kernel.dump_inet(INET, 17, ALL, diag, 53) == [row]
    assert _kernel.dump_inet(INET, 17, ALL, diag, 54) == []


@pytest.mark.parametrize("family", [INET, INET6])
def test_options_that_the_kernel_shows_of_a_socket(namespaces: tuple[Fd, Fd], family: int) -> None:
    """Those on which `datagram.leave_marks` relies: read from another socket's cookie alone."""
    net, user = namespaces
    diag = _kernel.socket_in(net, user, NETLINK, DGRAM, SOCK_DIAG)
    for reuseaddr, reuseport, v6only in itertools.product((False, True), (False, True), {False, family == INET6}):
        there = _kernel.socket_in(net, user, family, DGRAM, 0)
        if v6only:
            assert _kernel.setsockopt(there, 41, 26, b"\1\0\0\0") == 0
        assert _kernel.bind(there, sockaddr.encode(family, Address(bytes(16 if family == INET6 else 4), 5353))) == 0
        ((*_, before),) = _kernel.dump_inet(family, 17, ALL, diag, 5353)
        assert not before & (1 << 8)
        known = Datagram(_kernel.cookie(there), App.__new__(App), family, None)
        known.reuseaddr, known.reuseport = (ON if reuseaddr else OFF), reuseport
        leave_marks(there, known)
        ((*_, options),) = _kernel.dump_inet(family, 17, ALL, diag, 5353)
        made = restored(Bound(known.cookie, family, Address(b"", 5353), None, options), known.app)
        assert (made.settled, made.reuseaddr, made.reuseport, made.v6only) == (
            True, known.reuseaddr, reuseport, v6only,
        )  # fmt: skip
        there.close()


def test_what_is_no_namespace() -> None:
    null = Fd(os.open("/dev/null", os.O_RDONLY))
    with pytest.raises(OSError, match="Invalid argument"):
        _kernel.socket_in(null, null, INET, DGRAM, 0)
    with pytest.raises(OSError, match="Invalid argument"):
        _kernel.socket_in(null, -1, INET, DGRAM, 0)


def test_a_domain_that_is_none(namespaces: tuple[Fd, Fd]) -> None:
    with pytest.raises(OSError, match="Address family not supported"):
        _kernel.socket_in(*namespaces, 99, DGRAM, 0)


@pytest.mark.parametrize("size", [0, 1, 65507])
def test_receive(size: int) -> None:
    one, two = pair()
    with one, two:
        one.send(b"x" * size)
        received = _kernel.receive(two.fileno())
        assert not isinstance(received, int)
        data, source, to = received
        assert (len(data), to) == (size, b"")
        assert sockaddr.decode(source).port == one.getsockname()[1]
        assert _kernel.receive(two.fileno()) == -errno.EAGAIN


def test_receive_tells_what_it_was_sent_to() -> None:
    one, two = pair()
    with one, two:
        two.setsockopt(socket.SOL_IP, IP_PKTINFO, 1)
        one.send(b"x")
        received = _kernel.receive(two.fileno())
        assert not isinstance(received, int)
        assert received[2] == ip_bytes("127.0.0.1")


def test_send_to_an_address_and_to_the_peer() -> None:
    one, two = pair()
    with one, two:
        to = sockaddr.encode(INET, Address(ip_bytes("127.0.0.1"), two.getsockname()[1]))
        assert _kernel.send_to(one.fileno(), b"peer", b"", b"", 0) == 4
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as third:
            assert _kernel.send_to(third.fileno(), b"", to, b"", 0) == 0
            assert _kernel.send_to(third.fileno(), b"x" * 65508, to, b"", 0) == -errno.EMSGSIZE
            assert _kernel.send_to(third.fileno(), b"x", b"", b"", 0) == -errno.EDESTADDRREQ
        assert [two.recv(9), two.recv(9)] == [b"peer", b""]


def test_send_with_control() -> None:
    one, two = pair()
    with one, two:
        two.setsockopt(socket.SOL_IP, socket.IP_RECVTOS, 1)
        tos = struct.pack("=Qiii4x", 20, socket.SOL_IP, socket.IP_TOS, 0x10)
        assert _kernel.send_to(one.fileno(), b"x", b"", tos, 0) == 1
        _, control, _, _ = two.recvmsg(9, 64)
        assert control == [(socket.SOL_IP, socket.IP_TOS, b"\x10")]


def test_what_was_set_goes_along() -> None:
    options = [
        (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        (socket.SOL_SOCKET, socket.SO_BROADCAST, 1),
        (socket.SOL_SOCKET, 35, 1),  # SO_TIMESTAMPNS
        (socket.SOL_IP, socket.IP_TTL, 7),
        (socket.SOL_IP, IP_PKTINFO, 1),
        (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1),
        (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1),
        (socket.IPPROTO_UDP, 104, 1),  # UDP_GRO
    ]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as old, socket.socket(socket.AF_INET6, DGRAM) as new:
        for level, name, value in options:
            old.setsockopt(level, name, value)
        _kernel.inherit_datagram(old.fileno(), new.fileno())
        assert [new.getsockopt(level, name) for level, name, _ in options] == [value for _, _, value in options]


def test_a_filter() -> None:
    one, two = pair()
    with one, two:
        assert _kernel.attach_filter(two.fileno(), struct.pack("=HBBI", 6, 0, 0, 0)) == 0  # drop
        one.send(b"x")
        assert _kernel.receive(two.fileno()) == -errno.EAGAIN
        assert _kernel.attach_filter(two.fileno(), struct.pack("=HBBI", 6, 0, 0, 0xFFFFFFFF)) == 0
        one.send(b"y")
        assert two.recv(9) == b"y"
        assert _kernel.attach_filter(two.fileno(), struct.pack("=HBBI", 0xFFFF, 0, 0, 0)) == errno.EINVAL
        assert _kernel.attach_filter(two.fileno(), b"") == errno.EINVAL
