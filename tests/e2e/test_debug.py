"""`ax debug`: nothing differs while programs run, what differs is told, and no secret is in a bug report."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Addresses, Daemon, wait_until

SECRETS = {
    name: f"planted-{name}-4711"
    for name in ("token", "environment", "argument", "header", "path", "payload", "policy", "name of a variable")
}
TALKER = """
import signal, socket
s = socket.create_server(("", 80))
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.bind(("", 53))
print("up", flush=True)
c, _ = s.accept()
c.recv(1000)
c.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
print("heard", flush=True)
signal.pause()
"""
CALLER = """
import socket, sys
c = socket.create_connection((sys.argv[1], 80))
c.sendall(sys.argv[2].encode())
c.recv(1000)
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.connect((sys.argv[1], 53)); d.send(b"x")
print("answered", flush=True)
socket.create_server(("", 90)).accept()
"""


def test_nothing_differs(daemon_factory: Callable[..., Daemon], addresses: Addresses) -> None:
    """With servers, clients, UDP, calls that wait; and when they have ended."""
    daemon = daemon_factory()
    assert json.loads(daemon.ax("debug", "check", "-o", "json", check=True).stdout)["differences"] == []
    server, client = addresses.v4(), addresses.v4()
    with (
        daemon.spawn("/usr/bin/python3", "-c", TALKER, ip=server, listening=80) as one,
        daemon.spawn("/usr/bin/python3", "-c", CALLER, server, "GET / HTTP/1.1\r\n\r\n", ip=client) as other,
    ):
        other.wait_for("answered")
        wait_until(lambda: daemon.sizes()["parked"], "the client in accept(2)")
        told = json.loads(daemon.ax("debug", "check", "-o", "json", check=True).stdout)
        assert told["differences"] == []
        looked = told["looked"]
        assert (looked["apps"], looked["services"], looked["parked"]) == (2, 2, 1)
        assert looked["descriptors"] > looked["apps"]
        for app in (one, other):
            app.kill()
    daemon.wait_idle()
    done = daemon.ax("debug", "check", check=True)
    assert done.stdout.startswith("nothing differs: 0 services, ")


def test_what_differs_is_told(daemon_factory: Callable[..., Daemon]) -> None:
    """A name that no service has; and a daemon that is none."""
    daemon = daemon_factory()
    stray = daemon.run_dir / "s" / "0000002a,2,10.0.0.1,80,0,1"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stray))
        sock.listen()
        done = daemon.ax("debug", "check")
        assert done.returncode == 1
        assert done.stdout.split("\n")[1].split()[:2] == ["name-without-service", stray.name]
    stray.unlink()
    assert daemon.ax("debug", "check").returncode == 0
    done = daemon.ax("debug", "check", env={"AX_RUN_DIR": "/nonexistent"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "ax daemon" in done.stderr, "it says what to do"


@pytest.mark.root
def test_only_administrators(daemon_factory: Callable[..., Daemon], rootless: object) -> None:
    daemon = daemon_factory()
    for what in ("check", "dump"):
        done = daemon.run("curl", "-s", "--unix-socket", str(daemon.run_dir / "rest.sock"), f"http://localhost/v1/debug/{what}",
                          options=["--user", "nobody"])  # fmt: skip
        assert json.loads(done.stdout)["status"] == 403, done.stdout


def test_a_bug_report_has_no_secrets(
    daemon_factory: Callable[..., Daemon], addresses: Addresses, tmp_path: Path
) -> None:
    """Planted wherever the daemon sees something that is not for everybody."""
    token = tmp_path / "token"
    token.write_text(SECRETS["token"] + "\n")
    daemon = daemon_factory("--rest-token-file", str(token), "--log-level", "debug")
    server, client = addresses.v4(), addresses.v4()
    virtual = addresses.v4()
    secret = SECRETS["policy"]
    documents = [
        {
            "kind": "VService",
            "metadata": {"name": "shop"},
            "spec": {
                "ips": [virtual],
                "ports": [80],
                "backends": [{"ip": server}],
                "routes": [{"name": "a", "match": {"http.path": f"/{secret}*"}, "backends": [{"ip": server}]}],
            },
        },
        {
            "kind": "Policy",
            "metadata": {"name": "p"},
            "spec": {"action": "deny", "to": [{"names": ["none"]}], "l7": [{"http.method": secret}]},
        },
    ]  # fmt: skip
    status, applied = daemon.rest("POST", "/v1/apply", documents)
    assert (status, [one["result"] for one in applied["results"]]) == (200, ["created"] * 2), applied
    status, registered = daemon.rest("POST", "/v1/apps", {"command": ["never", SECRETS["argument"]]})
    assert status == 201
    request = (
        f"GET /{SECRETS['path']} HTTP/1.1\r\nHost: a\r\nAuthorization: {SECRETS['header']}\r\n\r\n{SECRETS['payload']}"
    )
    environment = {"AXT_SECRET": SECRETS["environment"]}
    with (
        daemon.spawn(
            "/usr/bin/python3", "-c", TALKER, SECRETS["argument"], ip=server, listening=80, env=environment
        ) as one,
        daemon.spawn("/usr/bin/python3", "-c", CALLER, virtual, request, ip=client, env=environment) as other,
    ):
        other.wait_for("answered")
        one.wait_for("heard")
        shown = json.dumps(daemon.get("connections"))
        assert SECRETS["path"] in shown, "the daemon has read it, and shows it to who asks for connections"
        daemon.rest("GET", "/v1/apps/" + SECRETS["path"])
        file = tmp_path / "report.json"
        done = daemon.ax("debug", "dump", str(file), check=True)
        assert "read it before you send it" in done.stderr
        assert file.stat().st_mode & 0o777 == 0o600
        text = file.read_text()
        report = json.loads(text)
    found = [name for name, planted in SECRETS.items() if planted in text]
    assert found == []
    assert registered["token"] not in text
    assert "AXT_SECRET" not in text
    told = report["daemon"]
    assert told["checked"]["differences"] == []
    assert [one["app"]["command"][0] for one in told["tables"]["apps"] if one["phase"] == "running"] == [
        "/usr/bin/python3"
    ] * 2
    assert {one["name"] for one in told["resources"]} == {"shop", "p"}
    assert told["options"]["token"] == "set"
    assert any("connected to the switch" in line for line in told["log"]["control"])
    assert told["processes"]["switch"]["limits"][0].startswith("Limit")
    assert told["tables"]["stats"]["apps"] == 2
    assert report["doctor"]
    assert report["ax"]["uid"] == os.geteuid()


def test_a_bug_report_without_a_daemon(tmp_path: Path, daemon_factory: Callable[..., Daemon]) -> None:
    daemon = daemon_factory()
    done = daemon.ax("debug", "dump", env={"AX_RUN_DIR": str(tmp_path)}, check=True)
    report = json.loads(done.stdout)
    assert report["daemon"].startswith("it tells nothing: no daemon runs in ")
    assert report["doctor"]
    done = daemon.ax("debug", "dump", str(tmp_path / "none" / "report.json"))
    assert done.returncode == 1
    assert "name another file" in done.stderr
