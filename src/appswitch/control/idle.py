"""A daemon that ``ax run`` started for somebody ends when nobody has needed it for a while."""

from __future__ import annotations

import asyncio

from appswitch.control.link import SwitchLink


async def until_idle(link: SwitchLink, seconds: float) -> None:
    """Return when no app was registered or running for so long."""
    with link.watch() as watch:
        while True:
            try:
                async with asyncio.timeout(None if link.apps else seconds):
                    await anext(watch)
            except TimeoutError:
                return
            except StopAsyncIteration:
                await asyncio.Event().wait()  # control is stopping anyway
