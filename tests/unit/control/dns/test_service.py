"""Sockets from the switch, and the DNS server as control runs it."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import msgspec
import pytest
from tests.unit.control.conftest import DEADLINE, until
from tests.unit.control.dns.builders import app, ask, listener, texts_of
from tests.unit.control.dns.upstream_server import Upstream
from tests.unit.control.fake_switch import FakeSwitch
from tests.unit.control.test_server import serving as control_serving

from appswitch import wire
from appswitch.address import Address, ip_bytes
from appswitch.control.dns import service
from appswitch.control.dns.intake import Intake
from appswitch.control.dns.service import Dns
from appswitch.control.dns.servicenames import ServiceNames
from appswitch.control.link import SwitchLink
from appswitch.control.pools import Pools
from appswitch.control.resources.catalog import Catalog
from appswitch.control.settings import Settings, SettingsError, from_environ
from appswitch.model import AppRow
from appswitch.paths import RunDir

Fds = Iterable[socket.socket | int]


def encoded(app_id: int = 1, address: str = "127.0.0.1") -> bytes:
    return msgspec.msgpack.encode(wire.NameServer(app_id, address))


def send(path: Path, data: bytes, fds: Fds) -> None:
    numbers = array.array("i", [one if isinstance(one, int) else one.fileno() for one in fds])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(path))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
        sock.sendmsg([data], ancillary)


@contextmanager
def made(ip: str = "127.0.0.1", listens: bool = True) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A UDP and a TCP socket of a name server, as the switch makes them."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp, socket.socket(family, socket.SOCK_STREAM) as tcp:
        udp.bind((ip, 0))
        tcp.bind((ip, 0))
        if listens:
            tcp.listen()
        yield udp, tcp


async def exchange(peer: tuple[str, int], query: dns.message.Message) -> dns.message.Message:
    with socket.socket(socket.AF_INET6 if ":" in peer[0] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(peer)
        sock.send(query.to_wire())
        reply = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 65535), DEADLINE)
    return dns.message.from_wire(reply)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not read


# --- intake


class Taken:
    def __init__(self, path: Path) -> None:
        self.found: list[tuple[wire.NameServer, socket.socket, socket.socket]] = []
        self.intake = Intake(path, lambda *one: self.found.append(one))
        self.intake.start()

    def close(self) -> None:
        self.intake.close()
        for _, udp, tcp in self.found:
            udp.close()
            tcp.close()


@pytest.fixture
async def taken(tmp_path: Path) -> AsyncIterator[Taken]:
    (tmp_path / "dns.sock").write_text("of a daemon that died")
    one = Taken(tmp_path / "dns.sock")
    yield one
    one.close()
    assert not (tmp_path / "dns.sock").exists()


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_sockets_come(taken: Taken, tmp_path: Path, ip: str) -> None:
    path = tmp_path / "dns.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    with made(ip) as (udp, tcp):
        names = udp.getsockname(), tcp.getsockname()
        send(path, encoded(7, ip), (udp, tcp))
    await until(lambda: taken.found)
    ((message, *both),) = taken.found
    assert message == wire.NameServer(7, ip)
    assert tuple(one.getsockname() for one in both) == names
    assert not any(os.get_inheritable(one.fileno()) for one in both)


@pytest.mark.parametrize(
    "what",
    ["nothing", "no message", "not msgpack", "another message", "not an address", "too long", "none", "one", "three",
     "many", "the wrong way round", "another family", "another address", "a file", "Unix sockets", "not listening",
     "raw"],
)  # fmt: skip
async def test_what_cannot_be_used_is_closed(taken: Taken, tmp_path: Path, what: str) -> None:
    path = tmp_path / "dns.sock"
    with ExitStack() as stack:
        udp, tcp = stack.enter_context(made())
        six = stack.enter_context(made("::1"))
        silent = stack.enter_context(made(listens=False))
        pair = [stack.enter_context(one) for one in socket.socketpair()]
        file = os.open("/dev/null", os.O_RDONLY)
        stack.callback(os.close, file)
        good = encoded()
        cases: dict[str, tuple[bytes, Fds]] = {
            "nothing": (b"", ()),
            "no message": (b"", (udp, tcp)),
            "not msgpack": (b"\xc1", (udp, tcp)),
            "another message": (msgspec.msgpack.encode({"app_id": "x"}), (udp, tcp)),
            "not an address": (encoded(1, "localhost"), (udp, tcp)),
            "too long": (good + bytes(5000), (udp, tcp)),
            "none": (good, ()),
            "one": (good, (udp,)),
            "three": (good, (udp, tcp, tcp)),
            "many": (good, (udp, tcp) * 20),
            "the wrong way round": (good, (tcp, udp)),
            "another family": (good, six),
            "another address": (encoded(1, "127.0.0.2"), (udp, tcp)),
            "a file": (good, (file, tcp)),
            "Unix sockets": (good, pair),
            "not listening": (good, silent),
        }
        if what == "raw":
            if os.geteuid() != 0:
                return
            raw = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP))
            cases["raw"] = (good, (raw, tcp))
        before = descriptors()
        send(path, *cases[what])
        send(path, good, (udp, tcp))
        await until(lambda: taken.found)
        assert len(taken.found) == 1
        assert descriptors() == before + 2, "but for the two that can be used, none is left"


# --- the whole


@asynccontextmanager
async def serving(link: SwitchLink, settings: Settings) -> AsyncIterator[Dns]:
    before = descriptors()
    one = Dns(link, settings, Catalog(Pools(settings.pools)))
    task = asyncio.create_task(one.run())
    await asyncio.sleep(0)
    try:
        yield one
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
    await until(lambda: descriptors() <= before, "every descriptor is closed")
    assert not settings.run_dir.dns.exists()


def start(switch: FakeSwitch, row: AppRow) -> None:
    switch.apps[row.app.id] = row
    switch._tell(wire.AppChanged(row))


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as one:
        yield one


@pytest.fixture
def settings(tmp_path: Path, up: Upstream) -> Settings:
    server = Address(ip_bytes(up.server[0]), up.server[1])
    return Settings(run_dir=RunDir(tmp_path), node="n1", rest_port=0, dns_servers=(server,), dns_domain="apps.test")


async def test_from_the_first_to_the_last(switch: FakeSwitch, link: SwitchLink, settings: Settings) -> None:
    async with serving(link, settings):
        start(switch, app(1, "web", ("10.0.0.1",)))
        await until(lambda: 1 in link.apps)
        with made() as (udp, tcp):
            udp_at, tcp_at = udp.getsockname(), tcp.getsockname()
            send(settings.run_dir.dns, encoded(), (udp, tcp))
        assert texts_of((await exchange(udp_at, ask("web.apps.test"))).answer) == ["A 10.0.0.1"]
        assert texts_of((await exchange(udp_at, ask("x.example"))).answer) == ["A 10.0.0.1"]
        switch.listen(listener(1, 80))
        await until(lambda: link.servers)
        (found,) = (await exchange(udp_at, ask("_80._tcp.web", "SRV"))).answer
        assert found[0].port == 80
        switch.unlisten(listener(1, 80))
        await until(lambda: not link.servers)
        assert (await exchange(udp_at, ask("_80._tcp.web", "SRV"))).rcode() == dns.rcode.NXDOMAIN
        reader, writer = await asyncio.open_connection(*tcp_at)
        wire_ = ask("web").to_wire()
        writer.write(len(wire_).to_bytes(2, "big") + wire_)
        assert await asyncio.wait_for(reader.readexactly(2), DEADLINE)
        start(switch, app(2, "web", ("10.0.0.2",)))
        await until(lambda: 2 in link.apps)
        assert len(texts_of((await exchange(udp_at, ask("web.apps.test"))).answer)) == 2
        switch.end(1)
        await until(lambda: 1 not in link.apps)
        with suppress(ConnectionError):
            assert len(await asyncio.wait_for(reader.read(), DEADLINE)) >= 0
        with pytest.raises(ConnectionRefusedError):
            await exchange(udp_at, ask("web"))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*tcp_at)
        writer.close()


async def test_a_service_is_found_by_its_name(switch: FakeSwitch, link: SwitchLink, settings: Settings) -> None:
    async with serving(link, settings) as one:
        start(switch, app(1, "web", ("127.0.0.1",)))
        switch.listen(listener(1, 80))
        await until(lambda: link.servers)
        await until(lambda: one._names.get(80, "tcp") == "http", "services(5) has been read")
        with made() as (udp, tcp):
            at = udp.getsockname()
            send(settings.run_dir.dns, encoded(), (udp, tcp))
        assert (await exchange(at, ask("_http._tcp.web", "SRV"))).answer


async def test_the_same_again_replaces(switch: FakeSwitch, link: SwitchLink, settings: Settings) -> None:
    async with serving(link, settings) as one:
        start(switch, app(1, "web", ("10.0.0.1",)))
        await until(lambda: 1 in link.apps)
        for _ in range(3):
            with made() as (udp, tcp):
                at = udp.getsockname()
                send(settings.run_dir.dns, encoded(), (udp, tcp))
            assert (await exchange(at, ask("web"))).answer
        assert len(one._ports) == 1


async def test_sockets_that_come_before_their_app(
    switch: FakeSwitch, link: SwitchLink, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come another way than the news of the app."""
    async with serving(link, settings) as one:
        with made() as (udp, tcp):
            at = udp.getsockname()
            send(settings.run_dir.dns, encoded(), (udp, tcp))
        await until(lambda: one._waiting)
        asked = asyncio.create_task(exchange(at, ask("web")))
        start(switch, app(1, "web", ("10.0.0.1",)))
        assert (await asked).answer
        assert not one._waiting
        monkeypatch.setattr(service, "PATIENCE", 0.01)
        drop, dropped = one._drop, []
        monkeypatch.setattr(one, "_drop", lambda key: (dropped.append(key), drop(key)))
        with made() as (udp, tcp):
            send(settings.run_dir.dns, encoded(77), (udp, tcp))
        key = (77, "127.0.0.1")
        await until(lambda: dropped == [key, key], "what was there before is dropped, then what nobody came for")
        assert key not in one._ports
        monkeypatch.setattr(service, "MAX_WAITING", 0)
        before = descriptors()
        with made() as (udp, tcp):
            send(settings.run_dir.dns, encoded(78), (udp, tcp))
            send(settings.run_dir.dns, encoded(1, "127.0.0.1"), (udp, tcp))
            other = udp.getsockname()
        assert (await exchange(other, ask("web"))).answer
        assert descriptors() == before


async def test_an_app_that_has_ended_before_its_news_are_read(
    switch: FakeSwitch, link: SwitchLink, settings: Settings
) -> None:
    """Control is busy, the app is short: the link has forgotten it when the DNS server hears of it first."""
    async with serving(link, settings) as one:
        with made() as (udp, tcp):
            send(settings.run_dir.dns, encoded(), (udp, tcp))
        await until(lambda: one._waiting)
        link._apply(wire.AppChanged(app(1, "web", ("10.0.0.1",))))  # and nobody else has a turn in between
        link._apply(wire.AppGone(1))
        await until(lambda: not one._waiting)
        await until(lambda: not one._ports and not one._keys and not one._desks)
        start(switch, app(2, "other", ("10.0.0.2",)))
        await until(lambda: 2 in link.apps)
        with made() as (udp, tcp):
            at = udp.getsockname()
            send(settings.run_dir.dns, encoded(2), (udp, tcp))
        assert texts_of((await exchange(at, ask("other"))).answer) == ["A 10.0.0.2"], "it goes on"


async def test_who_falls_behind_starts_anew(switch: FakeSwitch, link: SwitchLink, settings: Settings) -> None:
    async with serving(link, settings) as one:
        start(switch, app(1, "web", ("10.0.0.1",)))
        await until(lambda: 1 in link.apps)
        with made() as (udp, tcp):
            at = udp.getsockname()
            send(settings.run_dir.dns, encoded(), (udp, tcp))
        assert (await exchange(at, ask("web"))).answer
        link.close_watches()
        start(switch, app(2, "other", ("10.0.0.2",)))
        await until(lambda: 2 in link.apps)
        assert texts_of((await exchange(at, ask("other"))).answer) == ["A 10.0.0.2"]
        link.apps.pop(1)
        link.close_watches()
        await until(lambda: not one._ports)


async def test_rules_reach_the_switch(switch: FakeSwitch, link: SwitchLink, settings: Settings) -> None:
    async with serving(link, settings):
        start(switch, app(1, rules=("*.example.com",)))
        await until(lambda: 1 in link.apps)
        with made() as (udp, tcp):
            at = udp.getsockname()
            send(settings.run_dir.dns, encoded(), (udp, tcp))
        assert (await exchange(at, ask("www.example.com"))).answer
        (permit,) = [one for one in switch.asked if isinstance(one, wire.Permit)]
        assert (permit.app_id, permit.name, permit.ips, permit.seconds) == (1, "*.example.com", ("10.0.0.1",), 60)


async def test_names_of_services() -> None:
    names = ServiceNames()
    for _ in range(3):
        names.learn(80, "tcp")
        names.learn(1, "udp")
    assert names.get(80, "tcp") is None
    await until(lambda: names.get(80, "tcp") == "http" and len(names._learning) == 0)
    names.learn(40_000, "udp")
    assert not names._learning
    names.learn(81, "tcp")
    await names.close()


# --- control


async def test_control_answers(switch: FakeSwitch, settings: Settings) -> None:
    row = app(1, "web", ("10.0.0.1",))
    switch.apps[1] = row
    async with control_serving(settings):
        with made() as (udp, tcp):
            at = udp.getsockname()
            send(settings.run_dir.dns, encoded(), (udp, tcp))
        assert (await exchange(at, ask("web"))).answer
    assert not settings.run_dir.dns.exists()


async def test_control_that_does_not_answer(switch: FakeSwitch, settings: Settings) -> None:
    settings.run_dir.dns.write_text("of a daemon that answered")
    async with control_serving(msgspec.structs.replace(settings, dns=False)) as control:
        assert control.dns is None
        assert not settings.run_dir.dns.exists()


def test_settings() -> None:
    def read(**env: str) -> Settings:
        return from_environ({"AX_RUN_DIR": "/r", **env})

    assert (read().dns, read().dns_domain, read().dns_servers) == (True, "appswitch.local", ())
    assert not read(AX_DNS="0").dns
    assert read(AX_DNS_DOMAIN="X.Y.").dns_domain == "x.y"
    assert [str(one) for one in read(AX_DNS_SERVERS="10.0.0.2, [fd00::2]:54").dns_servers] == [
        "10.0.0.2:53",
        "[fd00::2]:54",
    ]
    for env in ({"AX_DNS": "maybe"}, {"AX_DNS_DOMAIN": "_"}, {"AX_DNS_SERVERS": "x"}):
        with pytest.raises(SettingsError, match=next(iter(env))):
            read(**env)
