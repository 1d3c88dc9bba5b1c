"""The keeper with toy children: small programs that do what they are told, and write down what they saw."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.waiting import wait_until

from appswitch.keeper import __main__ as program
from appswitch.keeper import child as children
from appswitch.keeper import directory as place
from appswitch.keeper.notify import fd_name

# A child's language: what it does at its n-th start is the n-th list of steps (the last one for all later ones).
TOY = """
import json, os, signal, socket, sys

name, directory, plans = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
starts = os.path.join(directory, name + ".starts")
with open(starts, "a") as file:
    file.write(".")
plan = plans[min(os.path.getsize(starts), len(plans)) - 1]
seen = {"pid": os.getpid(), "parent": os.getppid(), "signals": []}
kept = []

def write():
    path = os.path.join(directory, f"{name}.{os.path.getsize(starts)}.json")
    with open(path + ".new", "w") as file:
        json.dump(seen, file)
    os.rename(path + ".new", path)

def tell(text, fds=()):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(sock, [text.encode()], list(fds))

def caught(number, _):
    seen["signals"].append(signal.Signals(number).name)
    write()
    if number == signal.SIGTERM and "stubborn" not in plan:
        os._exit(0)

for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, caught)
for step in plan:
    verb, _, rest = step.partition(" ")
    if verb == "tell":
        tell(rest.replace("|", chr(10)))
    elif verb == "store":  # store NAME TEXT...: one message, a file for each text
        stored, *texts = rest.split(" ")
        fds = []
        for text in texts:
            fds.append(os.memfd_create("toy"))
            os.write(fds[-1], text.encode())
        tell("FDSTORE=1\\nFDNAME=" + stored, fds)
    elif verb == "store-pair":  # one end of a connection, whose other end we hold
        ours, theirs = socket.socketpair()
        kept.append(ours)
        tell("FDSTORE=1\\nFDNAME=" + rest, [theirs.fileno()])
        theirs.close()
    elif verb == "hang-up":
        kept.clear()
    elif verb == "look":
        names = os.environ.get("LISTEN_FDNAMES", "").split(":")
        count = int(os.environ.get("LISTEN_FDS", 0))
        seen["listen_pid"] = os.environ.get("LISTEN_PID")
        seen["stored"] = []
        for fd, stored in zip(range(3, 3 + count), names):
            try:
                text = os.pread(fd, 99, 0).decode()
            except OSError:
                text = "?"
            seen["stored"].append([stored, text])
    elif verb == "exit":
        write()
        os._exit(int(rest))
    elif verb == "die":
        write()
        os.kill(os.getpid(), signal.SIGKILL)
write()
while True:
    signal.pause()
"""

DRIVER = """
import json, sys
from appswitch.keeper import daemon
daemon.GRACE = 0.5
try:
    sys.exit(daemon.Keeper(sys.argv[1], json.loads(sys.argv[2])).run())
except daemon.KeeperError as err:
    sys.exit(f"refused: {err}")
"""

READY = ["tell READY=1"]


class Running:
    """A keeper in a process of its own."""

    def __init__(self, tmp_path: Path, **plans: list[list[str]]) -> None:
        self.directory = tmp_path / "run"
        self.notes = tmp_path / "notes"
        self.notes.mkdir(exist_ok=True)
        self.out = tmp_path / "out"
        self.err = tmp_path / "err"
        toy = tmp_path / "toy.py"
        toy.write_text(TOY)
        commands = {
            name: [sys.executable, "-I", "-S", str(toy), name, str(self.notes), json.dumps(plan)]
            for name, plan in plans.items()
        }
        self.upstream = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.upstream.bind("")
        self.upstream.settimeout(10)
        environment = dict(os.environ, AX_NODE_NAME="n1", NOTIFY_SOCKET="@" + self.upstream.getsockname()[1:].decode())
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(self.directory), json.dumps(commands)],
                stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment,
            )  # fmt: skip

    def seen(self, name: str, start: int = 1) -> dict[str, Any]:
        """What a toy wrote at its n-th start."""
        path = self.notes / f"{name}.{start}.json"
        wait_until(path.exists, lambda: f"{path.name}; the keeper said {self.err.read_text()}")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def wait_ready(self) -> str:
        wait_until(lambda: self.out.read_text().endswith("\n"), lambda: f"ready; {self.err.read_text()}")
        return self.out.read_text()

    def wait_said(self, text: str) -> None:
        wait_until(lambda: text in self.err.read_text(), lambda: f"{text!r} in {self.err.read_text()!r}")

    def kill(self, name: str, start: int = 1) -> None:
        os.kill(self.seen(name, start)["pid"], signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def close(self) -> None:
        self.upstream.close()
        if self.process.poll() is None:
            self.stop()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    started: list[Running] = []

    def start(**plans: list[list[str]]) -> Running:
        started.append(Running(tmp_path, **plans))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_ready_when_all_are(run: Any) -> None:
    daemon = run(switch=[READY], control=[["tell STATUS=REST on 1.2.3.4:5|READY=1"]])
    line = f"ax daemon ready: node n1, run directory {daemon.directory}, REST on 1.2.3.4:5"
    assert daemon.wait_ready() == line + "\n"
    assert daemon.upstream.recv(4096).decode() == f"READY=1\nSTATUS={line}"
    assert (daemon.directory / "daemon.pid").read_text() == f"{daemon.process.pid}\n"
    assert daemon.seen("switch")["parent"] == daemon.process.pid


def test_not_ready_before(run: Any) -> None:
    daemon = run(switch=[READY], control=[[]])
    daemon.seen("control")
    daemon.seen("switch")
    assert daemon.stop() == 0
    assert daemon.out.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clean_stop(run: Any, number: int) -> None:
    daemon = run(switch=[READY], control=[READY])
    (daemon.directory.parent / "notes").joinpath("x").touch()
    daemon.wait_ready()
    assert daemon.stop(number) == 0
    assert list(daemon.directory.iterdir()) == []
    assert daemon.seen("switch")["signals"] == daemon.seen("control")["signals"] == ["SIGTERM"]
    assert daemon.err.read_text() == ""
    assert b"READY=1" in daemon.upstream.recv(4096)
    assert daemon.upstream.recv(4096) == b"STOPPING=1"


def test_stubborn_child_is_killed(run: Any) -> None:
    daemon = run(switch=[[*READY, "stubborn"]], control=[READY])
    daemon.wait_ready()
    assert daemon.stop() == 0
    assert daemon.seen("switch")["signals"] == ["SIGTERM"]
    daemon.wait_said("switch did not end")


def test_hang_up_is_passed_on(run: Any) -> None:
    daemon = run(switch=[READY], control=[READY])
    daemon.wait_ready()
    daemon.process.send_signal(signal.SIGHUP)
    for name in ("switch", "control"):
        wait_until(lambda name=name: daemon.seen(name)["signals"] == ["SIGHUP"], f"{name} to be told")
    assert daemon.process.poll() is None


def test_a_dead_child_is_started_again(run: Any) -> None:
    daemon = run(switch=[READY], control=[READY])
    daemon.wait_ready()
    daemon.kill("switch")
    assert daemon.seen("switch", 2)["pid"] != daemon.seen("switch", 1)["pid"]
    daemon.wait_said("switch was killed by SIGKILL; starting it again")
    assert not (daemon.notes / "control.2.json").exists()
    assert daemon.out.read_text().count("\n") == 1, "the ready line is said once"


def test_a_child_that_keeps_dying_before_it_is_ready_is_given_up(run: Any) -> None:
    daemon = run(switch=[READY], control=[["die"]])
    assert daemon.process.wait(20) == 1
    assert "control was killed by SIGKILL, 5 times within 10 s: giving up" in daemon.err.read_text()
    assert daemon.seen("switch")["signals"] == ["SIGTERM"]
    assert list(daemon.directory.iterdir()) == []


def test_a_child_that_keeps_dying_later_is_started_again_and_again(run: Any) -> None:
    """Apps depend on it: to give it up would be worse than whatever kills it."""
    daemon = run(switch=[READY], control=[READY, *[["die"]] * 5, READY])
    daemon.wait_ready()
    daemon.kill("control")
    assert daemon.seen("control", 7)["signals"] == []
    daemon.wait_said("control was killed by SIGKILL; starting it again in 0.8 s")
    assert daemon.process.poll() is None


def test_a_child_that_cannot_start_is_not_tried_again(run: Any) -> None:
    daemon = run(switch=[READY], control=[["exit 3"]])
    assert daemon.process.wait(20) == 1
    assert "control could not start (ended with status 3)" in daemon.err.read_text()
    assert not (daemon.notes / "control.2.json").exists()


def test_stored_descriptors_come_back(run: Any) -> None:
    first = ["look", "store app one two", "store other three", "store bad:name four", *READY]
    daemon = run(switch=[first, ["look", *READY]], control=[READY])
    daemon.wait_ready()
    assert daemon.seen("switch")["stored"] == []
    daemon.kill("switch")
    again = daemon.seen("switch", 2)
    assert again["stored"] == [["app", "one"], ["app", "two"], ["other", "three"], ["stored", "four"]]
    assert again["listen_pid"] == str(again["pid"])
    daemon.kill("switch", 2)
    assert daemon.seen("switch", 3)["stored"] == again["stored"], "they are kept, not given away"


def test_removed_descriptors_do_not(run: Any) -> None:
    first = ["store app one two", "store other three", "tell FDSTOREREMOVE=1|FDNAME=app", *READY]
    daemon = run(switch=[first, ["look", *READY]], control=[READY])
    daemon.wait_ready()
    daemon.kill("switch")
    assert daemon.seen("switch", 2)["stored"] == [["other", "three"]]


def test_what_a_child_stored_is_for_that_child(run: Any) -> None:
    daemon = run(switch=[["store app one", *READY]], control=[READY, ["look", *READY]])
    daemon.wait_ready()
    daemon.kill("control")
    assert daemon.seen("control", 2)["stored"] == []


def test_a_hung_up_descriptor_is_dropped(run: Any) -> None:
    daemon = run(switch=[["store-pair gone", "hang-up", "store app one", *READY], ["look", *READY]], control=[READY])
    daemon.wait_ready()
    daemon.kill("switch")
    assert daemon.seen("switch", 2)["stored"] == [["app", "one"]]


def test_strangers_are_not_listened_to(run: Any) -> None:
    daemon = run(switch=[[]], control=[READY])
    daemon.seen("switch")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(daemon.directory / "notify.sock"))
        socket.send_fds(sock, [b"READY=1\nFDSTORE=1"], [sock.fileno()])
    daemon.wait_said(f"ignored a message on the notify socket from pid {os.getpid()}, which is not ours")
    assert daemon.out.read_text() == ""


def test_one_daemon_a_directory(run: Any) -> None:
    first = run(switch=[READY], control=[READY])
    first.wait_ready()
    refused = subprocess.run(
        [sys.executable, "-c", DRIVER, str(first.directory), "{}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert refused.returncode == 1
    assert refused.stderr == f"refused: a daemon is running in {first.directory} already (pid {first.process.pid})\n"
    assert first.process.poll() is None
    assert first.stop() == 0
    again = run(switch=[READY], control=[READY])
    again.wait_ready()


def test_what_a_killed_daemon_left_is_swept(run: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "run" / "rest.sock"))
    (tmp_path / "run" / "daemon.pid").write_text("1\n")
    daemon = run(switch=[READY], control=[READY])
    daemon.wait_ready()
    assert not (tmp_path / "run" / "rest.sock").exists()


def _succeed(first: Any, run: Any, monkeypatch: pytest.MonkeyPatch, variable: str, **plans: Any) -> Any:
    """Kill a keeper, and start another one in its place."""
    first.process.kill()
    first.process.wait()
    (first.notes.parent / "out").unlink()
    monkeypatch.setenv(variable, "1")
    second = run(**plans)
    monkeypatch.delenv(variable)
    return second


def test_who_runs_is_taken_over(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a keeper that they started, as by one that somebody else starts; who has died is started again."""
    first = run(switch=[READY], control=[READY])
    first.wait_ready()
    switch, control = first.seen("switch")["pid"], first.seen("control")["pid"]
    first.kill("control")
    first.seen("control", 2)
    second = _succeed(first, run, monkeypatch, "AX_ADOPT", switch=[READY], control=[READY])
    second.wait_said(f"took over switch, which runs (pid {switch})")
    assert not (second.notes / "switch.2.json").exists()
    assert str(control) not in (second.directory / "children").read_text()
    os.kill(switch, signal.SIGKILL)
    second.wait_said("switch has ended; starting it again")
    second.seen("switch", 2)
    assert second.stop() == 0
    assert second.seen("switch", 2)["signals"] == ["SIGTERM"]
    assert second.seen("control", 2)["signals"] == ["SIGTERM"], "it was taken over as well, and ended"


def test_who_runs_is_ended_if_it_is_to_be_forgotten(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(switch=[READY], control=[READY])
    first.wait_ready()
    switch = first.seen("switch")["pid"]
    second = _succeed(first, run, monkeypatch, "AX_CLEAN", switch=[READY], control=[READY])
    second.wait_ready()
    assert place.started(switch) == ""
    assert second.seen("switch", 2)["pid"] != switch


def test_runs_by_its_path_with_nothing_of_ours() -> None:
    """As `ax daemon` runs it: isolated, without site-packages."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AX_")}
    done = subprocess.run(
        [sys.executable, "-I", "-S", program.__file__],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=20,
    )
    assert done.returncode == 1
    assert done.stderr == "ax daemon: AX_RUN_DIR is not set (the keeper is started by `ax daemon`)\n"


def test_logs_json(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AX_LOG_FORMAT", "json")
    daemon = run(switch=[READY], control=[["exit 3"]])
    assert daemon.process.wait(20) == 1
    said = json.loads(daemon.err.read_text())
    assert (said["level"], said["part"]) == ("error", "keeper")
    assert "control could not start" in said["event"]


# --- directories -----------------------------------------------------------------------------------------------------


def test_directory_is_private(tmp_path: Path) -> None:
    made = tmp_path / "a" / "b"
    place.prepare_directory(str(made))
    assert made.stat().st_mode & 0o777 == (0o755 if os.geteuid() == 0 else 0o700)
    place.prepare_directory(str(made))


def test_directory_that_others_may_write(tmp_path: Path) -> None:
    made = tmp_path / "run"
    made.mkdir()
    made.chmod(0o777)
    with pytest.raises(place.KeeperError, match=r"may be written by others \(mode 0777\)"):
        place.prepare_directory(str(made))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_directory_of_another_user(tmp_path: Path) -> None:
    made = tmp_path / "run"
    made.mkdir()
    os.chown(made, 65534, 65534)
    with pytest.raises(place.KeeperError, match="belongs to uid 65534, not to uid 0"):
        place.prepare_directory(str(made))


def test_directory_that_is_none(tmp_path: Path) -> None:
    made = tmp_path / "run"
    made.touch()
    with pytest.raises(place.KeeperError, match="is not a directory"):
        place.prepare_directory(str(made))
    with pytest.raises(place.KeeperError, match="cannot make the run directory"):
        place.prepare_directory(str(made / "below"))


def test_directory_with_too_long_a_name(tmp_path: Path) -> None:
    with pytest.raises(place.KeeperError, match="too long for a Unix socket"):
        place.prepare_directory(str(tmp_path / ("x" * 100)))


# --- small parts -----------------------------------------------------------------------------------------------------


def test_back_off() -> None:
    child = children.Child("x", [])
    assert [child.note_death(now) for now in (0, 1, 2, 3, 4, 5, 6)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert child.note_death(100) == 0.0, "what was long ago does not count"


def test_names_of_descriptors() -> None:
    names = {"app-1": "app-1", "": "stored", "a:b": "stored", "a\tb": "stored", "ä": "stored", "x" * 256: "stored"}
    assert {name: fd_name({"FDNAME": name}) for name in names} == names
    assert fd_name({}) == "stored"


def test_store_has_room_for_what_can_be_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store = children.FdStore()
    monkeypatch.setattr(children.resource, "getrlimit", lambda _: (2 * 2 + 63, 0))
    assert [store.add("abc", fd) for fd in (10, 11, 12)] == [True, True, False]
    assert store.names == 8
    assert store.take(lambda name, fd: fd == 10) == [10]
    assert store.names == 4
    assert store.add("abc", 13, poll=False)
    assert store.entries == [("abc", 11), ("abc", 13)]
    assert store.unpolled == {13}


def test_children_do_not_inherit_our_manager() -> None:
    mine = {"NOTIFY_SOCKET": "/run/systemd/notify", "LISTEN_FDS": "1", "WATCHDOG_USEC": "5", "AX_PORTS": "1"}
    theirs = children.child_environment(mine, "/x/notify.sock")
    assert theirs == {"AX_PORTS": "1", "NOTIFY_SOCKET": "/x/notify.sock", "AX_KEEPER_PID": str(os.getpid())}
