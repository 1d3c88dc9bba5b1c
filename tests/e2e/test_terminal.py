"""A terminal belongs to the program under `ax run` as it would without."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.world import PYTHON, World
from harness import DeadlineError, wait_until


class Terminal:
    """A pseudo-terminal and the session that was started on it."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                os.execvpe(words[0], words, environment)
            finally:
                os._exit(99)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str, patience: float = 15.0) -> re.Match[str]:
        """Reads until the pattern has come, and forgets what came up to its end."""
        deadline = time.monotonic() + patience
        while not (match := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise DeadlineError(f"no {pattern!r} in {self.seen!r}")
            try:
                data = os.read(self.fd, 4096)
            except OSError:  # EIO: the last holder of the terminal is gone
                data = b""
            if not data:
                raise AssertionError(f"the terminal ended before {pattern!r}: {self.seen!r}")
            self.seen += data.decode(errors="replace")
        self.seen = self.seen[match.end() :]
        return match

    def foreground(self) -> None:
        """Waits until a job of the shell has the terminal, and runs: only then do keys reach it."""

        def has_it() -> bool:
            group = os.tcgetpgrp(self.fd)
            return group != self.pid and Path(f"/proc/{group}/stat").read_text().rpartition(")")[2].split()[0] != "T"

        wait_until(has_it, "a job in the foreground")

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self, patience: float = 15.0) -> int:
        """The session leader's exit status, negative for a signal."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.01)[0]:
                try:
                    self.seen += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    time.sleep(0.01)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise DeadlineError(f"the session goes on: {self.seen!r}")

    def close(self) -> None:
        os.close(self.fd)  # hangs up: SIGHUP to the session
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


Start = Callable[..., Terminal]


@pytest.fixture
def terminal(world: World) -> Iterator[Start]:
    """Starts ``ax run … -- WORDS`` as leader of a session on a terminal."""
    made = []

    def start(*words: str) -> Terminal:
        made.append(Terminal(world.command(words, world.addresses.v4(), (), ""), world.environment()))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def shell(world: World) -> Iterator[Terminal]:
    """An interactive bash, without ax; ``$AX`` runs something under it."""
    ax = shlex.join(world.command([], world.addresses.v4(), (), ""))
    made = Terminal(
        ["bash", "--norc", "--noprofile", "-i"], world.environment({"AX": ax, "PS1": "PROMPT ", "TERM": "dumb"})
    )
    made.resize(40, 500)
    made.expect("PROMPT ")
    try:
        yield made
    finally:
        made.close()


def test_size(terminal: Start) -> None:
    session = terminal("bash", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done")
    session.expect("ready")
    session.resize(33, 99)
    session.expect("33 99\r\n")


def test_it_is_a_terminal_and_the_controlling_one(terminal: Start) -> None:
    script = (
        "import os; print([os.isatty(n) for n in (0, 1, 2)], os.tcgetpgrp(0) == os.getpgrp(), open('/dev/tty') and 1)"
    )
    terminal(PYTHON, "-c", script).expect(r"\[True, True, True\] True 1")


def test_control_c(terminal: Start) -> None:
    session = terminal("sh", "-c", "echo ready; exec sleep 100")
    session.expect("ready")
    session.type("\x03")
    assert session.wait() == -signal.SIGINT


def test_control_c_of_a_blocked_network_call(terminal: Start) -> None:
    script = """if 1:
        import socket
        s = socket.create_server(("", 7000))
        try:
            print("ready")
            s.accept()
        except KeyboardInterrupt:
            print("interrupted")
            raise SystemExit(5)
    """
    session = terminal(PYTHON, "-c", script)
    session.expect("ready")
    session.type("\x03")
    session.expect("interrupted")
    assert session.wait() == 5


def test_end_of_input(terminal: Start) -> None:
    session = terminal("cat")
    session.type("line\n")
    session.expect("line\r\nline\r\n")
    session.type("\x04")
    assert session.wait() == 0


def test_password_prompt_without_echo(terminal: Start) -> None:
    session = terminal(PYTHON, "-c", "import getpass; print('got', getpass.getpass('secret? '))")
    session.expect(r"secret\? ")
    session.type("abc\n")
    session.expect("got abc")


def test_job_control(shell: Terminal) -> None:
    shell.type("$AX sh -c 'echo star\"\"ted; exec cat'\n")
    shell.expect("started")
    shell.type("hello\n")
    shell.expect("hello\r\nhello\r\n")
    shell.type("\x1a")
    shell.expect("Stopped")
    shell.expect("PROMPT ")
    shell.type("jobs\n")
    shell.expect("Stopped")
    shell.expect("PROMPT ")
    shell.type("fg\n")
    shell.expect("exec cat'\r\n")
    shell.type("again\n")
    shell.expect("again\r\nagain\r\n")
    shell.type("\x04")
    shell.expect("PROMPT ")
    shell.type("echo status $?\n")
    shell.expect("status 0\r\n")


def test_stop_and_go_on_in_a_network_call(shell: Terminal) -> None:
    """Ctrl-Z in accept(2), fg, and the call goes on as if nothing had been."""
    script = 'import socket; s = socket.create_server(("", 7000)); print("READ" + "Y"); s.accept(); print(1)'
    shell.type(f"$AX {PYTHON} -c '{script}'\n")
    shell.expect("READY")
    for _ in range(2):
        shell.type("\x1a")
        shell.expect("Stopped")
        shell.expect("PROMPT ")
        shell.type("fg\n")
        shell.expect(r"print\(1\)'\r\n")
        shell.foreground()
    shell.type("\x03")
    shell.expect("KeyboardInterrupt")
    shell.expect("PROMPT ")
    shell.type("echo status $?\n")
    shell.expect("status (130|1)\r\n")


def test_background_job_and_wait(shell: Terminal) -> None:
    shell.type("$AX sh -c 'exit 3' & wait $!; echo status $?\n")
    shell.expect("status 3\r\n")


def test_a_shell_as_the_app(terminal: Start) -> None:
    """An interactive shell under ax has job control of its own."""
    session = terminal("bash", "--norc", "--noprofile", "-i")
    session.type("PS1='PROM''PT '\n")
    session.expect("PROMPT ")
    session.type("sh -c 'echo star''ted; exec sleep 100'\n")
    session.expect("started")
    session.type("\x1a")
    session.expect("Stopped")
    session.expect("PROMPT ")
    session.type("fg\n")
    session.expect("exec sleep 100'\r\n")
    session.foreground()
    session.type("\x03")
    session.expect("PROMPT ")
    session.type("exit 4\n")
    assert session.wait() == 4
