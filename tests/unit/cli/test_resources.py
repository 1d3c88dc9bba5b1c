"""``ax create``, ``delete``, ``apply``, and ``get`` of what they make, against a daemon that answers as it is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from tests.unit.cli.daemon import FakeDaemon, problem
from tests.unit.cli.test_get import ax

from appswitch.cli import apply, create, delete, names

SHOWN = {
    "apiVersion": "appswitch/v1",
    "kind": "VService",
    "metadata": {"name": "web", "uid": 0, "created": 1.5, "generation": 1},
    "spec": {"ports": ["80:8080", "443"], "backends": [{"ip": "10.1.0.1"}, {"labels": {"app": "web", "zone": "a"}}],
             "lbType": "Random"},
    "status": {"ips": ["10.1.0.100", "fd00::1"], "drawn": True, "fqdn": "web.appswitch.local"},
}  # fmt: skip
POLICY = {
    "apiVersion": "appswitch/v1",
    "kind": "Policy",
    "metadata": {"name": "lan", "uid": 0, "created": 1.5, "generation": 1},
    "spec": {"action": "allow", "from": [{"networks": ["10.0.0.0/8"], "uids": [5]}, {}], "dryRun": True},
}
GONE = problem(404, "no-such-resource", "there is no vservice nope")


@pytest.mark.parametrize(
    ("words", "path", "spec"),
    [
        (
            ["vservice", "web", "--ip", "10.1.0.100,fd00::1", "--ports", "80:8080, 443", "--backends",
             "10.1.0.1,app=web+zone=a,[2001:db8::1]:80", "--lbtype", "ringhash", "--hash-on", "http.path", "--external",
             "--wait", "5"],
            "/v1/vservices",
            {"ips": ["10.1.0.100", "fd00::1"], "ports": ["80:8080", "443"], "lbType": "RingHash", "hashOn": "http.path",
             "backends": ["10.1.0.1", "app=web+zone=a", "[2001:db8::1]:80"], "external": True, "wait": 5.0},
        ),
        (
            ["vservice", "web", "--ports", "80", "--source-ip"],
            "/v1/vservices",
            {"ports": ["80"], "lbType": "RoundRobin", "sourceIp": True},
        ),
        (
            ["policy", "p", "--action", "deny", "--direction", "egress", "--from", "app=a,zone=b", "--from", "app=c",
             "--from-uid", "0,5", "--from-executable", "/bin/*", "--to-name", "web,b-*", "--to-network", "10.0.0.0/8",
             "--ports", "80,53/udp", "--error", "EPERM", "--dry-run"],
            "/v1/policies",
            {"action": "deny", "direction": "egress", "error": "EPERM", "dryRun": True, "ports": ["80", "53/udp"],
             "from": [{"labels": {"app": "a", "zone": "b"}, "uids": [0, 5], "executables": ["/bin/*"]},
                      {"labels": {"app": "c"}, "uids": [0, 5], "executables": ["/bin/*"]}],
             "to": [{"names": ["web", "b-*"], "networks": ["10.0.0.0/8"]}]},
        ),
        (
            ["reference", "olddb", "--ip", "10.9.0.5", "--ports", "5432", "--to", "role=db", "--wait", "0"],
            "/v1/references",
            {"network": "10.9.0.5", "ports": ["5432"], "to": ["role=db"], "lbType": "RoundRobin", "wait": 0.0},
        ),
        (
            ["proxy", "envoy", "--listener", "10.1.0.50:15001", "--header", "v2", "--on-failure", "open", "--next", "b",
             "--wants", "http.path=/a=*, http.method=GET,http.method=POST", "--wants", "tls.sni=*"],
            "/v1/proxies",
            {"listener": "10.1.0.50:15001", "header": "v2", "onFailure": "open", "next": "b",
             "wants": [{"http.path": ["/a=*"], "http.method": ["GET", "POST"]}, {"tls.sni": ["*"]}]},
        ),
        (
            ["proxy", "audit", "--capacity", "10", "--timeout", "0.5"],
            "/v1/proxies",
            {"capacity": 10, "timeout": 0.5, "onFailure": "closed"},
        ),
        (
            ["vservice", "web", "--ports", "80", "--proxy", "envoy"],
            "/v1/vservices",
            {"ports": ["80"], "lbType": "RoundRobin", "proxy": "envoy"},
        ),
        (
            ["policy", "p", "--action", "allow", "--proxy", "envoy"],
            "/v1/policies",
            {"action": "allow", "direction": "ingress", "error": "EACCES", "proxy": "envoy"},
        ),
    ],
)  # fmt: skip
def test_create(tmp_path: Path, words: list[str], path: str, spec: dict[str, Any]) -> None:
    with FakeDaemon(tmp_path, (201, {**SHOWN, "metadata": {"name": words[1]}})) as daemon:
        done = ax(tmp_path, "create", *words)
    assert (done.returncode, done.stdout) == (0, f"{words[0]} {words[1]} created at 10.1.0.100, fd00::1\n"), done.stderr
    ((method, where, body),) = daemon.requests
    assert (method, where, body["metadata"]) == ("POST", path, {"name": words[1]})
    assert body["spec"] == spec


def test_create_what_is_wrong(tmp_path: Path) -> None:
    errors = [{"path": ["spec", "ports", 0], "detail": "no port"}, {"path": ["spec", "ips", 1], "detail": "no address"}]
    with FakeDaemon(
        tmp_path, problem(422, "invalid", "x", errors=errors), problem(409, "already-exists", "it is there")
    ):
        done = ax(tmp_path, "create", "vservice", "web", "--ports", "x")
        again = ax(tmp_path, "create", "vservice", "web", "--ports", "80")
    assert (done.returncode, done.stderr) == (1, "ax: spec.ports.0: no port\nax: spec.ips.1: no address\n")
    assert (again.returncode, again.stderr) == (1, "ax: it is there\n")
    assert ax(tmp_path, "create", "policy", "p", "--action", "deny", "--from-uid", "x").returncode == 2
    assert ax(tmp_path, "create", "policy", "p", "--action", "deny", "--to", "x").returncode == 2
    wants = ax(tmp_path, "create", "proxy", "p", "--wants", "http.path")
    assert wants.returncode == 2
    assert "--wants: 'http.path' is not ATTRIBUTE=PATTERN" in wants.stderr


def test_delete(tmp_path: Path) -> None:
    killed = {"proto": "tcp", "client": "10.0.0.1:5", "server": "10.0.0.2:80"}
    with FakeDaemon(tmp_path, (200, {"killed": []}), GONE, (200, {"killed": [killed]}), GONE) as daemon:
        done = ax(tmp_path, "delete", "vservice", "web", "nope")
        killing = ax(tmp_path, "delete", "policy", "a/b", "--kill")
        ignored = ax(tmp_path, "delete", "vservice", "nope", "--ignore-not-found")
    assert (done.returncode, done.stdout) == (1, "vservice web deleted\n")
    assert done.stderr == "ax: there is no vservice nope\n"
    assert killing.stdout == "policy a/b deleted\nclosed tcp 10.0.0.1:5 -> 10.0.0.2:80\n"
    assert (ignored.returncode, ignored.stderr) == (0, "")
    assert [one[1] for one in daemon.requests[2:3]] == ["/v1/policies/a%2Fb?kill=true"]


def results(*found: tuple[str, str, str], errors: dict[str, list[Any]] | None = None) -> tuple[int, Any]:
    rows = [{"kind": kind, "name": name, "result": result, "detail": "no", "errors": (errors or {}).get(name, [])}
            for kind, name, result in found]  # fmt: skip
    return 200, {"results": rows, "killed": []}


BAD = """\
kind: VService
metadata: {name: web}
spec:
  ports: [80]
---
kind: VService
metadata: {name: bad}
spec:
  ports:
    - 80
    - x
  backends:
    - {ip: 10.0.0.1, weights: 3}
"""


def test_apply(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "twice.json").write_text('{"kind": "Policy",\n "kind": "Policy"}')
    errors = [
        {"path": ["spec", "ports", 1], "detail": "no port"},
        {"path": ["spec", "backends", 0, "weights"], "detail": "no"},
    ]
    reply = results(("VService", "web", "created"), ("VService", "bad", "rejected"), errors={"bad": errors})
    with FakeDaemon(tmp_path, reply) as daemon:
        done = ax(tmp_path, "apply", "-f", str(tmp_path), "-f", "/nowhere")
    where = f"{tmp_path}/bad.yaml"
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"ax: {tmp_path}/twice.json:2: the key 'kind' is there twice",
        "ax: /nowhere: No such file or directory",
        f"ax: {where}:11: VService bad: spec.ports.1: no port",
        f"ax: {where}:13: VService bad: spec.backends.0.weights: no",
    ]
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["KIND", "NAME", "RESULT", "WHERE"]
    assert [line.split() for line in lines] == [
        ["VService", "web", "created", f"{where}:1"],
        ["VService", "bad", "rejected", f"{where}:6"],
        ["1", "created,", "1", "rejected"],
    ]
    ((method, path, body),) = daemon.requests
    assert (method, path, len(body)) == ("POST", "/v1/apply?dryRun=false&kill=false", 2)


def test_apply_from_standard_input(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, results(("VService", "web", "unchanged"))) as daemon:
        done = subprocess.run(
            [sys.executable, "-m", "appswitch.cli", "apply", "-f", "-", "--dry-run", "--kill", "-o", "json",
             "--run-dir", str(tmp_path)],
            input=BAD.partition("---")[0], capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["where"] == "-:1"
    assert daemon.requests[0][1] == "/v1/apply?dryRun=true&kill=true"


def test_apply_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several requests; what is done before one fails is told."""
    (tmp_path / "a.yaml").write_text("---\n".join(f"kind: Policy\nmetadata: {{name: p{n}}}\n" for n in range(5)))
    monkeypatch.setattr(apply, "MAX_REQUEST", 100)
    found, broken = apply.read([str(tmp_path / "a.yaml")])
    assert not broken
    sent = apply.Sent()
    first = results(("Policy", "p0", "created"), ("Policy", "p1", "created"))
    with (
        FakeDaemon(tmp_path, first, problem(503, "switch-unavailable", "away")) as daemon,
        pytest.raises(apply.locate.rest.RefusedError, match="away"),
    ):
        apply.send(found, sent, str(tmp_path), dry_run=False, kill=True)
    assert [len(body) for _, _, body in daemon.requests] == [2, 2]
    assert [path.endswith("kill=true") for _, path, _ in daemon.requests] == [False, False]
    assert len(sent.results) == 2


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"a: \xff\n", "f.yaml:1: it is not UTF-8"), (b"\xef\xbb\xbfa: b: c\n", "f.yaml:1: ")],
)
def test_what_is_no_text(tmp_path: Path, data: bytes, error: str) -> None:
    (tmp_path / "f.yaml").write_bytes(data)
    _, (broken,) = apply.read([str(tmp_path / "f.yaml")])
    assert error in str(broken)


def test_get(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, (200, {"vservices": [SHOWN]}), (200, {"policies": [POLICY]})):
        vservices = ax(tmp_path, "get", "vservices").stdout.splitlines()
        policies = ax(tmp_path, "get", "policies").stdout.splitlines()
    assert [line.split() for line in vservices] == [
        ["VSNAME", "VSTYPE", "VSIP", "VSPORTS", "VSBACKENDIPS"],
        ["web", "Random", "10.1.0.100,fd00::1", "80:8080,443", "10.1.0.1,app=web+zone=a"],
    ]
    assert policies[1].split() == ["lan", "allow", "ingress", "10.0.0.0/8+uid=5,*", "*", "-", "-", "yes"]


def test_get_proxies(tmp_path: Path) -> None:
    status = {"state": "ready", "appid": None, "pid": 7, "active": 2, "taken": 6, "passed": 5, "dropped": 4,
              "handedOn": 3, "failed": 1}  # fmt: skip
    wants = [{"http.path": ["/*"], "http.method": ["GET"]}, {"protocol": ["redis"]}, {"tls.sni": ["*"]}]
    rows = [
        {"kind": "Proxy", "metadata": {"name": "envoy"}, "spec": {"listener": "10.1.0.50:15001"}, "status": status},
        {"kind": "Proxy", "metadata": {"name": "audit"}, "spec": {"wants": wants}},
    ]
    with FakeDaemon(tmp_path, (200, {"proxies": rows}), (200, {"proxies": rows})):
        table = ax(tmp_path, "get", "proxies").stdout.splitlines()
        wide = ax(tmp_path, "get", "proxies", "-o", "wide").stdout.splitlines()
    assert [line.split() for line in table] == [
        ["ID", "PROTO", "LISTENER", "DIALERS"],
        ["envoy", "tcp", "10.1.0.50:15001", "2"],
        ["audit", "http,redis,tls", "delegate.sock", "-"],
    ]
    assert [line.split()[4:] for line in wide] == [
        ["STATE", "TAKEN", "PASSED", "DROPPED", "HANDEDON", "FAILED"],
        ["ready", "6", "5", "4", "3", "1"],
        ["-"] * 6,
    ]


def test_get_documents(tmp_path: Path) -> None:
    replies = [(200, {"vservices": [SHOWN, SHOWN]}), (200, SHOWN), (200, SHOWN), GONE]
    with FakeDaemon(tmp_path, *replies) as daemon:
        several = ax(tmp_path, "get", "vservices", "-o", "yaml").stdout
        one = ax(tmp_path, "get", "vservices", "web", "-o", "yaml").stdout
        data = ax(tmp_path, "get", "vservices", "web", "-o", "json").stdout
        gone = ax(tmp_path, "get", "vservices", "nope")
    assert list(yaml.safe_load_all(several)) == [SHOWN, SHOWN]
    assert [one.body for one in apply.documents.parse(several, "f")] == [SHOWN, SHOWN]
    assert yaml.safe_load(one) == json.loads(data) == SHOWN
    assert (gone.returncode, gone.stderr) == (1, "ax: there is no vservice nope\n")
    assert [path for _, path, _ in daemon.requests][1:] == ["/v1/vservices/web"] * 2 + ["/v1/vservices/nope"]
    assert ax(tmp_path, "get", "apps", "web").returncode == 2


def test_get_backends(tmp_path: Path) -> None:
    row = {"vservice": "web", "port": 80, "route": "", "backend": "10.1.0.1:80", "spec": "app=web", "state": "healthy",
           "weight": 1, "priority": 0, "active": 2, "total": 3, "failures": 0}  # fmt: skip
    with FakeDaemon(tmp_path, (200, {"backends": [row, {**row, "vservice": "x"}]})):
        lines = ax(tmp_path, "get", "backends", "web").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["VSNAME", "web"]


def test_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AX_RUN_DIR", str(tmp_path))

    def completed(command: click.Command, params: dict[str, Any], begun: str) -> list[str]:
        context = click.Context(command)
        context.params = params
        return [one.value for one in names.complete(context, command.params[0], begun)]

    rows = [SHOWN, {**SHOWN, "metadata": {"name": "db"}}]
    with FakeDaemon(tmp_path, *[(200, {"vservices": rows})] * 2):
        assert completed(delete.command, {"kind": "vservice"}, "") == ["web", "db"]
        assert completed(apply.command, {"what": "backends"}, "w") == ["web"]
        assert completed(apply.command, {"what": "apps"}, "") == []
    assert completed(delete.command, {"kind": "vservice"}, "") == []  # no daemon


def test_plurals() -> None:
    assert set(create.PLURALS.values()) == set(names.OF_RESOURCES)
