"""A memcached client that knows nothing but sockets. It would say the same to a server on another machine.

    client.py spread HOST PORT COUNT       COUNT connections: set, get, and ask who serves
    client.py hold HOST PORT               one connection that stays open until standard input ends
    client.py latency HOST PORT CONNECTS ROUNDS

Each prints one line of JSON.
"""

from __future__ import annotations

import collections
import json
import socket
import sys
import time
from typing import BinaryIO


def connect(host: str, port: int) -> tuple[socket.socket, BinaryIO]:
    sock = socket.create_connection((host, port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock, sock.makefile("rwb", buffering=0)


def ask(stream: BinaryIO, command: bytes, end: bytes = b"END\r\n") -> list[bytes]:
    """Sends a command; returns the lines of the answer before the one that ends it."""
    stream.write(command + b"\r\n")
    lines = []
    while (line := stream.readline()) != end:
        if not line:
            raise ConnectionError("the server hung up")
        lines.append(line.rstrip())
    return lines


def stats(stream: BinaryIO) -> dict[str, str]:
    return dict(line.decode().split(" ", 2)[1:] for line in ask(stream, b"stats"))


def spread(host: str, port: int, count: int) -> dict[str, object]:
    served: collections.Counter[str] = collections.Counter()
    told: dict[str, str] = {}
    for number in range(count):
        sock, stream = connect(host, port)
        with sock, stream:
            ask(stream, b"set key%d 0 0 5\r\nhello" % number, end=b"STORED\r\n")
            if ask(stream, b"get key%d" % number)[1] != b"hello":
                raise ValueError("not what was stored")
            answer = stats(stream)
            served[answer["pid"]] += 1
            told[answer["pid"]] = answer["total_connections"]
    return {"served": served, "total_connections": told}


def hold(host: str, port: int) -> dict[str, object]:
    sock, stream = connect(host, port)
    with sock, stream:
        conns = [line.decode().split(" ", 2) for line in ask(stream, b"stats conns")]
        print(
            json.dumps(
                {
                    "server": "{}:{}".format(*sock.getpeername()),
                    "own": "{}:{}".format(*sock.getsockname()),
                    "pid": stats(stream)["pid"],
                    "conns": [words[2] for words in conns if words[1].endswith(":addr")],
                }
            ),
            flush=True,
        )
        sys.stdin.read()
    return {}


def get(sock: socket.socket) -> None:
    sock.sendall(b"get nothing\r\n")
    if sock.recv(64) != b"END\r\n":
        raise ValueError("not what memcached says")


def latency(host: str, port: int, connects: int, rounds: int) -> dict[str, object]:
    """Microseconds: of socket(2) and connect(2), of these and the first answer, and of requests on a connection."""
    clock = time.perf_counter_ns
    taken: dict[str, list[float]] = {"connect": [], "first": [], "round": []}
    for _ in range(connects):
        start = clock()
        with socket.socket() as sock:
            sock.connect((host, port))
            taken["connect"].append((clock() - start) / 1000)
            get(sock)
            taken["first"].append((clock() - start) / 1000)
    with socket.create_connection((host, port), timeout=10) as sock:
        for _ in range(rounds):
            start = clock()
            get(sock)
            taken["round"].append((clock() - start) / 1000)
    return taken


def main() -> None:
    what, host, port, *numbers = sys.argv[1:]
    todo = {"spread": spread, "hold": hold, "latency": latency}[what]
    if answer := todo(host, int(port), *map(int, numbers)):
        print(json.dumps(answer))


main()
