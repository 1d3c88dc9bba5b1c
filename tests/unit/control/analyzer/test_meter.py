"""What apps use: looked at when they attach and when somebody asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.control.analyzer.builders import app
from tests.unit.control.conftest import until
from tests.unit.control.fake_switch import FakeSwitch

from appswitch.control.analyzer import meter, processes
from appswitch.control.analyzer.meter import Meter
from appswitch.control.analyzer.processes import Figures, Found, Seat
from appswitch.control.link import SwitchLink


class Host:
    """Stands for /proc: what is found at the next look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.figures = {1: Figures(processes=1, cpu=1.0, anonymous=100)}
        self.looks = 0
        self.seats: dict[int, Seat] = {}
        monkeypatch.setattr(processes, "seat", lambda pid, _attached, own: Seat(5 if own else 0, {pid: 1}))
        monkeypatch.setattr(processes, "figures", lambda _pids: self.figures[1])
        monkeypatch.setattr(processes, "survey", self.survey)

    def survey(self, seats: dict[int, Seat], daemon: frozenset[int]) -> dict[int, Found]:
        self.looks += 1
        self.seats = seats
        return {key: Found(value, {7: 1, 8: 2}) for key, value in self.figures.items() if key in seats}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.fixture
async def metered(link: SwitchLink, host: Host) -> AsyncIterator[Meter]:
    made = Meter(link)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def known(switch: FakeSwitch, made: Meter, **more: str) -> None:
    """App 1 attaches."""
    row = app(1, attached=None, **more)
    switch.apps[1] = row
    switch.attach(1, pid=7)
    await until(lambda: 1 in made._usages, "the first look")


async def test_growth_since_it_attached(
    switch: FakeSwitch, metered: Meter, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "FRESH", 0.0)
    await known(switch, metered)
    host.figures[1] = Figures(processes=2, cpu=3.0, anonymous=150)
    first = (await metered.usages())[1]
    assert (first.now, first.then) == (host.figures[1], Figures(processes=1, cpu=1.0, anonymous=100))
    assert (first.growth.anonymous, first.growth.processes, first.growth.cpu) == (50, 1, 2.0)
    host.figures[1] = Figures(processes=1, cpu=4.0, anonymous=80)
    second = (await metered.usages())[1]
    assert (second.growth.anonymous, second.since) == (-20, first.since)
    assert second.time >= first.time


async def test_many_who_ask_are_one_look(switch: FakeSwitch, metered: Meter, host: Host) -> None:
    await known(switch, metered)
    await asyncio.gather(*(metered.usages() for _ in range(20)))
    assert host.looks == 1


async def test_cpu_time_never_falls(
    switch: FakeSwitch, metered: Meter, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though processes end that nobody waits for."""
    monkeypatch.setattr(meter, "FRESH", 0.0)
    await known(switch, metered)
    seen = []
    for cpu in (5.0, 2.0, 2.5, 1.0, 1.0):
        host.figures[1] = Figures(processes=1, cpu=cpu)
        seen.append((await metered.usages())[1].now.cpu)
    assert seen == [5.0, 5.0, 5.5, 5.5, 5.5]


async def test_what_was_found_is_where_to_look_next(
    switch: FakeSwitch, metered: Meter, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where a namespace tells whose a process is, nothing has to be remembered."""
    monkeypatch.setattr(meter, "FRESH", 0.0)
    await known(switch, metered, netns="host")
    for _ in range(2):
        await metered.usages()
    assert host.seats[1] == Seat(0, {7: 1, 8: 2})
    switch.end(1)
    await until(lambda: not metered._seats)
    await known(switch, metered, netns="new")
    for _ in range(2):
        await metered.usages()
    assert host.seats[1] == Seat(5, {7: 1})


async def test_an_app_that_has_ended_is_forgotten(switch: FakeSwitch, metered: Meter) -> None:
    await known(switch, metered)
    switch.end(1)
    await until(lambda: not metered._usages)
    assert await metered.usages() == {}
    assert metered._seats == metered._lost == {}


async def test_apps_that_were_there_before(tmp_path: Path, host: Host) -> None:
    async with FakeSwitch(tmp_path / "switch.sock") as switch:
        switch.apps = {1: app(1, attached=time.time()), 2: app(2, attached=None)}
        link = SwitchLink(switch.path)
        made = Meter(link)
        tasks = [asyncio.create_task(one) for one in (made.run(), link.run())]
        await until(lambda: made._usages.keys() == {1})
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
