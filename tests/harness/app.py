"""A program that goes on running under ``ax run``."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.waiting import DeadlineError, wait_until


class App:
    """A started command whose output goes to files: readable while it runs, and nobody waits for a pipe's last holder.

    As a context manager it is ended (`stop`) on the way out. It leads a process group and session of its own.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path | None = None,
        *,
        stdin: int | None = subprocess.DEVNULL,
        ip: str | None = None,
        prepare: Callable[[], None] | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        self.command = list(command)
        self.ip = ip
        self._files = tempfile.mkdtemp(prefix="axt-out-")
        self._kept: dict[Path, str] = {}
        self.stdout_path = Path(self._files) / "stdout"
        self.stderr_path = Path(self._files) / "stderr"
        with self.stdout_path.open("wb") as out, self.stderr_path.open("wb") as err:
            self.process = subprocess.Popen(
                self.command,
                env=dict(env),
                cwd=cwd,
                stdin=stdin,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=prepare,
                pass_fds=keep,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        if error is not None:
            error.add_note(f"{self}")
        self.close()

    def __str__(self) -> str:
        return (
            f"$ {' '.join(self.command)}\n  status {self.process.returncode}\n"
            f"  stdout: {self.stdout[-4000:]!r}\n  stderr: {self.stderr[-4000:]!r}"
        )

    @property
    def pid(self) -> int:
        """Of ``ax run``, which becomes the program."""
        return self.process.pid

    @property
    def stdout(self) -> str:
        """All that came so far."""
        return self._read(self.stdout_path)

    @property
    def stderr(self) -> str:
        """All that came so far."""
        return self._read(self.stderr_path)

    def _read(self, path: Path) -> str:
        return self._kept[path] if path in self._kept else path.read_text(errors="replace")

    def close(self) -> None:
        """Take the files away; what was in them stays readable. Nobody writes to it any more either."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        for path in (self.stdout_path, self.stderr_path):
            self._kept[path] = self._read(path)
        shutil.rmtree(self._files, ignore_errors=True)

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait(self, timeout: float = 30.0) -> int:
        """Its exit status (negative: a signal). On time-out it is killed and `DeadlineError` raised."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DeadlineError(f"still running after {timeout:g} s\n{self}") from None

    def wait_for(self, text: str, timeout: float = 10.0) -> str:
        """Wait until ``text`` is in what it wrote to stdout or stderr; fails at once when it ended without."""

        def there() -> bool:
            ended = not self.running()
            if text in self.stdout or text in self.stderr:
                return True
            assert not ended, f"ended without {text!r}\n{self}"
            return False

        wait_until(there, lambda: f"{text!r} in the output of\n{self}", timeout)
        return self.stdout

    def send(self, number: int) -> None:
        """To the program itself."""
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 10.0) -> int:
        """End it and its process group; SIGKILL after the deadline. Returns its exit status."""
        if self.running():
            self.send(number)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.process.wait()

    def kill(self) -> None:
        """SIGKILL to the whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
