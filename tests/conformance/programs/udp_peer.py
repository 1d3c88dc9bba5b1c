"""A server of UDP that does what its clients say, for programs/udp_two.c and test_udp.py.

udp_peer.py OWN     7000 on all its addresses, 7001 on its own, 7002 on its loopback, 7003 with a socket for each
                    client, 5060 on its own; more when told to
"""

from __future__ import annotations

import selectors
import socket
import sys
from collections.abc import Callable
from typing import Any

Answer = Callable[[bytes, Any, socket.socket], None]
watched = selectors.DefaultSelector()


def bound(family: int, host: str, port: int, *options: int) -> socket.socket:
    one = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    for option in options:
        one.setsockopt(socket.SOL_SOCKET, option, 1)
    one.bind((host, port))
    return one


def serve(one: socket.socket, answer: Answer) -> None:
    watched.register(one, selectors.EVENT_READ, answer)


class Peer:
    """What it has open."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.family = socket.AF_INET6 if ":" in own else socket.AF_INET
        self.more: dict[int, socket.socket] = {}
        self.everywhere = bound(self.family, "", 7000)
        serve(self.everywhere, self.answer)
        for host, port in ((own, 7001), ("::1" if ":" in own else "127.0.0.1", 7002), (own, 5060)):
            serve(bound(self.family, host, port), self.answer)
        serve(bound(self.family, own, 7003, socket.SO_REUSEADDR), self.adopt)

    def answer(self, data: bytes, client: Any, one: socket.socket) -> None:
        """Do what one datagram says."""
        command, _, rest = data.decode().partition(" ")
        if command == "echo":
            one.sendto(rest.encode(), client)
        elif command == "seen":
            one.sendto(f"{client[0]} {client[1]}".encode(), client)
        elif command == "other":  # as TFTP
            other = bound(self.family, "", 0)
            serve(other, self.answer)
            other.sendto(rest.encode(), client)
        elif command == "twice":
            one.sendto(rest.encode(), client)
            one.sendto(rest.encode(), client)
        elif command == "also":  # from another one of its ports, then from this one
            self.everywhere.sendto(b"also", client)
            one.sendto(rest.encode(), client)
        elif command == "call":  # speak first, to another port
            with bound(self.family, "", 0) as caller:
                caller.sendto(b"called", (client[0], int(rest)))
            one.sendto(b"done", client)
        elif command == "big":
            one.sendto(bytes(index * 7 & 0xFF for index in range(int(rest))), client)
        elif command == "sum":
            one.sendto(f"{len(data)} {sum(data) & 0xFFFF}".encode(), client)
        elif command == "open":
            self.more[int(rest)] = bound(self.family, "", int(rest))
            serve(self.more[int(rest)], self.answer)
            one.sendto(b"opened", client)
        elif command == "close":
            gone = self.more.pop(int(rest))
            watched.unregister(gone)
            gone.close()
            one.sendto(b"closed", client)
        elif not data:
            one.sendto(b"", client)

    def adopt(self, data: bytes, client: Any, _one: socket.socket) -> None:
        """A connected socket for each client, on the server's own port: as QUIC and DTLS servers do."""
        mine = bound(self.family, self.own, 7003, socket.SO_REUSEADDR)
        mine.connect(client)
        mine.send(b"adopted " + data)
        serve(mine, lambda data, _client, one: one.send(b"again " + data) and None)


if __name__ == "__main__":
    Peer(sys.argv[1])
    print("listening", flush=True)
    while True:
        for key, _ in watched.select():
            try:
                got, source = key.fileobj.recvfrom(70000)
                key.data(got, source, key.fileobj)
            except ConnectionRefusedError:
                pass
