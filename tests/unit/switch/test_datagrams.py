"""Where UDP sockets have to live: decisions, without a socket being moved."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from appswitch._kernel import Fd
from appswitch.address import Address, ip_bytes
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.model import AppSpec, Egress, EgressRule, HostPort, ServerRow
from appswitch.routing.policy import Policies
from appswitch.switch.apps import App, Origin
from appswitch.switch.datagram import Datagram
from appswitch.switch.datagrams import Datagrams


class Home:
    """A network namespace that is none: it knows which sockets are bound in it."""

    def __init__(self, cookie: int) -> None:
        self.cookie = cookie
        self.bound: set[int] = set()
        self.asked = 0  # how often the kernel would have had to list them

    def datagrams(self) -> Iterator[int]:
        self.asked += 1
        yield from self.bound


class World:
    """Apps, by name."""

    def __init__(self) -> None:
        self.apps: dict[int, App] = {}
        self.datagrams = Datagrams(self.apps, {}, Policies())
        self.up: list[ServerRow] = []
        self.down: list[ServerRow] = []
        self.datagrams.on_up = self.up.append
        self.datagrams.on_down = self.down.append

    def app(self, *ips: str, home: bool = True, **more: object) -> App:
        number = len(self.apps) + 1
        fields = {"labels": {"zone": "default"}, "netns": "new" if home else "host"} | more
        spec = AppSpec(id=number, uid=0, gid=0, node="n", cluster="c", command=("x",), created=0.0, ips=ips, **fields)  # type: ignore[arg-type]
        listener = Fd(os.open("/dev/null", os.O_RDONLY))
        made = App(spec, listener, Origin(1), Home(number) if home else None)  # type: ignore[arg-type]
        self.apps[made.id] = made
        self.datagrams.attach(made)
        return made

    def serve(self, app: App, ip: str, port: int, cookie: int = 99) -> Datagram:
        made = Datagram(cookie, app, AF_INET6 if ":" in ip else AF_INET, app)
        made.bound = Address(ip_bytes(ip), port)
        self.datagrams.by_cookie[cookie] = made
        app.home.bound.add(cookie)  # type: ignore[union-attr]
        self.datagrams.serve(made)
        return made

    def target(self, app: App, ip: str, port: int) -> tuple[str, list[App] | int]:
        family = AF_INET6 if ":" in ip else AF_INET
        target = self.datagrams.target(app, sockaddr.encode(family, Address(ip_bytes(ip), port)))
        if target.error:
            return "denied", target.error
        if target.home:
            return "home", []
        return ("apps", list(target.apps)) if target.apps else ("host", target.to.port)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    for app in made.apps.values():
        app.listener.close()


def test_to_an_app(world: World) -> None:
    client, server = world.app("10.0.0.2"), world.app("10.0.0.1", "fd00::1")
    world.serve(server, "::", 53)
    assert world.target(client, "10.0.0.1", 53) == ("apps", [server])
    assert world.target(client, "fd00::1", 53) == ("apps", [server])


def test_to_several_apps_with_one_address(world: World) -> None:
    client, one, two = world.app(), world.app("10.0.0.1"), world.app("10.0.0.1")
    world.serve(one, "0.0.0.0", 53, 1)
    assert world.target(client, "10.0.0.1", 53) == ("apps", [one])
    second = world.serve(two, "10.0.0.1", 53, 2)
    assert world.target(client, "10.0.0.1", 53) == ("apps", [one, two])
    world.datagrams.forget(second)
    assert world.target(client, "10.0.0.1", 53) == ("apps", [one])
    assert [row.service_ip for row in world.up] == ["0.0.0.0", "10.0.0.1"]
    assert [row.service_ip for row in world.down] == ["10.0.0.1"]


def test_to_a_closed_port_of_an_app(world: World) -> None:
    client, server = world.app("10.0.0.2"), world.app("10.0.0.1")
    assert world.target(client, "10.0.0.1", 53) == ("apps", [server])  # whose namespace refuses


def test_without_a_common_label(world: World) -> None:
    client, server = world.app("10.0.0.2"), world.app("10.0.0.1", labels={"zone": "other"})
    world.serve(server, "0.0.0.0", 53)
    assert world.target(client, "10.0.0.1", 53) == ("home", [])
    assert world.target(client, "10.0.0.1", 54) == ("home", [])


def test_own_addresses(world: World) -> None:
    client, other = world.app("10.0.0.1"), world.app("10.0.0.1")
    world.serve(other, "0.0.0.0", 53)
    assert world.target(client, "10.0.0.1", 53) == ("apps", [other])
    assert world.target(client, "10.0.0.1", 40000) == ("home", [])  # perhaps a client of its own
    world.serve(client, "0.0.0.0", 53, 2)
    assert world.target(client, "10.0.0.1", 53) == ("home", [])
    for ip in ("127.0.0.1", "::1", "0.0.0.0", "::", "127.4.5.6"):
        assert world.target(client, ip, 53) == ("home", [])


@pytest.mark.parametrize("ip", ["224.0.0.1", "255.255.255.255", "ff02::1", "fe80::1", "febf::1"])
def test_without_a_route(world: World, ip: str) -> None:
    assert world.target(world.app(), ip, 9) == ("home", [])


def test_outside(world: World) -> None:
    client = world.app("10.0.0.2")
    assert world.target(client, "192.0.2.1", 123) == ("host", 123)
    assert world.target(client, "2001:db8::1", 123) == ("host", 123)


def test_outside_from_the_hosts_network(world: World) -> None:
    server, client = world.app("10.0.0.1"), world.app(home=False)
    world.serve(server, "0.0.0.0", 53)
    assert world.target(client, "192.0.2.1", 123) == ("home", [])
    assert world.target(client, "10.0.0.1", 53) == ("apps", [server])


def test_egress(world: World) -> None:
    rules = (EgressRule(allow=True, network="192.0.2.0/24"), EgressRule(allow=True, name="example.com"))
    client = world.app(egress=Egress(default="deny", rules=rules, error="ECONNREFUSED"))
    server = world.app("10.0.0.1")
    world.serve(server, "0.0.0.0", 53)
    assert world.target(client, "192.0.2.1", 9) == ("host", 9)
    assert world.target(client, "198.51.100.1", 9) == ("denied", errno.ECONNREFUSED)
    assert world.target(client, "10.0.0.1", 53) == ("apps", [server])
    client.permits.add("example.com", ("198.51.100.1",), 60)
    assert world.target(client, "198.51.100.1", 9) == ("host", 9)


def test_the_hosts_loopback(world: World) -> None:
    client = world.app(host_ports=(HostPort(internal=8125, host_port=18125),))
    assert world.target(client, "127.0.0.1", 8125) == ("host", 18125)
    assert world.target(client, "127.0.0.1", 18125) == ("home", [])


def test_guests_are_at_home(world: World) -> None:
    client, server = world.app("10.0.0.2"), world.app("10.0.0.1")
    guest = Address(ip_bytes("10.0.0.2"), 40000)
    raw = sockaddr.encode(AF_INET, guest)
    serving, away = Datagram(1, server, AF_INET, server), Datagram(2, server, AF_INET, client)
    server.welcome(guest)
    server.welcome(guest)
    server.dismiss(guest)
    assert world.datagrams.aim(serving, raw).home
    assert world.datagrams.aim(away, raw).apps == (client,)
    server.dismiss(guest)
    assert world.datagrams.aim(serving, raw).apps == (client,)


@pytest.mark.parametrize("raw", [b"", b"\2", b"\2\0\0\x35", b"\x0a\0" + bytes(20), b"\1\0/tmp/x", bytes(16)])
def test_what_is_no_address(world: World, raw: bytes) -> None:
    assert world.datagrams.target(world.app(), raw).home


def test_closed_servers_are_forgotten(world: World) -> None:
    app = world.app("10.0.0.1")
    one, two = world.serve(app, "0.0.0.0", 53, 1), world.serve(app, "0.0.0.0", 53, 2)
    assert world.datagrams.taken(one, Address(ip_bytes("10.0.0.1"), 53), v6only=False)
    app.home.bound.remove(two.cookie)  # type: ignore[union-attr]
    assert not world.datagrams.taken(one, Address(ip_bytes("10.0.0.1"), 53), v6only=False)
    world.datagrams.sweep_some()
    assert [row.service_port for row in world.datagrams.server_rows()] == [53]
    app.home.bound.clear()  # type: ignore[union-attr]
    world.datagrams.sweep_some()
    assert world.datagrams.server_rows() == ()


def test_many_that_share_a_port_are_not_listed_for_each(world: World) -> None:
    app = world.app("10.0.0.1")
    for cookie in range(1, 100):
        one = world.serve(app, "0.0.0.0", 53, cookie)
        one.reuseaddr = b"\1\0\0\0"
        assert not world.datagrams.taken(one, Address(ip_bytes("10.0.0.1"), 53), v6only=False)
    assert app.home.asked == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("first", "second", "v6only", "taken"),
    [
        ("0.0.0.0", "10.0.0.1", False, True),
        ("10.0.0.1", "0.0.0.0", False, True),
        ("127.0.0.1", "10.0.0.1", False, False),
        ("10.0.0.1", "::", False, True),
        ("10.0.0.1", "::", True, False),
        ("0.0.0.0", "::", True, False),
        ("0.0.0.0", "fd00::1", False, False),
        ("::", "fd00::1", False, True),
        ("::", "10.0.0.1", False, True),
        ("fd00::1", "::1", False, False),
    ],
)
def test_which_addresses_are_taken(world: World, first: str, second: str, v6only: bool, taken: bool) -> None:
    app = world.app("10.0.0.1", "fd00::1")
    one = world.serve(app, first, 53, 1)
    two = Datagram(2, app, AF_INET6, app)
    assert world.datagrams.taken(two, Address(ip_bytes(second), 53), v6only) is taken
    assert not world.datagrams.taken(two, Address(ip_bytes(second), 54), v6only)
    two.reuseaddr = b"\1\0\0\0"
    assert world.datagrams.taken(two, Address(ip_bytes(second), 53), v6only) is taken
    one.reuseaddr = b"\1\0\0\0"
    assert not world.datagrams.taken(two, Address(ip_bytes(second), 53), v6only)


def test_an_app_that_ends_takes_everything_along(world: World) -> None:
    client, server = world.app("10.0.0.2"), world.app("10.0.0.1")
    world.serve(server, "0.0.0.0", 53)
    world.datagrams.detach(server)
    assert not world.datagrams.by_cookie
    assert world.target(client, "10.0.0.1", 53) == ("host", 53)


def test_other_files_are_none_of_ours(world: World) -> None:
    app = world.app()
    for family, kind in ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM)):
        with socket.socket(family, kind) as sock:
            assert world.datagrams.identify(Fd(os.dup(sock.fileno())), 12345, app) is None


def test_a_socket_of_the_host(world: World) -> None:
    app = world.app()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        found = world.datagrams.identify(Fd(os.dup(sock.fileno())), 12345, app)
        assert found is not None
        assert (found.place, found.family, found.at_home) == (None, AF_INET6, False)
