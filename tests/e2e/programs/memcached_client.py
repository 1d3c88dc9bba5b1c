"""A memcached client that knows nothing but sockets: SERVER PORT COUNT THREADS.

Opens COUNT connections, THREADS at a time; on each: set, get, stats. Prints a line of JSON: how many connections each
server process served, and every address that getpeername(2) told.
"""

from __future__ import annotations

import collections
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor


def once(server: str, port: int, key: int) -> tuple[str, str]:
    with socket.create_connection((server, port), timeout=10) as sock, sock.makefile("rwb") as stream:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        value = f"value-{key}".encode()
        stream.write(b"set key-%d 0 0 %d\r\n%s\r\n" % (key, len(value), value))
        stream.flush()
        assert stream.readline() == b"STORED\r\n"
        stream.write(b"get key-%d\r\n" % key)
        stream.flush()
        assert stream.readline() == b"VALUE key-%d 0 %d\r\n" % (key, len(value))
        assert stream.readline() == value + b"\r\n"
        assert stream.readline() == b"END\r\n"
        stream.write(b"stats\r\n")
        stream.flush()
        pid = ""
        while (line := stream.readline()) != b"END\r\n":
            if line.startswith(b"STAT pid "):
                pid = line.split()[2].decode()
        return pid, "{}:{}".format(*sock.getpeername()[:2])


def main() -> None:
    server, port, count, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(lambda key: once(server, port, key), range(count)))
    served = collections.Counter(pid for pid, _ in results)
    print(json.dumps({"served": served, "peers": sorted({peer for _, peer in results})}))


main()
