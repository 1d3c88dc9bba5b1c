"""Clients that begin in odd ways: HOST PORT [NAME...], by default all that there are.

Each has a connection of its own, all of them at once.

What comes before the word by which a server greets (WORDS bytes) and what comes after it may differ. Prints a line of
JSON for each: what it is called, its address, who greeted, how many bytes were sent, and their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import ssl
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

HOST, PORT = sys.argv[1], int(sys.argv[2])
WORDS = 3
NOW = struct.pack("ii", 1, 0)  # struct linger: a reset instead of an end


class Odd(NamedTuple):
    before: list[bytes]  # the greeting: a write(2) each
    after: tuple[bytes, ...] = ()
    end: str = "half"  # shutdown(2), and wait for the server's end; "close", "reset": without waiting for anything


def hello(name: str) -> bytes:
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return out.read()
    raise AssertionError


def pieces(data: bytes, count: int) -> list[bytes]:
    size = -(-len(data) // count)
    return [data[start : start + size] for start in range(0, len(data), size)]


def get(path: bytes, *headers: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % (path, b"".join(b"%b\r\n" % one for one in headers))


def records(data: bytes, count: int) -> bytes:
    """A TLS record as several: RFC 8446 section 5.1."""
    return b"".join(data[:3] + struct.pack(">H", len(one)) + one for one in pieces(data[5:], count))


chance = random.Random(4)
# Half a request: nobody can tell from it yet. The rest comes when the deadline has decided.
ODDITIES = {
    "half a request": Odd([b"GET /two/x HTTP/1.1\r\nHost"], (b": a.test\r\n\r\n",)),
    "half a method": Odd([b"GE"], (b"T /two/x HTTP/1.1\r\nHost: a.test\r\n\r\n",)),
    "64 KiB of header": Odd([get(b"/two/x", b"X-Long: " + b"x" * 65536)]),
    "64 KiB of path": Odd([get(b"/two/" + b"x" * 65536)]),
    "64 KiB of cookies": Odd([get(b"/two/x", *[b"Cookie: n=%d" % n for n in range(4500)])]),
    "no UTF-8": Odd([get(b"/two/\xff\xfe", b"X-Name: \xe9\x80")]),
    "pipelined": Odd([get(b"/two/1") + get(b"/one/2") + get(b"/two/3")]),
    "byte by byte": Odd([bytes([byte]) for byte in get(b"/two/x")]),
    "a hello in ten writes": Odd(pieces(hello("two.test"), 10)),
    "a hello in fifty writes": Odd(pieces(hello("two.test"), 50)),
    "a hello in ten records": Odd([records(hello("two.test"), 10)]),
    "a hello, byte by byte": Odd([bytes([byte]) for byte in hello("two.test")]),
    "half a hello": Odd([hello("two.test")[:100]], (hello("two.test")[100:],)),
    "nothing for long": Odd([], (get(b"/two/x"),)),
    "nothing at all": Odd([]),
    "closes at once": Odd([], end="close"),
    "resets at once": Odd([], end="reset"),
    "asks and closes": Odd([get(b"/two/x")], end="close"),
    "half-closed": Odd([get(b"/two/x")], end="early"),
    "half-closed in the middle": Odd([b"GET /two/x HT"], end="early"),
    "NUL": Odd([bytes(30000)]),
    "CRLF": Odd([b"\r\n" * 20000]),
    "a preface": Odd([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000]),
    **{f"chance {n}": Odd([chance.randbytes(chance.randrange(1, 40000))]) for n in range(40)},
    **{f"chance in TLS {n}": Odd([b"\x16\x03\x01" + chance.randbytes(600)]) for n in range(10)},
}


def run(odd: Odd) -> tuple[str, str, int, str]:
    with socket.create_connection((HOST, PORT), 20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        own = "{}:{}".format(*sock.getsockname()[:2])
        sent = b"".join([*odd.before, *odd.after])
        told = own, "", len(sent), hashlib.sha256(sent).hexdigest()
        for one in odd.before:
            sock.sendall(one)
        if odd.end in ("close", "reset"):
            if odd.end == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NOW)
            return told
        if odd.end == "early":
            sock.shutdown(socket.SHUT_WR)
        greeting = sock.recv(WORDS, socket.MSG_WAITALL)
        for one in odd.after:
            sock.sendall(one)
        if odd.end == "half":
            sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"", "the server's end"
        return own, greeting.decode(), *told[2:]


names = sys.argv[3:] or list(ODDITIES)
with ThreadPoolExecutor(len(names)) as pool:
    for name, told in zip(names, pool.map(run, map(ODDITIES.__getitem__, names)), strict=True):
        print(json.dumps({"name": name, **dict(zip(("own", "greeted", "bytes", "sha256"), told, strict=True))}))
