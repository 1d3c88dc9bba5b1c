"""QUIC with aioquic: its server listens on one socket for both families and answers mapped addresses.

quic.py serve ADDRESS PORT CERT KEY       echoes streams, the client's address in front
quic.py ask ADDRESS PORT CERT SIZE COUNT  COUNT streams of SIZE bytes at once, in one connection
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.asyncio.server import serve as listen
from aioquic.quic.configuration import QuicConfiguration


class Numbered(QuicConnectionProtocol):
    """Knows its peer's address."""

    peer = ""

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        self.peer = addr[0]
        super().datagram_received(data, addr)


async def serve(address: str, port: str, cert: str, key: str) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.load_cert_chain(cert, key)
    tasks = set()
    protocols: list[Numbered] = []

    def created(*arguments: Any, **more: Any) -> Numbered:
        protocols.append(Numbered(*arguments, **more))
        return protocols[-1]

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(protocols[-1].peer.encode() + b"\n" + data)
        writer.write_eof()

    def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(echo(reader, writer)))

    await listen(address, int(port), configuration=configuration, create_protocol=created, stream_handler=stream)
    print("listening", flush=True)
    await asyncio.Event().wait()


async def ask(address: str, port: str, cert: str, size: str, count: str) -> None:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echo"], server_name="quic.test")
    configuration.load_verify_locations(cert)
    async with connect(address, int(port), configuration=configuration) as client:

        async def once() -> str:
            data = os.urandom(int(size))
            reader, writer = await client.create_stream()
            writer.write(data)
            writer.write_eof()
            peer, _, back = (await reader.read()).partition(b"\n")
            assert back == data
            return peer.decode()

        print(set(await asyncio.gather(*(once() for _ in range(int(count))))), "done", count)


if __name__ == "__main__":
    asyncio.run({"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:]))
