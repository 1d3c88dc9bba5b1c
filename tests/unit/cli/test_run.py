"""``ax run`` between a fake daemon and a fake launcher."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.daemon import FakeDaemon, problem

from appswitch.cli import resolvconf, run, users
from appswitch.cli.options import UsageError
from appswitch.cli.rest import RefusedError

# Says what it was given, and in which state it was started.
LAUNCHER = """#!{python} -IS
import json, os, signal, sys
fd = int(sys.argv[sys.argv.index("--token-fd") + 1])
json.dump(dict(
    argv=sys.argv[1:], token=os.read(fd, 99).hex(), rest=os.read(fd, 1).hex(), pid=os.getpid(),
    fds=sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    env={{key: os.environ.get(key) for key in ("HOME", "USER", "LOGNAME", "SHELL")}},
), sys.stdout)
"""

TOKEN = bytes(range(32)).hex()
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def registered(**app: Any) -> tuple[int, Any]:
    return 201, {
        "id": 1,
        "appid": "00000001",
        "token": TOKEN,
        "launcher": ["--attach", "/x/attach.sock", "--new-netns"],
        "app": {"ips": [], **app},
    }


class Ax:
    """Runs ``ax run`` against a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.launcher = directory / "launcher"
        self.launcher.write_text(LAUNCHER.format(python=sys.executable))
        self.launcher.chmod(0o755)

    def __call__(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        base = {key: value for key, value in os.environ.items() if not key.startswith("AX_")}
        base |= {"AX_RUN_DIR": str(self.directory), "AX_LAUNCHER": str(self.launcher), "AX_START_DAEMON": "0"}
        command = [sys.executable, "-m", "appswitch.cli", "run", *words]
        return subprocess.run(command, env=base | env, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def ax(tmp_path: Path) -> Ax:
    return Ax(tmp_path)


def test_becomes_the_launcher(ax: Ax) -> None:
    with FakeDaemon(ax.directory, registered()) as daemon:
        done = ax("--name", "web", "--", "cat", "--x", "-")
    assert done.stderr == ""
    seen = json.loads(done.stdout)
    fd = seen["argv"][seen["argv"].index("--token-fd") + 1]
    assert seen["argv"] == ["--attach", "/x/attach.sock", "--new-netns", "--token-fd", fd, "--", "cat", "--x", "-"]
    assert (seen["token"], seen["rest"]) == (TOKEN, "")
    assert seen["fds"] == [0, 1, 2, int(fd)]
    assert TOKEN not in str(seen["argv"])
    body = {"command": ["cat", "--x", "-"], "netns": "new", "name": "web"}
    asked = daemon.requests[0][2]
    assert asked.pop("nameservers") == resolvconf.nameservers()
    assert daemon.requests == [("POST", "/v1/apps", body)]


def test_what_is_asked_for(ax: Ax) -> None:
    with FakeDaemon(ax.directory, registered()) as daemon:
        ax(
            "--ip", "10.0.0.1,fd00::1", "--labels", "a=b,c=d=e", "--labels", "f=", "--expose", "80:8080,81:8081",
            "--expose", "82:[::1]:8082", "--new-netns=false", "--transport", "tcp", "--proxy",
            "envoy", "--", "x",
        )  # fmt: skip
    assert daemon.requests[0][2] == {
        "command": ["x"], "ips": ["10.0.0.1", "fd00::1"], "labels": {"a": "b", "c": "d=e", "f": ""},
        "expose": ["80:8080", "81:8081", "82:[::1]:8082"], "netns": "host", "transport": "tcp",
        "proxy": "envoy",
    }  # fmt: skip


def test_interface(ax: Ax) -> None:
    with FakeDaemon(ax.directory, registered()) as daemon:
        ax("--ip", "10.0.0.1", "--interface", "eth0", "--", "x")
    assert daemon.requests[0][2]["interface"] == "eth0"


def test_reach(ax: Ax) -> None:
    with FakeDaemon(ax.directory, registered()) as daemon:
        ax(
            "--egress", "deny", "--egress-allow", "10.0.0.0/8,*.example.com", "--egress-allow", "db", "--egress-deny",
            "10.1.0.0/16", "--egress-error", "ECONNREFUSED", "--host-port", "5432,80:8080", "--no-new-netns", "x",
        )  # fmt: skip
    assert daemon.requests[0][2] == {
        "command": ["x"], "netns": "host", "host_ports": ["5432", "80:8080"],
        "egress": {"default": "deny", "allow": ["10.0.0.0/8", "*.example.com", "db"], "deny": ["10.1.0.0/16"],
                   "error": "ECONNREFUSED"},
    }  # fmt: skip


def test_dns_override(ax: Ax) -> None:
    with FakeDaemon(ax.directory, registered()) as daemon:
        ax("--dns-override", "x")
    assert daemon.requests[0][2] == {"command": ["x"], "netns": "new", "dns_override": True}


@ROOT
def test_user(ax: Ax) -> None:
    entry = pwd.getpwnam("nobody")
    with FakeDaemon(ax.directory, registered(), registered()):
        seen = json.loads(ax("--user", "nobody", "--", "x").stdout)
        other = json.loads(ax("--user", "4321:8765", "--", "x").stdout)
    groups = ",".join(map(str, os.getgrouplist("nobody", entry.pw_gid)))
    assert seen["argv"][3:5] == ["--setuser", f"{entry.pw_uid}:{entry.pw_gid}:{groups}"]
    assert seen["env"] == {"HOME": entry.pw_dir, "USER": "nobody", "LOGNAME": "nobody", "SHELL": entry.pw_shell}
    assert other["argv"][3:5] == ["--setuser", "4321:8765:8765"]
    assert other["env"]["HOME"] == "/"


def test_signals_are_as_without_us(ax: Ax) -> None:
    """Python ignores SIGPIPE and SIGXFSZ; a shell would not, and neither may what we become."""
    ax.launcher.write_text("#!/bin/sh\nexec grep SigIgn /proc/self/status\n")
    with FakeDaemon(ax.directory, registered()):
        ignored = int(ax("x").stdout.split()[1], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
        assert not ignored & 1 << (number - 1), number.name


@pytest.mark.parametrize("given", [{}, {"LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "C"}, {"LANG": "C"}])
def test_environment_is_as_without_us(ax: Ax, given: dict[str, str]) -> None:
    """Python would set LC_CTYPE where there is no other locale."""
    ax.launcher.write_text("#!/bin/sh\nexec env\n")
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    with FakeDaemon(ax.directory, registered()):
        done = subprocess.run(
            [sys.executable, "-m", "appswitch.cli", "run", "--", "x"],
            env={**kept, **given, "AX_RUN_DIR": str(ax.directory), "AX_LAUNCHER": str(ax.launcher)},
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
    locale = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("L"))
    assert locale == given


def test_words_that_are_not_utf8(ax: Ax) -> None:
    with FakeDaemon(ax.directory, registered()) as daemon:
        done = ax("--", "printf", "\udcff", "x" * 10_000, "y")
    assert done.returncode == 0
    shown = daemon.requests[0][2]["command"]
    assert shown[:2] == ["printf", "\ufffd"]
    assert len(shown) == 3
    assert len(shown[2]) < 4200
    assert json.loads(done.stdout)["argv"][-3:] == ["\udcff", "x" * 10_000, "y"], "what is run is what was given"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is no command to run"),
        (["--name"], "--name needs a value"),
        (["--nam", "x"], "there is no option --nam; did you mean --name?"),
        (["--labels", "a", "x"], "--labels: 'a' is not KEY=VALUE"),
        (["--labels", "=a", "x"], "--labels: '=a' is not KEY=VALUE"),
        (["--interface", "eth0", "x"], "--interface needs --ip"),
        (
            ["--interface", "eth0", "--ip", "10.0.0.1", "--no-new-netns", "x"],
            "--interface is for an app with a network",
        ),
        (["--dns-override", "--no-new-netns", "x"], "--dns-override is for an app with a network"),
        (["--egress", "no", "x"], "--egress: 'no' is not one of allow, deny"),
        (["--egress-allow", "10.0.0.0/8,", "x"], "--egress-allow: the value is empty"),
        (["--host-port", "", "x"], "--host-port: the value is empty"),
        (["--transport", "x", "x"], "--transport: 'x' is not one of unix, tcp"),
    ],
)
def test_usage(ax: Ax, words: list[str], said: str) -> None:
    done = ax(*words)
    assert done.returncode == 125
    assert done.stderr.startswith(f"ax run: {said}")
    assert "Usage: ax run [OPTIONS] [--] COMMAND" in done.stderr
    assert done.stdout == ""


def test_refused(ax: Ax) -> None:
    errors = [
        {"path": ["ips", 1], "detail": "'x' is no"},
        {"path": ["frob"], "detail": "odd"},
        {"path": ["egress", "allow", 0], "detail": "no rule"},
        {"path": ["egress"], "detail": "too many"},
        {"path": [], "detail": "z"},
    ]
    with FakeDaemon(ax.directory, problem(422, "invalid", "all", errors=errors), problem(409, "ip-in-use", "taken")):
        done = ax("--ip", "1.1.1.1,x", "true")
        lines = ["--ip: 'x' is no", "odd", "--egress-allow: no rule", "--egress: too many", "z"]
        assert (done.returncode, done.stderr) == (125, "".join(f"ax run: {line}\n" for line in lines))
        done = ax("true")
        assert (done.returncode, done.stderr) == (125, "ax run: taken\n")


def test_no_daemon(ax: Ax) -> None:
    done = ax("true")
    assert done.returncode == 125
    assert done.stderr == f"ax run: no daemon runs in {ax.directory}: start one with `ax daemon`\n"


def test_no_launcher(ax: Ax) -> None:
    ax.launcher.unlink()
    with FakeDaemon(ax.directory) as daemon:
        done = ax("true")
        assert daemon.requests == [], "what cannot be run is not registered"
    assert done.returncode == 125
    assert "is missing: appswitch was not built completely" in done.stderr


def test_a_broken_launcher(ax: Ax) -> None:
    ax.launcher.write_text("")
    with FakeDaemon(ax.directory, registered()):
        done = ax("true")
    assert done.returncode == 125
    assert "cannot run the launcher" in done.stderr


def test_help_is_not_the_commands(ax: Ax) -> None:
    done = ax("--help")
    assert done.returncode == 0
    assert "Usage: ax run [OPTIONS] [--] COMMAND [ARG]..." in done.stdout
    assert "--new-netns / --no-new-netns" in done.stdout
    assert "Examples:" in done.stdout


def test_run_imports_little(ax: Ax) -> None:
    """150 ms for `ax run true` are spent on Python's start, not on libraries."""
    program = (
        "import sys; before = set(sys.modules); from appswitch.cli import run, options, resolvconf;"
        "options.parse(['x'], options.RUN, {}); print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    slow = """click rich msgspec pathlib typing dataclasses inspect http.client email asyncio argparse subprocess ctypes
        appswitch.model ipaddress pwd tempfile shutil"""
    assert not set(slow.split()) & set(done.stdout.split())


def test_a_stopping_daemon_is_asked_once_more(ax: Ax) -> None:
    with FakeDaemon(ax.directory, problem(503, "stopping", "the daemon is about to end"), registered()) as daemon:
        assert ax("true").returncode == 0
        assert len(daemon.requests) == 2
    with FakeDaemon(ax.directory, *[problem(503, "stopping", "the daemon is about to end")] * 2):
        assert ax("true").stderr == "ax run: the daemon is about to end\n"


def test_a_daemon_whose_control_dies_again_and_again_is_asked_until_it_answers(ax: Ax) -> None:
    (ax.directory / "daemon.pid").write_text(f"{os.getpid()}\n")
    with FakeDaemon(ax.directory, b"", b"HTTP/1.0 201 Created\r\n", b"", registered()) as daemon:
        done = ax("true")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(daemon.requests) == 4


@ROOT
def test_another_users_daemon_is_not_trusted(ax: Ax) -> None:
    """The program would be at its mercy."""
    # SO_PEERCRED of a listener is of the moment of listen(2): a child that has become somebody else listens
    serve = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind('rest.sock'); os.chmod('rest.sock', 0o666);"
        "os.setuid(12345); s.listen(); print('up', flush=True); c, _ = s.accept(); print(len(c.recv(9)), flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", serve], cwd=ax.directory, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        done = ax("true")
        assert other.stdout.readline() == "0\n", "not a byte is said to it"
    assert done.returncode == 125
    assert done.stderr.endswith("belongs to uid 12345, which could do anything to the app\n")


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_describe_without_a_path() -> None:
    assert run.describe(RefusedError(500, {})) == "HTTP status 500"


def test_user_is_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    from appswitch.cli.options import RUN, parse

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="--user: only root can"):
        run.whom(parse(["--user", "root", "x"], RUN, {}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no-such-user", "there is no user 'no-such-user'"),
        ("", "there is no user ''"),
        ("0:no-such-group", "there is no group 'no-such-group'"),
        ("0:", "there is no group ''"),
        ("4000000000", "uid 4000000000 is nobody's here, so name its group, too: --user 4000000000:GID"),
        ("4294967295:0", "4294967295 is too large for an id"),
        ("0:4294967295", "4294967295 is too large for an id"),
        ("-1", "there is no user '-1'"),
    ],
)
def test_no_user(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        users.resolve(text)
    assert str(caught.value) == f"--user: {said}"


def test_resolve() -> None:
    root = users.resolve("root")
    assert (root.uid, root.gid) == (0, 0)
    assert set(root.groups) == set(os.getgrouplist("root", 0))
    assert users.resolve("0").launcher == root.launcher
    assert users.resolve("root:0").launcher == "0:0:0"
    assert users.resolve("4000000000:7").launcher == "4000000000:7:7"
