"""The mirror stays true and requests are answered, whatever becomes of the connection."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.control.conftest import until
from tests.unit.control.fake_switch import FakeSwitch

from appswitch import wire
from appswitch.control.link import SwitchDownError, SwitchLink, server_key
from appswitch.model import AppPhase, AppRow, AppSpec, ServerRow

TOKEN = bytes(32)


def spec(number: int = 1) -> AppSpec:
    return AppSpec(id=number, uid=0, gid=0, node="n1", cluster="c", command=("x",), created=1.0)


def server(app_id: int = 1, actual: tuple[str, ...] = (), since: float = 2.0) -> ServerRow:
    return ServerRow(app_id=app_id, proto="tcp", service_ip="10.0.0.1", service_port=80, actual=actual, since=since)


def running(number: int) -> AppRow:
    return AppRow(app=spec(number), phase=AppPhase.RUNNING, pid=7, attached=2.0)


async def test_welcome_is_the_state(switch: FakeSwitch) -> None:
    switch.apps[1] = running(1)
    switch.servers.append(server())
    link = SwitchLink(switch.path)
    task = asyncio.create_task(link.run())
    await asyncio.wait_for(link.connected.wait(), 10)
    assert link.apps == {1: running(1)}
    assert list(link.servers.values()) == [server()]
    assert link.pid
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_events_keep_it_true(switch: FakeSwitch, link: SwitchLink) -> None:
    await link.register(spec(), TOKEN, 30)
    assert link.apps[1].phase is AppPhase.REGISTERED
    switch.attach(1)
    switch.listen(server())
    switch.listen(server(since=2.1))  # two sockets with SO_REUSEPORT differ in nothing else
    await until(lambda: len(link.servers) == 2)
    assert link.apps[1].phase is AppPhase.RUNNING
    switch.unlisten(server())
    await until(lambda: len(link.servers) == 1)
    switch.unlisten(server(since=2.1))
    switch.end(1)
    await until(lambda: not link.apps)
    assert not link.servers


async def test_a_server_is_the_same_wherever_the_host_leads_to_it(switch: FakeSwitch, link: SwitchLink) -> None:
    """Doors open after listen(2), and are closed before the switch says that the socket went."""
    exposed = server(actual=("0.0.0.0:8080",))
    with link.watch() as watch:
        switch.listen(server())
        switch._tell(wire.ServerUp(exposed))
        switch._tell(wire.ServerDown(server()))
        found = [await asyncio.wait_for(anext(watch), 10) for _ in range(3)]
    assert found == [wire.ServerUp(server()), wire.ServerUp(exposed), wire.ServerDown(exposed)]
    assert link.servers == {}


async def test_an_app_that_attaches_at_once_is_running(switch: FakeSwitch, link: SwitchLink) -> None:
    """The reply and the event come in one piece: the one must not undo the other."""
    answers = switch._answer

    def hasty(message: wire.ToSwitch, writer: asyncio.StreamWriter) -> None:
        answers(message, writer)
        if isinstance(message, wire.Register):
            switch.attach(message.app.id)

    switch._answer = hasty  # type: ignore[method-assign]
    await link.register(spec(), TOKEN, 30)
    await link.query("stats")
    assert link.apps[1].phase is AppPhase.RUNNING


async def test_refusal(switch: FakeSwitch, link: SwitchLink) -> None:
    switch.refuse = ("port-in-use", "port 80 is taken")
    done = await link.register(spec(), TOKEN, 30)
    assert (done.error, done.detail) == ("port-in-use", "port 80 is taken")
    assert link.apps == {}


async def test_many_at_once_get_their_own_answers(link: SwitchLink) -> None:
    found = await asyncio.gather(*(link.register(spec(number), TOKEN, 30) for number in range(1, 50)))
    assert not any(done.error for done in found)
    assert link.apps.keys() == set(range(1, 50))


async def test_a_restarted_switch_is_found_again(switch: FakeSwitch, link: SwitchLink) -> None:
    await link.register(spec(1), TOKEN, 30)
    await switch.stop()
    await until(lambda: not link.connected.is_set())
    assert link.apps.keys() == {1}, "what was known is known until the switch says otherwise"
    asked = asyncio.create_task(link.query("stats"))
    await asyncio.sleep(0)
    await switch.start()
    assert (await asked).stats


async def test_watchers_are_told_what_changed_meanwhile(switch: FakeSwitch, link: SwitchLink) -> None:
    switch.apps = {1: running(1), 2: running(2)}
    switch.servers = [server(1), server(2)]
    for row in switch.apps.values():
        link.apps[row.app.id] = row
    link.servers.update({server_key(row): row for row in switch.servers})
    with link.watch() as watch:
        await switch.stop()
        switch.apps = {2: running(2), 3: running(3)}
        switch.servers = [server(2), server(3)]
        await switch.start()
        found = [await asyncio.wait_for(anext(watch), 10) for _ in range(4)]
    assert found == [
        wire.ServerDown(server(1)), wire.AppGone(1), wire.AppChanged(running(3)), wire.ServerUp(server(3)),
    ]  # fmt: skip
    assert link.apps == switch.apps


async def test_a_registration_survives_a_restart(switch: FakeSwitch, link: SwitchLink) -> None:
    """Whether the switch remembers it or not, it is registered once and the caller learns so."""
    switch.deaf = True
    for number, remembered in ((1, False), (2, True)):
        asked = asyncio.create_task(link.register(spec(number), TOKEN, 30))
        await until(lambda number=number: any(
            isinstance(one, wire.Register) and one.app.id == number for one in switch.asked))  # fmt: skip
        if remembered:
            switch.apps[number] = AppRow(app=spec(number), phase=AppPhase.REGISTERED, pid=0)
        await switch.stop()
        switch.deaf = remembered  # the second is not even asked for again
        await switch.start()
        assert not (await asked).error
        assert number in link.apps
        switch.deaf = True


async def test_no_switch_no_answer(switch: FakeSwitch) -> None:
    await switch.stop()
    link = SwitchLink(switch.path, timeout=0.05)
    task = asyncio.create_task(link.run())
    with pytest.raises(SwitchDownError, match=r"did not answer within 0\.05 s"):
        await link.register(spec(), TOKEN, 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await switch.start()


async def test_a_deaf_switch(switch: FakeSwitch) -> None:
    switch.deaf = True
    link = SwitchLink(switch.path, timeout=0.1)
    task = asyncio.create_task(link.run())
    with pytest.raises(SwitchDownError):
        await link.query("sockets")
    assert link._waiting == {}
    assert link._registering == {}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xc1",
        wire.frame(wire.Done(seq=1)),
        wire.frame(wire.Welcome(version=99, pid=1, apps=(), servers=())),
    ],
    ids=["too long", "no message", "before welcome", "another version"],
)
async def test_what_is_not_our_switch(tmp_path: object, nonsense: bytes) -> None:
    """It is left alone and tried again."""
    path = tmp_path / "switch.sock"  # type: ignore[operator]
    came = 0

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        writer.write(nonsense)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    link = SwitchLink(path)
    task = asyncio.create_task(link.run())
    await until(lambda: came >= 3)
    assert not link.connected.is_set()
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()
    await server.wait_closed()


async def test_a_slow_watcher_is_cut_off(switch: FakeSwitch, link: SwitchLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appswitch.control.link.BACKLOG", 2)
    with link.watch() as slow, link.watch() as other:
        for number in (1, 2, 3, 4):
            await link.register(spec(number), TOKEN, 30)
            if number <= 2:
                await anext(other)
        assert [event.row.app.id async for event in slow] == [1, 2]  # type: ignore[union-attr]
        assert (await anext(other)).row.app.id == 3  # type: ignore[union-attr]


async def test_closing_ends_watches(link: SwitchLink) -> None:
    with link.watch() as watch:
        asyncio.get_running_loop().call_soon(link.close_watches)
        assert [event async for event in watch] == []
