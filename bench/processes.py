"""Processes that a run starts: talked to by lines, bound to processors, ended by their id."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE = 60.0  # seconds for an answer; the slowest takes a few
GRACE = 20.0  # seconds between SIGTERM and SIGKILL; on a machine that is idle, hardly any are needed
READY = 60.0  # seconds until it does what it is for; much less on a machine that is idle


class BenchError(Exception):
    """A program did not do what it was started for. The text says what it said."""


class UnavailableError(Exception):
    """Cannot be measured here. The text is the reason."""


class Process:
    """A started command, ended on the way out. ``cpus``: where it and its children may run."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], cpus: Set[int] | None = None, errors: Path | None = None
    ) -> None:
        """``errors``: where its standard error goes, else it is forgotten with it."""
        self.command = list(command)
        self._errors = errors.open("w+b") if errors else tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._buffer = b""
        try:
            self._process = subprocess.Popen(
                self.command,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
                preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
            )
        except BaseException:
            self._errors.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Of the command; `ax run` becomes its program and keeps it."""
        return self._process.pid

    def ask(self, line: str, patience: float = PATIENCE) -> dict[str, Any]:
        """Write a line, return the JSON of the line that answers it. Raises BenchError."""
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), line.encode() + b"\n")
        except BrokenPipeError:
            raise self._failure("has ended") from None
        answer: dict[str, Any] = json.loads(self.line(patience))
        return answer

    def line(self, patience: float = PATIENCE) -> str:
        """The next line of its output. Raises BenchError when it ends first, or after ``patience`` seconds."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + patience
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._failure(f"said nothing for {patience:g} s")
            data = os.read(self._process.stdout.fileno(), 1 << 20)
            if not data:
                raise self._failure("ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def hang_up(self) -> None:
        """End its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], what: str = "does not listen") -> None:
        """Until it does what it was started for. Raises BenchError when it ends, or does not in time."""
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline and self.running():
            if ready():
                return
            time.sleep(0.02)
        raise self._failure(what)

    def errors(self) -> str:
        """What it wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def end(self) -> int:
        """SIGTERM, after a while SIGKILL, to it; SIGKILL to what is left of its group. Its status."""
        if self._errors.closed:
            return self._process.wait()
        if self.running():
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            stream.close()
        return status

    def _failure(self, what: str) -> BenchError:
        return BenchError(f"`{' '.join(self.command)}` {what}\n{self.errors()}".rstrip())
