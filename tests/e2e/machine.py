"""A machine whose PID 1 is systemd, with the unit that is shipped: a real service manager, and the daemon under it.

It has namespaces of its own (pid, mount, cgroup, network, IPC, UTS), the programs of this machine, and no other
service: what systemd does stays inside. Its unit of AppSwitch is ``packaging/appswitch.service``, and a drop-in, as an
administrator would write it, says where ``ax`` is installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from e2e.world import PROGRAMS
from harness import App, Daemon, marks, wait_until

from appswitch.keeper.directory import ROSTER

SYSTEMD = Path("/lib/systemd/systemd")
UNIT = Path(__file__).parents[2] / "packaging" / "appswitch.service"
PATIENCE = 40.0  # seconds: a busy machine is no fault
NEW = ("--mount", "--pid", "--fork", "--cgroup", "--net", "--ipc", "--uts")
TARGETS = {
    "sysinit": "",
    "basic": "Requires=sysinit.target\nAfter=sysinit.target",
    "network": "",
    "shutdown": "",
    "default": "Requires=basic.target\nWants=appswitch.service\nAllowIsolate=yes",
}
"""All that the unit needs of others, and nothing that would set anything up."""


def impossible() -> str:
    """Why no systemd can be PID 1 of anything here; empty: it can."""
    if os.geteuid() != 0:
        return "it takes root to make namespaces in which systemd is PID 1"
    if "\tcgroup2\n" not in Path("/proc/filesystems").read_text():
        return "this kernel has no cgroup2 (CONFIG_CGROUPS)"
    script = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup; d=$(mktemp -d /sys/fs/cgroup/axt-XXXXXX); rmdir "$d"'
    tried = subprocess.run(["unshare", *NEW, "sh", "-ec", script], capture_output=True, text=True, check=False)
    return f"no namespaces and control groups of one's own on this machine: {tried.stderr}" if tried.returncode else ""


class Machine:
    """Use as a context manager: it is switched on, and off again."""

    def __init__(self, drop_in: str) -> None:
        """``drop_in``: of the unit."""
        assert SYSTEMD.exists(), "systemd is not installed: run `make setup` as root"
        self._place = Path(tempfile.mkdtemp(prefix="axt-machine-", dir="/tmp"))
        self._place.chmod(0o755)
        self.root = self._place / "root"
        self.log = self.root / "var/log/appswitch.log"
        self._drop_ins = self.root / "etc/systemd/system/appswitch.service.d"
        self._lay_out(drop_in)

    def _lay_out(self, drop_in: str) -> None:
        for one in Path("/").iterdir():
            if one.is_symlink():
                (self.root / one.name).parent.mkdir(exist_ok=True)
                (self.root / one.name).symlink_to(one.readlink())
            elif one.is_dir():
                (self.root / one.name).mkdir(parents=True)
        units = self.root / "etc/systemd/system"
        for directory in (self._drop_ins, self.root / "var/lib", self.root / "var/tmp", self.log.parent):
            directory.mkdir(parents=True)
        for name, lines in TARGETS.items():
            (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n{lines}\n")
        shutil.copy(UNIT, units)
        (self._drop_ins / "here.conf").write_text(drop_in)
        for name in ("passwd", "group", "nsswitch.conf", "services", "ld.so.cache", "alternatives"):
            source, target = Path("/etc") / name, self.root / "etc" / name
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            elif source.exists():
                shutil.copy(source, target)
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        for name in ("resolv.conf", "machine-id"):
            (self.root / "etc" / name).touch()

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if name != marks.TEST}
        name = f"{self._place.name}-{os.getpid()}"
        words = ["unshare", "--mount", "sh", PROGRAMS / "machine.sh", self._place, name]
        self._app = App([str(word) for word in words], environment)
        try:
            self.pid = wait_until(self._systemd, lambda: f"systemd\n{self._app}", PATIENCE)
        except BaseException as error:
            self._end()
            error.add_note(str(self._app))
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            error.add_note(f"{self._app}\nthe daemon: {self.log.read_text()}")
        status = self._end()
        assert status == 0, self._app

    def _end(self) -> int:
        """With PID 1 the kernel ends all that is in its namespace; then the script removes the control group."""
        with contextlib.suppress(OSError):
            for unshare in marks.children(self._app.pid):
                for pid in marks.children(unshare) or [unshare]:
                    os.kill(pid, signal.SIGKILL)
        status = self._app.wait()
        self._app.close()
        shutil.rmtree(self._place)
        return status

    def _systemd(self) -> int:
        """Its pid here, when it takes commands."""
        assert self._app.running(), self._app
        pid = self._app.pid  # the script, to which unshare(1) has given way
        with contextlib.suppress(OSError, IndexError):  # other commands of the script come and go
            for _ in range(2):  # unshare, systemd
                pid = marks.children(pid)[0]
            return pid if Path(f"/proc/{pid}/root/run/systemd/private").exists() else 0
        return 0

    def enter(self, *words: str) -> list[str]:
        """The words of a command that is run there."""
        namespaces = ("--mount", "--pid", "--cgroup", "--net", "--ipc", "--uts")
        return ["nsenter", f"--target={self.pid}", *namespaces, "--", *words]

    def run(self, *words: str) -> str:
        """Run a command there to its end; what it said."""
        done = subprocess.run(self.enter(*words), capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}\nthe daemon: {self.log.read_text()}"
        return done.stdout

    def systemctl(self, *words: str) -> None:
        self.run("systemctl", *words)

    def property(self, name: str) -> str:
        """Of the unit: ``systemctl show``."""
        return self.run("systemctl", "show", "--value", f"--property={name}", "appswitch").strip()

    @contextlib.contextmanager
    def drop_in(self, name: str, text: str) -> Iterator[None]:
        """The unit is another one for a while: ``systemctl edit``."""
        path = self._drop_ins / f"{name}.conf"
        path.write_text(text)
        self.systemctl("daemon-reload")
        try:
            yield
        finally:
            path.unlink()
            self.systemctl("daemon-reload")


def _names(pid: int) -> list[int]:
    """The pids of a process in its namespaces, the outermost first: NSpid of proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("NSpid:")]
    return [int(word) for word in line.split()[1:]]


class Installed(Daemon):
    """The daemon as a service of a `Machine`; what is run on it is run there."""

    def __init__(self) -> None:
        super().__init__()
        self.run_dir.rmdir()
        self.start_command = f"{sys.executable} -m appswitch.cli daemon"
        python_path = os.environ.get("PYTHONPATH")
        lines = [
            "[Service]",
            "ExecStart=",
            f"ExecStart={self.start_command}",
            "StandardOutput=append:/var/log/appswitch.log",
            "StandardError=append:/var/log/appswitch.log",
            f"Environment=PYTHONPATH={python_path}" if python_path else "",
        ]
        self.machine = Machine("\n".join(lines) + "\n")

    def start(self) -> Self:
        self.machine.__enter__()
        self.run_dir = Path(f"/proc/{self.machine.pid}/root/run/appswitch")
        try:
            self.wait_active()
        except BaseException as error:
            self.machine.__exit__(type(error), error, None)
            raise
        Daemon.live.append(self)
        return self

    def wait_active(self) -> None:
        def told() -> str:
            return self.machine.property("ActiveState")

        wait_until(lambda: told() == "active", lambda: f"active, not {told()}: {self.output}", PATIENCE)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        Daemon.live.remove(self)
        try:
            if error is None:
                self.stop()
        finally:
            self.machine.__exit__(kind, error, tb)

    def stop(self) -> None:
        """``systemctl stop``: nothing is left, nothing was wrong."""
        for what in ("apps", "servers", "sockets"):
            wait_until(lambda what=what: not self.known(what), lambda what=what: str(self.known(what)))
        assert not self.differences()
        self.machine.systemctl("stop", "appswitch")
        assert self.machine.property("Result") == "success"
        assert self.machine.property("NFileDescriptorStore") == "0"
        assert not self.run_dir.exists()
        assert "Traceback" not in self.output

    @property
    def output(self) -> str:
        return self.machine.log.read_text()

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return super().environment({"AX_RUN_DIR": "/run/appswitch"} | dict(extra or {}))

    def command(self, *arguments: str) -> list[str]:
        return self.machine.enter(*super().command(*arguments))

    def parts(self) -> dict[str, int]:
        """The pids there of the switch and control: the keeper's own list of them."""
        lines = (self.run_dir / ROSTER).read_text().splitlines()
        return {name: int(pid) for name, pid, _ in map(str.split, lines)}

    def pid_of(self, app: App) -> int:
        children = marks.children(app.pid)
        return _names(children[0])[-1] if children else -1  # 0: of an app that another switch has attached
