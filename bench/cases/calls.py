"""Single system calls: what the app waits for each, what the switch spends on each, and those that are not caught."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator

from bench.cases import Run
from bench.node import Node
from bench.pairing import Figure, Target, ratios, take_turns
from bench.processes import Process
from bench.programs import DIRECT, Place, calls, yardstick

CALLS = 300  # a turn
CAUGHT = ("getsockname", "setsockopt", "getsockopt", "socket", "bind", "connect", "accept")
WORDS = {"setsockopt": "setsockopt(TCP_NODELAY)", "getsockopt": "getsockopt(TCP_NODELAY)", "socket": "socket, close"}
# Nothing else of these workloads goes to the switch, so that its processor time is theirs.
ALONE = ("getsockname", "setsockopt", "getsockopt", "socket")

BATCHES = 100  # a turn, of 100 calls each
NOT_CAUGHT = {
    "read": ("write and read, 16 bytes", Target(at_most=1.1)),
    "send": ("send and recv, 16 bytes", None),
    "sendmsg": ("sendmsg and recvmsg, 16 bytes", None),
}


def measure(run: Run) -> Iterator[Figure]:
    """As the app sees them, bare and under the switch. All take turns: what is slow for a second is slow for each."""
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            bare = stack.enter_context(calls(run.programs, DIRECT, cpus))
            app = stack.enter_context(calls(run.programs, Place("unix", run.node), cpus))
            subjects = {f"direct {call}": _turn(bare, call, CALLS) for call in CAUGHT}
            subjects |= {f"ax {call}": _turn(app, call, CALLS, run.node) for call in CAUGHT}
            measured = stack.enter_context(yardstick(cpus))
            subjects["yardstick"] = lambda measured=measured: (measured(), 0.0)  # type: ignore[misc]
            results = take_turns(subjects, run.turns)
        yard = tuple(took for took, _ in results["yardstick"])
        for call in CAUGHT:
            yield from _figures(call, pin, results[f"ax {call}"], results[f"direct {call}"], yard)


Turns = list[tuple[float, float]]


def _figures(call: str, pin: str, ours: Turns, base: Turns, yard: tuple[float, ...]) -> Iterator[Figure]:
    medians = {
        side: statistics.median(median for median, _ in turns) for side, turns in (("ax", ours), ("direct", base))
    }
    what = WORDS.get(call, call)
    yield Figure(
        name=f"calls.{call}.{pin}",
        what=what,
        unit="us",
        samples=tuple(median for median, _ in ours),
        grain=1.0,
        yardstick=yard,
        steady=pin == "pinned",
        sides=medians,
        side_unit="us",
    )
    if call in ALONE:
        yield Figure(
            name=f"calls.{call}.{pin}.switch",
            what=f"switch: processor time for each {what}",
            unit="us",
            samples=tuple(spent for _, spent in ours),
            grain=1.0,
            yardstick=yard,
            steady=pin == "pinned",
        )


def _turn(program: Process, call: str, count: int, node: Node | None = None) -> Callable[[], tuple[float, float]]:
    """Microseconds: the median of a call, and what the switch spent on each."""

    def turn() -> tuple[float, float]:
        before = node.switch_cpu() if node else 0
        taken = program.ask(f"{call} {count}")[call]
        spent = (node.switch_cpu() if node else 0) - before
        return statistics.median(taken) / 1000, spent / 1000 / count

    return turn


def measure_handlers(run: Run) -> Iterator[Figure]:
    """Processor time of the switch between a notification and its reply, by call: what AX_TIMING=1 counts.

    It leaves out how the notification is received, and counts the two looks at the clock. Calls that are answered at
    once, without any of this (socket(2), and most others from the second time on), are not here: see calls.NAME.
    """
    with Node({"AX_TIMING": "1"}) as node, contextlib.ExitStack() as stack:
        timed = run._replace(node=node)
        for pin, cpus in timed.pins():
            if pin != "pinned":
                continue  # processor time differs little: the switch is one thread
            app = stack.enter_context(calls(run.programs, Place("unix", node), cpus))
            subjects = {call: _handler_turn(node, app, call) for call in CAUGHT if call != "socket"}
            results = take_turns(subjects | {"yardstick": stack.enter_context(yardstick(cpus))}, run.turns)
            for call in (call for call in subjects if all(results[call])):
                yield Figure(
                    name=f"handlers.{call}",
                    what=f"switch: {WORDS.get(call, call)}, notification to reply",
                    unit="us",
                    samples=tuple(results[call]),
                    grain=1.0,
                    yardstick=tuple(results["yardstick"]),
                )


def _handler_turn(node: Node, app: Process, call: str) -> Callable[[], float]:
    def turn() -> float:
        before = node.status()["stats"]
        app.ask(f"{call} {CALLS}")
        after = node.status()["stats"]
        count, at_once, spent = (
            after.get(f"{what}.{call}", 0) - before.get(f"{what}.{call}", 0)
            for what in ("calls", "at_once", "nanoseconds")
        )
        return float(spent / (count - at_once) / 1000) if count > at_once else 0.0

    return turn


def measure_data_path(run: Run) -> Iterator[Figure]:
    """Calls that no filter may make dearer than the kernel's own bookkeeping of filters does."""
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            bare = stack.enter_context(calls(run.programs, DIRECT, cpus))
            app = stack.enter_context(calls(run.programs, Place("unix", run.node), cpus))
            for call, (what, target) in NOT_CAUGHT.items():
                results = take_turns({"direct": _turn(bare, call, BATCHES), "ax": _turn(app, call, BATCHES)}, run.turns)
                ours, base = ([median for median, _ in results[side]] for side in ("ax", "direct"))
                yield Figure(
                    name=f"datapath.{call}.{pin}",
                    what=what,
                    unit="x",
                    samples=ratios(ours, base),
                    target=target,
                    steady=pin == "pinned",
                    sides={"ax": statistics.median(ours), "direct": statistics.median(base)},
                    side_unit="us",
                )
