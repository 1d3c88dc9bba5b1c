"""From an answer to bytes, for one client's limits; and bytes that grow older without being written again. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.rcode
import dns.rdatatype
import dns.renderer

from appswitch.control.dns.answer import ADDRESSES, FAILED, Answer, RRsets
from appswitch.control.dns.query import HEADER, MAX_UDP, Query

MAX_TURNS = 16  # orders of a name's addresses that are written down

_RECORD = struct.Struct("!HHIH")  # type, class, TTL, length of the data: RFC 1035 section 4.1.3
_OPT = struct.Struct("!BHHBBHH")  # RFC 6891 section 6.1.2


class Record(NamedTuple):
    """Where a resource record is in a message."""

    ttl_at: int
    ttl: int
    end: int


class Rendered(NamedTuple):
    """A message without its first two bytes, the id, which belong to who asks."""

    body: bytes
    ttls: tuple[tuple[int, int], ...]  # where in the body, and what when it was written

    def aged(self, seconds: int) -> bytes:
        """With TTLs that much smaller."""
        if seconds <= 0:
            return self.body
        body = bytearray(self.body)
        for at, ttl in self.ttls:
            body[at : at + 4] = max(0, ttl - seconds).to_bytes(4, "big")
        return bytes(body)


def render(query: Query, answer: Answer) -> Rendered:
    """What fits into the client's limit; TC where records of the answer are missing (RFC 2181 section 9)."""
    try:
        wire = _written(query, answer)
    except dns.exception.TooBig:  # compressed otherwise than upstream: beyond 65,535 bytes
        answer = FAILED
        wire = _written(query, answer)
    opt = _opt(query, answer) if query.edns else b""
    found = list(records(wire))
    cut = _cut(wire, found, query.limit - len(opt))
    if cut is not None:
        wire, found = cut
    if opt:
        additional = int.from_bytes(wire[10:12], "big") + 1
        wire = wire[:10] + additional.to_bytes(2, "big") + wire[12:] + opt
    return Rendered(wire[2:], tuple((record.ttl_at - 2, record.ttl) for record in found))


def turns(query: Query, answer: Answer) -> tuple[Rendered, ...]:
    """The same in several orders, if it is several addresses of ours: who takes the first is led to each in turn.

    Their records are written with the question's name, a pointer, and so are alike but for the address (RFC 1035
    section 4.1.4): bytes can change places without being written again.
    """
    written = render(query, answer)
    if not answer.authoritative or len(answer.answer) != 1 or answer.answer[0].rdtype not in ADDRESSES:
        return (written,)
    count, start = int.from_bytes(written.body[4:6], "big"), _skip_name(written.body, HEADER.size - 2) + 4
    size = 2 + _RECORD.size + (4 if answer.answer[0].rdtype == dns.rdatatype.A else 16)
    end = start + count * size
    step = max(1, count // MAX_TURNS) * size
    cuts = range(start, end, step) if count else (start,)
    return tuple(
        Rendered(
            written.body[:start] + written.body[cut:end] + written.body[start:cut] + written.body[end:], written.ttls
        )
        for cut in cuts
    )


def _written(query: Query, answer: Answer) -> bytes:
    renderer = dns.renderer.Renderer(id=0, flags=_flags(query, answer), max_size=65535)
    renderer.add_question(query.name, query.rdtype, query.rdclass)
    for section, rrsets in (
        (dns.renderer.ANSWER, answer.answer),
        (dns.renderer.AUTHORITY, answer.authority),
        (dns.renderer.ADDITIONAL, answer.additional),
    ):
        _add(renderer, section, rrsets)
    renderer.write_header()
    return bytes(renderer.get_wire())


def _add(renderer: dns.renderer.Renderer, section: int, rrsets: RRsets) -> None:
    for rrset in rrsets:
        renderer.add_rrset(section, rrset, want_shuffle=False)  # their order is `turns`' to choose


def _flags(query: Query, answer: Answer) -> int:
    flags = dns.flags.QR | dns.flags.RA | (query.flags & (dns.flags.RD | dns.flags.CD)) | (answer.rcode & 0xF)
    if answer.authoritative:
        flags |= dns.flags.AA
    # Who neither asks for DNSSEC nor sets AD has no use for it: RFC 6840 section 5.7.
    if answer.authentic and (query.dnssec or query.flags & dns.flags.AD):
        flags |= dns.flags.AD
    return flags


def _opt(query: Query, answer: Answer) -> bytes:
    """The OPT record: our size, the upper bits of the rcode, version 0, DO as it was asked (RFC 3225 section 3)."""
    flags = dns.flags.DO if query.dnssec else 0
    return _OPT.pack(0, dns.rdatatype.OPT, MAX_UDP, answer.rcode >> 4, 0, flags, 0)


def _cut(wire: bytes, found: list[Record], limit: int) -> tuple[bytes, list[Record]] | None:
    """None: it fits. Additional records go first and without a word; then as many of the last ones as have to.

    Record by record: a resolver that knows no TCP still has the first addresses of many.
    """
    if len(wire) <= limit:
        return None
    id, flags, questions, answers, authorities, _ = HEADER.unpack_from(wire)
    kept = answers + authorities
    if _end(wire, found, kept) > limit:
        kept = answers
        flags |= dns.flags.TC
        authorities = 0
    while kept and _end(wire, found, kept) > limit:
        kept -= 1
    answers = min(answers, kept)
    header = HEADER.pack(id, flags, questions, answers, authorities, 0)
    return header + wire[HEADER.size : _end(wire, found, kept)], found[:kept]


def _end(wire: bytes, found: list[Record], kept: int) -> int:
    if kept:
        return found[kept - 1].end
    return _skip_name(wire, HEADER.size) + 4


def records(wire: bytes) -> Iterator[Record]:
    """Of a message that was written here, with one question and no OPT."""
    at = _skip_name(wire, HEADER.size) + 4
    while at < len(wire):
        at = _skip_name(wire, at)
        _, _, ttl, length = _RECORD.unpack_from(wire, at)
        end = at + _RECORD.size + length
        yield Record(at + 4, ttl, end)
        at = end


def _skip_name(wire: bytes, at: int) -> int:
    """RFC 1035 section 4.1.4: labels up to the root's, or up to a pointer."""
    while (length := wire[at]) and length < 0xC0:
        at += 1 + length
    return at + (2 if length else 1)
