"""A control with a fake switch behind it, and clients of every kind in front."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.unit.control.fake_switch import FakeSwitch

from appswitch.control.access import Peer
from appswitch.control.analyzer import Analyzer
from appswitch.control.api.application import create
from appswitch.control.api.deps import Parts
from appswitch.control.link import SwitchLink
from appswitch.control.registry import Registry
from appswitch.control.resources.service import Resources
from appswitch.control.resources.store import Store
from appswitch.control.settings import Settings
from appswitch.paths import RunDir

DEADLINE = 10.0


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Let everything else run until ``condition`` holds."""
    end = asyncio.get_running_loop().time() + DEADLINE
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not in time: {what}"
        await asyncio.sleep(0.001)


@pytest.fixture
async def switch(tmp_path: Path) -> AsyncIterator[FakeSwitch]:
    async with FakeSwitch(tmp_path / "switch.sock") as one:
        yield one


@pytest.fixture
async def link(switch: FakeSwitch) -> AsyncIterator[SwitchLink]:
    """Connected."""
    one = SwitchLink(switch.path, timeout=2.0)
    task = asyncio.create_task(one.run())
    await asyncio.wait_for(one.connected.wait(), DEADLINE)
    yield one
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(run_dir=RunDir(tmp_path), node="n1", rest_port=0)


@pytest.fixture
async def parts(settings: Settings, link: SwitchLink) -> AsyncIterator[Parts]:
    registry = Registry(link, settings)
    store = Store(settings.state_dir)
    resources = Resources(link, registry, store)
    resources.load()
    yield Parts(settings=settings, registry=registry, resources=resources, analyzer=Analyzer(link))
    resources.close()


Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def connect(parts: Parts) -> AsyncIterator[Connect]:
    """``connect(uid=1000)`` is that user on the Unix socket; ``connect()`` comes over TCP."""
    app = create(parts)
    clients: list[httpx.AsyncClient] = []

    def client(uid: int | None = None, **more: Any) -> httpx.AsyncClient:
        peer = None if uid is None else Peer(pid=os.getpid(), uid=uid, gid=uid)

        async def known(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": {"peer": peer}}, receive, send)

        transport = httpx.ASGITransport(known, raise_app_exceptions=False)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://localhost", **more))
        return clients[-1]

    yield client
    for one in clients:
        await one.aclose()


@pytest.fixture
def as_root_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
