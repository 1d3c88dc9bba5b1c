"""A daemon of the tests' own, and everything that is run on it."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from appswitch.parent import started
from harness import marks
from harness.app import App
from harness.rootless import Rootless
from harness.waiting import DeadlineError, wait_until

SLOWER = 4 if "AX_SANITIZED" in os.environ else 1  # scripts/sanitize.sh: every access is looked at
READY = 20.0 * SLOWER  # seconds a daemon may take to say that it is ready, on a busy machine
GONE = 15.0  # seconds it may take to end


SIZES = ("apps", "services", "datagram_sockets", "datagram_peers", "parked", "held", "waiting", "splices")


class Daemon:
    """``ax daemon`` in a run directory of its own, from its ready line to a clean end.

    On the way out the daemon must have forgotten every app, server and socket, must end with status 0 on SIGTERM,
    and must leave neither a process nor a file; its tables must be what the kernel says. Use the methods to run things
    on it.
    """

    live: ClassVar[list[Daemon]] = []

    def __init__(self, *options: str, env: Mapping[str, str] | None = None, user: Rootless | None = None) -> None:
        self.options = options
        self.user = user
        self.id = uuid.uuid4().hex
        self.run_dir = Path(tempfile.mkdtemp(prefix="axt-", dir="/tmp"))  # short: names of Unix sockets are
        self.run_dir.chmod(0o755)
        if user is not None:
            os.chown(self.run_dir, user.uid, user.gid)
        self._extra = dict(env or {})
        self.app: App | None = None
        self.uses = 0  # commands that were run on it, and requests that change something
        self.sizes_then: tuple[int, dict[str, int]] | None = None  # after so many uses: see `leaks`
        self.strict = True  # a test that breaks the daemon on purpose turns the checks at the end off

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it and wait for its ready line."""
        environment = self.environment()
        environment.pop(marks.TEST, None)
        environment[marks.DAEMON] = self.id
        environment |= self._extra
        command = self.command("daemon", "--rest-port", "0", *self.options)
        self.app = App(command, environment, cwd=self.cwd(), prepare=self.user.become if self.user else None)
        try:
            self.app.wait_for("ready", READY)
        except BaseException as error:
            error.add_note(self.kill())
            raise
        Daemon.live.append(self)
        return self

    def sizes(self) -> dict[str, int]:
        """How many entries its tables have that no app may leave behind; empty while it cannot tell."""
        try:
            status, told = self.rest("GET", "/v1/status")
        except OSError:
            return {}
        return {name: int(told["stats"].get(name, 0)) for name in SIZES} if status == 200 else {}

    def differences(self) -> list[str]:
        """What ``ax debug check`` finds: between its tables and the kernel's, descriptors that nothing owns."""
        status, told = self.rest("GET", "/v1/debug/check")
        assert status == 200, (status, told)
        return [f"{one['kind']}: {one['subject']}: {one['detail']}" for one in told["differences"]]

    def stop(self) -> None:
        """SIGTERM, and the checks of a clean end."""
        assert self.app is not None
        keeper = self.keeper()
        if not (keeper or self.strict):
            self.kill()
            return
        assert keeper, f"the daemon ended by itself\n{self.app}"
        problems: list[str] = []
        for what in ("apps", "servers", "sockets"):
            try:
                wait_until(lambda what=what: not self.known(what), "", 5.0)
            except DeadlineError:
                problems.append(f"{what} not forgotten: {self.known(what)}")
        if self.strict:
            problems += self.differences()
        os.kill(keeper, signal.SIGTERM)
        try:
            if keeper == self.app.pid:
                status = self.app.wait(GONE)
                if status != 0:
                    problems.append(f"the daemon's exit status is {status}")
            else:
                wait_until(lambda: not started(keeper), "the keeper to end", GONE)
        except DeadlineError as late:
            problems.append(f"the daemon did not end: {late}")
        problems += [f"left behind: {told}" for told in marks.reap(marks.DAEMON, self.id)]
        left = [str(path.relative_to(self.run_dir)) for path in self.run_dir.rglob("*")]
        if left:
            problems.append(f"files left in the run directory: {left}")
        output = str(self.app)
        if "Traceback" in output:
            problems.append("a traceback in the daemon's output")
        self._remove()
        if self.strict:
            assert not problems, "\n".join([*problems, output])

    def kill(self) -> str:
        """End it without a check; returns what it said."""
        assert self.app is not None
        self.app.kill()
        while marks.reap(marks.DAEMON, self.id, timeout=0):  # those that are left start another keeper
            pass
        output = str(self.app)
        self._remove()
        return output

    def _remove(self) -> None:
        if self in Daemon.live:
            Daemon.live.remove(self)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        if self.app is not None:
            self.app.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            self.stop()
        else:
            error.add_note(self.kill())

    @property
    def pid(self) -> int:
        """Of the keeper."""
        assert self.app is not None
        return self.app.pid

    def keeper(self) -> int:
        """The pid of the keeper that there is now: the first one, or who came after it. 0: there is none."""
        assert self.app is not None
        if self.app.running():
            return self.app.pid
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.run_dir / "daemon.pid").read_text())
            return pid if started(pid) else 0
        return 0

    def pid_of(self, app: App) -> int:
        """Of what runs on it, as it has it: where it is in a pid namespace of its own that is another one."""
        return app.pid

    def processes(self) -> list[int]:
        """Keeper, switch and control, and what they have started."""
        return marks.marked(marks.DAEMON, self.id)

    def holders(self) -> list[int]:
        """Those that hold a switch's descriptors: one, but for the moments after its death."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "ax-hold\n":
                    found.append(pid)
        return found

    @property
    def output(self) -> str:
        """What it wrote so far."""
        assert self.app is not None
        return self.app.stdout + self.app.stderr

    # -- running things on it -------------------------------------------------------------------------------------

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """For a process that talks to this daemon."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AX_")}
        environment["AX_RUN_DIR"] = str(self.run_dir)
        environment["PYTHONUNBUFFERED"] = "1"
        if self.user is not None:
            environment |= self.user.environment()
        return environment | dict(extra or {})

    def cwd(self) -> Path | None:
        """Where commands are run: one that the user can reach."""
        return self.user.home if self.user else None

    def command(self, *arguments: str) -> list[str]:
        """The words of an ``ax`` command."""
        self.uses += 1
        python = self.user.python if self.user else sys.executable
        return [python, "-m", "appswitch.cli", *arguments]

    def run_command(
        self,
        command: Sequence[str],
        *,
        ip: str | Sequence[str] | None = None,
        name: str | None = None,
        labels: str | None = None,
        transport: str | None = None,
        options: Sequence[str] = (),
    ) -> list[str]:
        """The words of ``ax run … -- command``."""
        words = ["run"]
        for one in [ip] if isinstance(ip, str) else ip or []:
            words += ["--ip", one]
        words += ["--name", name] if name else []
        words += ["--labels", labels] if labels else []
        words += ["--transport", transport] if transport else []
        return self.command(*words, *options, "--", *command)

    def ax(
        self,
        *arguments: str,
        timeout: float = 30.0,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Any ``ax`` command to completion. ``check``: fail on a status other than 0."""
        return self._complete(self.command(*arguments), timeout, input, env, check)

    def run(
        self,
        *command: str,
        ip: str | Sequence[str] | None = None,
        name: str | None = None,
        labels: str | None = None,
        transport: str | None = None,
        options: Sequence[str] = (),
        timeout: float = 30.0,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """``ax run … -- command`` to completion. ``check``: fail on a status other than 0."""
        words = self.run_command(command, ip=ip, name=name, labels=labels, transport=transport, options=options)
        return self._complete(words, timeout, input, env, check)

    def spawn(
        self,
        *command: str,
        ip: str | Sequence[str] | None = None,
        name: str | None = None,
        labels: str | None = None,
        transport: str | None = None,
        options: Sequence[str] = (),
        listening: int | Sequence[int] = (),
        timeout: float = 10.0,
        stdin: int | None = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> App:
        """``ax run … -- command`` in the background, after it listens on all the ports ``listening``."""
        words = self.run_command(command, ip=ip, name=name, labels=labels, transport=transport, options=options)
        first = ip if ip is None or isinstance(ip, str) else ip[0]
        app = App(
            words,
            self.environment(env),
            cwd=cwd or self.cwd(),
            stdin=stdin,
            ip=first,
            prepare=self.user.become if self.user else None,
        )
        try:
            for port in [listening] if isinstance(listening, int) else listening:
                self.wait_listening(port, app=app, timeout=timeout)
        except BaseException as error:
            with app:
                app.stop()
                error.add_note(str(app))
            raise
        return app

    def _complete(
        self, words: list[str], timeout: float, given: str | None, env: Mapping[str, str] | None, check: bool
    ) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryFile("w+") as source:
            source.write(given or "")
            source.seek(0)
            with App(
                words,
                self.environment(env),
                cwd=self.cwd(),
                stdin=source.fileno(),
                prepare=self.user.become if self.user else None,
            ) as app:
                status = app.wait(timeout)
                assert status == 0 or not check, f"{app}\nthe daemon: {self.app}"
                return subprocess.CompletedProcess(words, status, app.stdout, app.stderr)

    # -- what the daemon knows --------------------------------------------------------------------------------------

    def rest(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """A request over the daemon's Unix socket: status and decoded JSON (None when there is none)."""
        connection = _UnixConnection(str(self.run_dir / "rest.sock"))
        self.uses += method != "GET"
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, json.loads(data) if data else None
        finally:
            connection.close()

    def get(self, what: str) -> list[dict[str, Any]]:
        """The rows of ``/v1/WHAT``."""
        status, rows = self.rest("GET", f"/v1/{what}")
        assert status == 200, (status, rows)
        if isinstance(rows, dict):
            (rows,) = (value for value in rows.values() if isinstance(value, list))
        assert isinstance(rows, list), rows
        return rows

    def known(self, what: str) -> list[dict[str, Any]]:
        """The rows of ``/v1/WHAT``, but for apps whose launcher never came: their registration expires by itself."""
        return [row for row in self.get(what) if row.get("phase") != "registered"]

    def servers(self, port: int, ip: str | None = None) -> list[dict[str, Any]]:
        """The lines of the service table for a port, and for an app's or service's IP when given."""
        apps = {row["app"]["id"]: row["app"].get("ips", ()) for row in self.get("apps")} if ip else {}
        return [
            row
            for row in self.get("servers")
            if int(row["service_port"]) == port
            and (ip is None or any(_same(one, ip) for one in (row["service_ip"], *apps.get(row["app_id"], ()))))
        ]

    def wait_listening(
        self, port: int, ip: str | None = None, *, app: App | None = None, count: int = 1, timeout: float = 10.0
    ) -> None:
        """Wait until at least ``count`` sockets listen there. Fails at once when ``app`` ended."""
        where = ip or (app.ip if app else None)

        def there() -> bool:
            assert app is None or app.running(), f"ended before it listened on {port}\n{app}"
            return len(self.servers(port, where)) >= count

        wait_until(there, lambda: f"{count} listening on {where}:{port}, but {self.get('servers')}\n{app}", timeout)

    def wait_idle(self, timeout: float = 10.0) -> None:
        """Wait until no app, server or socket is known."""
        for what in ("apps", "servers", "sockets", "connections"):
            wait_until(lambda what=what: not self.known(what), lambda what=what: f"{what}: {self.known(what)}", timeout)


def _same(one: str, other: str) -> bool:
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return one == other


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(self._path)
