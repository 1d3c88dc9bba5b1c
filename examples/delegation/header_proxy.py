"""Adds a header to each HTTP request: what cannot be done without touching the data.

ax apply -f examples/delegation/proxies.yaml
ax run --name adder -- python3 examples/delegation/header_proxy.py
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import h11

from appswitch.delegate.connection import Connection, Stream
from appswitch.delegate.server import serve

Part = h11.Request | h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage


async def add_headers(connection: Connection) -> None:
    client, server = await connection.ends()
    from_client, to_server = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)
    known = connection.metadata.client
    header = (b"x-client-app", (known.name if known else str(connection.metadata.source)).encode())
    while from_client.our_state is h11.IDLE:
        async for part in message(from_client, client):
            if from_client.they_are_waiting_for_100_continue:
                await send(from_client, client, h11.InformationalResponse(status_code=100, headers=[]))
            await send(to_server, server, with_header(part, header) if isinstance(part, h11.Request) else part)
        if from_client.their_state not in (h11.DONE, h11.MUST_CLOSE):  # the client has gone
            return
        async for part in message(to_server, server):
            await send(from_client, client, part)
        if from_client.their_state is from_client.our_state is to_server.their_state is h11.DONE:
            from_client.start_next_cycle()
            to_server.start_next_cycle()


def with_header(request: h11.Request, header: tuple[bytes, bytes]) -> h11.Request:
    kept = [pair for pair in request.headers.raw_items() if pair[0].lower() not in (header[0], b"expect")]
    return h11.Request(method=request.method, target=request.target, headers=[*kept, header])


async def message(http: h11.Connection, stream: Stream) -> AsyncIterator[Part]:
    """One request or response, part by part."""
    while not isinstance(part := http.next_event(), h11.ConnectionClosed | h11.PAUSED):
        if part is h11.NEED_DATA:
            http.receive_data(await stream[0].read(1 << 16))
            continue
        yield part
        if isinstance(part, h11.EndOfMessage):
            return


async def send(http: h11.Connection, stream: Stream, part: Part) -> None:
    if isinstance(part, h11.Response):  # whatever the server speaks, this proxy speaks HTTP/1.1
        part = h11.Response(status_code=part.status_code, reason=part.reason, headers=part.headers)
    stream[1].write(http.send(part) or b"")
    await stream[1].drain()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1] if len(sys.argv) > 1 else "adder", add_headers))
