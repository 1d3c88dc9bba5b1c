"""``make fuzz``: all that fuzzes, for as long as it is told, and a table of what was tried and what was found.

Half of the time goes to the decoders, guided by coverage (atheris), half to what hypothesis makes up: round after round
with other seeds, also for processes of the daemon and its REST API. The exit status is 1 when something was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLACE = ROOT / "build" / "fuzz"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

MADE_UP = (
    "tests/fuzz/test_targets.py",
    "tests/fuzz/test_arguments.py",
    "tests/fuzz/test_native.py",
    "tests/fuzz/test_keeper.py",
    "tests/fuzz/test_sockets.py",
    "tests/fuzz/test_rest.py",
    "tests/unit/routing/l7",
    "tests/unit/delegate",
    "tests/unit/control/dns/test_messages.py",
    "tests/unit/test_wire.py",
    "tests/unit/cli/imports/test_bad_input.py",
)
EXAMPLES = 200  # of a test in one round
LEAST = 5.0  # seconds that are worth beginning something


class Tried(NamedTuple):
    """A line of the table."""

    what: str
    tries: int
    seconds: float
    found: list[str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--seconds", type=float, default=300.0, help="FUZZ_SECONDS")
    parser.add_argument("--only", default="", help="what has this in its name")
    options = parser.parse_args()
    from fuzz.targets import TARGETS

    guided = [name for name in TARGETS if options.only in name]
    made_up = [path for path in MADE_UP if options.only in path]
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: without atheris nothing is guided by coverage; all the time goes to hypothesis", flush=True)
        guided = []
    half = options.seconds / (bool(guided) + bool(made_up) or 1)
    table = [_guided(name, half / len(guided)) for name in guided]
    if made_up:
        table += _made_up(made_up, half)
    print(f"\n{'tried':<46}{'tries':>12}{'seconds':>9}  found")
    for one in table:
        print(f"{one.what:<46}{one.tries:>12}{one.seconds:>9.0f}  {len(one.found) or '-'}")
    for one in table:
        for finding in one.found:
            print(f"\n--- {one.what}\n{finding}")
    return 1 if any(one.found for one in table) else 0


def _guided(name: str, seconds: float) -> Tried:
    """What breaks the target is left as a file; with its path in the table it can be put into the corpus."""
    from fuzz.seeds import SEEDS

    place = PLACE / name
    seeds = place / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(SEEDS[name]):
        (seeds / f"{number:03}").write_bytes(data)
    known = HERE / "corpus" / name
    bounds = [f"-max_total_time={max(1, int(seconds))}", "-max_len=4096", "-timeout=20", f"-artifact_prefix={place}/"]
    inputs = [str(seeds), *([str(known)] if known.is_dir() else [])]
    words = [sys.executable, str(HERE / "guided.py"), name, *bounds, *inputs]
    print(f"fuzz: {name}, guided, {seconds:.0f} s", flush=True)
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    runs = re.findall(r"^#(\d+)|Done (\d+) runs", done.stderr, re.MULTILINE)
    found = []
    if done.returncode:
        files = re.findall(r"Test unit written to (\S+)", done.stderr)
        kept = "\n".join(f"keep it: cp {path} tests/fuzz/corpus/{name}/" for path in files)
        found = [f"{done.stdout[-3000:]}{done.stderr[-2000:]}\n{kept}"]
    return Tried(
        f"{name} (guided)", max((int(one or other) for one, other in runs), default=0), time.monotonic() - began, found
    )


def _made_up(paths: list[str], seconds: float) -> list[Tried]:
    """Rounds of all of them, each with another seed, until the time is over. The first round is always finished."""
    tried = {path: Tried(path, 0, 0.0, []) for path in paths}
    end = time.monotonic() + seconds
    rounds = 0
    while rounds == 0 or time.monotonic() + LEAST < end:
        for path in paths:
            if rounds and time.monotonic() + LEAST > end:
                break
            tries, spent, found = _round(path)
            old = tried[path]
            tried[path] = Tried(path, old.tries + tries, old.seconds + spent, old.found + found)
        rounds += 1
    return list(tried.values())


def _round(path: str) -> tuple[int, float, list[str]]:
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-show-statistics",
             "--timeout", "3000", f"--hypothesis-seed={int.from_bytes(os.urandom(6))}", path]  # fmt: skip
    print(f"fuzz: {path}", flush=True)
    began = time.monotonic()
    env = dict(os.environ, HYPOTHESIS_PROFILE="fuzz", FUZZ_EXAMPLES=str(EXAMPLES if "rest" not in path else 20))
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, errors="replace", check=False)
    tries = sum(map(int, re.findall(r"(\d+) passing", done.stdout)))
    return tries, time.monotonic() - began, [done.stdout[-6000:]] if done.returncode else []


if __name__ == "__main__":
    sys.exit(main())
