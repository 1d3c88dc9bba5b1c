"""`python -m bench.soak`: load for as long as you like, and what is left of it afterwards.

Registrations by the thousand; as many connections at a time as can be had; so many connects a second, while others
fork and connect, and a crowd of processes accepts from one listener. Everything is counted: calls that were made and
that failed, how long they took, memory, descriptors and table entries before and after. Its exit status is 1 when a
call failed, or something is left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import http.client
import json
import resource
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from bench.node import Node, descriptors, pss_kib
from bench.processes import Process
from bench.programs import Programs

HELD_BY_ONE = 8_000  # connections of one client: its own limit of descriptors is not what is looked for
QUIET = 40.0  # seconds in which what has ended must be forgotten: registrations live for 30
FIRST = 500  # registrations that the last ones are compared with
BOMB = 50  # processes a second that are started for one connection each
SMALL = 64 << 10  # KiB that a process may have grown by for its allocator's sake
_JSON = {"Content-Type": "application/json"}


def main() -> int:
    """The command line."""
    options = _parser().parse_args()
    begun = time.monotonic()
    with Programs() as programs, Node() as node:
        soak = Soak(programs, node)
        soak.warm_up()
        before = soak.state()
        if options.registrations:
            soak.registrations(options.registrations)
        if options.connections:
            soak.connections(options.connections)
        soak.settle(before)
        soak.say("at rest", soak.state())
        soak.pace(options.rate, options.seconds, options.clients, options.crowd)
        soak.settle(before)
        soak.left(before)
        print(f"\n{time.monotonic() - begun:.0f} s; " + ("; ".join(soak.problems) or "nothing failed, nothing is left"))
        return 1 if soak.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="how long connects go on (%(default)s)")
    parser.add_argument("--rate", type=int, default=1000, help="connects a second (%(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="apps that make them (%(default)s)")
    parser.add_argument("--connections", type=int, default=50_000, help="at a time, if they can be had (%(default)s)")
    parser.add_argument("--registrations", type=int, default=10_000, help="of apps that never come (%(default)s)")
    parser.add_argument("--crowd", type=int, default=200, help="processes in accept(2) on one listener (%(default)s)")
    return parser


class Soak:
    """Loads a node, and says what that took."""

    def __init__(self, programs: Programs, node: Node) -> None:
        self._load = programs["load"]
        self._node = node
        self.problems: list[str] = []

    def say(self, what: str, values: dict[str, Any]) -> None:
        """A line."""
        print(f"{what}: " + ", ".join(f"{key} {value}" for key, value in values.items()), flush=True)

    def state(self) -> dict[str, Any]:
        """Descriptors and memory of the daemon's processes, entries of the switch's tables."""
        status = self._node.status()
        state: dict[str, Any] = {}
        for name, pid in self._node.pids.items():
            state[f"{name} descriptors"] = descriptors(pid)
            state[f"{name} KiB"] = pss_kib(pid)
        tables = ("apps", "services", "sockets", "parked", "datagram_sockets", "held", "waiting")
        return state | {name: int(status["stats"][name]) for name in tables}

    # -- what is done

    def warm_up(self) -> None:
        """One app, for what is made when it is needed first and stays."""
        with ExitStack() as stack:
            self._pair(stack).ask("pace 20 1")
        self.settle(dict.fromkeys(self.state(), 0) | {"switch descriptors": 1 << 30})

    def registrations(self, count: int) -> None:
        """Over one connection, one after the other, each with a name and so an address of the pools."""
        before, took = self.state(), list[float]()
        with self._rest() as ask:
            for number in range(count):
                began = time.perf_counter()
                status, answer = ask("POST", "/v1/apps", {"command": ["x"], "name": f"soak-{number}"})
                took.append(time.perf_counter() - began)
                if status != 201:
                    self.problems.append(f"registration {number} failed: {status} {answer}")
                    break
        after = self.state()
        known = len(self._node.get("apps")["apps"])
        parts = {
            name: _median(took[slice_]) for name, slice_ in (("first", slice(FIRST)), ("last", slice(-FIRST, None)))
        }
        self.say(
            f"{len(took)} registrations",
            {
                "s": round(sum(took), 1),
                "known at the end": known,
                **{f"ms of the {name} {FIRST}": round(1000 * value, 2) for name, value in parts.items()},
                **{
                    f"bytes each in {name}": round(
                        (after[f"{name} KiB"] - before[f"{name} KiB"]) * 1024 / max(1, known)
                    )
                    for name in ("switch", "control")
                },
            },
        )
        if parts["last"] > 4 * parts["first"]:
            self.problems.append("registrations take longer the more there are")

    def connections(self, wanted: int) -> None:
        """As many as can be had at a time, from several apps to several others."""
        before, held, limit = self.state(), 0, "none: as many as were wanted"
        began = time.monotonic()
        with ExitStack() as stack:
            for _ in range(-(-wanted // HELD_BY_ONE)):
                client = self._pair(stack)
                answer = client.ask(f"hold {min(HELD_BY_ONE, wanted - held)}", 300)
                held += answer["held"]
                if answer["error"]:
                    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                    limit = f"{errno.errorcode[answer['error']]} (RLIMIT_NOFILE of a process is {soft})"
                    break
            took, full = time.monotonic() - began, self.state()
            self.say(
                f"{held} connections at a time of {wanted}",
                {
                    "limit": limit,
                    "a second": round(held / took),
                    "switch descriptors": full["switch descriptors"] - before["switch descriptors"],
                    "bytes each in the switch": round(
                        (full["switch KiB"] - before["switch KiB"]) * 1024 / max(1, held)
                    ),
                    "table entries": full["sockets"],
                },
            )
            with self._beside() as beside:  # with all of them there: is another's connect as fast as without?
                self.say("beside them, ms of a connect", _milliseconds(beside))

    def pace(self, rate: int, seconds: int, clients: int, crowd: int) -> None:
        """The soak itself, with who forks and a crowd beside it."""
        before = self.state()
        with ExitStack() as stack:
            paced = [self._pair(stack) for _ in range(clients)]
            forking = self._pair(stack)
            crowded = self._pair(stack, "accept", str(crowd))
            answers: list[dict[str, Any]] = []
            share = [f"pace {rate // clients} {seconds}"] * clients
            threads = [
                threading.Thread(target=lambda p=one, line=line: answers.append(p.ask(line, seconds + 120)))
                for one, line in zip(paced, share, strict=True)
            ]
            for thread in threads:
                thread.start()
            bombs, crowds = Counter[str](), Counter[str]()
            while any(thread.is_alive() for thread in threads):
                began = time.monotonic()
                bomb = forking.ask(f"bomb {BOMB} 10", 300)
                bombs.update({"processes": bomb["ran"], "failed": bomb["bad"]})
                met = crowded.ask(f"meet {crowd // 2}", 300)
                crowds.update({"connections": met["made"], "failed": sum(met["failed"].values())})
                time.sleep(max(0.0, began + 1 - time.monotonic()))
            for thread in threads:
                thread.join()
            during = self.state()
            shares = crowded_share(crowded)
        made, failed = sum(one["made"] for one in answers), Counter[str]()
        for one in answers:
            failed.update({errno.errorcode.get(int(key), key): value for key, value in one["failed"].items()})
        if len(answers) != clients:
            self.problems.append("a client did not answer")
        wall = max((one["took"] for one in answers), default=1) / 1e9
        worst = {key: max((one[key] for one in answers), default=0) for key in ("p50", "p99", "p999", "max")}
        self.say(
            f"{rate} connects a second for {seconds} s",
            {
                "made": made, "failed": dict(failed) or 0, "a second": round(made / wall),
                **_milliseconds(worst), "took s": round(wall, 1),
            },
        )  # fmt: skip
        self.say("meanwhile, forked", dict(bombs))
        self.say(f"meanwhile, to {crowd} processes in accept(2)", dict(crowds) | shares)
        grown = {name: during[f"{name} KiB"] - before[f"{name} KiB"] for name in ("keeper", "switch", "control")}
        self.say("grown KiB", grown)
        self.say(
            "switch descriptors while it went on", {"": during["switch descriptors"] - before["switch descriptors"]}
        )
        bad = sum(failed.values()) + bombs["failed"] + crowds["failed"]
        if bad or not made:
            self.problems.append(f"{bad} calls failed, {made} were made")

    # -- what is left

    def settle(self, before: dict[str, Any]) -> None:
        """Until the tables are as they were, or for so long."""
        end = time.monotonic() + QUIET
        tables = ("apps", "services", "sockets", "parked")
        while time.monotonic() < end:
            self._node.get("sockets")  # forgets what has gone
            state = self.state()
            forgotten = all(state[name] == before[name] for name in tables) and not self._node.get("apps")["apps"]
            if forgotten and state["switch descriptors"] <= before["switch descriptors"]:
                return
            time.sleep(0.2)

    def left(self, before: dict[str, Any]) -> None:
        """Say what has changed since."""
        after = self.state()
        self.say("before", before)
        self.say("after", after)
        for name, was in before.items():
            grown = after[name] - was
            if grown > (SMALL if name.endswith("KiB") else 0) and name != "control descriptors":
                self.problems.append(f"{name}: {was} before, {after[name]} after")

    # -- apps

    def _pair(self, stack: ExitStack, kind: str = "serve", *more: str) -> Process:
        """A client with a server of its own, which listens."""
        host = self._node.fresh_ip()
        server = stack.enter_context(self._app(host, kind, host, "80", *more))
        server.line()
        return stack.enter_context(self._app(self._node.fresh_ip(), "client", host, "80"))

    def _app(self, ip: str, *words: str) -> Process:
        return Process(self._node.run(ip, "unix", [self._load, *words]), self._node.environment)

    @contextlib.contextmanager
    def _beside(self) -> Iterator[dict[str, int]]:
        with ExitStack() as stack:
            yield self._pair(stack).ask("pace 200 3")

    @contextlib.contextmanager
    def _rest(self) -> Iterator[Any]:
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(self._node.run_dir / "rest.sock"))

        def ask(method: str, path: str, body: object) -> tuple[int, Any]:
            connection.request(method, path, json.dumps(body), _JSON)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

        try:
            yield ask
        finally:
            connection.close()


def crowded_share(client: Process) -> dict[str, int]:
    """How many connections the luckiest and the unluckiest of the crowd got."""
    counts = client.ask("shares")["shares"]
    return {
        "least for one": min(counts),
        "most for one": max(counts),
        "processes that got some": sum(map(bool, counts)),
    }


def _milliseconds(times: dict[str, int]) -> dict[str, float]:
    return {key: round(times[key] / 1e6, 3) for key in ("p50", "p99", "p999", "max") if key in times}


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    sys.exit(main())
