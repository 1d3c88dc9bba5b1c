"""From a packet to a question, or to what is wrong with it. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from appswitch.control.dns.asker import Labels

HEADER = struct.Struct("!HHHHHH")  # RFC 1035 section 4.1.1: id, flags, and how many of each section
MAX_QUERY = 4096  # bytes: what asks for one name, however many options it has
MIN_UDP = 512  # bytes of an answer to who says nothing: RFC 1035 section 4.2.1
MAX_UDP = 4096  # bytes of an answer, whatever the client says: RFC 6891 section 6.2.5
MAX_TCP = 65535

# Not a type of records that can be looked up (RFC 6895 section 3.1), or one that would hand the whole zone over.
REFUSED_TYPES = frozenset({0, 41, *range(249, 255)})
_CLASSES = (dns.rdataclass.IN, dns.rdataclass.ANY)


@dataclass(frozen=True, slots=True)
class Query:
    """One question, and how its answer is to be written."""

    id: bytes
    flags: int
    name: dns.name.Name  # in the case in which it was asked: RFC 4343 section 4.1, and who mixes it checks that
    rdtype: dns.rdatatype.RdataType
    rdclass: dns.rdataclass.RdataClass
    edns: bool
    dnssec: bool  # the DO bit
    limit: int  # bytes
    refused: dns.rcode.Rcode | None = None  # why there is nothing to look up
    labels: Labels = field(default=())  # of the name, in lower case

    @property
    def recursion(self) -> bool:
        """RD: whether others may be asked."""
        return bool(self.flags & dns.flags.RD)

    @property
    def unchecked(self) -> bool:
        """CD, RFC 4035 section 3.2.2."""
        return bool(self.flags & dns.flags.CD)


def parse(wire: bytes, tcp: bool) -> Query | bytes | None:
    """The question; or the answer to what is none; or None where silence is the answer.

    A response is not answered, whatever it says: two servers would go on for ever.
    """
    if len(wire) < HEADER.size:
        return None
    _, flags, questions, *_ = HEADER.unpack_from(wire)
    if flags & dns.flags.QR:
        return None
    if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return failure(wire, dns.rcode.NOTIMP)
    if questions != 1 or len(wire) > MAX_QUERY:
        return failure(wire, dns.rcode.FORMERR)
    try:
        message = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError, struct.error):
        return failure(wire, dns.rcode.FORMERR)
    return _query(message, wire[:2], flags, tcp)


def _query(message: dns.message.Message, id: bytes, flags: int, tcp: bool) -> Query:
    asked = message.question[0]
    edns = message.edns >= 0
    return Query(
        id=id,
        flags=flags,
        name=asked.name,
        rdtype=asked.rdtype,
        rdclass=asked.rdclass,
        edns=edns,
        dnssec=bool(message.ednsflags & dns.flags.DO),
        limit=MAX_TCP if tcp else max(MIN_UDP, min(message.payload, MAX_UDP)) if edns else MIN_UDP,
        refused=_refused(message, asked.rdtype, asked.rdclass),
        labels=tuple(label.lower() for label in asked.name.labels[:-1]),
    )


def _refused(message: dns.message.Message, rdtype: int, rdclass: int) -> dns.rcode.Rcode | None:
    if message.edns > 0:
        return dns.rcode.BADVERS  # RFC 6891 section 6.1.3
    if rdclass not in _CLASSES or rdtype in REFUSED_TYPES:
        return dns.rcode.REFUSED
    return None


def failure(wire: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """A header alone: what followed could not be understood, so nothing of it is repeated."""
    id, flags, *_ = HEADER.unpack_from(wire)
    kept = flags & (0x7800 | dns.flags.RD)  # the opcode, RFC 1035 section 4.1.1
    return HEADER.pack(id, dns.flags.QR | kept | dns.flags.RA | rcode, 0, 0, 0, 0)
