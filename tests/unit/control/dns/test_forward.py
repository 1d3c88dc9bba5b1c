"""Other servers: which is asked what, what is believed, and what becomes of it when none answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from tests.unit.control.conftest import until
from tests.unit.control.dns.builders import Clock, texts
from tests.unit.control.dns.upstream_server import Upstream, address, respond, truncated

from appswitch.control.dns import forward
from appswitch.control.dns.cache import Cache, Key
from appswitch.control.dns.forward import Forwarder
from appswitch.control.dns.upstream import ResolvConf, Server, answers, nameservers

PATIENCE = 5.0  # a server that answers does so in time, however busy the machine is
IMPATIENCE = 0.05  # for servers that never answer


def key(name: str = "x.example", rdtype: str = "A", dnssec: bool = False, cd: bool = False) -> Key:
    return Key(dns.name.from_text(name), dns.rdatatype.from_text(rdtype), dns.rdataclass.IN, dnssec, cd)


def forwarder(*servers: Server, timeout: float = PATIENCE, rounds: int = 1, clock: Clock | None = None) -> Forwarder:
    return Forwarder(lambda: servers, Cache(), clock or Clock(), timeout, rounds)


async def test_an_answer() -> None:
    async with Upstream() as up:
        one = forwarder(up.server)
        entry = await one.ask(key("wWw.Example"))
    assert texts(entry.answer) == ["A 10.0.0.1"]
    assert entry.answer.ttl == 60
    assert not entry.answer.authoritative
    ((query, tcp),) = up.seen
    assert not tcp
    assert query.question[0].name.to_text() == "wWw.Example."
    assert dns.flags.to_text(query.flags) == "RD AD"
    assert (query.edns, query.payload) == (0, 1232)
    assert not query.ednsflags & dns.flags.DO


async def test_over_ipv6_with_dnssec() -> None:
    async with Upstream(ip="::1") as up:
        await forwarder(up.server).ask(key(dnssec=True, cd=True))
    ((query, _),) = up.seen
    assert query.ednsflags & dns.flags.DO
    assert query.flags & dns.flags.CD


async def test_ids_and_ports_differ() -> None:
    async with Upstream() as up:
        one = forwarder(up.server)
        await asyncio.gather(*(one.ask(key(f"x{n}.example")) for n in range(20)))
    assert len({query.id for query, _ in up.seen}) > 15


async def test_truncation_leads_to_tcp() -> None:
    async with Upstream(truncated) as up:
        entry = await forwarder(up.server).ask(key())
    assert texts(entry.answer) == ["A 10.0.0.1"]
    assert [tcp for _, tcp in up.seen] == [False, True]


def wrong(change: Callable[[dns.message.Message], object]) -> Callable[[dns.message.Message, bool], object]:
    """First an answer that must not be believed, then the true one."""

    def script(query: dns.message.Message, tcp: bool) -> object:
        false = respond(query, dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "10.0.0.66"))
        changed = change(false)
        return [changed if isinstance(changed, bytes) else false, address(query, tcp)]

    return script


def set_name(message: dns.message.Message) -> None:
    message.question = dns.message.make_query("evil.example", "A").question


def set_type(message: dns.message.Message) -> None:
    message.question = dns.message.make_query("x.example", "AAAA").question


LIES = {
    "another id": lambda message: setattr(message, "id", message.id ^ 1),
    "another name": set_name,
    "another type": set_type,
    "no response": lambda message: setattr(message, "flags", message.flags & ~dns.flags.QR),
    "another opcode": lambda message: setattr(message, "flags", message.flags | 0x1000),
    "no question": lambda message: message.question.clear(),
    "half a header": lambda message: message.to_wire()[:7],
    "half a question": lambda message: message.to_wire()[:20],
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("lie", LIES)
async def test_what_answers_something_else_is_not_believed(lie: str) -> None:
    async with Upstream(wrong(LIES[lie])) as up:  # type: ignore[arg-type]
        entry = await forwarder(up.server).ask(key())
    assert texts(entry.answer) == ["A 10.0.0.1"]


async def test_what_others_send_does_not_arrive() -> None:
    """Off the path: the right id and question, from another place."""
    async with Upstream() as liar, Upstream() as up:

        def script(query: dns.message.Message, tcp: bool) -> dns.message.Message:
            liar.peer = up.peer
            liar.send(respond(query, dns.rrset.from_text("x.example.", 60, "IN", "A", "10.0.0.66")).to_wire())
            return address(query, tcp)

        up.script = script
        entry = await forwarder(up.server).ask(key())
    assert texts(entry.answer) == ["A 10.0.0.1"]


async def test_a_lie_over_tcp_is_a_failure() -> None:
    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        reply = truncated(query, tcp)
        if tcp:
            reply.id ^= 1
        return reply

    async with Upstream(script) as up, Upstream() as second:
        entry = await forwarder(up.server, second.server).ask(key())
    assert texts(entry.answer) == ["A 10.0.0.1"]
    assert [len(one.seen) for one in (up, second)] == [2, 1]


def garbage(query: dns.message.Message, _: bool) -> bytes:
    return query.to_wire()[:2] + b"\x81\x80\x00\x01\x00\x09" + query.to_wire()[8:12] + query.to_wire()[12:29]


def closes(query: dns.message.Message, tcp: bool) -> dns.message.Message | None:
    return None if tcp else truncated(query, tcp)


@pytest.mark.parametrize(
    "script",
    [
        garbage,
        closes,
        lambda query, _: respond(query, set_rcode=dns.rcode.SERVFAIL),
        lambda query, _: respond(query, set_rcode=dns.rcode.REFUSED),
        lambda query, _: respond(query, set_rcode=dns.rcode.FORMERR),
    ],
)
async def test_one_server_fails_the_next_answers(script: object) -> None:
    async with Upstream(script) as first, Upstream() as second:  # type: ignore[arg-type]
        one = forwarder(first.server, second.server)
        assert texts((await one.ask(key())).answer) == ["A 10.0.0.1"]


async def test_a_silent_server_is_asked_last_for_a_while() -> None:
    clock = Clock()
    async with Upstream(lambda *_: None) as silent, Upstream() as second:
        one = forwarder(silent.server, second.server, timeout=0.5, clock=clock)
        for name, times in (("a", 1), ("b", 1)):
            assert texts((await one.ask(key(name))).answer) == ["A 10.0.0.1"]
            assert len(silent.seen) == times
        clock.now += forward.DOWN
        silent.script = address
        await one.ask(key("c"))
        assert len(silent.seen) == 2


async def test_a_port_that_nobody_has() -> None:
    async with Upstream() as gone:
        pass
    async with Upstream() as second:
        assert texts((await forwarder(gone.server, second.server).ask(key())).answer) == ["A 10.0.0.1"]


async def test_nobody_answers() -> None:
    async with Upstream(lambda *_: None) as silent:
        one = forwarder(silent.server, timeout=IMPATIENCE, rounds=2)
        entry = await one.ask(key())
        assert entry.answer.rcode == dns.rcode.SERVFAIL
        assert len(silent.seen) == 2
        assert len(one._cache) == 0
    assert (await forwarder().ask(key())).answer.rcode == dns.rcode.SERVFAIL


async def test_everybody_refuses() -> None:
    async with Upstream(lambda query, _: respond(query, set_rcode=dns.rcode.REFUSED)) as up:
        assert (await forwarder(up.server).ask(key())).answer.rcode == dns.rcode.REFUSED


async def test_a_server_without_edns() -> None:
    """RFC 6891 section 7: it is asked again as in 1987; what it refuses to read it need not repeat."""

    def script(query: dns.message.Message, tcp: bool) -> dns.message.Message:
        if query.edns < 0:
            return address(query, tcp)
        reply = respond(query, set_rcode=dns.rcode.FORMERR)
        reply.use_edns(-1)
        reply.question.clear()
        return reply

    async with Upstream(script) as up:
        entry = await forwarder(up.server).ask(key())
    assert texts(entry.answer) == ["A 10.0.0.1"]
    assert [query.edns for query, _ in up.seen] == [0, -1]


async def test_one_question_for_all_who_ask_the_same() -> None:
    async with Upstream() as up:
        one = forwarder(up.server)
        found = await asyncio.gather(*(one.ask(key(name)) for name in ("x.y", "X.y", "x.Y") * 10), one.ask(key("z")))
        assert len(up.seen) == 2
        assert {id(entry) for entry in found[:30]} == {id(found[0])}
        assert not one._asking


async def test_who_goes_away_does_not_take_the_answer_along() -> None:
    async with Upstream(lambda *_: None) as up:
        one = forwarder(up.server)
        first, second = (asyncio.create_task(one.ask(key())) for _ in range(2))
        await until(lambda: up.seen)
        first.cancel()
        up.send(address(*up.seen[0]).to_wire())
        assert texts((await second).answer) == ["A 10.0.0.1"]


async def test_too_many_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "MAX_QUESTIONS", 3)
    async with Upstream(lambda *_: None) as silent:
        one = forwarder(silent.server)
        waiting = [asyncio.create_task(one.ask(key(f"x{n}"))) for n in range(3)]
        await asyncio.sleep(0)
        assert (await one.ask(key("y"))).answer.rcode == dns.rcode.SERVFAIL
        await one.close()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in found)


async def test_what_is_kept() -> None:
    cache = Cache()
    clock = Clock()
    async with Upstream() as up:
        one = Forwarder(up, cache, clock, PATIENCE)
        await one.ask(key())
    entry = cache.get(key(), clock.now + 59)
    assert entry is not None
    assert entry.born == clock.now


# --- which servers


def test_nameservers() -> None:
    text = (
        "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.2\nnameserver nonsense\nnameserver\n nameserver fd00::2 #\n"
    )
    assert nameservers(text) == (("10.0.0.2", 53), ("fd00::2", 53))
    assert nameservers("nameserver fe80::1%eth0\n" * 9) == (("fe80::1%eth0", 53),) * 3
    assert nameservers("") == (("127.0.0.1", 53),)


def test_resolv_conf_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    conf = ResolvConf(path)
    assert conf() == (("127.0.0.1", 53),)
    path.write_text("nameserver 10.0.0.2\n")
    assert conf() == (("10.0.0.2", 53),)
    other = tmp_path / "other"
    other.write_text("nameserver 10.0.0.3\n")
    os.utime(other, ns=(1, path.stat().st_mtime_ns))
    other.rename(path)
    assert conf() == (("10.0.0.3", 53),)
    path.unlink()
    assert conf() == (("127.0.0.1", 53),)


def test_answers_without_a_question() -> None:
    wire = b"\x12\x34\x01\x00" + bytes(8)
    assert answers(b"\x12\x34\x81\x81" + bytes(8), wire, key())
    assert not answers(b"\x12\x34\x81\x80" + bytes(8), wire, key())
