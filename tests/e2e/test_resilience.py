"""Parts of the daemon die, are replaced, or are started again by a service manager; programs do not notice."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import faults
from e2e.manager import Manager
from e2e.world import PROGRAMS, PYTHON, Switched, hang_up, say, wait_output
from harness import Addresses, Daemon, free_port, marks, wait_until

import appswitch
from appswitch.cli import run
from appswitch.keeper.directory import read_roster
from appswitch.parent import started

PATIENCE = 40.0  # seconds: a busy machine is no fault
EXCHANGE = """if 1:
    import socket, sys
    kept = socket.create_connection((sys.argv[1], 7000))
    for line in sys.stdin:
        kept.sendall(line.encode())
        said = kept.recv(99).decode().strip()
        try:
            with socket.create_connection((sys.argv[1], 7000)) as fresh:
                fresh.sendall(line.encode())
                print(said, fresh.recv(99).decode().strip(), *kept.getpeername(), flush=True)
        except OSError as error:
            print(said, error.errno, flush=True)
"""


class Pair:
    """A server, and a client with one connection to it for all the time, and a new one with each word."""

    def __init__(self, world: Switched) -> None:
        self.server = world.start("socat", "TCP-LISTEN:7000,fork,reuseaddr", "EXEC:cat", listening=7000)
        self.client = world.start(PYTHON, "-c", EXCHANGE, str(self.server.ip), stdin=subprocess.PIPE)
        self._number = 0

    def check(self, fresh: str = "") -> None:
        """Both connections work; the new one may fail with ``fresh``."""
        self._number += 1
        word = f"word{self._number}"
        say(self.client, f"{word}\n")
        rest = fresh or f"{word} {self.server.ip} 7000"
        wait_output(self.client, rf"(?m)^{word} {rest}$", PATIENCE)

    def end(self) -> None:
        hang_up(self.client)
        assert self.client.wait() == 0


@pytest.fixture
def world(daemon_factory: Callable[..., Daemon], addresses: Addresses) -> Iterator[Switched]:
    with Switched(daemon_factory(), addresses) as one:
        yield one


def parts(daemon: Daemon) -> dict[str, int]:
    return read_roster(str(daemon.run_dir))


def wait_keeper(daemon: Daemon, dead: int) -> int:
    """Another one, that has what two apps need: until then the switch must not die."""

    def another() -> int:
        pid = daemon.keeper()
        return pid if pid not in (0, dead) and _notifiers(pid) >= 2 and len(parts(daemon)) == 2 else 0

    return wait_until(another, "another keeper", PATIENCE)


def wait_status(daemon: Daemon) -> dict[str, Any]:
    """When control is there, and the switch with it."""

    def told() -> dict[str, Any] | None:
        with contextlib.suppress(OSError):
            status, found = daemon.rest("GET", "/v1/status")
            return found if status == 200 and found["pids"]["switch"] else None
        return None

    found = wait_until(told, "REST", PATIENCE)
    assert found
    return found


def _notifiers(pid: int) -> int:
    with contextlib.suppress(OSError):
        links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        return links.count("anon_inode:seccomp notify")
    return 0


def wait_another(daemon: Daemon, name: str, dead: int) -> None:
    wait_until(lambda: parts(daemon).get(name) not in (None, dead), f"another {name}", PATIENCE)


@pytest.mark.timeout(240)
def test_nothing_is_lost_under_load() -> None:
    """A short look; `make faults` is the long one."""
    result = faults.measure(4, ("switch", "control", "keeper", "both"), seed=3, longest=0.4, commands=False)
    print(result.text())
    assert not result.changed, result.text()
    # The kernel's, not ours: who is just being given a descriptor may be told 0. docs/resilience.md.
    zeros = "".join(result.failed.pop("server", [])).count("Socket operation on non-socket")
    assert sum(map(len, result.failed.values())) <= zeros, result.text()


@pytest.mark.parametrize("moment", ["registered", "connected", "offered", "handed over"])
def test_a_program_that_is_just_starting(daemon_factory: Callable[..., Daemon], moment: str, place: Path) -> None:
    """The switch is killed in the middle of the handshake: it goes on with the next one. docs/design/attach.md."""
    daemon = daemon_factory()
    launcher = place / "launcher"
    launcher.write_text(f'#!/bin/sh\nexec {PYTHON} {PROGRAMS}/slow_launcher.py "$@"\n')
    launcher.chmod(0o755)
    environment = {"AX_LAUNCHER": str(launcher), "AX_REAL": run.find_launcher(), "AX_MOMENT": moment}
    done = daemon.run("cat", input="through", env=environment, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (0, "through"), (done, daemon.output)
    assert daemon.run("echo", "again").stdout == "again\n"


def test_a_keeper_that_is_killed_is_succeeded(world: Switched) -> None:
    """The others go on, and the new keeper has what they stored: when they die in their turn nothing is lost either."""
    pair, daemon = Pair(world), world.daemon
    pair.check()
    keeper, before = daemon.keeper(), parts(daemon)
    os.kill(keeper, signal.SIGKILL)
    pair.check()
    keeper = wait_keeper(daemon, keeper)
    assert parts(daemon) == before
    for name in ("switch", "control"):
        dead = parts(daemon)[name]
        os.kill(dead, signal.SIGKILL)
        pair.check()
        wait_another(daemon, name, dead)
    pair.check()
    assert len(daemon.get("apps")) == 2
    os.kill(keeper, signal.SIGKILL)
    os.kill(parts(daemon)["control"], signal.SIGKILL)
    pair.check()
    assert wait_keeper(daemon, keeper) == wait_status(daemon)["pids"]["keeper"]
    pair.end()


def test_without_any_of_the_daemon(world: Switched) -> None:
    """What is connected stays so; the rest fails at once, and nothing hangs: docs/resilience.md."""
    pair, daemon = Pair(world), world.daemon
    daemon.strict = False
    pair.check()
    waits = world.start(PYTHON, "-c", "import socket; socket.create_server(('', 7001)).accept()", listening=7001)
    everybody = *parts(daemon).values(), daemon.keeper()
    for how in (signal.SIGSTOP, signal.SIGKILL):  # who sees another one die would start a keeper
        for pid in everybody:
            os.kill(pid, how)
    wait_until(lambda: not daemon.holders(), "nobody to hold what nobody will want", 10)
    pair.check(fresh=str(errno.ENOSYS))
    wait_output(waits, "Function not implemented")
    pair.end()


@pytest.mark.parametrize("group", [False, True], ids=["process", "control-group"])
def test_under_a_service_manager(addresses: Addresses, group: bool) -> None:
    """That the service is killed as a whole, or its main process alone, apps do not notice: systemd.service(5)."""
    daemon = Daemon()
    environment = daemon.environment() | {marks.DAEMON: daemon.id}
    environment.pop(marks.TEST, None)
    command = daemon.command("daemon", "--rest-port", "0")
    try:
        with (
            Manager(command, environment, (marks.DAEMON, daemon.id), group) as manager,
            Switched(daemon, addresses) as world,
        ):
            pair = Pair(world)
            for number in range(2):
                pair.check()
                before = parts(daemon)
                os.kill(manager.pid, signal.SIGKILL)
                pair.check()
                manager.wait_ready(number + 2)
                assert (parts(daemon) == before) == (not group)
            pair.check()
            os.kill(manager.pid, signal.SIGTERM)  # `systemctl restart`, which ends it in order
            pair.check()
            manager.wait_ready(4)
            pair.check()
            assert len(daemon.get("apps")) == 2
            pair.end()
    finally:
        left = marks.reap(marks.DAEMON, daemon.id)
        shutil.rmtree(daemon.run_dir)
    assert not left


def _unit(key: str) -> str:
    """A setting of the unit that is shipped."""
    unit = Path(__file__).parents[2] / "packaging" / "appswitch.service"
    (line,) = [line for line in unit.read_text().splitlines() if line.startswith(f"{key}=")]
    return line.partition("=")[2]


class Confined(Daemon):
    """With no more privileges than the unit leaves it: setpriv(1), PR_SET_MDWE of prctl(2)."""

    def command(self, *arguments: str) -> list[str]:
        words = super().command(*arguments)
        if arguments[0] != "daemon":
            return words
        capabilities = ",".join(
            f"+{one.removeprefix('CAP_').lower()}" for one in _unit("CapabilityBoundingSet").split()
        )
        deny = "import ctypes, os, sys; assert not ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)"
        deny += "; os.execvp(sys.argv[1], sys.argv[1:])"
        confine = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{capabilities}", "--inh-caps=-all"]
        return [*confine, PYTHON, "-c", deny, *words]


def test_with_what_the_unit_allows(addresses: Addresses) -> None:
    assert _unit("NoNewPrivileges") == _unit("MemoryDenyWriteExecute") == "yes"
    with Confined() as daemon, Switched(daemon, addresses) as world:
        pair = Pair(world)
        pair.check()
        server = world.start("socat", "UDP-LISTEN:7003,fork", "EXEC:cat", serving=7003)
        asked = world.run("socat", "-t2", "-", f"UDP:{server.ip}:7003", input="datagram\n")
        assert asked.stdout == "datagram\n"
        host = free_port()
        options = ("--expose", f"7002:{host}", "--name", "open")
        world.start("socat", "TCP-LISTEN:7002,fork", "EXEC:echo exposed", listening=7002, options=options)
        with socket.create_connection(("127.0.0.1", host)) as stranger:
            assert stranger.recv(99) == b"exposed\n"
        os.kill(parts(daemon)["switch"], signal.SIGKILL)
        pair.check()
        pair.end()


# --- ax daemon --upgrade


def other_version(place: Path, broken: str = "") -> Path:
    """A copy of what runs here; ``broken``: a program of it that ends as soon as it is loaded."""
    copy = place / "other"
    shutil.copytree(Path(appswitch.__file__).parent, copy / "appswitch", ignore=shutil.ignore_patterns("__pycache__"))
    init = copy / "appswitch" / "__init__.py"
    init.write_text(init.read_text().replace(appswitch.__version__, "9.9.9"))
    if broken:
        program = copy / "appswitch" / broken / "__main__.py"
        program.write_text("raise SystemExit('broken')\n")
    return copy


def upgrade(daemon: Daemon, version: Path) -> subprocess.CompletedProcess[str]:
    return daemon.ax("daemon", "--upgrade", env={"PYTHONPATH": str(version)}, timeout=60)


def test_an_upgrade(world: Switched, place: Path) -> None:
    pair, daemon = Pair(world), world.daemon
    pair.check()
    keeper, before, apps = daemon.keeper(), parts(daemon), daemon.get("apps")
    assert {row["pid"] for row in apps} == {pair.server.pid, pair.client.pid}
    done = upgrade(daemon, other_version(place))
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "switch: replaced; calls waited" in done.stdout
    assert f"The daemon in {daemon.run_dir} is of version 9.9.9 now" in done.stdout
    pair.check()
    assert daemon.keeper() == keeper
    assert not set(before.values()) & set(parts(daemon).values())
    assert daemon.rest("GET", "/v1/status")[1]["version"] == "9.9.9"
    for name, pid in parts(daemon).items():
        os.kill(pid, signal.SIGKILL)
        pair.check()
        wait_another(daemon, name, pid)
    assert wait_status(daemon)["version"] == "9.9.9", "those that are started again are of the new version as well"
    assert daemon.get("apps") == apps, "of the same processes, since the same time"
    pair.end()


def test_an_upgrade_that_fails_changes_nothing(world: Switched, place: Path) -> None:
    pair, daemon = Pair(world), world.daemon
    keeper = daemon.keeper()
    for broken in ("switch", "keeper", "control"):
        before = parts(daemon)
        done = upgrade(daemon, other_version(place / broken, broken))
        assert done.returncode == 1
        why = "keeper does not start" if broken == "keeper" else f"the new {broken} could not be loaded"
        assert f"no upgrade: {'this version' if broken == 'keeper' else why}" in done.stderr
        assert why in done.stderr
        pair.check()
        assert daemon.keeper() == keeper
        changed = {"switch"} if broken == "control" else set()  # it comes first, and is as good
        assert {name for name, pid in parts(daemon).items() if before[name] != pid} == changed
    pair.end()


def test_an_upgrade_of_nothing(daemon: Daemon, place: Path) -> None:
    done = daemon.ax("daemon", "--upgrade", "--run-dir", str(place / "none"))
    assert done.returncode == 1
    assert f"no daemon runs in {place}/none: start one with" in done.stderr


def test_an_upgrade_of_anothers_daemon(daemon: Daemon, rootless_daemon: Daemon) -> None:
    done = rootless_daemon.ax("daemon", "--upgrade", "--run-dir", str(daemon.run_dir))
    assert done.returncode == 1
    assert "is another user's: only its user and root may upgrade it" in done.stderr
    assert started(daemon.pid)
