"""``ax flows``: lines as they come, and endings that are none of its faults."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.unit.cli.daemon import FakeDaemon, problem, stream


def flow(**more: Any) -> dict[str, Any]:
    return {
        "time": 1764100000.25, "proto": "tcp", "verdict": "allowed", "client": "10.0.0.1:40000", "client_app": 1,
        "client_appid": "00000001", "client_name": "web", "client_labels": {}, "server": "10.0.0.2:80", "server_app": 2,
        "server_appid": "00000002", "server_name": None, "server_labels": None, "vservice": "", "backend": "",
        "rule": "", "error": "", "dry_run": False, "protocol": "", "attributes": {}, "transport": "unix", "waited": 0.0,
        **more,
    }  # fmt: skip


def start(directory: Path, *words: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "appswitch.cli", "flows", *words]
    env = {**os.environ, "AX_RUN_DIR": str(directory), "TZ": "UTC"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def ax(directory: Path, *words: str) -> tuple[int, str, str]:
    with start(directory, *words) as process:
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def asked(daemon: FakeDaemon) -> dict[str, list[str]]:
    (method, path, _), *_ = daemon.requests
    assert (method, urlsplit(path).path) == ("GET", "/v1/flows")
    return parse_qs(urlsplit(path).query)


def test_a_table(tmp_path: Path) -> None:
    denied = flow(verdict="denied", rule="no-db", error="EACCES", transport="", time=1764100001.0)
    late = flow(verdict="timed out", vservice="v", waited=30.0, dry_run=True, rule="x", client_name="a" * 30)
    with FakeDaemon(tmp_path, stream(flow(), denied, late)) as daemon:
        status, out, err = ax(tmp_path)
    assert (status, err) == (0, "")
    head, *lines = [line.split() for line in out.splitlines()]
    assert head[:7] == ["TIME", "VERDICT", "PROTO", "CLIENT", "CLIENTAPP", "SERVER", "SERVERAPP"]
    rest = ["-"] * 8
    assert lines[0][:7] == ["19:46:40.250", "allowed", "tcp", "10.0.0.1:40000", "web", "10.0.0.2:80", "00000002"]
    assert lines[0][7:] == [*rest[:4], "unix", *rest[:3]]
    assert lines[1][7:11] == ["-", "-", "no-db", "EACCES"]
    assert lines[2][1] == "timed-out"
    assert " v " in out.splitlines()[3]
    assert "x (dry run)" in out.splitlines()[3]
    assert "30.0s" in out.splitlines()[3]
    assert asked(daemon) == {"limit": ["1000"]}


def test_json_lines(tmp_path: Path) -> None:
    rows = [flow(), flow(protocol="http", attributes={"http.path": "/ä\x9b"})]
    with FakeDaemon(tmp_path, stream(*rows)):
        status, out, _ = ax(tmp_path, "-o", "json")
    assert status == 0
    assert out.isascii(), "no control character, of C1 neither, reaches a terminal"
    assert [json.loads(line) for line in out.splitlines()] == rows


def test_what_programs_sent_is_harmless(tmp_path: Path) -> None:
    evil = flow(protocol="a\x1b[31m", attributes={"http.path": "/\r\n\x1b]0;x\x07\u202e ä"})
    with FakeDaemon(tmp_path, stream(evil)):
        _, out, _ = ax(tmp_path)
    assert len(out.splitlines()) == 2
    assert all(one.isprintable() for one in out.replace("\n", ""))
    assert "http.path=/\\r\\n\\x1b]0;x\\x07\\u202e ä" in out


def test_what_is_asked_for(tmp_path: Path) -> None:
    words = ["--follow", "--app", "a&b", "--verdict", "denied", "--verdict", "timed-out", "--rule", "r", "-n", "5"]
    with FakeDaemon(tmp_path, stream(), b"") as daemon, start(tmp_path, *words, "--since", "10m") as process:
        process.communicate(timeout=30)
    found = asked(daemon)
    since = float(found.pop("since")[0])
    assert found == {
        "follow": ["True"], "app": ["a&b"], "verdict": ["denied", "timed out"], "rule": ["r"], "limit": ["5"],
    }  # fmt: skip
    assert since > 1764100000


@pytest.mark.parametrize("words", [["--verdict", "maybe"], ["--since", "yesterday"], ["-n", "1001"], ["-o", "yaml"]])
def test_bad_words(tmp_path: Path, words: list[str]) -> None:
    status, _, err = ax(tmp_path, *words)
    assert status == 2
    assert words[1] in err


def test_no_daemon(tmp_path: Path) -> None:
    assert ax(tmp_path)[::2] == (1, f"ax: no daemon runs in {tmp_path}: start one with `ax daemon`\n")
    with FakeDaemon(tmp_path, problem(403, "forbidden", "not for you")):
        assert ax(tmp_path)[::2] == (1, "ax: not for you\n")


def test_a_stream_that_ends_is_taken_up_again(tmp_path: Path) -> None:
    with FakeDaemon(
        tmp_path, stream(flow()), stream(flow(rule="second")), problem(503, "stopping", "enough")
    ) as daemon:
        status, out, err = ax(tmp_path, "-f", "-o", "json")
    assert [json.loads(line)["rule"] for line in out.splitlines()] == ["", "second"]
    assert "flows may be missing here" in err
    assert status == 1
    assert "limit=0" in daemon.requests[1][1]


class Endless:
    """A daemon whose stream goes on: it has sent one flow, and waits."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "rest.sock")

    def __enter__(self) -> Endless:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self.gone = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(stream(flow()))
            connection.recv(1)
            self.gone.set()

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        self._listener.close()


def test_lines_come_at_once_and_ctrl_c_is_no_error(tmp_path: Path) -> None:
    with Endless(tmp_path), start(tmp_path, "-f", start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("TIME")
        assert re.match(r"\d\d:\d\d:\d\d\.\d\d\d +allowed", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")


def test_a_reader_that_has_had_enough(tmp_path: Path) -> None:
    """It is noticed although no flow comes any more."""
    with Endless(tmp_path) as daemon, start(tmp_path, "-f", "-o", "json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
        assert daemon.gone.wait(30)
