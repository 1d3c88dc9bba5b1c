"""Runs commands where it was started, one after the other: a line of JSON asks, a line of JSON answers.

Asked `{"command": [...], "patience": 60}`, it answers with the command's status, output, processor time and how long it
took, both in seconds. What starting it here costs, under `ax` for instance, is thereby left out. Standard library only.
"""

import json
import os
import resource
import subprocess
import sys
import time


def run(command: list[str], patience: float) -> dict[str, object]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience, check=False)
        status, output, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        status, output, errors = -1, late.stdout or b"", f"not done after {patience:g} s".encode()
    except OSError as problem:
        status, output, errors = -1, b"", str(problem).encode()
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    texts = {"output": output.decode(errors="replace"), "errors": errors.decode(errors="replace")}
    return {"status": status, "cpu": cpu, "took": took, **texts}


def main() -> None:
    os.environ["LC_ALL"] = "C"
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run(asked["command"], asked["patience"])), flush=True)


if __name__ == "__main__":
    main()
