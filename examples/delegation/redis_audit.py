"""Prints each redis command with who sent it and to whom, never a value; refuses FLUSHALL.

ax apply -f examples/delegation/proxies.yaml
ax run --name audit -- python3 examples/delegation/redis_audit.py
"""

from __future__ import annotations

import asyncio
import sys

from appswitch.delegate.connection import Connection
from appswitch.delegate.server import pump, serve

REFUSED = (b"FLUSHALL", b"FLUSHDB")
MAX_WORDS, MAX_BYTES = 1 << 20, 512 << 20  # redis' own limits


async def audit(connection: Connection) -> None:
    if connection.metadata.protocol not in ("redis", "unknown", ""):
        await connection.hand_on()
        return
    (from_client, to_client), (from_server, to_server) = await connection.ends()
    answers = asyncio.create_task(pump(from_server, to_client))
    try:
        while command := await read_command(from_client):
            raw, words = command
            name = words[0].upper() if words else b""
            told(connection, name, words)
            if name in REFUSED:  # redis would answer in turn, so nothing may be under way: good enough for an example
                to_client.write(b"-NOPERM refused by the auditor\r\n")
                continue
            to_server.write(raw)
            await to_server.drain()
        to_server.write_eof()
        await answers
    finally:
        answers.cancel()


async def read_command(reader: asyncio.StreamReader) -> tuple[bytes, list[bytes]] | None:
    """The bytes and the words of a command: an array of bulk strings, or a line as people type it. None at the end."""
    raw = await reader.readline()
    if not raw.startswith(b"*"):
        return (raw, raw.split()) if raw else None
    words = []
    for _ in range(number(raw, MAX_WORDS)):
        head = await reader.readline()
        body = await reader.readexactly(number(head, MAX_BYTES) + 2)
        raw += head + body
        words.append(body[:-2])
    return raw, words


def number(line: bytes, most: int) -> int:
    if not 0 <= (value := int(line[1:])) <= most:
        raise ValueError(f"{value} is more than redis takes")
    return value


def told(connection: Connection, name: bytes, words: list[bytes]) -> None:
    known = connection.metadata
    who = known.client.name if known.client else str(known.source)
    key = "" if name in (b"AUTH", b"HELLO", b"CONFIG") else b" ".join(words[1:2]).decode(errors="backslashreplace")
    print(who, "->", known.vservice or known.destination, name.decode(errors="backslashreplace"), key, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1] if len(sys.argv) > 1 else "audit", audit))
