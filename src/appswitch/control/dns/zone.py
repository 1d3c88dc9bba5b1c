"""What the daemon answers by itself: names of apps and of whatever else is a source of names. Pure.

==========================  ========================================================================================
name                        records
==========================  ========================================================================================
NAME, NAME.DOMAIN           A and AAAA of the vservice or reference of that name, else of every app
_PORT._tcp.NAME[.DOMAIN]    SRV (RFC 2782) of its ports, or where such an app listens; also by a service's name (_http)
DOMAIN                      SOA, NS
D.C.B.A.in-addr.arpa        PTR to NAME.DOMAIN, if A.B.C.D is the address of one of them; so for ip6.arpa
localhost, *.localhost      the app's own loopback: RFC 6761 section 6.3
==========================  ========================================================================================

Whatever else is below DOMAIN does not exist. Other names are somebody else's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Protocol

import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.NS
import dns.rdtypes.ANY.PTR
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
import dns.rrset

from appswitch import model
from appswitch.control.dns.answer import Answer, RRsets
from appswitch.control.dns.asker import Asker, Labels

TTL = 5  # seconds: an app that has gone is asked for no longer than that
MAX_ADDRESSES = 1000  # of one name: 28 bytes each must fit a message, RFC 1035 section 4.2.2

_IN = dns.rdataclass.IN
_PROTOCOLS: dict[bytes, model.Protocol] = {b"_tcp": "tcp", b"_udp": "udp"}
_LOOPBACK = ("127.0.0.1", "::1")
_NOBODY = dns.name.from_text("nobody.invalid.")  # RFC 6303 section 3: who is responsible for a zone without a mailbox

Records = list[dns.rdata.Rdata]


class Source(Protocol):
    """Something that has names, as ``asker`` sees them. Labels are in lower case."""

    def addresses(self, name: bytes, asker: Asker) -> Sequence[str] | None:
        """None if there is no such name."""

    def ports(self, name: bytes, proto: model.Protocol, service: bytes | None, asker: Asker) -> Sequence[int]:
        """Of a service by its number or name, or (None) all."""

    def owned(self, labels: Labels) -> bool:
        """Whether a name of in-addr.arpa or ip6.arpa is that of an address of somebody."""

    def names(self, labels: Labels, asker: Asker) -> Sequence[bytes]:
        """What is called so at that address."""


class Zone:
    """``domain`` in lower case. Of ``sources`` the first that knows a name says what it is.

    Who changes a source tells the resolver to forget what it has written.
    """

    def __init__(self, domain: str, *sources: Source) -> None:
        self.origin = dns.name.from_text(domain)
        self._sources = sources
        self._domain: Labels = self.origin.labels[:-1]

    def find(self, asker: Asker, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer | None:
        """None if the name is none of ours."""
        labels = tuple(label.lower() for label in name.labels[:-1])
        depth = len(labels) - len(self._domain)
        if depth >= 0 and labels[depth:] == self._domain:
            records = self._named(asker, labels[:depth]) if depth else self._apex()
            return self._answer(asker, (name, rdtype), records, self.origin)
        if labels[-1:] == (b"localhost",):
            return self._answer(asker, (name, rdtype), _addresses(_LOOPBACK), _last(name, 1))
        if labels[-1:] == (b"arpa",):
            ours = any(source.owned(labels) for source in self._sources)
            return self._reverse(asker, (name, rdtype), labels) if ours else None
        return self._bare(asker, (name, rdtype), labels)

    def _bare(self, asker: Asker, question: Question, labels: Labels) -> Answer | None:
        """Without the domain: only what an app's name and the services of it take from the root."""
        if not labels or not (len(labels) == 1 or (len(labels) <= 3 and labels[-2] in _PROTOCOLS)):
            return None
        if self._of_sources(labels[-1], asker) is None:
            return None
        return self._answer(asker, question, self._named(asker, labels), _last(question[0], 1))

    def _reverse(self, asker: Asker, question: Question, labels: Labels) -> Answer:
        names = list(dict.fromkeys(name for source in self._sources for name in source.names(labels, asker)))
        records: Records = [
            dns.rdtypes.ANY.PTR.PTR(_IN, dns.rdatatype.PTR, dns.name.Name((name, *self.origin.labels)))
            for name in names[:MAX_ADDRESSES]
        ]
        return self._answer(asker, question, records or None, question[0])

    def _answer(self, asker: Asker, question: Question, records: Records | None, zone: dns.name.Name) -> Answer:
        """No name (None) or none of its records: RFC 2308 section 2, with the SOA of the zone that knows it."""
        name, rdtype = question
        wanted = [one for one in records or () if rdtype in (one.rdtype, dns.rdatatype.ANY)]
        if not wanted:
            rcode = dns.rcode.NXDOMAIN if records is None else dns.rcode.NOERROR
            return Answer(rcode, authority=(_rrset(zone, [self._soa(zone)]),), authoritative=True, ttl=TTL)
        answer = tuple(_rrset(name, [one for one in wanted if one.rdtype == each]) for each in _types(wanted))
        additional = self._additional(asker, wanted)
        return Answer(dns.rcode.NOERROR, answer, additional=additional, authoritative=True, ttl=TTL)

    def _additional(self, asker: Asker, records: Records) -> RRsets:
        """The addresses of SRV's target: RFC 2782, "The SRV RR"."""
        for one in records:
            if isinstance(one, dns.rdtypes.IN.SRV.SRV):  # all have the same target
                there = _addresses(self._of_sources(one.target.labels[0], asker) or ())
                return tuple(_rrset(one.target, [a for a in there if a.rdtype == each]) for each in _types(there))
        return ()

    # Records

    def _named(self, asker: Asker, labels: Labels) -> Records | None:
        """Of a name within the domain, or without it. None: there is no such name."""
        name, proto = labels[-1], _PROTOCOLS.get(labels[-2]) if len(labels) in (2, 3) else None
        if len(labels) == 1:
            found = self._of_sources(name, asker)
            return None if found is None else _addresses(found)
        if proto is None:
            return None
        if len(labels) == 2:  # between a name and its services: it exists, and has nothing (RFC 8020)
            return [] if self._ports(name, proto, None, asker) else None
        if not labels[0].startswith(b"_"):
            return None
        target = dns.name.Name((name, *self.origin.labels))
        ports = self._ports(name, proto, labels[0][1:], asker)
        return [dns.rdtypes.IN.SRV.SRV(_IN, dns.rdatatype.SRV, 0, 0, port, target) for port in ports] or None

    def _of_sources(self, name: bytes, asker: Asker) -> tuple[str, ...] | None:
        found = (source.addresses(name, asker) for source in self._sources)
        first = next((one for one in found if one is not None), None)
        return None if first is None else tuple(first)[:MAX_ADDRESSES]

    def _ports(self, name: bytes, proto: model.Protocol, service: bytes | None, asker: Asker) -> Sequence[int]:
        """Of whoever the name is."""
        for source in self._sources:
            if source.addresses(name, asker) is not None:
                return source.ports(name, proto, service, asker)
        return ()

    def _apex(self) -> Records:
        return [self._soa(self.origin), dns.rdtypes.ANY.NS.NS(_IN, dns.rdatatype.NS, self.origin)]

    def _soa(self, zone: dns.name.Name) -> dns.rdata.Rdata:
        """As RFC 6303 section 3 has it for zones that are served to one's own clients. Nobody transfers them."""
        return dns.rdtypes.ANY.SOA.SOA(_IN, dns.rdatatype.SOA, zone, _NOBODY, 1, 3600, 1200, 604800, TTL)


Question = tuple[dns.name.Name, dns.rdatatype.RdataType]


def _addresses(ips: Iterable[str]) -> Records:
    return [_address(ip) for ip in ips]


@functools.lru_cache(4096)
def _address(ip: str) -> dns.rdata.Rdata:
    if ":" in ip:
        return dns.rdtypes.IN.AAAA.AAAA(_IN, dns.rdatatype.AAAA, ip)
    return dns.rdtypes.IN.A.A(_IN, dns.rdatatype.A, ip)


def _types(records: Records) -> list[dns.rdatatype.RdataType]:
    return list(dict.fromkeys(one.rdtype for one in records))


def _rrset(name: dns.name.Name, records: Records) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, TTL, records)


def _last(name: dns.name.Name, labels: int) -> dns.name.Name:
    """The last labels of an absolute name."""
    return dns.name.Name(name.labels[-1 - labels :])
