"""Talks to a greeting server (servers.py): HOST PORT CONNECTIONS THREADS [LINES] [SOURCE-PORT].

Each connection sends LINES lines (2) and checks the answers. Prints the distinct pairs of hosts that the server saw.
"""

from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor

HOST, PORT, CONNECTIONS, THREADS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
LINES = int(sys.argv[5]) if len(sys.argv) > 5 else 2
SOURCE = ("", int(sys.argv[6])) if len(sys.argv) > 6 else None


def once(number: int) -> str:
    with socket.create_connection((HOST, PORT), 10, SOURCE) as sock, sock.makefile("rwb", 0) as stream:
        own, peer = sock.getsockname(), sock.getpeername()
        assert (peer[0], peer[1]) == (HOST, PORT), peer
        for line in range(LINES):
            stream.write(b"%d-%d\n" % (number, line))
            seen, served, text = stream.readline().decode().split()
            assert text == f"{number}-{line}", text
            host, _, port = seen.rpartition("|")
            assert int(port) == own[1], (seen, own)
            if SOURCE:
                assert own[1] == SOURCE[1], own
        return f"{host} {served}"


with ThreadPoolExecutor(THREADS) as pool:
    pairs = set(pool.map(once, range(CONNECTIONS)))
print(*sorted(pairs), sep="\n")
