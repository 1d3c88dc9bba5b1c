"""A name server on loopback that says what a test has it say, over UDP and over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Self

import dns.flags
import dns.message
import dns.rrset

Reply = dns.message.Message | bytes | None
Script = Callable[[dns.message.Message, bool], Reply | list[Reply]]


def address(query: dns.message.Message, _: bool) -> dns.message.Message:
    """10.0.0.1, whatever is asked for."""
    return respond(query, dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "10.0.0.1"))


def respond(query: dns.message.Message, *answer: dns.rrset.RRset, **more: Any) -> dns.message.Message:
    reply = dns.message.make_response(query, recursion_available=True)
    reply.answer += answer
    for name, value in more.items():
        getattr(reply, name)(value) if name.startswith("set_") else setattr(reply, name, value)
    return reply


def truncated(query: dns.message.Message, tcp: bool) -> dns.message.Message:
    """Over UDP only that there is more."""
    reply = address(query, tcp)
    if not tcp:
        reply.answer.clear()
        reply.flags |= dns.flags.TC
    return reply


class Upstream:
    """``seen`` has every query, with whether it came over TCP."""

    def __init__(self, script: Script = address, ip: str = "127.0.0.1") -> None:
        self.script = script
        self.seen: list[tuple[dns.message.Message, bool]] = []
        self._ip = ip

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self._ip else socket.AF_INET
        for _ in range(50):  # a port that is free of both protocols
            self._udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._udp.bind((self._ip, 0))
            try:
                self._tcp = await asyncio.start_server(self._serve, self._ip, self._udp.getsockname()[1])
            except OSError:
                self._udp.close()
            else:
                break
        self.server = (self._ip, int(self._udp.getsockname()[1]))
        loop.add_reader(self._udp, self._readable)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._udp)
        self._udp.close()
        self._tcp.close()
        await self._tcp.wait_closed()

    def __call__(self) -> tuple[tuple[str, int], ...]:
        return (self.server,)

    def _readable(self) -> None:
        wire, self.peer = self._udp.recvfrom(65535)
        for reply in self._replies(wire, False):
            self.send(reply)

    def send(self, reply: bytes) -> None:
        """To who asked last over UDP."""
        self._udp.sendto(reply, self.peer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            for reply in self._replies(wire, True):
                writer.write(len(reply).to_bytes(2, "big") + reply)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def _replies(self, wire: bytes, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(wire)
        self.seen.append((query, tcp))
        said = self.script(query, tcp)
        replies = said if isinstance(said, list) else [said]
        return [one if isinstance(one, bytes) else one.to_wire(max_size=65535) for one in replies if one is not None]
