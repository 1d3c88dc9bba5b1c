"""Runs loads where it was started, one after the other: a line of JSON asks, a line of JSON answers.

Asked `{"command": [...], "pids": [...], "patience": 60}`, it answers with the command's status and output, and with the
processor time in seconds of it and of those processes, with `others` for what the machine did besides, and `took`.
These are for the time between its lines "begin" and "end", or from start to end where it prints none: what it costs to
start it, and to connect, is then left out. Standard library only.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

TICK = os.sysconf("SC_CLK_TCK")


class Moment(NamedTuple):
    """What had been used at some time, in seconds: ``busy`` by all the machine."""

    time: float
    spent: float
    busy: float


def look(pids: Iterable[int], before: float = 0.0) -> Moment:
    return Moment(time.monotonic(), before + sum(map(spent, pids)), busy())


def spent(pid: int) -> float:
    """User and system time of a process, also of threads that have ended; 0 of one that is gone. proc_pid_stat(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def busy() -> float:
    """That all processors have worked so far, for anybody; softirq and steal too. proc_stat(5)."""
    user, nice, system, _idle, _iowait, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / TICK


def run(command: list[str], pids: list[int], patience: float) -> dict[str, object]:
    with tempfile.TemporaryFile() as errors:
        started = look(pids)
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        except OSError as problem:
            return {"status": -1, "output": "", "errors": str(problem)}
        killer = threading.Timer(patience, child.kill)
        killer.start()
        assert child.stdout is not None
        marks, output = _read(child.stdout, [*pids, child.pid])
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
        child.stdout.close()
        killer.cancel()
        killer.join()
        marks.setdefault("begin", started)
        marks.setdefault("end", look(pids, usage.ru_utime + usage.ru_stime))
        errors.seek(0)
        text = errors.read().decode(errors="replace")
    return {"status": child.returncode, "output": output, "errors": text, **_between(marks["begin"], marks["end"])}


def _read(stream: IO[bytes], pids: list[int]) -> tuple[dict[str, Moment], str]:
    """To its end: when there were marks, and everything else."""
    marks, lines = {}, []
    for line in stream:
        if line in (b"begin\n", b"end\n"):
            marks[line.decode().strip()] = look(pids)
        else:
            lines.append(line)
    return marks, b"".join(lines).decode(errors="replace")


def _between(begin: Moment, end: Moment) -> dict[str, float]:
    took, used = end.time - begin.time, end.spent - begin.spent
    return {"took": took, "cpu": used, "others": max(0.0, end.busy - begin.busy - used)}


def main() -> None:
    os.environ["LC_ALL"] = "C"
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run(asked["command"], asked["pids"], asked["patience"])), flush=True)


if __name__ == "__main__":
    main()
