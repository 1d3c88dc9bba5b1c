"""``ax get``: rows into tables, documents and streams."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.cli.daemon import FakeDaemon, problem

from appswitch.cli import output, watch


def app(appid: str, **more: Any) -> dict[str, Any]:
    spec = {"id": int(appid, 16), "appid": appid, "name": None, "node": "n1", "cluster": "c", "ips": [],
            "driver": "user", "labels": {"zone": "default"}, "zones": ["default"]}  # fmt: skip
    return {"app": spec | more, "phase": "running", "pid": 1, "attached": 1.0}


APPS = [
    app("00000001", name="web", ips=["10.0.0.1", "fd00::1"], labels={"zone": "a", "b": "c"}, zones=["a"]),
    app("0000000a", labels={}, zones=[]),
]
SERVER = {"app_id": 1, "appid": "00000001", "node": "n1", "cluster": "c", "proto": "tcp", "service_ip": "10.0.0.1",
          "service_port": 80, "service_addrs": ["10.0.0.1:80"], "actual": [], "since": 1.0}  # fmt: skip
SOCKET = {"id": 77, "app_id": 1, "appid": "00000001", "node": "n1", "inode": 5, "proto": "tcp",
          "flags": ["listening", "unix"], "bind_ip": "10.0.0.1:80", "backlog": 511}  # fmt: skip
CONNECTION = {"proto": "tcp", "client": "10.0.0.2:4", "server": "10.0.0.1:80", "client_app": 0, "client_appid": None,
              "server_app": 1, "server_appid": "00000001", "transport": "unix"}  # fmt: skip


FIGURES = {"processes": 1, "threads": 2, "descriptors": 3, "cpu": 1.0, "resident": 2048, "anonymous": 1 << 20,
           "data": 0, "stack": 132 << 10}  # fmt: skip
COUNTED = {**CONNECTION, "transport": "tcp", "vservice": "web", "backend": "10.0.0.9:80", "protocol": "http",
           "bytes_sent": 2048, "bytes_received": 0, "rtt": 70, "retransmits": 3}  # fmt: skip


def ax(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appswitch.cli", *words],
        env={**os.environ, "AX_RUN_DIR": str(directory)},
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


EXPOSED = {"appid": "00000001", "name": None, "internal": 80, "address": "0.0.0.0:8080", "proto": "tcp",
           "state": "waiting"}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "rows", "lines"),
    [
        (
            "apps",
            APPS,
            [
                "NAME  APPID     NODEID  CLUSTER  APPIP             DRIVER  LABELS      ZONES",
                "web   00000001  n1      c        10.0.0.1,fd00::1  user    b=c,zone=a  a",
                "-     0000000a  n1      c        -                 user    -           -",
            ],
        ),
        ("apps", [], ["NAME  APPID  NODEID  CLUSTER  APPIP  DRIVER  LABELS  ZONES"]),
        (
            "servers",
            [SERVER, {**SERVER, "actual": ["127.0.0.1:41000", "10.9.9.9:80"]}],
            [
                "NODEID  CLUSTER  APPID     PROTO  SERVICEADDR  IPV4ADDR",
                "n1      c        00000001  tcp    10.0.0.1:80  -",
                "n1      c        00000001  tcp    10.0.0.1:80  127.0.0.1:41000,10.9.9.9:80",
            ],
        ),
        (
            "sockets",
            [SOCKET],
            [
                "ID  NODEID  APPID     INODE  PROTO  FLAGS           BINDIP       BACKLOG",
                "77  n1      00000001  5      tcp    listening,unix  10.0.0.1:80  511",
            ],
        ),
        (
            "connections",
            [CONNECTION],
            [
                "PROTO  CLIENT      CLIENTAPP  SERVER       SERVERAPP  TRANSPORT",
                "tcp    10.0.0.2:4  -          10.0.0.1:80  00000001   unix",
            ],
        ),
        (
            "metrics",
            [
                {"name": "web", "appid": "00000001", "figures": FIGURES, "growth": FIGURES, "alive_after": 0.25},
                {"name": None, "appid": "00000002", "figures": None, "growth": None, "alive_after": None},
            ],
            [
                "NAME  APPID     PROCESSES  THREADS  FDS  CPU   RSS   HEAP  HEAP+  STACK  STACK+  ALIVE",
                "web   00000001  1          2        3    1.0s  2.0K  1.0M  1.0M   132K   132K    0.250s",
                "-     00000002  -          -        -    -     -     -     -      -      -       -",
            ],
        ),
        (
            "names",
            [
                {
                    "name": "web",
                    "fqdn": "web.x",
                    "addresses": ["10.0.0.1", "fd00::1"],
                    "apps": ["00000001", "0000000a"],
                    "source": "apps",
                }
            ],
            [
                "NAME  FQDN   ADDRESSES         APPS               SOURCE",
                "web   web.x  10.0.0.1,fd00::1  00000001,0000000a  apps",
            ],
        ),
        (
            "pools",
            [{"network": "10.250.0.0/16", "used": 0, "size": 65519, "source": "chosen"}],
            [
                "NETWORK        USED  SIZE   SOURCE",
                "10.250.0.0/16  0     65519  chosen",
            ],
        ),
        (
            "exposed",
            [EXPOSED, {**EXPOSED, "name": "web", "proto": "udp", "state": "open"}],
            [
                "APPID     NAME  INTERNAL  HOSTADDR      PROTO  STATE",
                "00000001  -     80        0.0.0.0:8080  tcp    waiting",
                "00000001  web   80        0.0.0.0:8080  udp    open",
            ],
        ),
    ],
)
def test_table(tmp_path: Path, what: str, rows: list[Any], lines: list[str]) -> None:
    with FakeDaemon(tmp_path, (200, {what: rows})) as daemon:
        done = ax(tmp_path, "get", what)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == lines
    assert daemon.requests == [("GET", f"/v1/{what}", None)]


def test_wide(tmp_path: Path) -> None:
    unix = {**COUNTED, **dict.fromkeys(("vservice", "backend", "protocol"), ""), "transport": "unix",
            **dict.fromkeys(("bytes_sent", "bytes_received", "rtt", "retransmits"))}  # fmt: skip
    with FakeDaemon(tmp_path, (200, {"connections": [COUNTED, unix]}), (200, {"apps": APPS})):
        lines = ax(tmp_path, "get", "connections", "-o", "wide").stdout.splitlines()
        apps = ax(tmp_path, "get", "apps", "-o", "wide").stdout
    assert [line.split()[5:] for line in lines] == [
        ["TRANSPORT", "VSERVICE", "BACKEND", "PROTOCOL", "BYTES", "RTT", "RETRANS"],
        ["tcp", "web", "10.0.0.9:80", "http", "2.0K/0", "70us", "3"],
        ["unix", "-", "-", "-", "-", "-", "-"],
    ]
    assert apps.splitlines()[0].split()[-1] == "ZONES", "where there is no more, the table is the same"


def test_json_and_yaml(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, (200, {"apps": APPS}), (200, {"apps": APPS})):
        assert json.loads(ax(tmp_path, "get", "apps", "-o", "json").stdout) == APPS
        assert yaml.safe_load(ax(tmp_path, "get", "apps", "--output", "yaml").stdout) == APPS


def test_errors(tmp_path: Path) -> None:
    done = ax(tmp_path, "get", "apps")
    assert (done.returncode, done.stderr) == (
        1, f"ax: no daemon runs in {tmp_path}: start one with `ax daemon`\n",
    )  # fmt: skip
    done = ax(tmp_path, "get", "apps", "--run-dir", "/nonexistent")
    assert "no daemon runs in /nonexistent: start one with `ax daemon --run-dir /nonexistent`" in done.stderr
    with FakeDaemon(tmp_path, problem(403, "forbidden", "this daemon serves uid 5 only")):
        done = ax(tmp_path, "get", "apps")
        assert (done.returncode, done.stderr) == (1, "ax: this daemon serves uid 5 only\n")
    done = ax(tmp_path, "get", "appz")
    assert done.returncode == 2
    assert "there is no 'appz': there are apps, servers, sockets, connections, vservices" in done.stderr
    assert ax(tmp_path, "get").returncode == 2


def test_one_of_them_is_meant_as_well(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, (200, {"apps": APPS}), (200, {"policies": []})) as daemon:
        assert ax(tmp_path, "get", "app", "-o", "json").returncode == 0
        assert ax(tmp_path, "get", "policy").returncode == 0
    assert [path for _, path, _ in daemon.requests] == ["/v1/apps", "/v1/policies"]


def test_backends_of_what_is_not_there(tmp_path: Path) -> None:
    gone = problem(404, "no-such-resource", "there is no reference shop")
    with FakeDaemon(
        tmp_path, (200, {"backends": []}), gone, problem(404, "no-such-resource", "there is no vservice shop")
    ):
        done = ax(tmp_path, "get", "backends", "shop")
    assert (done.returncode, done.stderr) == (1, "ax: there is no vservice shop\n")
    with FakeDaemon(tmp_path, (200, {"backends": []}), gone, (200, {"kind": "VService"})):
        assert ax(tmp_path, "get", "backends", "shop").returncode == 0


def test_a_reader_that_has_had_enough(tmp_path: Path) -> None:
    rows = [app(f"{number:08x}") for number in range(5000)]
    with FakeDaemon(tmp_path, (200, {"apps": rows})):
        process = subprocess.Popen(
            [sys.executable, "-m", "appswitch.cli", "get", "apps"],
            env={**os.environ, "AX_RUN_DIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""


# --- watching --------------------------------------------------------------------------------------------------------

EVENTS = [
    {"type": "app-changed", "row": APPS[0]},
    {"type": "synced"},
    {"type": "app-changed", "row": APPS[1]},
    {"type": "app-changed", "row": {**APPS[1], "phase": "gone soon"}},
    {"type": "app-gone", "id": 1, "appid": "00000001"},
    {"type": "app-gone", "id": 99, "appid": "00000063"},
]


def stream(*events: Any) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(json.dumps(event).encode() + b"\n" for event in events)


def test_watch_lines(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, stream(*EVENTS)) as daemon:
        done = ax(tmp_path, "get", "apps", "--watch")
    assert daemon.requests[0][1] == "/v1/events?what=apps"
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["EVENT", "NAME", "APPID"],
        ["ADDED", "web", "00000001"],
        ["ADDED", "-", "0000000a"],
        ["CHANGED", "-", "0000000a"],
        ["GONE", "web", "00000001"],
    ]
    assert (done.returncode, done.stderr) == (1, "ax: the daemon has ended\n")


def test_watch_documents(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, stream(*EVENTS), stream(*EVENTS)):
        lines = ax(tmp_path, "get", "apps", "-w", "-o", "json").stdout.splitlines()
        documents = list(yaml.safe_load_all(ax(tmp_path, "get", "apps", "-w", "-o", "yaml").stdout))
    found = [json.loads(line) for line in lines]
    assert [one["event"] for one in found] == ["added", "added", "changed", "gone"]
    assert found[3]["row"] == APPS[0]
    assert documents == found


def test_watch_servers(tmp_path: Path) -> None:
    other = {**SERVER, "service_port": 81, "service_addrs": ["10.0.0.1:81"]}
    events = [{"type": "server-up", "row": SERVER}, {"type": "synced"}, {"type": "server-up", "row": other},
              {"type": "service-alive", "appid": "00000001", "seconds": 0.1},
              {"type": "server-down", "row": SERVER}]  # fmt: skip
    with FakeDaemon(tmp_path, stream(*events)):
        done = ax(tmp_path, "get", "servers", "-w")
    assert [(line.split()[0], line.split()[5]) for line in done.stdout.splitlines()[1:]] == [
        ("ADDED", "10.0.0.1:80"), ("ADDED", "10.0.0.1:81"), ("GONE", "10.0.0.1:80"),
    ]  # fmt: skip


def test_watch_what_has_no_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY", 0)
    monkeypatch.delenv("AX_RUN_DIR", raising=False)
    changed = {**SOCKET, "backlog": 5}
    replies = [(200, {"sockets": rows}) for rows in ([SOCKET], [SOCKET], [changed, {**SOCKET, "id": 78}], [])]
    with FakeDaemon(tmp_path, *replies):
        changes = watch._polled("sockets", str(tmp_path))
        found = [next(changes) for _ in range(9)]
    assert [(key, row and row["backlog"], more) for key, row, more in found] == [
        ("77", 511, True), ("", None, False), ("", None, False), ("77", 5, True), ("78", 511, True), ("", None, False),
        *sorted([("77", None, True), ("78", None, True)], key=lambda one: found[6][0] != one[0]), ("", None, False),
    ]  # fmt: skip


def test_watch_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A connection that carries bytes is the same one; a table without them does not change."""
    monkeypatch.setattr(watch, "EVERY", 0)
    monkeypatch.delenv("AX_RUN_DIR", raising=False)
    more = {**COUNTED, "bytes_sent": 9999}
    with FakeDaemon(tmp_path, (200, {"connections": [COUNTED]}), (200, {"connections": [more]})):
        changes = watch._polled("connections", str(tmp_path))
        found = [next(changes) for _ in range(4)]
    assert found[0][0] == found[2][0]
    for form, events in (("table", ["EVENT", "ADDED"]), ("wide", ["EVENT", "ADDED", "CHANGED"])):
        lines = watch.Lines("connections", form)
        for change in found:
            lines.take(*change)
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == events


def test_watch_a_port_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes: it is not another one."""
    monkeypatch.setattr(watch, "EVERY", 0)
    monkeypatch.delenv("AX_RUN_DIR", raising=False)
    opened = {**EXPOSED, "state": "open"}
    with FakeDaemon(tmp_path, (200, {"exposed": [EXPOSED]}), (200, {"exposed": [opened]})):
        changes = watch._polled("exposed", str(tmp_path))
        found = [next(changes) for _ in range(4)]
    key = "00000001 0.0.0.0:8080 tcp"
    assert found == [(key, EXPOSED, True), ("", None, False), (key, opened, True), ("", None, False)]


def test_watch_on_a_terminal(tmp_path: Path) -> None:
    """Drawn once when all is there, then over itself."""
    ours, theirs = pty.openpty()
    with FakeDaemon(tmp_path, stream(*EVENTS)):
        process = subprocess.Popen(
            [sys.executable, "-m", "appswitch.cli", "get", "apps", "--watch"],
            env={**os.environ, "AX_RUN_DIR": str(tmp_path), "COLUMNS": "80"}, stdout=theirs, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(theirs)
        said = b""
        while select.select([ours], [], [], 30)[0]:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # EIO: nobody has the other side any more
                break
            said += chunk
        _, err = process.communicate(timeout=30)
    os.close(ours)
    assert err == b"ax: the daemon has ended\n"
    pictures = [picture.replace("\r", "").splitlines() for picture in said.decode().split("\x1b[J")]
    heads = [picture[0].rstrip() for picture in pictures]
    assert all("NAME" in head and "\x1b[1m" in head for head in heads)
    names = [[line.split()[1] for line in picture[1:] if not line.startswith("\x1b")] for picture in pictures]
    assert names == [
        ["00000001"], ["00000001", "0000000a"], ["00000001", "0000000a"], ["0000000a"], ["0000000a"],
    ]  # fmt: skip
    assert said.count(b"\x1b[2F") == said.count(b"\x1b[3F") == 2, "up over what was drawn: a head and one or two rows"


def test_a_small_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((20, 5)))
    screen = watch.Screen("apps")
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1)
    for number in range(6):
        screen.take(f"{number}", app(f"{number:08x}"), more=number < 5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 20 for line in lines)
    assert lines[-1] == "... and 4 more"


# --- tables ----------------------------------------------------------------------------------------------------------


def test_alignment() -> None:
    assert output.aligned([["a", "bb"], ["ccc", "d"]]) == ["a    bb", "ccc  d"]
    assert output.aligned([["a", "b"]], [3, 0]) == ["a    b"]


def test_empty_cells_are_hyphens() -> None:
    columns = (("A", lambda row: str(row["a"])), ("B", lambda row: ""))
    assert output.table(columns, [{"a": 1}]) == ["A  B", "1  -"]
