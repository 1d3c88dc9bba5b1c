"""Control as a whole, over its real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.unit.control.conftest import DEADLINE, until
from tests.unit.control.fake_switch import FakeSwitch

import appswitch
from appswitch.control import idle, server
from appswitch.control.__main__ import Control
from appswitch.control.link import SwitchLink
from appswitch.control.settings import Settings, SettingsError, from_environ
from appswitch.model import AppSpec, ServerRow


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Control]:
    control = Control(settings)
    task = asyncio.create_task(control.run())
    ready = asyncio.create_task(control.server.listening.wait())
    await asyncio.wait({task, ready}, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        ready.cancel()
        await task
    await asyncio.wait_for(control.link.connected.wait(), DEADLINE)
    try:
        yield control
    finally:
        control.stop()
        await asyncio.wait_for(task, DEADLINE)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


@pytest.fixture
async def control(switch: FakeSwitch, settings: Settings) -> AsyncIterator[Control]:
    async with serving(settings) as one:
        yield one


@pytest.fixture
async def unix(control: Control) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(control.settings.run_dir.rest))
    async with httpx.AsyncClient(transport=transport, base_url="http://ax") as client:
        yield client


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_the_kernel_says_who_asks(control: Control, unix: httpx.AsyncClient) -> None:
    assert control.settings.run_dir.rest.stat().st_mode & 0o777 == 0o666
    made = (await unix.post("/v1/apps", json={"command": ["x"]})).json()
    assert (made["app"]["uid"], made["app"]["gid"]) == (os.geteuid(), os.getegid())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_another_user_is_another_user(control: Control, unix: httpx.AsyncClient, tmp_path: Path) -> None:
    await unix.post("/v1/apps", json={"command": ["x"]})
    os.chmod(tmp_path, 0o755)  # noqa: PTH101 - and its parents need not be open: the child is there already
    program = (
        "import os,socket; os.setgid(12345); os.setuid(12345); s=socket.socket(socket.AF_UNIX);"
        "s.connect('rest.sock'); s.sendall(b'GET /v1/apps HTTP/1.0\\r\\n\\r\\n'); print(s.makefile().read())"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    out, _ = await child.communicate()
    assert out.decode().rstrip().endswith('{"apps":[]}')


async def test_tcp(switch: FakeSwitch, settings: Settings) -> None:
    port = free_port()
    async with (
        serving(msgspec.structs.replace(settings, rest_port=port)),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as tcp,
    ):
        assert (await tcp.get("/v1/apps")).json() == {"apps": []}
        assert (await tcp.post("/v1/apps", json={"command": ["x"]})).status_code == 403
        for host, status in ((f"localhost:{port}", 200), ("[::1]", 200), (f"127.0.0.1:{port + 1}", 421), ("evil", 421)):
            assert (await tcp.get("/v1/apps", headers={"host": host})).status_code == status, host


async def test_one_user_has_so_many_connections_and_no_more(
    switch: FakeSwitch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 2)
    port = free_port()
    async with serving(msgspec.structs.replace(settings, rest_port=port)) as control:
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await until(lambda: server.PeerProtocol.users[server.BY_TCP] == 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        said = await asyncio.wait_for(reader.read(), DEADLINE)
        assert said.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        assert b"too-many-connections" in said
        writer.close()
        many = [await asyncio.open_unix_connection(control.settings.run_dir.rest) for _ in range(4)]
        many[-1][1].write(b"GET /v1/apps HTTP/1.0\r\n\r\n")
        answer = await asyncio.wait_for(many[-1][0].read(), DEADLINE)
        assert answer.startswith(b"HTTP/1.1 200"), "an administrator is not locked out"
        kept.pop()[1].close()
        await until(lambda: server.PeerProtocol.users[server.BY_TCP] == 1)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as tcp:
            assert (await tcp.get("/v1/apps")).status_code == 200, "one who has gone makes room"
        for _, one in kept + many:
            one.close()
        await until(lambda: not server.PeerProtocol.users)


async def test_a_taken_port_is_fatal(switch: FakeSwitch, settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(server.ListenError, match=f"REST port {port} is taken by another program"):
            async with serving(msgspec.structs.replace(settings, rest_port=port)):
                pass
    assert not settings.run_dir.rest.exists()


async def test_auto_port(switch: FakeSwitch, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(server, "DEFAULT_PORT", taken.getsockname()[1])
        assert server.tcp_listener("auto") is None
    sock = server.tcp_listener("auto")
    assert sock is not None
    sock.close()


async def test_what_is_not_http(control: Control) -> None:
    reader, writer = await asyncio.open_unix_connection(str(control.settings.run_dir.rest))
    writer.write(b"GET / NONSENSE\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), DEADLINE)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"400 Bad Request" in head
    assert b"application/problem+json" in head
    assert json.loads(body)["type"] == "urn:appswitch:problem:bad-request"
    writer.close()
    await writer.wait_closed()


async def test_who_hangs_up_in_the_middle(control: Control, unix: httpx.AsyncClient) -> None:
    for piece in (b"", b"GET", b"POST /v1/apps HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", b"\0" * 99):
        _, writer = await asyncio.open_unix_connection(str(control.settings.run_dir.rest))
        writer.write(piece)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    assert (await unix.get("/v1/apps")).status_code == 200


# --- events ----------------------------------------------------------------------------------------------------------


async def lines(answer: httpx.Response) -> AsyncIterator[Any]:
    async for line in answer.aiter_lines():
        yield json.loads(line)


async def test_events(control: Control, unix: httpx.AsyncClient, switch: FakeSwitch) -> None:
    app = (await unix.post("/v1/apps", json={"command": ["x"], "ips": ["10.1.1.1"]})).json()["id"]
    row = ServerRow(app_id=app, proto="tcp", service_ip="0.0.0.0", service_port=80, actual=(), since=1.0)
    own = len(control.link._watches)  # of control's own parts
    async with unix.stream("GET", "/v1/events") as answer:
        assert answer.headers["content-type"] == "application/jsonl"
        events = lines(answer)
        first = await anext(events)
        assert (first["type"], first["row"]["app"]["id"], first["row"]["phase"]) == ("app-changed", app, "registered")
        assert await anext(events) == {"type": "synced"}
        switch.attach(app)
        assert (await anext(events))["row"]["phase"] == "running"
        switch.listen(row)
        up = await anext(events)
        assert (up["type"], up["row"]["service_addrs"]) == ("server-up", ["10.1.1.1:80"])
        assert (await anext(events))["type"] == "service-alive"
        switch.end(app)
        switch.unlisten(row)
        assert await anext(events) == {"type": "app-gone", "id": app, "appid": f"{app:08x}"}
        assert await anext(events) == {"type": "server-down", "row": up["row"]}
    await until(lambda: len(control.link._watches) == own)


async def test_events_of_one_kind(unix: httpx.AsyncClient, switch: FakeSwitch) -> None:
    app = (await unix.post("/v1/apps", json={"command": ["x"]})).json()["id"]
    row = ServerRow(app_id=app, proto="tcp", service_ip="10.0.0.1", service_port=80, actual=(), since=1.0)
    switch.listen(row)
    async with unix.stream("GET", "/v1/events?what=servers") as answer:
        events = lines(answer)
        kinds = [(await anext(events))["type"] for _ in range(2)]
        assert kinds in (["server-up", "synced"], ["synced", "server-up"])
        switch.unlisten(row)
        assert (await anext(events))["type"] == "server-down"
    assert (await unix.get("/v1/events?what=sockets")).json()["type"].endswith(":invalid")


async def test_server_sent_events(unix: httpx.AsyncClient) -> None:
    async with unix.stream("GET", "/v1/events", headers={"accept": "text/event-stream"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = answer.aiter_lines()
        assert [await anext(text) for _ in range(3)] == ["event: synced", 'data: {"type":"synced"}', ""]


async def test_streams_end_with_the_daemon(control: Control, unix: httpx.AsyncClient) -> None:
    async with unix.stream("GET", "/v1/events") as answer:
        events = lines(answer)
        await anext(events)
        began = asyncio.get_running_loop().time()
        control.stop()
        assert [event async for event in events] == []
        assert asyncio.get_running_loop().time() - began < 5


# --- the process -----------------------------------------------------------------------------------------------------


class Process:
    """``python -m appswitch.control`` with this test as its service manager."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind("")
        self.notify.setblocking(False)
        address = "@" + self.notify.getsockname()[1:].decode()
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("AX_")}
        self.env |= {"AX_RUN_DIR": str(run_dir), "AX_REST_PORT": "0", "NOTIFY_SOCKET": address}
        source = str(Path(appswitch.__file__).parents[1])
        self.env["PYTHONPATH"] = os.pathsep.join(filter(None, [source, self.env.get("PYTHONPATH")]))

    async def start(self, **env: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "appswitch.control", env=self.env | env, stderr=pipe
        )

    async def told(self) -> str:
        """What it says, but for what it stores."""
        while True:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.notify, 4096), 20)
            if not data.startswith(b"FDSTORE"):
                return data.decode().removesuffix("\nX_APPSWITCH_SERVING=1")


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    one = Process(tmp_path)
    yield one
    one.notify.close()


async def test_process(process: Process, switch: FakeSwitch) -> None:
    child = await process.start()
    assert await process.told() == f"READY=1\nSTATUS=REST on {process.run_dir}/rest.sock"
    child.send_signal(signal.SIGHUP)
    child.send_signal(signal.SIGTERM)
    _, err = await asyncio.wait_for(child.communicate(), DEADLINE)
    assert child.returncode == 0
    assert b"Traceback" not in err
    assert sorted(path.name for path in process.run_dir.iterdir()) == ["switch.sock"]


async def test_process_is_not_ready_without_a_switch(process: Process) -> None:
    child = await process.start()
    await until((process.run_dir / "rest.sock").exists)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.told(), 0.2)
    async with FakeSwitch(process.run_dir / "switch.sock"):
        assert (await process.told()).startswith("READY=1")
        child.terminate()
        await asyncio.wait_for(child.communicate(), DEADLINE)


async def test_process_reads_its_token_again(process: Process, switch: FakeSwitch) -> None:
    port = free_port()
    file = process.run_dir / "token"
    file.write_text("first-first-first\n")
    child = await process.start(AX_REST_PORT=str(port), AX_REST_TOKEN_FILE=str(file))
    assert await process.told() == f"READY=1\nSTATUS=REST on 127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

        async def allowed(token: str) -> bool:
            answer = await client.get("/v1/apps", headers={"authorization": f"Bearer {token}"})
            return answer.status_code == 200

        assert await allowed("first-first-first")
        file.write_text("second-second-second\n")
        child.send_signal(signal.SIGHUP)
        end = asyncio.get_running_loop().time() + DEADLINE
        while not await allowed("second-second-second"):
            assert asyncio.get_running_loop().time() < end
        assert not await allowed("first-first-first")
        file.write_text("short")
        child.send_signal(signal.SIGHUP)
        assert child.stderr is not None
        while b"kept the old REST token" not in await asyncio.wait_for(child.stderr.readline(), DEADLINE):
            pass
        assert await allowed("second-second-second")
    child.terminate()
    await asyncio.wait_for(child.communicate(), DEADLINE)


async def test_idle_exit_tells_the_keeper(process: Process, switch: FakeSwitch) -> None:
    """Here we are the keeper. While an app is there, nothing happens."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    try:
        child = await process.start(AX_IDLE_EXIT="0.2", AX_KEEPER_PID=str(os.getpid()))
        await asyncio.wait_for(asked.wait(), 20)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    assert child.returncode is None, "it waits to be told itself"
    child.terminate()
    await asyncio.wait_for(child.communicate(), DEADLINE)


async def test_idle_exit_without_a_keeper(process: Process, switch: FakeSwitch) -> None:
    child = await process.start(AX_IDLE_EXIT="0.1", AX_KEEPER_PID="1")
    await asyncio.wait_for(child.communicate(), 20)
    assert child.returncode == 0


async def test_not_idle_while_an_app_is_there(switch: FakeSwitch, link: SwitchLink) -> None:
    app = AppSpec(id=1, uid=0, gid=0, node="n1", cluster="c", command=("x",), created=1.0)
    await link.register(app, bytes(32), 30)
    waiting = asyncio.create_task(idle.until_idle(link, 0.02))
    assert not (await asyncio.wait({waiting}, timeout=0.2))[0]
    switch.end(1)
    await asyncio.wait_for(waiting, DEADLINE)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"AX_RUN_DIR": ""}, "AX_RUN_DIR is not set"),
        ({"AX_REST_PORT": "x"}, "AX_REST_PORT is 'x', neither 0..65535 nor auto"),
        ({"AX_REST_PORT": "65536"}, "AX_REST_PORT is '65536'"),
        ({"AX_TRANSPORT": "udp"}, "AX_TRANSPORT is 'udp', neither unix nor tcp"),
        ({"AX_IDLE_EXIT": "-1"}, "AX_IDLE_EXIT is '-1', not a number of seconds"),
        ({"AX_IDLE_EXIT": "nan"}, "AX_IDLE_EXIT is 'nan'"),
        ({"AX_POOLS": "10.0.0.0/8,10.1.0.0/16"}, "AX_POOLS"),
        ({"AX_POOLS": "10.1.2.3/16"}, "AX_POOLS"),
        ({"AX_USER_NETWORKS": "x"}, "AX_USER_NETWORKS"),
        ({"AX_REST_TOKEN_FILE": "/nonexistent"}, "cannot read the REST token from /nonexistent"),
    ],
)
def test_bad_settings(env: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environ({"AX_RUN_DIR": "/x", **env})
    assert str(caught.value).startswith(said)


def test_settings() -> None:
    made = from_environ({"AX_RUN_DIR": "/x", "AX_NODE_NAME": "n", "AX_REST_PORT": "auto", "AX_REST_TOKEN": "t" * 16})
    assert (made.run_dir.directory, made.node, made.cluster, made.rest_port) == ("/x", "n", "appswitch", "auto")
    assert (made.token, made.idle_exit, made.keeper) == ("t" * 16, 0.0, 0)
    assert list(map(str, made.pools)) == ["10.250.0.0/16", "fd61:7070::/64"]
    assert (made.pools_given, len(made.user_networks)) == (False, 10)
    made = from_environ({"AX_RUN_DIR": "/x", "AX_POOLS": "10.9.0.0/16", "AX_USER_NETWORKS": "10.0.0.0/8"})
    assert made.pools_given
    assert (list(map(str, made.pools)), list(map(str, made.user_networks))) == (["10.9.0.0/16"], ["10.0.0.0/8"])


async def test_bad_settings_end_the_process(process: Process) -> None:
    child = await process.start(AX_REST_PORT="x", AX_LOG_FORMAT="json")
    _, err = await asyncio.wait_for(child.communicate(), 20)
    assert child.returncode == 1
    said = json.loads(err)
    assert (said["level"], said["part"]) == ("error", "control")
    assert "AX_REST_PORT" in said["event"]
