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
from appswitch.control.dns.quick import MAX_BYTES, Quick
from appswitch.control.dns.render import Rendered

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


def test_written() -> None:
    quick = Quick()
    one = Rendered(bytes(4) + (60).to_bytes(4, "big"), ((4, 60),))
    quick.put((1, False, b"q"), [one], 1000.0, 1060.0)
    for now, ttl in ((1000.0, 60), (1000.9, 60), (1001.0, 59), (1001.5, 59), (1059.9, 1), (1000.0, 60)):
        body = quick.get((1, False, b"q"), now)
        assert body is not None
        assert int.from_bytes(body[4:], "big") == ttl
    for other in ((2, False, b"q"), (1, True, b"q"), (1, False, b"r")):
        assert quick.get(other, 1000.0) is None
    assert quick.get((1, False, b"q"), 1060.0) is None
    assert len(quick) == 0


def test_written_in_turns() -> None:
    quick = Quick()
    quick.put((1, False, b"q"), [Rendered(body, ()) for body in (b"a", b"b", b"c")], 0.0, 9.0)
    assert [quick.get((1, False, b"q"), 0.0) for _ in range(4)] == [b"b", b"c", b"a", b"b"]


def test_written_is_bounded() -> None:
    quick = Quick(max_entries=2)
    for name in (b"a", b"b", b"c"):
        quick.put((1, False, name), [Rendered(name, ())], 0.0, 9.0)
    assert [quick.get((1, False, name), 0.0) for name in (b"a", b"b", b"c")] == [None, b"b", b"c"]
    quick.put((1, False, b"long"), [Rendered(bytes(MAX_BYTES), ())], 0.0, 9.0)
    assert quick.get((1, False, b"long"), 0.0) is None
    version = quick.version
    quick.clear()
    assert quick.version != version
    assert len(quick) == 0
