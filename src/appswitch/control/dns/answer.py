"""What a question is answered with, before it is written for somebody; and what follows from its records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

RRsets = tuple[dns.rrset.RRset, ...]

MAX_TTL = 86400  # seconds: RFC 2181 section 8 lets a cache bound them
MAX_NEGATIVE_TTL = 3600  # seconds: RFC 2308 section 5 asks for one to three hours at most
MAX_CHAIN = 16  # aliases that are followed
ADDRESSES = (dns.rdatatype.A, dns.rdatatype.AAAA)


@dataclass(frozen=True, slots=True)
class Answer:
    """Sections as in a message (RFC 1035 section 4.1), and for how many seconds they may be kept (0: not at all)."""

    rcode: dns.rcode.Rcode
    answer: RRsets = ()
    authority: RRsets = ()
    additional: RRsets = ()
    authoritative: bool = False
    authentic: bool = False  # the upstream server says so: AD, RFC 4035 section 3.2.3
    ttl: int = 0


FAILED = Answer(dns.rcode.SERVFAIL)


@dataclass(frozen=True, slots=True)
class Chain:
    """The aliases from the question's name on, as RFC 1034 section 3.6.2 follows them, and where they end."""

    names: tuple[dns.name.Name, ...]
    found: bool  # records of the type that was asked for are at the end


def chain(name: dns.name.Name, rdtype: dns.rdatatype.RdataType, answer: RRsets) -> Chain:
    """Which names of an answer section belong to the question. Others may have been put there by anybody."""
    aliases = {rrset.name: rrset[0].target for rrset in answer if rrset.rdtype == dns.rdatatype.CNAME}
    there = {(rrset.name, rrset.rdtype) for rrset in answer}
    owners = {rrset.name for rrset in answer}
    names = [name]
    for _ in range(MAX_CHAIN):
        last = names[-1]
        if (last, rdtype) in there or (rdtype == dns.rdatatype.ANY and last in owners):
            return Chain(tuple(names), found=True)
        target = aliases.get(last)
        if target is None or target in names:
            break
        names.append(target)
    return Chain(tuple(names), found=False)


def addresses(name: dns.name.Name, rdtype: dns.rdatatype.RdataType, answer: RRsets) -> tuple[str, ...]:
    """Every address that the answer gives for the question's name, through its aliases."""
    names = chain(name, rdtype, answer).names
    found = (rdata.address for rrset in answer if rrset.rdtype in ADDRESSES and rrset.name in names for rdata in rrset)
    return tuple(dict.fromkeys(found))


def from_upstream(message: dns.message.Message, dnssec: bool) -> Answer:
    """What is kept of a message, with TTLs as they may be kept.

    Additional records are nobody's question and are left out. So are authority records but those of a negative answer
    (RFC 2308 section 2), and for who asked for DNSSEC those that prove a wildcard (RFC 4035 section 3.1.3.3).
    """
    question = message.question[0]
    rcode = message.rcode()
    answer = tuple(_clamped(rrset, MAX_TTL) for rrset in message.answer)
    negative = rcode == dns.rcode.NXDOMAIN or not chain(question.name, question.rdtype, answer).found
    authority: RRsets = ()
    ttls = [rrset.ttl for rrset in answer]
    if negative:
        ttl = _negative_ttl(message.authority)
        ttls.append(ttl)
        authority = tuple(_clamped(rrset, ttl) for rrset in message.authority if dnssec or _is_soa(rrset))
    elif dnssec:
        authority = tuple(_clamped(rrset, MAX_TTL) for rrset in message.authority)
    return Answer(
        rcode,
        answer,
        authority,
        authentic=bool(message.flags & dns.flags.AD),
        ttl=min(ttls) if rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) else 0,
    )


def _is_soa(rrset: dns.rrset.RRset) -> bool:
    return rrset.rdtype == dns.rdatatype.SOA


def _negative_ttl(authority: Iterable[dns.rrset.RRset]) -> int:
    """RFC 2308 section 5: the smaller of the SOA's TTL and its MINIMUM; without a SOA nothing may be kept."""
    for rrset in authority:
        if _is_soa(rrset):
            return min(_sane(rrset.ttl), _sane(rrset[0].minimum), MAX_NEGATIVE_TTL)
    return 0


def _clamped(rrset: dns.rrset.RRset, most: int) -> dns.rrset.RRset:
    rrset.ttl = min(_sane(rrset.ttl), most)
    return rrset


def _sane(ttl: int) -> int:
    """RFC 2181 section 8: a TTL with the highest bit set is 0."""
    return ttl if ttl < 1 << 31 else 0
