"""What is kept, for how long, and how much of it."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from tests.unit.control.dns.builders import rrset

from appswitch.control.dns.answer import MAX_NEGATIVE_TTL, MAX_TTL, Answer, addresses, chain, from_upstream
from appswitch.control.dns.cache import Cache, Key
from appswitch.control.dns.query import Query, parse
from appswitch.control.dns.quick import MAX_BYTES, Quick, addressed, key_of
from appswitch.control.dns.render import Rendered, render

A, NOERROR = dns.rdatatype.A, dns.rcode.NOERROR


def key(name: str = "x.example", rdtype: dns.rdatatype.RdataType = A, dnssec: bool = False, cd: bool = False) -> Key:
    return Key(dns.name.from_text(name), rdtype, dns.rdataclass.IN, dnssec, cd)


def reply(*sections: str, rcode: str = "NOERROR", name: str = "x.example", flags: str = "QR") -> dns.message.Message:
    text = f"id 1\nopcode QUERY\nrcode {rcode}\nflags {flags}\n;QUESTION\n{name}. IN A\n"
    for title, lines in zip(("ANSWER", "AUTHORITY", "ADDITIONAL"), sections, strict=False):
        text += f";{title}\n{lines}\n" if lines else ""
    return dns.message.from_text(text, one_rr_per_rrset=False)


SOA = "example. {} IN SOA ns.example. root.example. 1 2 3 4 {}"


@pytest.mark.parametrize(
    ("message", "ttl"),
    [
        (reply("x.example. 60 IN A 10.0.0.1\nx.example. 60 IN A 10.0.0.2"), 60),
        (reply("x.example. 60 IN CNAME y.example.\ny.example. 30 IN A 10.0.0.1"), 30),
        (reply("x.example. 0 IN A 10.0.0.1"), 0),
        (reply("x.example. 999999999 IN A 10.0.0.1"), MAX_TTL),
        (reply("", SOA.format(300, 100), rcode="NXDOMAIN"), 100),
        (reply("", SOA.format(50, 100), rcode="NXDOMAIN"), 50),
        (reply("", SOA.format(50, 100)), 50),
        (reply("", SOA.format(86400, 86400)), MAX_NEGATIVE_TTL),
        (reply("", "example. 300 IN NS ns.example."), 0),
        (reply("", "", rcode="NXDOMAIN"), 0),
        (reply("x.example. 60 IN CNAME y.example.", SOA.format(300, 20), rcode="NXDOMAIN"), 20),
        (reply("x.example. 60 IN CNAME y.example."), 0),
        (reply("", SOA.format(50, 100), rcode="SERVFAIL"), 0),
        (reply("", SOA.format(50, 100), rcode="REFUSED"), 0),
    ],
)
def test_how_long(message: dns.message.Message, ttl: int) -> None:
    """RFC 2308 section 5 and RFC 1035 section 7.4."""
    assert from_upstream(message, dnssec=False).ttl == ttl


def test_a_ttl_with_the_highest_bit() -> None:
    message = reply("x.example. 60 IN A 10.0.0.1")
    message.answer[0].ttl = 1 << 31
    assert from_upstream(message, dnssec=False).ttl == 0


def test_what_is_kept() -> None:
    more = reply("x.example. 60 IN A 10.0.0.1", "example. 60 IN NS ns.example.", "ns.example. 60 IN A 10.0.0.2")
    assert from_upstream(more, dnssec=False).authority == ()
    assert len(from_upstream(more, dnssec=True).authority) == 1
    assert from_upstream(more, dnssec=True).additional == ()
    negative = reply("", SOA.format(300, 100) + '\nexample. 300 IN TXT "x"', rcode="NXDOMAIN", flags="QR AD")
    kept = from_upstream(negative, dnssec=False)
    assert [(one.rdtype, one.ttl) for one in kept.authority] == [(dns.rdatatype.SOA, 100)]
    assert kept.authentic
    assert [one.ttl for one in from_upstream(negative, dnssec=True).authority] == [100, 100]


def test_ttls_run_out() -> None:
    cache = Cache()
    answer = Answer(NOERROR, (rrset("x.example.", 60, "A", "10.0.0.1"),), ttl=60)
    cache.put(key(), answer, 1000.0)
    entry = cache.get(key("X.Example"), 1059.9)
    assert entry is not None
    assert (entry.answer, entry.born) == (answer, 1000.0)
    assert cache.get(key(), 1060.0) is None
    assert len(cache) == 0
    cache.put(key(), Answer(NOERROR), 1000.0)
    assert len(cache) == 0


def test_keys() -> None:
    cache = Cache()
    cache.put(key(), Answer(NOERROR, ttl=9), 0.0)
    for other in (key("y.example"), key(rdtype=dns.rdatatype.AAAA), key(dnssec=True), key(cd=True)):
        assert cache.get(other, 0.0) is None


def test_bounded() -> None:
    cache = Cache(max_entries=3)
    for name in "abc":
        cache.put(key(name), Answer(NOERROR, ttl=9), 0.0)
    assert cache.get(key("a"), 0.0)
    cache.put(key("d"), Answer(NOERROR, ttl=9), 0.0)
    cache.put(key("d"), Answer(NOERROR, ttl=9), 0.0)
    assert [name for name in "abcd" if cache.get(key(name), 0.0)] == ["a", "c", "d"]


# --- names that belong to the question


def chained(*lines: tuple[str, str, str]) -> tuple[str, ...]:
    return addresses(dns.name.from_text("x."), A, tuple(rrset(name, 60, kind, data) for name, kind, data in lines))


def test_addresses_of_the_question() -> None:
    assert chained(("x.", "A", "10.0.0.1"), ("evil.", "A", "10.0.0.66")) == ("10.0.0.1",)
    assert chained(("y.", "A", "10.0.0.2"), ("x.", "CNAME", "y.")) == ("10.0.0.2",)
    assert chained(("X.", "CNAME", "y."), ("Y.", "CNAME", "z."), ("z.", "AAAA", "::2"), ("z.", "A", "10.0.0.3")) == (
        "::2",
        "10.0.0.3",
    )
    assert chained(("y.", "CNAME", "x."), ("y.", "A", "10.0.0.66")) == ()
    assert chained(("x.", "CNAME", "y."), ("y.", "CNAME", "x."), ("z.", "A", "10.0.0.66")) == ()
    assert chained() == ()
    long = [(f"n{n}.", "CNAME", f"n{n + 1}.") for n in range(40)]
    assert chained(("x.", "CNAME", "n0."), *long, ("n40.", "A", "10.0.0.1")) == ()


def test_chain_ends() -> None:
    x = dns.name.from_text("x.")
    there = (rrset("x.", 1, "CNAME", "y."), rrset("y.", 1, "A", "10.0.0.1"))
    assert chain(x, A, there).found
    assert not chain(x, dns.rdatatype.AAAA, there).found
    assert chain(x, dns.rdatatype.CNAME, there).names == (x,)
    assert chain(x, dns.rdatatype.ANY, there).found


# --- written answers


def asked(label: bytes) -> tuple[int, bool, bytes]:
    return key_of(1, False, bytes(12) + question(label))[0]


def question(label: bytes) -> bytes:
    return bytes([len(label)]) + label + b"\0\0\1\0\1"


QUESTION = asked(b"q")


def body(label: bytes, rest: bytes = b"") -> bytes:
    return bytes(10) + question(label) + rest


def test_written() -> None:
    quick = Quick()
    one = Rendered(body(b"q", (60).to_bytes(4, "big")), ((17, 60),))
    quick.put(QUESTION, [one], 1000.0, 1060.0)
    for now, ttl in ((1000.0, 60), (1000.9, 60), (1001.0, 59), (1001.5, 59), (1059.9, 1), (1000.0, 60)):
        found = quick.get(QUESTION, now)
        assert found is not None
        assert int.from_bytes(found[17:], "big") == ttl
    for other in ((2, *QUESTION[1:]), (1, True, QUESTION[2]), asked(b"r")):
        assert quick.get(other, 1000.0) is None
    assert quick.get(QUESTION, 1060.0) is None
    assert len(quick) == 0


def test_written_in_turns() -> None:
    quick = Quick()
    bodies = [body(b"q", turn) for turn in (b"a", b"b", b"c")]
    quick.put(QUESTION, [Rendered(one, ()) for one in bodies], 0.0, 9.0)
    assert [quick.get(QUESTION, 0.0) for _ in range(4)] == [bodies[1], bodies[2], bodies[0], bodies[1]]


def test_written_is_bounded() -> None:
    quick = Quick(max_entries=2)
    for name in (b"a", b"b", b"c"):
        quick.put(asked(name), [Rendered(body(name), ())], 0.0, 9.0)
    assert [quick.get(asked(name), 0.0) for name in (b"a", b"b", b"c")] == [None, body(b"b"), body(b"c")]
    quick.put(asked(b"long"), [Rendered(body(b"long", bytes(MAX_BYTES)), ())], 0.0, 9.0)
    assert quick.get(asked(b"long"), 0.0) is None
    version = quick.version
    quick.clear()
    assert quick.version != version
    assert len(quick) == 0


def test_letters_are_each_askers_own() -> None:
    quick = Quick()
    quick.put(asked(b"wEb"), [Rendered(body(b"wEb", b"rest"), ())], 0.0, 9.0)
    wire = b"\x12\x34" + bytes(10) + question(b"WeB")
    key, end = key_of(1, False, wire)
    found = quick.get(key, 0.0)
    assert found is not None
    assert addressed(wire, end, found) == wire + b"rest"


def test_types_are_no_letters() -> None:
    """65 is HTTPS and "A", 97 is nothing and "a"."""
    https, other = (bytes(12) + b"\1x\0\0" + bytes([number]) + b"\0\1" for number in (65, 97))
    assert key_of(1, False, https) != key_of(1, False, other)


@pytest.mark.parametrize("name", [b"\xc0\x04", b"\xc0\x02", b"\1A\xc0\x04"])
def test_a_name_that_points_into_the_header(name: bytes) -> None:
    """It can be understood, and is answered; but not from here, where the question's bytes are taken as they are."""
    wire = b"\0\0\0\0\0\1" + bytes(6) + name + b"\0\1\0\1"
    found = parse(wire, tcp=False)
    if isinstance(found, Query):
        quick = Quick()
        quick.put(key_of(1, False, wire)[0], [render(found, Answer(NOERROR))], 0.0, 9.0)
        assert len(quick) == 0
