"""``ax top``: what it makes of two looks, and how it shows that."""

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
from tests.unit.cli.daemon import Answers, problem, stream
from tests.unit.cli.test_flows import flow

from appswitch.cli import activity
from appswitch.cli.activity import Flows, Look

FIGURES = {"processes": 1, "threads": 2, "descriptors": 3, "cpu": 1.0, "resident": 10 << 20, "anonymous": 4 << 20,
           "data": 0, "stack": 132 << 10}  # fmt: skip


def metrics(number: int, name: str | None = None, **figures: Any) -> dict[str, Any]:
    return {"id": number, "appid": f"{number:08x}", "name": name, "figures": {**FIGURES, **figures},
            "growth": {**FIGURES, "anonymous": 1 << 20}}  # fmt: skip


def connection(sent: int | None, received: int | None, client: int = 1, server: int = 2) -> dict[str, Any]:
    return {"client_app": client, "server_app": server, "client": "10.0.0.1:1", "server": "10.0.0.2:2", "proto": "tcp",
            "transport": "unix" if sent is None else "tcp", "bytes_sent": sent, "bytes_received": received}  # fmt: skip


def flows(*rows: dict[str, Any]) -> Flows:
    made = Flows()
    for row in rows:
        made.take(row)
    return made


def test_rows() -> None:
    before = Look(10.0, [metrics(1), metrics(2)], [connection(100, 1000)])
    now = Look(12.0, [metrics(1, cpu=2.0), metrics(2, "db")], [connection(300, 1000), connection(None, None, 1, 1)])
    one, two = activity.rows(before, now, flows(flow(), flow(server_app=0), flow(verdict="denied", server_app=0)))
    assert (one["conn"], two["conn"]) == (1.0, 0.5)
    assert (one["denied"], two["denied"]) == (0.5, 0.0)
    assert (one["active"], two["active"]) == (2, 1)
    assert (one["tx"], one["rx"], two["tx"], two["rx"]) == (100, 0, 0, 100)
    assert (one["cpu"], two["cpu"]) == (50.0, 0.0)
    assert (two["name"], two["rss"], two["heap"], two["grown"]) == ("db", 10 << 20, 4 << 20, 1 << 20)


def test_rows_of_what_is_new_or_not_known() -> None:
    unseen = {"id": 3, "appid": "00000003", "name": None, "figures": None, "growth": None}
    now = Look(11.0, [metrics(1), unseen], [connection(50, 5)])
    one, three = activity.rows(Look(10.0, [], []), now, flows())
    assert (one["cpu"], one["tx"], one["rx"]) == (0.0, 50, 5)
    assert (three["tx"], three["rss"], three["cpu"], three["active"]) == (None, None, 0.0, 0)


def test_an_app_that_talks_to_itself_is_counted_once() -> None:
    (one,) = activity.rows(
        Look(0, [], []), Look(1, [metrics(1)], [connection(None, None, 1, 1)]), flows(flow(server_app=1))
    )
    assert (one["conn"], one["active"]) == (1.0, 1)


def test_summary() -> None:
    before = Look(0, [], [], {"calls.connect": 10, "parked": 5})
    now = Look(2, [metrics(1)], [connection(None, None), connection(1, 1)], {"calls.connect": 30, "parked": 1})
    told = activity.summary(before, now, flows(flow(), flow(verdict="denied")))
    assert told == {
        "apps": 1, "connections": {"tcp": 1, "unix": 1}, "calls": 10.0, "flows": {"allowed": 0.5, "denied": 0.5},
        "parked": 1, "waiting": 0,
    }  # fmt: skip
    assert activity.summary(now, before, flows())["calls"] == 0, "a new switch counts from 0"


def test_order() -> None:
    rows: list[dict[str, Any]] = [
        {"appid": "2", "name": "b", "rss": 1}, {"appid": "1", "name": None, "rss": None},
        {"appid": "3", "name": "a", "rss": 5}, {"appid": "0", "name": "c", "rss": 1},
    ]  # fmt: skip

    def by(key: str, *, ascending: bool) -> list[str]:
        return [row["appid"] for row in activity.ordered(rows, key, ascending=ascending)]

    assert by("rss", ascending=False) == ["3", "0", "2", "1"]
    assert by("rss", ascending=True) == ["0", "2", "3", "1"]
    assert by("name", ascending=False) == ["3", "2", "0", "1"]
    assert by("name", ascending=True) == ["0", "2", "3", "1"]


# --- the command ---------------------------------------------------------------------------------------------------


def daemon(directory: Path) -> Answers:
    return Answers(
        directory,
        flows=[stream(flow(server_app=0), flow(verdict="denied", server_app=0)), problem(503, "stopping", "enough")],
        metrics=[(200, {"metrics": [metrics(1, "web"), metrics(2, "db", resident=90 << 20)]})],
        connections=[(200, {"connections": []}), (200, {"connections": [connection(2048, 0)]})],
        status=[(200, {"stats": {"parked": 2.0}})],
    )


def ax(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appswitch.cli", "top", *words],
        env={**os.environ, "AX_RUN_DIR": str(directory)},
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_once(tmp_path: Path) -> None:
    with daemon(tmp_path):
        done = ax(tmp_path, "--once", "--interval", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    head, second, third, _, columns, *rows = done.stdout.splitlines()
    assert "apps: 2  connections: 1 tcp" in head
    assert " allowed" in second
    assert " denied" in second
    assert third == "now: 2 calls parked, 0 connections waiting"
    assert columns.split() == ["NAME", "APPID", "CONN/S", "ACTIVE", "DENIED/S", "TX/S", "RX/S", "CPU%", "RSS", "HEAP",
                               "HEAP+", "STACK", "THREADS", "FDS"]  # fmt: skip
    assert [row.split()[0] for row in rows if row] == ["web", "db"], "connections a second"
    assert rows[1].split()[8:] == ["90M", "4.0M", "1.0M", "132K", "2", "3"]


def test_some_tables_in_another_order(tmp_path: Path) -> None:
    with daemon(tmp_path):
        done = ax(tmp_path, "-b", "-n", "3", "-d", "0.1", "--sort", "rss", "--reverse")
    assert [line.split()[0] for line in done.stdout.splitlines() if "132K" in line] == ["web", "db"] * 3


def test_json(tmp_path: Path) -> None:
    with daemon(tmp_path):
        done = ax(tmp_path, "-o", "json", "-n", "2", "-d", "0.1", "--sort", "name")
    looks = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(looks) == 2
    assert [app["name"] for app in looks[0]["apps"]] == ["db", "web"]
    assert looks[0]["connections"] == {"tcp": 1}


def test_a_daemon_that_ends(tmp_path: Path) -> None:
    assert ax(tmp_path).stderr == f"ax: no daemon runs in {tmp_path}: start one with `ax daemon`\n"
    answers = daemon(tmp_path)
    answers.answers["/v1/status"] = [(200, {"stats": {}}), problem(503, "switch-unavailable", "away")]
    with answers:
        done = ax(tmp_path, "-b", "-d", "0.1")
    assert (done.returncode, done.stderr) == (1, "ax: away\n")


@pytest.mark.parametrize("words", [["--sort", "colour"], ["-d", "0"], ["-n", "0"], ["-o", "yaml"]])
def test_bad_words(tmp_path: Path, words: list[str]) -> None:
    assert ax(tmp_path, *words).returncode == 2


def test_on_a_terminal(tmp_path: Path) -> None:
    """Drawn over itself, sorted by the column that keys choose, until q."""
    ours, theirs = pty.openpty()
    with daemon(tmp_path):
        process = subprocess.Popen(
            [sys.executable, "-m", "appswitch.cli", "top", "-d", "0.3", "--sort", "cpu"],
            env={**os.environ, "AX_RUN_DIR": str(tmp_path)}, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(theirs)
        said = b""
        keys = [(b"by CPU%", b">"), (b"by RSS", b"<"), (b"\x1b[J", b"q")]
        while select.select([ours], [], [], 30)[0]:
            try:
                said += os.read(ours, 65536)
            except OSError:  # EIO: nobody has the other side any more
                break
            if keys and keys[0][0] in said:
                os.write(ours, keys.pop(0)[1])
        _, err = process.communicate(timeout=30)
    os.close(ours)
    assert (process.returncode, err, keys) == (0, b"", [])
    assert b">" not in said, "keys are not shown"
    rss = said.partition(b"by RSS")[2].partition(b"by CPU%")[0]
    assert rss.index(b"db ") < rss.index(b"web ")
