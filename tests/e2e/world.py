"""Where the programs of these tests run: each on an address of its own, as under ``ax run``.

Two worlds offer the same: `Switched`, under ax, and `Bare`, in which the same programs sit in ordinary network
namespaces on a bridge. A test that passes bare and not under ax has found a fault of ax; ``pytest tests/e2e --bare``
runs everything that plain Linux can do at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness import Addresses, App, Daemon, wait_until

PATIENCE = 15.0
"""Seconds that anything may take before a test gives up. Generous: a busy machine is no fault."""

PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else "python3"
"""The system's own interpreter, which every user may run."""

PROGRAMS = Path(__file__).parent / "programs"

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "http_proxy": "",
    "https_proxy": "",
    "all_proxy": "",
    "no_proxy": "*",
}
"""What programs see of the environment: nothing of who runs the tests matters."""


def authority(address: str, port: int) -> str:
    """``address:port``, IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def url(address: str, port: int = 80, path: str = "/") -> str:
    return f"http://{authority(address, port)}{path}"


def wait_output(app: App, pattern: str, patience: float = PATIENCE) -> re.Match[str]:
    """Waits until what the app wrote to standard output or error matches; fails at once when it ends without."""

    def seen() -> re.Match[str] | None:
        running = app.running()
        match = re.search(pattern, app.stdout) or re.search(pattern, app.stderr)
        assert match or running, f"ended without {pattern!r}\n{app}"
        return match

    found = wait_until(seen, lambda: f"{pattern!r} in the output of\n{app}", patience)
    assert found
    return found


def say(app: App, data: bytes | str) -> None:
    """Writes to the standard input of an app that was started with ``stdin=PIPE``."""
    assert app.process.stdin is not None
    app.process.stdin.write(data.encode() if isinstance(data, str) else data)
    app.process.stdin.flush()


def hang_up(app: App) -> None:
    """Closes the standard input of an app that was started with ``stdin=PIPE``."""
    assert app.process.stdin is not None
    with contextlib.suppress(OSError):
        app.process.stdin.close()


class World(ABC):
    """Hands out addresses and runs programs on them. As a context manager it ends what it started."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self.apps: list[App] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def start(
        self,
        *argv: str | Path,
        ip: str | None = None,
        listening: int | Sequence[int] = (),
        serving: int | Sequence[int] = (),
        options: Sequence[str] = (),
        user: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = subprocess.DEVNULL,
        patience: float = PATIENCE,
    ) -> App:
        """Starts a program on ``ip`` and waits until it listens on TCP, is ``serving`` UDP ports, and has its name.

        Without ``ip`` it has a fresh address; "v4,v6" gives it one of each family, and "" none.
        """
        ip = self.addresses.v4() if ip is None else ip
        words = self.command([str(word) for word in argv], ip, options, user)
        app = App(words, self.environment(env), cwd or self.cwd, stdin=stdin, ip=ip, prepare=self.prepare)
        self._stack.enter_context(app)
        if stdin == subprocess.PIPE:
            self._stack.callback(hang_up, app)
        self.apps.append(app)
        for port in [listening] if isinstance(listening, int) else listening:
            self.wait_listening(app, port, patience=patience)
        for port in [serving] if isinstance(serving, int) else serving:
            self.wait_listening(app, port, patience=patience, proto="udp")
        if "--name" in options:
            self.wait_known(app)
        return app

    def hold(self) -> str:
        """An address at which an app goes on to live, so that it stays refused, not unknown, when servers there end."""
        return str(self.start("sleep", "infinity").ip)

    def run(
        self,
        *argv: str | Path,
        ip: str | None = None,
        options: Sequence[str] = (),
        user: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        input: str | bytes = b"",
        patience: float = PATIENCE,
        status: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end; asserts its exit ``status`` unless that is None."""
        ip = self.addresses.v4() if ip is None else ip
        words = self.command([str(word) for word in argv], ip, options, user)
        with tempfile.TemporaryFile() as source:
            source.write(input.encode() if isinstance(input, str) else input)
            source.seek(0)
            with App(
                words, self.environment(env), cwd or self.cwd, stdin=source.fileno(), ip=ip, prepare=self.prepare
            ) as app:
                ended = app.wait(patience)
                assert status is None or ended == status, f"status {ended}, not {status}, of\n{app}"
                return subprocess.CompletedProcess(words, ended, app.stdout, app.stderr)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return os.environ | ENVIRONMENT | dict(extra or {})

    @property
    def cwd(self) -> Path | None:
        return None

    @property
    def prepare(self) -> Callable[[], None] | None:
        """What the child does before anything else."""
        return None

    @abstractmethod
    def command(self, argv: Sequence[str], ip: str, options: Sequence[str], user: str) -> list[str]:
        """The command that runs ``argv`` here."""

    @abstractmethod
    def wait_listening(
        self, app: App, port: int, count: int = 1, patience: float = PATIENCE, proto: str = "tcp"
    ) -> None:
        """Waits until ``count`` sockets of the app listen on ``port``; fails at once when it ends."""

    @abstractmethod
    def wait_known(self, app: App) -> None:
        """Waits until the app's name is known, where there are names; or it has ended."""


class Switched(World):
    """Programs under ``ax run``. ``transport`` is asked for by every app that does not say otherwise."""

    def __init__(self, daemon: Daemon, addresses: Addresses, transport: str = "") -> None:
        super().__init__(addresses)
        self.daemon = daemon
        self.transport = transport

    @property
    def cwd(self) -> Path | None:
        return self.daemon.cwd()

    @property
    def prepare(self) -> Callable[[], None] | None:
        return self.daemon.user.become if self.daemon.user else None

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return self.daemon.environment(ENVIRONMENT | dict(extra or {}))

    def command(self, argv: Sequence[str], ip: str, options: Sequence[str], user: str) -> list[str]:
        become = ["--user", user] if user else []
        return self.daemon.run_command(
            argv,
            ip=[one for one in ip.split(",") if one],
            transport=self.transport or None,
            options=[*become, *options],
        )

    def wait_listening(
        self, app: App, port: int, count: int = 1, patience: float = PATIENCE, proto: str = "tcp"
    ) -> None:
        """Asks the daemon's service table for the sockets of this very app."""

        def there() -> bool:
            assert app.running(), f"ended before it listened on {port}\n{app}"
            pid = self.daemon.pid_of(app)
            ids = {row["app"]["id"] for row in self.daemon.get("apps") if row["pid"] == pid}
            rows = [row for row in self.daemon.get("servers") if row["app_id"] in ids and row["proto"] == proto]
            return sum(int(row["service_port"]) == port for row in rows) >= count

        wait_until(there, lambda: f"{count} on port {port}, but {self.daemon.get('servers')}\n{app}", patience)

    def wait_known(self, app: App) -> None:
        def there() -> bool:
            pid = self.daemon.pid_of(app)
            return not app.running() or any(row["pid"] == pid for row in self.daemon.get("apps"))

        wait_until(there, lambda: f"an app of the daemon's\n{app}")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Bare(World):
    """What ax is compared with: each address a network namespace on one bridge. Needs root."""

    def __init__(self, addresses: Addresses) -> None:
        super().__init__(addresses)
        self._namespaces: dict[str, str] = {}
        self._hub = f"bare{os.getpid()}"
        self._add(self._hub)
        _ip("-n", self._hub, "link", "add", "hub", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "hub", "up")

    def command(self, argv: Sequence[str], ip: str, options: Sequence[str], user: str) -> list[str]:
        assert not options, "bare Linux has no options of ax"
        become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups"] if user else []
        return ["ip", "netns", "exec", self._namespace(ip), *become, *argv]

    def wait_listening(
        self, app: App, port: int, count: int = 1, patience: float = PATIENCE, proto: str = "tcp"
    ) -> None:
        assert app.ip is not None
        kind = "-Hltn" if proto == "tcp" else "-Hlun"
        words = ["ip", "netns", "exec", self._namespace(app.ip), "ss", kind, f"sport = :{port}"]

        def there() -> bool:
            assert app.running(), f"ended before it listened on {port}\n{app}"
            found = subprocess.run(words, check=True, capture_output=True).stdout.splitlines()
            return len(found) >= count

        wait_until(there, lambda: f"{count} on port {port}\n{app}", patience)

    def wait_known(self, app: App) -> None:
        assert app.running(), f"it has no name\n{app}"

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._stack.callback(_ip, "netns", "delete", name)

    def _namespace(self, ip: str) -> str:
        if ip not in self._namespaces:
            self._namespaces[ip] = self._make(ip or self.addresses.v4(), len(self._namespaces))
        return self._namespaces[ip]

    def _make(self, ip: str, serial: int) -> str:
        name, link = f"{self._hub}-{serial}", f"v{serial}"
        self._add(name)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip(
            "-n", self._hub, "link", "add", link, "master", "hub", "type", "veth", "peer", "name", "eth0", "netns", name
        )
        _ip("-n", self._hub, "link", "set", link, "up")
        _ip("-n", name, "link", "set", "eth0", "up")
        for address in ip.split(","):
            if ":" in address:
                _ip("-n", name, "address", "add", f"{address}/32", "dev", "eth0", "nodad")
            else:
                _ip("-n", name, "address", "add", f"{address}/8", "dev", "eth0")
        return name
