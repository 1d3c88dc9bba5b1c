"""Questions over real sockets: the whole way from an app's packet to its answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from tests.unit.control.conftest import DEADLINE, until
from tests.unit.control.dns.builders import Clock, app, apps, ask, texts_of
from tests.unit.control.dns.upstream_server import Upstream, address, respond

from appswitch.control.dns import desk as desks
from appswitch.control.dns import server as servers
from appswitch.control.dns.apps import Apps
from appswitch.control.dns.asker import asker
from appswitch.control.dns.cache import Cache
from appswitch.control.dns.desk import Desk
from appswitch.control.dns.forward import Forwarder
from appswitch.control.dns.query import Query, parse
from appswitch.control.dns.resolver import Resolver
from appswitch.control.dns.server import Port
from appswitch.control.dns.zone import Zone
from appswitch.control.link import SwitchDownError
from appswitch.model import AppRow
from appswitch.wire import Done


class Bench:
    """An app's name server, what is behind it, and a client of the app."""

    def __init__(self, upstream: Callable[[], tuple[tuple[str, int], ...]], asks: AppRow) -> None:
        self.clock = Clock()
        self.apps: Apps = apps(app(1, "web", ("10.0.0.1", "fd00::1")), app(2, "web", ("10.0.0.2",)))
        self.permits: list[tuple[object, ...]] = []
        self.answer_to_permit: Done | Exception = Done(seq=1)
        self.may_permit = asyncio.Event()
        self.may_permit.set()
        self.forwarder = Forwarder(upstream, Cache(), self.clock, timeout=DEADLINE, rounds=1)
        self.resolver = Resolver(Zone("appswitch.local", self.apps), Cache(), self.forwarder, self._permit, self.clock)
        self.forwarder._cache = self.resolver._cache
        self.desk = Desk(asker(asks.app), self.resolver)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        self.udp: tuple[str, int] = udp.getsockname()
        self.tcp: tuple[str, int] = tcp.getsockname()
        self.port = Port(udp, tcp)
        self.port.start(self.desk)
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.client.connect(self.udp)

    async def close(self) -> None:
        self.desk.close()
        self.port.close()
        self.client.close()
        await self.forwarder.close()

    async def _permit(self, app_id: int, name: str, ips: tuple[str, ...], seconds: float) -> Done:
        self.permits.append((app_id, name, ips, seconds))
        await self.may_permit.wait()
        if isinstance(self.answer_to_permit, Exception):
            raise self.answer_to_permit
        return self.answer_to_permit

    def send(self, query: dns.message.Message | bytes) -> None:
        self.client.send(query if isinstance(query, bytes) else query.to_wire())

    async def receive(self) -> dns.message.Message:
        wire = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.client, 65535), DEADLINE)
        return dns.message.from_wire(wire)

    async def ask(self, name: str, rdtype: str = "A", **more: object) -> dns.message.Message:
        query = ask(name, rdtype, **more)
        self.send(query)
        reply = await self.receive()
        assert reply.id == query.id
        assert reply.question == query.question
        return reply

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.tcp)


@asynccontextmanager
async def serving(asks: AppRow | None = None) -> AsyncIterator[tuple[Bench, Upstream]]:
    async with Upstream() as up:
        bench = Bench(up, asks or app(9, "client"))
        try:
            yield bench, up
        finally:
            await bench.close()


def framed(*queries: dns.message.Message) -> bytes:
    return b"".join(len(one.to_wire()).to_bytes(2, "big") + one.to_wire() for one in queries)


async def message(reader: asyncio.StreamReader) -> dns.message.Message:
    async with asyncio.timeout(DEADLINE):
        return dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))


async def test_ours_and_others() -> None:
    async with serving() as (bench, up):
        reply = await bench.ask("web.appswitch.local")
        assert dns.flags.to_text(reply.flags) == "QR AA RD RA"
        assert texts_of(reply.answer) == ["A 10.0.0.1", "A 10.0.0.2"]
        assert (await bench.ask("no.appswitch.local")).rcode() == dns.rcode.NXDOMAIN
        assert up.seen == []
        for name in ("www.example", "printer", "9.0.0.10.in-addr.arpa"):
            reply = await bench.ask(name)
            assert dns.flags.to_text(reply.flags) == "QR RD RA"
            assert texts_of(reply.answer) == ["A 10.0.0.1"]
        assert [one.question[0].name.to_text() for one, _ in up.seen] == [
            "www.example.", "printer.", "9.0.0.10.in-addr.arpa.",
        ]  # fmt: skip


async def test_several_addresses_take_turns() -> None:
    async with serving() as (bench, _):
        firsts = [texts_of((await bench.ask("web")).answer)[0] for _ in range(6)]
        assert firsts.count("A 10.0.0.1") == firsts.count("A 10.0.0.2") == 3


async def test_the_cache() -> None:
    async with serving() as (bench, up):
        assert (await bench.ask("x.example")).answer[0].ttl == 60
        bench.clock.now += 20
        assert (await bench.ask("X.example")).answer[0].ttl == 40
        assert (await bench.ask("X.example", use_edns=0)).answer[0].ttl == 40
        bench.clock.now += 20
        assert (await bench.ask("X.example")).answer[0].ttl == 20
        assert len(up.seen) == 1
        bench.clock.now += 20
        assert (await bench.ask("X.example")).answer[0].ttl == 60
        assert len(up.seen) == 2


async def test_the_question_comes_back_as_it_was_asked() -> None:
    """And what is written once for all letters says what is written for each."""
    async with serving() as (bench, up):
        up.script = lambda query, _: respond(
            query,
            dns.rrset.from_text(query.question[0].name, 60, "IN", "CNAME", "y.Example."),
            *(
                dns.rrset.from_text("y.Example.", 60, "IN", *one)
                for one in (("A", "10.0.0.1"), ("AAAA", "::1"), ("MX", "1 z.Example."))
            ),
        )
        for rdtype in ("A", "AAAA", "MX", "ANY"):
            for name in ("web.AppSwitch.local", "WEB.appswitch.LOCAL", "X.example", "x.EXAMPLE", "No.appswitch.local"):
                for edns in ({}, {"use_edns": 0, "want_dnssec": True}):
                    wire = ask(name, rdtype, **edns).to_wire()
                    bench.send(wire)
                    loop = asyncio.get_running_loop()
                    reply = await asyncio.wait_for(loop.sock_recv(bench.client, 65535), DEADLINE)
                    assert reply[:2] == wire[:2]
                    length = len(name) + 2 + 4
                    assert reply[12 : 12 + length] == wire[12 : 12 + length]
                    query = parse(wire, tcp=False)
                    assert isinstance(query, Query)
                    known = bench.resolver._known(bench.desk.asker, query)
                    assert known is not None
                    said, true = (
                        sorted(map(str.lower, texts_of(one)))
                        for one in (dns.message.from_wire(reply).answer, known.answer.answer)
                    )
                    assert said == true  # but for letters: names of records point into the question


async def test_names_that_come_and_go() -> None:
    """A name that was somebody else's is ours from the moment when an app has it, and never after it has ended."""
    async with serving() as (bench, _):
        assert not (await bench.ask("new")).flags & dns.flags.AA
        bench.apps.put(app(5, "new", ("10.0.0.5",)))
        bench.resolver.changed()
        for _ in range(2):
            assert texts_of((await bench.ask("new")).answer) == ["A 10.0.0.5"]
        bench.apps.drop(5)
        bench.resolver.changed()
        assert not (await bench.ask("new")).flags & dns.flags.AA


async def test_a_name_that_comes_while_others_are_asked() -> None:
    """The answer that was under way is not kept beyond the change."""
    async with serving() as (bench, up):
        up.script = lambda *_: None
        query = ask("new")
        bench.send(query)
        await until(lambda: up.seen)
        bench.apps.put(app(5, "new", ("10.0.0.5",)))
        bench.resolver.changed()
        up.send(address(*up.seen[0]).to_wire())
        assert not (await bench.receive()).flags & dns.flags.AA
        assert (await bench.ask("new")).flags & dns.flags.AA


async def test_without_recursion() -> None:
    async with serving() as (bench, up):
        assert texts_of((await bench.ask("web", flags=0)).answer)
        assert (await bench.ask("x.example", flags=0)).rcode() == dns.rcode.REFUSED
        assert up.seen == []
        await bench.ask("x.example")
        assert texts_of((await bench.ask("x.example", flags=0)).answer) == ["A 10.0.0.1"]


async def test_dnssec_and_plain_answers_are_kept_apart() -> None:
    async with serving() as (bench, up):
        for more in ({}, {"want_dnssec": True}, {"flags": dns.flags.RD | dns.flags.CD}):
            await bench.ask("x.example", **more)
        assert len(up.seen) == 3


async def test_truncated_then_over_tcp() -> None:
    async with serving() as (bench, up):
        many = [f"10.1.0.{n}" for n in range(1, 200)]
        up.script = lambda query, tcp: (
            respond(query, dns.rrset.from_text("x.", 9, "IN", "A", *many))
            if tcp
            else respond(query, flags=query.flags | dns.flags.QR | dns.flags.TC)
        )
        for more, complete in (
            ({}, False),
            ({"use_edns": 0, "payload": 1232}, False),
            ({"use_edns": 0, "payload": 4096}, True),
        ):
            reply = await bench.ask("x", **more)
            assert bool(reply.flags & dns.flags.TC) is not complete
        reader, writer = await bench.connect()
        writer.write(framed(ask("x")))
        assert len((await message(reader)).answer[0]) == 199
        writer.close()


async def test_malformed_gets_an_answer_or_silence() -> None:
    async with serving() as (bench, _):
        for wire in (b"", b"x", ask("web").to_wire()[:11], b"\xff" * 40, b"\x12\x34\x80" + bytes(30)):
            bench.send(wire)
        bench.send(b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\xc0\x0c")
        assert (await bench.receive()).rcode() == dns.rcode.FORMERR
        bench.send(ask("web").to_wire() + bytes(9000))
        assert (await bench.receive()).rcode() == dns.rcode.FORMERR
        assert (await bench.ask("web")).rcode() == dns.rcode.NOERROR


async def test_a_defect_is_that_packets_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (bench, _):
        find = bench.resolver._zone.find
        monkeypatch.setattr(bench.resolver._zone, "find", lambda *_: 1 // 0)
        query = ask("web")
        bench.send(query)
        assert (await bench.receive()).rcode() == dns.rcode.SERVFAIL
        monkeypatch.setattr(bench.resolver._zone, "find", find)
        monkeypatch.setattr(bench.forwarder, "ask", None)
        bench.send(ask("x.example"))
        assert (await bench.receive()).rcode() == dns.rcode.SERVFAIL
        assert (await bench.ask("web")).rcode() == dns.rcode.NOERROR


async def test_too_many_questions_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "MAX_PENDING", 3)
    async with serving() as (bench, up):
        up.script = lambda *_: None
        for n in range(9):
            bench.send(ask(f"x{n}.example"))
        assert (await bench.ask("web")).rcode() == dns.rcode.NOERROR, "what needs nobody is answered all the same"
        await until(lambda: len(up.seen) == 3)
        assert bench.desk.full
        reader, writer = await bench.connect()
        writer.write(framed(ask("y.example"), ask("web")))
        await until(lambda: any(one._waits for one in bench.port._connections))
        up.script = address
        up.send(address(*up.seen[-1]).to_wire())
        assert texts_of((await bench.receive()).answer)
        assert texts_of((await message(reader)).answer), "TCP is read on when there is room"
        writer.close()


# --- TCP


async def test_pipelining() -> None:
    """RFC 7766 section 6.2.1.1: questions do not wait for answers, and answers not for those before them."""
    async with serving() as (bench, up):
        up.script = lambda *_: None
        reader, writer = await bench.connect()
        slow, fast = ask("x.example"), [ask("web") for _ in range(200)]
        stream = framed(slow, *fast)
        writer.write(stream[:1])
        await writer.drain()
        writer.write(stream[1:50])
        await writer.drain()
        writer.write(stream[50:])
        assert {(await message(reader)).id for _ in fast} == {one.id for one in fast}
        await until(lambda: up.seen)
        up.send(address(*up.seen[0]).to_wire())
        assert (await message(reader)).id == slow.id
        writer.close()


async def test_half_closed() -> None:
    async with serving() as (bench, up):
        up.script = lambda *_: None
        reader, writer = await bench.connect()
        writer.write(framed(ask("x.example"), ask("web")))
        writer.write_eof()
        assert (await message(reader)).flags & dns.flags.AA
        await until(lambda: up.seen)
        up.send(address(*up.seen[0]).to_wire())
        assert texts_of((await message(reader)).answer) == ["A 10.0.0.1"]
        assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
        writer.close()


@pytest.mark.parametrize(
    "stream",
    [b"\0\0", b"\xff\xff", b"\x10\x01", framed(ask("web")) + b"\0\0"],
    ids=["0", "65535", "4097", "0 behind a query"],  # a query's id is random, a test's name is not
)
async def test_a_length_that_none_has(stream: bytes) -> None:
    async with serving() as (bench, _):
        reader, writer = await bench.connect()
        writer.write(stream)
        with pytest.raises((ConnectionError, EOFError)):
            await _until_it_ends(reader)
        writer.close()


async def _until_it_ends(reader: asyncio.StreamReader) -> None:
    while True:
        await message(reader)


async def test_too_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "MAX_CONNECTIONS", 2)
    async with serving() as (bench, _):
        both = [await bench.connect() for _ in range(2)]
        await until(lambda: bench.desk.connections == 2)
        reader, writer = await bench.connect()
        with pytest.raises((ConnectionError, EOFError)):
            await message(reader)
        writer.close()
        both[0][1].close()
        await until(lambda: bench.desk.connections == 1)
        both[0] = await bench.connect()
        for reader, writer in both:
            writer.write(framed(ask("web")))
            assert texts_of((await message(reader)).answer)
            writer.close()


async def test_who_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "IDLE", 0.05)
    async with serving() as (bench, up):
        up.script = lambda *_: None
        reader, writer = await bench.connect()
        writer.write(framed(ask("web"))[:-1])
        with pytest.raises((ConnectionError, EOFError)):
            await message(reader)
        writer.close()
        reader, writer = await bench.connect()
        writer.write(framed(ask("x.example")))
        await until(lambda: up.seen)
        idle = asyncio.get_running_loop().time() + 3 * servers.IDLE
        await until(lambda: asyncio.get_running_loop().time() > idle)
        up.send(address(*up.seen[0]).to_wire())
        assert texts_of((await message(reader)).answer), "but not while it waits for us"
        writer.close()


async def test_who_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are not taken stop the reading of questions, and nothing else."""
    monkeypatch.setattr(servers, "IDLE", 0.3)
    async with serving() as (bench, _):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, bench.tcp)
        stream = framed(*[ask("web", "ANY")] * 1000)
        stuck = asyncio.create_task(asyncio.get_running_loop().sock_sendall(sock, stream * 200))
        await until(lambda: bench.port._connections and next(iter(bench.port._connections))._stuck)
        (connection,) = bench.port._connections
        assert connection._transport is not None
        assert connection._transport.get_write_buffer_size() < 1 << 20
        assert (await bench.ask("web")).rcode() == dns.rcode.NOERROR
        await until(lambda: not bench.port._connections)
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
        sock.close()


# --- egress


RULES = ("www.example.com", "*.example.com")


async def test_permits_come_before_the_answer() -> None:
    async with serving(app(9, rules=RULES)) as (bench, _):
        bench.may_permit.clear()
        bench.send(ask("www.Example.com"))
        await until(lambda: bench.permits)
        with pytest.raises(BlockingIOError):
            bench.client.recv(1)
        bench.may_permit.set()
        assert texts_of((await bench.receive()).answer) == ["A 10.0.0.1"]
        assert bench.permits == [(9, rule, ("10.0.0.1",), 60) for rule in RULES]


async def test_answers_from_the_cache_are_permitted_too() -> None:
    async with serving(app(9, rules=RULES)) as (bench, up):
        up.script = lambda query, _: respond(query, dns.rrset.from_text("a.example.com.", 600, "IN", "A", "10.0.0.7"))
        await bench.ask("a.example.com")
        bench.clock.now += 100
        assert (await bench.ask("a.example.com")).answer[0].ttl == 500
        assert len(up.seen) == 1
        assert bench.permits == [(9, "*.example.com", ("10.0.0.7",), seconds) for seconds in (600, 500)]


async def test_names_that_no_rule_covers() -> None:
    async with serving(app(9, rules=("*.example.com",))) as (bench, _):
        for name in ("example.com", "xexample.com", "x\\.example.com", "www.example.com.evil", "com", "web"):
            await bench.ask(name)
        assert bench.permits == []


async def test_nobody_else_puts_addresses_into_a_rule() -> None:
    async with serving(app(9, rules=("www.example.com", "evil.example"))) as (bench, up):
        up.script = lambda query, _: respond(
            query,
            dns.rrset.from_text("evil.example.", 60, "IN", "CNAME", "x.evil.example."),
            dns.rrset.from_text("x.evil.example.", 60, "IN", "A", "10.0.0.6"),
            dns.rrset.from_text("www.example.com.", 60, "IN", "A", "10.0.0.66"),
            additional=[dns.rrset.from_text("x.evil.example.", 60, "IN", "A", "10.0.0.67")],
        )
        await bench.ask("evil.example")
        assert bench.permits == [(9, "evil.example", ("10.0.0.6",), 60)]
        await bench.ask("other.example")
        assert len(bench.permits) == 1


async def test_nothing_to_permit() -> None:
    async with serving(app(9, rules=("*.example.com",))) as (bench, up):
        up.script = lambda query, _: respond(query, set_rcode=dns.rcode.NXDOMAIN)
        assert (await bench.ask("no.example.com")).rcode() == dns.rcode.NXDOMAIN
        up.script = lambda query, _: respond(query, dns.rrset.from_text(query.question[0].name, 9, "IN", "TXT", "x"))
        assert texts_of((await bench.ask("www.example.com", "TXT")).answer) == ['TXT "x"']
        assert bench.permits == []


@pytest.mark.parametrize("answer", [Done(seq=1, error="no-such-app"), SwitchDownError("away")])
async def test_no_permit_no_answer(answer: Done | Exception) -> None:
    """An address that leads nowhere yet would only be tried once."""
    async with serving(app(9, rules=RULES)) as (bench, _):
        bench.answer_to_permit = answer
        assert (await bench.ask("www.example.com")).rcode() == dns.rcode.SERVFAIL
        bench.answer_to_permit = Done(seq=1)
        assert texts_of((await bench.ask("www.example.com")).answer) == ["A 10.0.0.1"]
