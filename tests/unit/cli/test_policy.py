"""``ax policy``: what the daemon is asked, what is printed, and the exit status."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.cli.daemon import FakeDaemon, problem


def ax(directory: Path, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appswitch.cli", "policy", *words],
        env={**os.environ, "AX_RUN_DIR": str(directory)},
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
        input=text,
    )


# --- test ------------------------------------------------------------------------------------------------------------

STEPS = ["client: 00000001, web, 10.0.0.1", "deny policies that match: d", "denied by policy d: EACCES"]
DENIED = {"appid": "00000001", "to": "10.0.0.2:80", "protocol": "tcp", "allowed": False, "rule": "d",
          "error": "EACCES", "steps": STEPS}  # fmt: skip
ALLOWED = DENIED | {"allowed": True, "rule": "", "error": "", "steps": ["allowed"]}


def test_denied(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, (200, DENIED)) as daemon:
        done = ax(tmp_path, "test", "web", "10.0.0.2:80")
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (1, STEPS, "")
    body = {"from": "web", "to": "10.0.0.2:80", "protocol": "tcp", "attributes": {}}
    assert daemon.requests == [("POST", "/v1/explain", body)]


def test_allowed(tmp_path: Path) -> None:
    words = ["--protocol", "udp", "--uid", "0", "--executable", "/bin/x", "--attribute", "http.path=/a=b",
             "--attribute", "http.method="]  # fmt: skip
    with FakeDaemon(tmp_path, (200, ALLOWED)) as daemon:
        done = ax(tmp_path, "test", "web", "shop", *words, "-o", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, ALLOWED)
    assert daemon.requests[0][2] == {
        "from": "web", "to": "shop", "protocol": "udp", "uid": 0, "executable": "/bin/x",
        "attributes": {"http.path": "/a=b", "http.method": ""},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["web"], "Missing argument 'TO'"),
        (["web", "db:1", "--attribute", "x"], "'x' is not NAME=VALUE"),
        (["web", "db:1", "--uid", "-1"], "-1 is not in the range"),
        (["web", "db:1", "--protocol", "sctp"], "'sctp' is not one of 'tcp', 'udp'"),
        (["web", "db:1"], "no daemon runs in"),
    ],
)
def test_usage(tmp_path: Path, words: list[str], said: str) -> None:
    done = ax(tmp_path, "test", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_what_the_daemon_refuses_is_no_denial(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, problem(404, "no-such-app", "no app has the id or name web")):
        done = ax(tmp_path, "test", "web", "db:1")
    assert (done.returncode, done.stderr) == (2, "ax: no app has the id or name web\n")


# --- learn -----------------------------------------------------------------------------------------------------------

FLOW: dict[str, Any] = {
    "time": 1.0, "proto": "tcp", "verdict": "allowed", "client_app": 1, "server_app": 2, "client": "10.0.0.1:40000",
    "server": "10.0.0.2:80", "vservice": "", "backend": "", "rule": "", "error": "", "dry_run": False,
    "client_name": "web", "server_name": "db", "client_labels": {"zone": "default"},
    "server_labels": {"zone": "default"},
}  # fmt: skip
OUTSIDE = FLOW | {"client_app": 0, "client": "192.0.2.7:4", "client_name": None, "client_labels": None}
OTHER = FLOW | {"server_app": 10, "server": "10.0.0.3:81", "server_name": "api"}


def document(name: str, from_: dict[str, Any], to: str, port: str) -> dict[str, Any]:
    spec = {"action": "allow", "direction": "ingress", "from": [from_], "to": [{"names": [to]}], "ports": [port]}
    return {"apiVersion": "appswitch/v1", "kind": "Policy", "metadata": {"name": name}, "spec": spec}


WEB_TO_DB = document("learned-db", {"names": ["web"]}, "db", "80/tcp")


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_learn_from_a_file(tmp_path: Path) -> None:
    """Without a daemon."""
    denied = FLOW | {"verdict": "denied", "server": "10.0.0.2:99"}
    (tmp_path / "flows").write_text(lines(FLOW, FLOW, denied) + "\n")
    done = ax(tmp_path, "learn", "--from-file", str(tmp_path / "flows"))
    assert done.returncode == 0
    assert list(yaml.safe_load_all(done.stdout)) == [WEB_TO_DB]
    assert done.stderr == "ax policy learn: 2 flows seen, 1 of them different, 1 policies\n"


def test_learn_from_standard_input(tmp_path: Path) -> None:
    words = ["learn", "--from-file", "-", "-o", "json", "--name", "p", "--generalize", "24"]
    done = ax(tmp_path, *words, text=lines(OUTSIDE))
    assert json.loads(done.stdout) == [document("p-db", {"networks": ["192.0.2.0/24"]}, "db", "80/tcp")]
    done = ax(tmp_path, "learn", "--from-file", "-", "-o", "json", text="")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


@pytest.mark.parametrize("app", ["API", "0000000a"])
def test_learn_about_some(tmp_path: Path, app: str) -> None:
    words = ["learn", "--from-file", "-", "-o", "json", "--app", app, "--app", "x"]
    done = ax(tmp_path, *words, text=lines(FLOW, OTHER, OUTSIDE))
    assert json.loads(done.stdout) == [document("learned-api", {"names": ["web"]}, "api", "81/tcp")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--for", "soon"], "--for: 'soon' is not a time"),
        (["--for", "0s"], "--for: '0s' is not a time"),
        (["--name", "A b"], "--name: 'A b'"),
        (["--generalize", "33"], "--generalize: '33'"),
        (["--generalize", "24,129"], "--generalize: '24,129'"),
        (["--from-file", "/nonexistent"], "/nonexistent: No such file or directory"),
        (["--from-file", "-"], "-:2: Expecting value"),
        ([], "no daemon runs in"),
    ],
)
def test_learn_usage(tmp_path: Path, words: list[str], said: str) -> None:
    done = ax(tmp_path, "learn", *words, text=lines(FLOW) + "what\n")
    assert (done.returncode, done.stdout) == (1 if not words else 2, "")
    assert said in done.stderr


def test_learn_from_what_is_no_flow(tmp_path: Path) -> None:
    for text, said in (("5\n", "-:1: this is not a flow"), ('{"verdict": "allowed"}\n', "-:1: this is not a flow")):
        done = ax(tmp_path, "learn", "--from-file", "-", text=text)
        assert done.returncode == 2
        assert said in done.stderr


class Streaming(FakeDaemon):
    """Replies in bytes do not end before their reader does."""

    def _answer(self, connection: socket.socket) -> None:
        reply = self._reply()
        connection.sendall(reply)
        if b"Content-Length" not in reply:
            while connection.recv(1 << 16):
                pass


def stream(*rows: Any) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" + lines(*rows).encode()


def app(number: int, name: str, ip: str) -> dict[str, Any]:
    return {"app": {"id": number, "name": name, "ips": [ip], "labels": {"zone": "default"}}}


APPS = (200, {"apps": [app(1, "web", "10.0.0.1"), app(2, "db", "10.0.0.2")]})
CONNECTION = {"proto": "tcp", "client": "10.0.0.1:4", "server": "10.0.0.2:80", "client_app": 1, "server_app": 2}
CONNECTIONS, NONE = (200, {"connections": [CONNECTION]}), (200, {"connections": []})


def test_learn_for_a_while(tmp_path: Path) -> None:
    """What is connected when it begins, and when it ends."""
    later = {**CONNECTION, "server": "10.0.0.2:81"}
    replies = (APPS, CONNECTIONS, stream(), APPS, (200, {"connections": [later]}))
    with Streaming(tmp_path, *replies) as daemon:
        done = ax(tmp_path, "learn", "--for", "0.1s", "-o", "json")
    assert (done.returncode, json.loads(done.stdout)) == (
        0, [document("learned-db", {"names": ["web"]}, "db", "80-81/tcp")],
    )  # fmt: skip
    asked = [path for _, path, _ in daemon.requests]
    what_is_there = ["/v1/apps", "/v1/connections"]
    assert asked in (
        [*what_is_there, "/v1/flows?follow=true&limit=0&verdict=allowed", *what_is_there],
        [*what_is_there, *what_is_there],  # the machine was slow
    )


def test_learn_until_the_user_has_had_enough(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with Streaming(tmp_path, APPS, NONE, stream(FLOW, FLOW, OTHER), APPS, NONE):
        process = subprocess.Popen(
            [sys.executable, "-m", "appswitch.cli", "policy", "learn", "-o", "json"],
            env={**os.environ, "AX_RUN_DIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        try:
            said = b""
            while b"2 of them different" not in said:
                said += os.read(ours, 65536)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=50)
        finally:
            process.kill()
            process.communicate()
            os.close(ours)
    assert process.returncode == 0
    assert json.loads(out) == [document("learned-api", {"names": ["web"]}, "api", "81/tcp"), WEB_TO_DB]


def test_learn_until_the_daemon_ends(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, APPS, NONE, stream(FLOW), APPS, NONE):
        done = ax(tmp_path, "learn")
    assert done.returncode == 1
    assert list(yaml.safe_load_all(done.stdout)) == [WEB_TO_DB]
    assert done.stderr.startswith("ax policy learn: the daemon has ended")
