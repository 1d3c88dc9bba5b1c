"""Names of Unix sockets: what is put in comes out, and nothing else is believed."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appswitch.address import Address
from appswitch.switch import naming

apps = st.integers(0, 2**32 - 1)
ips = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
addresses = st.builds(Address, ips, st.integers(0, 65535))
listeners = st.builds(
    naming.Listener,
    apps,
    st.sampled_from([int(socket.AF_INET), int(socket.AF_INET6)]),
    addresses,
    st.integers(0, 7),
    st.integers(0, 2**40),
)
CLIENT, SERVER = Address(b"\x0a\0\0\1", 40000), Address(bytes(15) + b"\1", 80)
SUN_PATH = 108


@settings(max_examples=60)
@given(apps, apps, addresses, addresses)
def test_a_connections_name_tells_everything(
    client_app: int, server_app: int, client: Address, server: Address
) -> None:
    name = naming.connection(client_app, server_app, client, server)
    assert naming.parse_connection(name) == (client_app, server_app, client, server)


def test_a_connections_name_fills_sun_path_with_readable_text() -> None:
    name = naming.connection(1, 2, CLIENT, SERVER)
    assert len(name) == SUN_PATH
    assert name[:1] == b"\0"
    assert name[1:].decode().isalnum()


def test_no_two_names_are_the_same() -> None:
    names = {naming.connection(1, 2, CLIENT, SERVER) for _ in range(100)} | {naming.bell() for _ in range(100)}
    assert len(names) == 200


def test_head_and_tail_make_a_connection() -> None:
    name = naming.head(CLIENT.port) + naming.tail(1, 2, CLIENT.ip, SERVER)
    assert naming.parse_connection(name) == naming.Connection(1, 2, CLIENT, SERVER)


def test_the_kernel_keeps_the_name() -> None:
    name = naming.connection(1, 2, CLIENT, SERVER)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(name)
        assert sock.getsockname() == name


def test_a_bell_is_a_bell_and_no_connection() -> None:
    assert naming.is_bell(naming.bell())
    assert naming.parse_connection(naming.bell()) is None
    assert not naming.is_bell(naming.connection(1, 2, CLIENT, SERVER))
    assert not naming.is_bell(naming.bell()[1:])
    assert not naming.is_bell(naming.bell() + b"B")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda name: b"",
        lambda name: name[:-1],
        lambda name: name + b"0",
        lambda name: b"\0AX2" + name[4:],
        lambda name: b"/" + name[1:],
        lambda name: name[:-1] + b"g",
        lambda name: name[:-1] + b"\xff",
    ],
    ids=["empty", "shorter", "longer", "magic", "path", "digit", "ascii"],
)
def test_other_names_are_no_connections(spoil) -> None:  # type: ignore[no-untyped-def]
    assert naming.parse_connection(spoil(naming.connection(1, 2, CLIENT, SERVER))) is None


def test_a_name_with_spaces_is_no_connection() -> None:
    assert naming.parse_connection(naming.MAGIC + b" " * (SUN_PATH - len(naming.MAGIC))) is None


@pytest.mark.parametrize("size", [0, 5, 15, 17, 255])
@pytest.mark.parametrize("at", [52 - 2 - 1, 52 - 2 - 1 - 17], ids=["server", "client"])
def test_a_connection_of_no_family_is_none(size: int, at: int) -> None:
    packed = bytearray.fromhex(naming.connection(1, 2, CLIENT, SERVER)[len(naming.MAGIC) :].decode())
    packed[at] = size
    assert naming.parse_connection(naming.MAGIC + packed.hex().encode()) is None


@settings(max_examples=60)
@given(listeners)
def test_a_listeners_name_tells_everything(listener: naming.Listener) -> None:
    name = naming.listener(listener)
    assert naming.parse_listener(name) == listener
    assert b"/" not in name
    assert len(name) < SUN_PATH


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"attach.sock",
        b",,,,,",
        b"1,2,3.4.5.6,80,0",
        b"1,2,3.4.5.6,80,0,1,1",
        b"g,2,3.4.5.6,80,0,1",
        b"1,2,3.4.5,80,0,1",
        b"1,2,3.4.5.6,x,0,1",
        b"\xff,2,3.4.5.6,80,0,1",
    ],
)
def test_other_files_are_no_listeners(name: bytes) -> None:
    assert naming.parse_listener(name) is None


@settings(max_examples=100)
@given(st.binary(max_size=130) | st.binary(min_size=104, max_size=104).map(lambda rest: naming.MAGIC + rest))
def test_strange_names_raise_nothing(name: bytes) -> None:
    assert naming.parse_connection(name) is None
    assert naming.parse_listener(name) is None or name.count(b",") == 5
    assert not naming.is_bell(name)
