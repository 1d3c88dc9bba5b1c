"""Packets: what cannot be understood, what is written back, and that the short ways say what the long ones do."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.control.dns.builders import ask, query, rrset, texts_of

from appswitch.control.dns.answer import Answer
from appswitch.control.dns.query import MAX_QUERY, Query, failure, parse
from appswitch.control.dns.render import records, render, turns

NOERROR, NXDOMAIN = dns.rcode.NOERROR, dns.rcode.NXDOMAIN


def answer(count: int = 1, name: str = "web.", ours: bool = True, **more: object) -> Answer:
    addresses = [f"10.0.{n // 250}.{n % 250 + 1}" for n in range(count)]
    return Answer(NOERROR, (rrset(name, 60, "A", *addresses),), authoritative=ours, ttl=60, **more)  # type: ignore[arg-type]


def message(asked: Query, given: Answer, age: int = 0) -> dns.message.Message:
    return dns.message.from_wire(asked.id + render(asked, given).aged(age))


# --- malformed

HEADER = "1234 0100 0001 0000 0000 0000 "
WEB = "03 77 65 62 00 "
RECORDED = {
    "empty": ("", None),
    "half a header": ("1234 0100 0001", None),
    "a response": ("1234 8180 0001 0000 0000 0000 " + WEB + "0001 0001", None),
    "a response that cannot be read": ("1234 8180 0001 0000 0000 0000 ff", None),
    "a header alone": ("1234 0100 0000 0000 0000 0000", "FORMERR"),
    "a header that promises a question": (HEADER, "FORMERR"),
    "two questions": ("1234 0100 0002 0000 0000 0000 " + WEB + "0001 0001 " + WEB + "001c 0001", "FORMERR"),
    "65,535 questions": ("1234 0100 ffff 0000 0000 0000 " + WEB + "0001 0001", "FORMERR"),
    "a pointer to itself": (HEADER + "c00c 0001 0001", "FORMERR"),
    "a pointer forwards": (HEADER + "c0ff 0001 0001", "FORMERR"),
    "two pointers that point at each other": (HEADER + "c00e c00c 0001 0001", "FORMERR"),
    "a label of 64 bytes": (HEADER + "40 " + "61" * 64 + " 00 0001 0001", "FORMERR"),
    "a label of a kind that is no more": (HEADER + "41 0c 61 61 00 0001 0001", "FORMERR"),
    "a label that does not end": (HEADER + "3f 61", "FORMERR"),
    "a name of 256 bytes": (HEADER + ("3f" + "61" * 63) * 4 + " 00 0001 0001", "FORMERR"),
    "no class": (HEADER + WEB + "0001", "FORMERR"),
    "something behind": (HEADER + WEB + "0001 0001 00", "FORMERR"),
    "OPT is promised": ("1234 0100 0001 0000 0000 0001 " + WEB + "0001 0001", "FORMERR"),
    "two OPTs": ("1234 0100 0001 0000 0000 0002 " + WEB + "0001 0001 " + "00 0029 1000 00000000 0000 " * 2, "FORMERR"),
    "OPT with a name": (
        "1234 0100 0001 0000 0000 0001 " + WEB + "0001 0001 " + WEB + "0029 1000 00000000 0000", "FORMERR"),
    "an option longer than OPT": (
        "1234 0100 0001 0000 0000 0001 " + WEB + "0001 0001 00 0029 1000 00000000 0004 000a ffff", "FORMERR"),
    "STATUS": ("1234 1100 0001 0000 0000 0000 " + WEB + "0001 0001", "NOTIMP"),
    "an update": ("1234 2800 0001 0000 0000 0000 " + WEB + "0006 0001", "NOTIMP"),
    "a notification": ("1234 2400 0001 0000 0000 0000 " + WEB + "0006 0001", "NOTIMP"),
}  # fmt: skip


@pytest.mark.parametrize("what", RECORDED)
@pytest.mark.parametrize("tcp", [False, True])
def test_malformed(what: str, tcp: bool) -> None:
    text, rcode = RECORDED[what]
    wire = bytes.fromhex(text)
    reply = parse(wire, tcp)
    if rcode is None:
        assert reply is None
        return
    assert isinstance(reply, bytes)
    said = dns.message.from_wire(reply)
    assert said.rcode() == dns.rcode.from_text(rcode)
    assert said.id == 0x1234
    assert said.flags & dns.flags.QR
    assert said.opcode() == dns.opcode.from_flags(int.from_bytes(wire[2:4], "big"))
    assert len(reply) == 12


def test_too_long() -> None:
    reply = parse(ask("web").to_wire() + bytes(MAX_QUERY), tcp=True)
    assert isinstance(reply, bytes)
    assert dns.message.from_wire(reply).rcode() == dns.rcode.FORMERR


@given(st.binary(max_size=200), st.booleans())
def test_anything(wire: bytes, tcp: bool) -> None:
    judge(wire, tcp)


@given(st.binary(max_size=100), st.sampled_from([0, 1, 2]), st.sampled_from([0, 1]), st.sampled_from([0, 1, 2]))
def test_anything_behind_a_header(rest: bytes, questions: int, answers: int, additional: int) -> None:
    counts = [questions, answers, 0, additional]
    judge(b"\x12\x34\x01\x00" + b"".join(count.to_bytes(2, "big") for count in counts) + rest, tcp=False)


@given(st.integers(0, 60), st.integers(0, 255), st.integers(0, 60))
def test_one_byte_wrong_and_the_end_missing(at: int, byte: int, length: int) -> None:
    wire = bytearray(ask("web.appswitch.local", "SRV", use_edns=0, want_dnssec=True).to_wire())
    wire[at % len(wire)] = byte
    judge(bytes(wire[: max(length, 12)]), tcp=False)
    judge(bytes(wire), tcp=True)


def judge(wire: bytes, tcp: bool) -> None:
    found = parse(wire, tcp)
    if isinstance(found, bytes):
        assert found[:2] == wire[:2]
        assert len(found) == 12
    elif isinstance(found, Query):
        assert found.id == wire[:2]
        body = render(found, Answer(NXDOMAIN)).body
        assert len(body) + 2 <= found.limit
        assert dns.message.from_wire(found.id + body).question[0].name == found.name
    else:
        assert len(wire) < 12 or wire[2] & 0x80


@pytest.mark.parametrize(
    ("name", "rdtype", "rdclass", "edns", "rcode"),
    [
        ("web", "AXFR", "IN", -1, "REFUSED"),
        ("web", "IXFR", "IN", -1, "REFUSED"),
        ("web", "MAILB", "IN", -1, "REFUSED"),
        ("version.bind", "TXT", "CH", -1, "REFUSED"),
        ("web", "A", "HS", 0, "REFUSED"),
        ("web", "A", "NONE", 0, "REFUSED"),
        ("web", "A", "IN", 1, "BADVERS"),
    ],
)
def test_refused(name: str, rdtype: str, rdclass: str, edns: int, rcode: str) -> None:
    asked = query(name, rdtype, rdclass=rdclass, **({"use_edns": edns} if edns >= 0 else {}))
    assert asked.refused == dns.rcode.from_text(rcode)
    reply = message(asked, Answer(asked.refused))
    assert reply.rcode() == asked.refused
    assert reply.question[0].name == dns.name.from_text(name)
    assert reply.edns == (0 if edns >= 0 else -1)


# --- written


def test_echo() -> None:
    """The question's own letters and its id; owners point at it (draft-vixie-dnsext-dns0x20)."""
    wire = ask("wEb.aPPs", id=0xABCD).to_wire()
    asked = parse(wire, tcp=False)
    assert isinstance(asked, Query)
    reply = asked.id + render(asked, answer(name="web.apps.")).body
    assert reply[:2] == wire[:2]
    assert reply[12 : len(wire)] == wire[12:]
    assert reply[len(wire) : len(wire) + 2] == b"\xc0\x0c"


@pytest.mark.parametrize(
    ("asked", "ours", "authentic", "expected"),
    [
        ("RD", True, False, "QR AA RD RA"),
        ("", True, False, "QR AA RA"),
        ("RD", False, True, "QR RD RA"),
        ("RD AD", False, True, "QR RD RA AD"),
        ("RD AD", False, False, "QR RD RA"),
        ("RD CD", False, False, "QR RD RA CD"),
    ],
)
def test_flags(asked: str, ours: bool, authentic: bool, expected: str) -> None:
    reply = message(query("web", flags=dns.flags.from_text(asked)), answer(ours=ours, authentic=authentic))
    assert dns.flags.to_text(reply.flags) == expected


def test_dnssec() -> None:
    reply = message(query("web", use_edns=0, want_dnssec=True), answer(ours=False, authentic=True))
    assert reply.flags & dns.flags.AD
    assert reply.ednsflags & dns.flags.DO
    reply = message(query("web", use_edns=0), answer())
    assert reply.edns == 0
    assert not reply.ednsflags & dns.flags.DO
    assert message(query("web"), answer()).edns == -1


@pytest.mark.parametrize(
    ("payload", "tcp", "limit", "complete"),
    [
        (None, False, 512, False),
        (100, False, 512, False),
        (512, False, 512, False),
        (1232, False, 1232, False),
        (4096, False, 4096, True),
        (65535, False, 4096, True),
        (None, True, 65535, True),
        (512, True, 65535, True),
    ],
)
def test_sizes(payload: int | None, tcp: bool, limit: int, complete: bool) -> None:
    edns = {} if payload is None else {"use_edns": 0, "payload": payload}
    asked = query("web", tcp=tcp, **edns)
    assert asked.limit == limit
    wire = asked.id + render(asked, answer(100)).body
    reply = dns.message.from_wire(wire)
    assert len(wire) <= limit
    assert bool(reply.flags & dns.flags.TC) is not complete
    assert reply.edns == (-1 if payload is None else 0)
    (found,) = reply.answer
    assert (len(found) == 100) is complete
    assert limit - len(wire) < 16 or complete, "as many addresses as fit"


def test_what_goes_first() -> None:
    """Additional records go without a word; RFC 2181 section 9."""
    more = Answer(
        NOERROR, (rrset("web.", 5, "A", *(f"10.0.0.{n}" for n in range(1, 29))),), authoritative=True, ttl=5,
        additional=(rrset("web.", 5, "AAAA", "fd00::1", "fd00::2"),),
    )  # fmt: skip
    reply = message(query("web"), more)
    assert not reply.flags & dns.flags.TC
    assert len(reply.answer[0]) == 28
    assert reply.additional == []
    negative = Answer(NXDOMAIN, authority=(rrset("x.", 5, "TXT", *("y" * 200 for _ in range(1)), *("z" * 250,)),
                                           rrset("y.", 5, "TXT", "y" * 250)))  # fmt: skip
    reply = message(query("web"), negative)
    assert reply.flags & dns.flags.TC
    assert reply.authority == []


def test_more_than_a_message_holds() -> None:
    huge = Answer(NOERROR, tuple(rrset(f"{n}.{'x' * 60}.", 5, "TXT", "y" * 255) for n in range(300)))
    reply = message(query("web", tcp=True), huge)
    assert reply.rcode() == dns.rcode.SERVFAIL


# --- the short ways


@given(
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5),
    st.integers(0, 100_000),
    st.booleans(),
)
def test_growing_older(ttls: list[int], age: int, edns: bool) -> None:
    """TTLs that are changed in place are what dnspython reads there, and nothing else changes."""
    rrsets = tuple(
        rrset(f"n{n}.example.", ttl, rdtype, data)
        for n, (ttl, (rdtype, data)) in enumerate(
            zip(ttls, [("CNAME", "n1.example."), ("MX", "1 n0.example."), ("A", "10.0.0.1"), ("TXT", '"\\192\\012"'),
                       ("SRV", "0 0 1 n0.example.")], strict=False)
        )
    )  # fmt: skip
    asked = query("n0.example", "A", **({"use_edns": 0, "want_dnssec": True} if edns else {}))
    given_answer = Answer(NOERROR, rrsets[:3], rrsets[3:4], rrsets[4:])
    reply, young = message(asked, given_answer, age), message(asked, given_answer)
    for section in ("answer", "authority", "additional"):
        old = [max(0, one.ttl - age) for one in getattr(young, section)]
        assert [one.ttl for one in getattr(reply, section)] == old
        assert texts_of(getattr(reply, section)) == texts_of(getattr(young, section))
    assert reply.ednsflags == young.ednsflags


def test_records_are_found() -> None:
    asked = query("web")
    wire = asked.id + render(asked, answer(3)).body
    assert [one.ttl for one in records(wire)] == [60] * 3
    assert list(records(wire))[-1].end == len(wire)


@pytest.mark.parametrize(("count", "rdtype"), [(1, "A"), (3, "A"), (2, "AAAA"), (40, "A")])
@pytest.mark.parametrize("edns", [False, True])
def test_turns(count: int, rdtype: str, edns: bool) -> None:
    data = [f"10.0.0.{n}" if rdtype == "A" else f"fd00::{n}" for n in range(1, count + 1)]
    given_answer = Answer(NOERROR, (rrset("web.", 5, rdtype, *data),), authoritative=True, ttl=5)
    asked = query("web", rdtype, **({"use_edns": 0, "payload": 512} if edns else {}))
    orders = [
        [one.address for one in dns.message.from_wire(asked.id + turn.body, one_rr_per_rrset=False).answer[0]]
        for turn in turns(asked, given_answer)
    ]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    there = len(orders[0])
    assert there == (count if count < 40 else (512 - 12 - 9 - 11 * edns) // 16)
    firsts = [order[0] for order in orders]
    assert len(set(firsts)) == len(firsts) >= min(there, 16)
    assert orders[1:2] in ([], [orders[0][there // 16 or 1 :] + orders[0][: there // 16 or 1]])


def test_one_turn_for_what_is_not_ours() -> None:
    assert len(turns(query("web"), answer(3, ours=False))) == 1
    both = Answer(NOERROR, (rrset("w.", 5, "A", "10.0.0.1"), rrset("w.", 5, "AAAA", "::1")), authoritative=True)
    assert len(turns(query("w", "ANY"), both)) == 1
    assert len(turns(query("w"), Answer(NXDOMAIN, authoritative=True))) == 1


def test_failure_keeps_the_opcode() -> None:
    reply = failure(b"\x12\x34\x29\x00" + bytes(8), dns.rcode.NOTIMP)
    assert reply == b"\x12\x34\xa9\x84" + bytes(8)
