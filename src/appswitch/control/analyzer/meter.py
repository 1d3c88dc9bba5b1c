"""What apps use of the host, and how that has grown: looked at when they attach, and when somebody asks."""

from __future__ import annotations

import asyncio
import os
import time

from msgspec import Struct, structs

from appswitch.control.analyzer import processes
from appswitch.control.analyzer.processes import Figures, Found, Seat
from appswitch.control.link import SwitchLink
from appswitch.model import AppPhase, AppRow
from appswitch.wire import AppChanged, AppGone

FRESH = 1.0  # seconds for which a look is good


class Usage(Struct, frozen=True):
    """Of one app."""

    time: float  # of the look, seconds since the epoch
    now: Figures
    then: Figures  # at the first look
    since: float  # when that was

    @property
    def growth(self) -> Figures:
        """Of the sizes and the rest since the first look; what has become less is negative."""
        pairs = zip(structs.astuple(self.now), structs.astuple(self.then), strict=True)
        return Figures(*(now - then for now, then in pairs))


class Meter:
    """Two figures an app, whoever asks how often: the first and the last."""

    def __init__(self, link: SwitchLink) -> None:
        self._link = link
        self._seats: dict[int, Seat] = {}
        self._usages: dict[int, Usage] = {}
        self._lost: dict[int, float] = {}  # CPU seconds of processes that have gone, and nobody waited for them
        self._looked = -FRESH
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Look at every app as it attaches, until cancelled."""
        while not self._link.stopping:
            with self._link.watch() as watch:
                for row in list(self._link.apps.values()):
                    await self._attached(row)
                async for event in watch:  # ends when we are far behind: all apps are gone through anew
                    if isinstance(event, AppChanged):
                        await self._attached(event.row)
                    elif isinstance(event, AppGone):
                        self._forget(event.app_id)
        await asyncio.Event().wait()  # control is stopping anyway

    async def usages(self) -> dict[int, Usage]:
        """Of every app that could be looked at, not older than `FRESH`."""
        async with self._lock:  # many may ask; one look will do
            if time.monotonic() - self._looked >= FRESH:
                daemon = frozenset((os.getpid(), self._link.pid))
                found = await asyncio.to_thread(processes.survey, dict(self._seats), daemon)
                self._looked = time.monotonic()
                for app_id, one in found.items():
                    self._note(app_id, one)
        return {app_id: usage for app_id, usage in self._usages.items() if app_id in self._link.apps}

    async def _attached(self, row: AppRow) -> None:
        if row.phase is not AppPhase.RUNNING or row.app.id in self._seats or row.attached is None:
            return
        first = await asyncio.to_thread(_first_look, row)
        if first is not None and row.app.id in self._link.apps:
            seat, found = first
            self._seats[row.app.id] = seat
            self._note(row.app.id, found)

    def _forget(self, app_id: int) -> None:
        for table in (self._seats, self._usages, self._lost):
            table.pop(app_id, None)

    def _note(self, app_id: int, found: Found) -> None:
        seat = self._seats.get(app_id)
        if seat is None:  # it has ended meanwhile
            return
        if not seat.netns:
            self._seats[app_id] = seat._replace(members=found.members)
        now, before = time.time(), self._usages.get(app_id)
        figures = self._with_lost(app_id, found.figures, before)
        self._usages[app_id] = Usage(now, figures, before.then if before else figures, before.since if before else now)

    def _with_lost(self, app_id: int, figures: Figures, before: Usage | None) -> Figures:
        """CPU time never becomes less, whoever ends."""
        cpu = figures.cpu + self._lost.get(app_id, 0.0)
        if before is not None and cpu < before.now.cpu:
            self._lost[app_id] = self._lost.get(app_id, 0.0) + before.now.cpu - cpu
            cpu = before.now.cpu
        return structs.replace(figures, cpu=cpu)


def _first_look(row: AppRow) -> tuple[Seat, Found] | None:
    """In a thread. None: its first process has ended already."""
    assert row.attached is not None
    seat = processes.seat(row.pid, row.attached, row.app.netns == "new")
    return None if seat is None else (seat, Found(processes.figures(seat.members), dict(seat.members)))
