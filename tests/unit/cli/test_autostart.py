"""``ax run`` where no daemon is: with the real one, which these tests start and which ends by itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.waiting import wait_until

from appswitch.cli import autostart, rest
from appswitch.paths import RunDir


class Place:
    """A run directory to be, and ``ax`` for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pidfile = directory / "daemon.pid"
        self.log = directory / "daemon.log"
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("AX_")}
        self.env |= {"AX_RUN_DIR": str(directory), "AX_IDLE_EXIT": "1", "AX_REST_PORT": "0"}

    def spawn(self, *words: str, pass_fds: tuple[int, ...] = (), **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "appswitch.cli", *words],
            env=self.env | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def ax(self, *words: str, **env: str) -> tuple[int, str, str]:
        process = self.spawn(*words, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def daemon(self) -> int:
        return int(self.pidfile.read_text())

    def end(self) -> None:
        if self.pidfile.exists():
            os.kill(self.daemon(), signal.SIGTERM)
        wait_until(lambda: not self.pidfile.exists(), "the daemon to end", 20)


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="axt-", dir="/tmp") as parent:
        one = Place(Path(parent) / "run")
        yield one
        one.end()


def test_one_daemon_however_many_ask(place: Place) -> None:
    processes = [place.spawn("run", "--", "echo", f"{number}") for number in range(4)]
    for number, process in enumerate(processes):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, f"{number}\n"), err
    log = place.log.read_text()
    assert log.count("ax daemon ready:") == 1
    assert "already" not in log
    assert place.directory.stat().st_mode & 0o777 == (0o755 if os.geteuid() == 0 else 0o700)


def test_it_ends_when_nobody_needs_it(place: Place) -> None:
    assert place.ax("run", "--", "true")[0] == 0
    wait_until(lambda: not place.pidfile.exists(), "the daemon to end", 20)
    assert "no app for a while: the daemon ends" in place.log.read_text()
    wait_until(lambda: [path.name for path in place.directory.iterdir()] == ["daemon.log"], "its files to go")
    assert place.ax("run", "--", "true")[0] == 0, "and comes again"


def test_it_is_nobodys_child_and_holds_nothing_of_ours(place: Place) -> None:
    """The program would find it among its own, and who reads our pipe would wait for it."""
    reader, writer = os.pipe()
    program = "ps -o pid= --ppid $$ | wc -l"  # ps and wc themselves
    process = place.spawn("run", "--", "sh", "-c", program, pass_fds=(writer,), AX_IDLE_EXIT="60")
    os.close(writer)
    out, err = process.communicate(timeout=60)
    assert out.strip() == "2", err
    assert os.read(reader, 1) == b""
    os.close(reader)
    daemon = place.daemon()
    assert os.getsid(daemon) != os.getsid(0)
    assert Path(f"/proc/{daemon}/cwd").readlink() == Path("/")
    targets = [str(Path(f"/proc/{daemon}/fd/{fd}").readlink()) for fd in range(3)]
    assert targets == ["/dev/null", str(place.log), str(place.log)]
    assert "ax daemon ready" in place.log.read_text()


def test_a_dead_daemon_is_replaced(place: Place) -> None:
    place.directory.mkdir(mode=0o755)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place.directory / "rest.sock"))
    status, out, err = place.ax("get", "apps")
    assert (status, err) == (
        1, f"ax: the daemon in {place.directory} has died, only its socket is left: start one with `ax daemon`\n",
    )  # fmt: skip
    status, out, err = place.ax("run", "--", "echo", "hello")
    assert (status, out) == (0, "hello\n"), err


def test_not_if_told_so(place: Place) -> None:
    for words, env in ((["--no-start-daemon"], {}), ([], {"AX_START_DAEMON": "0"})):
        status, _, err = place.ax("run", *words, "--", "true", **env)
        assert (status, err) == (125, f"ax run: no daemon runs in {place.directory}: start one with `ax daemon`\n")
    assert not place.directory.exists()


def test_why_it_did_not_start(place: Place) -> None:
    status, _, err = place.ax("run", "--", "true", AX_PORTS="x")
    assert status == 125
    assert f"the daemon did not start in {place.directory}; {place.log} says:\n" in err
    assert "'x' is neither a port nor a range of ports" in err
    status, _, again = place.ax("run", "--", "true", AX_PORTS="y")
    assert "'x'" not in again, "only what this one said"


def test_where_it_cannot_be(place: Place) -> None:
    place.directory.touch()
    status, _, err = place.ax("run", "--", "true")
    assert status == 125
    assert f"cannot start a daemon: the run directory {place.directory} is not a directory" in err
    place.directory.unlink()


def test_a_slow_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a second the user is told what we wait for; at the deadline it is ended."""
    slow = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    with slow, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind("")
        end = time.monotonic() + 1.2
        assert not autostart._wait(ready, os.pidfd_open(slow.pid), RunDir(tmp_path), end)
        assert slow.wait(20) == -signal.SIGTERM
    assert capsys.readouterr().err == f"ax run: starting a daemon in {tmp_path} ...\n"


def test_waiting_for_another_that_starts_one(tmp_path: Path) -> None:
    """Its lock on the directory is respected, but not for ever."""
    tmp_path.chmod(0o755)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        autostart.fcntl.flock(fd, autostart.fcntl.LOCK_EX)
        mine = os.open(tmp_path, os.O_RDONLY)
        try:
            with pytest.raises(rest.DaemonDownError, match="another `ax run` is starting a daemon"):
                autostart._lock(mine, RunDir(tmp_path), time.monotonic() + 0.05)
        finally:
            os.close(mine)
    finally:
        os.close(fd)
