"""Servers that are asked for other names, and one exchange with one of them."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode

from appswitch.control.dns.cache import Key
from appswitch.control.dns.query import HEADER

Server = tuple[str, int]
Servers = Callable[[], tuple[Server, ...]]

MAX_SERVERS = 3  # MAXNS of resolv.conf(5)
UDP_SIZE = 1232  # bytes: what no network has to fragment, RFC 6891 section 6.2.5 and DNS Flag Day 2020
_LOCAL: tuple[Server, ...] = (("127.0.0.1", 53),)  # "if no nameserver entries are present": resolv.conf(5)
_WITHOUT_QUESTION = frozenset({dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.REFUSED, dns.rcode.SERVFAIL})


class ResolvConf:
    """The servers of a resolv.conf(5), read again when the file is another one than before."""

    def __init__(self, path: Path = Path("/etc/resolv.conf")) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._servers = _LOCAL

    def __call__(self) -> tuple[Server, ...]:
        """As they are now. A file that cannot be read is one without servers."""
        try:
            stat = os.stat(self._path)  # noqa: PTH116 - on the way of every query that is forwarded
            seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if seen != self._seen:
                self._servers = nameservers(self._path.read_text("utf-8", "replace"))
                self._seen = seen
        except OSError:
            self._seen = None
            self._servers = _LOCAL
        return self._servers


def nameservers(text: str) -> tuple[Server, ...]:
    """The addresses of a resolv.conf(5); lines that cannot be used are passed over, as the C library does."""
    found: list[Server] = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_] if _is_address(address):
                found.append((address, 53))
    return tuple(found[:MAX_SERVERS]) or _LOCAL


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


async def exchange(server: Server, key: Key) -> dns.message.Message:
    """One question, asked over UDP and, where the answer is too long for that, over TCP (RFC 7766 section 5).

    A server that does not know EDNS is asked without (RFC 6891 section 7). Raises OSError, EOFError and
    dns.exception.DNSException. It waits for ever: give it a deadline.
    """
    answer = await _both(server, key, edns=True)
    if answer.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP) and answer.edns < 0 and not key.dnssec:
        answer = await _both(server, key, edns=False)
    if not answer.question:
        answer.question = _question(key, edns=False).question
    return answer


async def _both(server: Server, key: Key, edns: bool) -> dns.message.Message:
    question = _question(key, edns)
    wire = question.to_wire()
    reply = await _udp(server, wire, key)
    if int.from_bytes(reply[2:4], "big") & dns.flags.TC:
        reply = await _tcp(server, wire, key)
    return dns.message.from_wire(reply, ignore_trailing=True)


def _question(key: Key, edns: bool) -> dns.message.Message:
    """With AD, to be told in every case whether the answer is authentic (RFC 6840 section 5.7)."""
    question = dns.message.make_query(key.name, key.rdtype, key.rdclass, id=secrets.randbits(16))
    question.flags = dns.flags.RD | dns.flags.AD | (dns.flags.CD if key.unchecked else 0)
    if edns:
        question.use_edns(0, dns.flags.DO if key.dnssec else 0, UDP_SIZE)
    return question


async def _udp(server: Server, wire: bytes, key: Key) -> bytes:
    """A socket of its own: the kernel chooses a port that nobody can guess, and drops what others send (RFC 5452).

    What comes from the right place and answers something else is passed over: it may be an answer that is late.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        sock.connect(server)
        sock.send(wire)
        while True:
            reply = await loop.sock_recv(sock, 65535)
            if answers(reply, wire, key):
                return reply


async def _tcp(server: Server, wire: bytes, key: Key) -> bytes:
    """Raises EOFError when the server hangs up, dns.exception.DNSException when it answers something else."""
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(wire).to_bytes(2, "big") + wire)
        length = int.from_bytes(await reader.readexactly(2), "big")
        reply = await reader.readexactly(length)
    finally:
        writer.transport.abort()
    if not answers(reply, wire, key):
        raise dns.exception.FormError("the answer is to another question")
    return reply


def answers(reply: bytes, wire: bytes, key: Key) -> bool:
    """Whether this is a response with the id and the question of ``wire``: RFC 5452 section 9.1.

    Some servers that refuse to understand a question leave it out.
    """
    if len(reply) < HEADER.size or reply[:2] != wire[:2]:
        return False
    _, flags, questions, *_ = HEADER.unpack_from(reply)
    if not flags & dns.flags.QR or dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return False
    if questions != 1:
        return not questions and flags & 0xF in _WITHOUT_QUESTION
    try:
        name, used = dns.name.from_wire(reply, HEADER.size)
        rdtype, rdclass = struct.unpack_from("!HH", reply, HEADER.size + used)
    except (dns.exception.DNSException, struct.error):
        return False
    return (name, rdtype, rdclass) == (key.name, key.rdtype, key.rdclass)
