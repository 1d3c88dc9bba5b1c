"""Answers by itself, and never connects anywhere: whatever address an app asks for, there is an echo.

ax apply -f examples/delegation/proxies.yaml
ax run --name echo -- python3 examples/delegation/echo.py
"""

from __future__ import annotations

import asyncio
import sys

from appswitch.delegate.connection import Connection
from appswitch.delegate.server import pump, serve


async def echo(connection: Connection) -> None:
    if connection.metadata.protocol == "tls":  # that would never understand an echo
        await connection.pass_()
        return
    await connection.accept()
    await pump(*await connection.streams())


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1] if len(sys.argv) > 1 else "echo", echo))
