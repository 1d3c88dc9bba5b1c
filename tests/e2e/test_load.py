"""Load, in small: what `make soak` does for minutes. The program is that of the benchmarks, bench/c/load.c."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e import build
from e2e.world import Switched, World, say
from harness import App, wait_until

SOURCE = Path(__file__).resolve().parents[2] / "bench/c/load.c"
CROWD, MET = 40, 400
THREADS = (
    48  # of the greedy app: were calls served in the order in which they come, it had 48 turns for one of another's
)
PATIENCE = 60.0


def _compile(built: Path) -> None:
    words = [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-pthread", str(SOURCE), "-o", str(built)]
    subprocess.run(words, check=True)


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with build.once(tmp_path_factory, "load", _compile) as program:
        yield program


def ask(app: App, line: str) -> dict[str, Any]:
    """A command and its answer."""
    before = app.stdout.count("\n")
    say(app, line + "\n")
    wait_until(
        lambda: app.stdout.count("\n") > before or not app.running(), lambda: f"an answer to {line}\n{app}", PATIENCE
    )
    answer: dict[str, Any] = json.loads(app.stdout.splitlines()[before])
    return answer


def client(world: World, load: Path, server: App) -> App:
    return world.start(load, "client", server.ip, "80", stdin=subprocess.PIPE)


def serving(world: World, load: Path, *how: str) -> App:
    ip = world.addresses.v4()
    return world.start(load, how[0], ip, "80", *how[1:], ip=ip, listening=80)


def test_a_crowd_that_accepts_from_one_listener(world: World, load: Path) -> None:
    """As prefork servers do: nobody goes without, nobody is told of an error."""
    server = serving(world, load, "accept", str(CROWD))
    one = client(world, load, server)
    ask(one, f"meet {CROWD}")  # until all of them are there
    met = ask(one, f"meet {MET}")
    assert met == {"made": MET, "failed": {}}
    shares = ask(one, "shares")["shares"]
    assert len(shares) == CROWD
    assert sum(shares) == CROWD + MET
    assert server.running()
    assert server.stderr == "", "an accept(2) that fails ends its process with a word"


def test_each_of_a_crowd_has_its_turn(switched: Switched, load: Path) -> None:
    """Who has waited longest is next, whatever the kernel's queues would do."""
    server = serving(switched, load, "accept", str(CROWD))
    one = client(switched, load, server)
    wait_until(lambda: _parked(switched) >= CROWD, lambda: f"{_parked(switched)} wait", PATIENCE)
    ask(one, f"meet {MET}")
    shares = ask(one, "shares")["shares"]
    assert len(shares) == CROWD
    assert min(shares) >= MET // CROWD // 2


def _parked(switched: Switched) -> int:
    _, status = switched.daemon.rest("GET", "/v1/status")
    return int(status["stats"]["parked"])


def test_processes_that_connect_and_end(world: World, load: Path) -> None:
    one = client(world, load, serving(world, load, "serve"))
    bomb = ask(one, "bomb 200 20")
    assert (bomb["ran"], bomb["bad"]) == (200, 0)


def test_nothing_is_kept_of_processes_that_have_ended(switched: Switched, load: Path) -> None:
    server = serving(switched, load, "serve")
    one = client(switched, load, server)
    (switch,) = (pid for name, pid in switched.daemon.rest("GET", "/v1/status")[1]["pids"].items() if name == "switch")

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{switch}/fd"))  # noqa: PTH208 - counted, not read

    before = descriptors()
    ask(one, "bomb 200 20")
    wait_until(lambda: descriptors() <= before + 20, lambda: f"{descriptors()} descriptors, {before} before", PATIENCE)
    wait_until(lambda: len(switched.daemon.get("sockets")) < 20, lambda: str(switched.daemon.get("sockets")), PATIENCE)


@pytest.mark.parametrize("how", [("serve",), ("accept", "16")], ids=["epoll", "parked"])
def test_an_app_with_many_threads_takes_no_more_turns_than_one_with_one(
    switched: Switched, load: Path, how: tuple[str, ...]
) -> None:
    """Both times the processors are busy; what differs is how many calls of the greedy app wait at a time.

    ``parked``: its connections wake processes that wait in accept(2), which is work of the switch's, too.
    """
    greedy = client(switched, load, serving(switched, load, *how))
    other = client(switched, load, serving(switched, load, "serve"))

    def made_beside(threads: int) -> int:
        ask(greedy, f"greedy {threads}")
        made = int(ask(other, "pace 100000 1")["made"])  # as many as it can in a second
        ask(greedy, "calm")
        return made

    made_beside(1)
    ratios = []
    while len(ratios) < 4:  # a neighbour may spoil some
        one, many = made_beside(1), made_beside(THREADS)
        ratios.append(one / max(1, many))
        if ratios[-1] <= 3:
            return
    pytest.fail(f"beside {THREADS} threads it made so many times fewer connections: {ratios}")
