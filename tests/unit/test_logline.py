"""Log lines: what they look like, and that nobody can have too many of them."""

from __future__ import annotations

import ast
import json
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

import appswitch
from appswitch import logevents, logline
from appswitch.control import logs
from appswitch.keeper import log as keeper
from appswitch.logbound import ALL_BURST, BURST, EVERY, KINDS, SUMMARY, Budget
from appswitch.logline import render
from appswitch.switch import report

SOURCES = Path(appswitch.__file__).parent

# --- a line


def test_for_people() -> None:
    line = render(False, 0.5, "warning", "it happened", {"part": "x", "count": 3, "trace": "a\nb\n"})
    assert line == "1970-01-01T00:00:00.500000Z warning  it happened  part=x  count=3\na\nb"


def test_as_json() -> None:
    line = render(True, 0.5, "info", "it happened", {"part": "x", "path": Path("/y")})
    assert json.loads(line) == {
        "timestamp": "1970-01-01T00:00:00.500000Z", "level": "info", "event": "it happened", "part": "x", "path": "/y",
    }  # fmt: skip


@given(st.text(), st.text())
def test_what_a_program_has_chosen_makes_no_second_line(value: str, event: str) -> None:
    for as_json in (True, False):
        line = render(as_json, 0.0, "info", event, {"name": value})
        assert len(line.splitlines()) == 1
        assert line.isprintable()


@given(st.text(max_size=300), st.integers(0, 200))
def test_shortened(text: str, room: int) -> None:
    short = logline.shortened(text, room)
    assert len(short) <= max(room, 7)
    assert short == text or (" ... " in short and short[0] == text[0] and short[-1] == text[-1])


# --- budgets


def test_each_kind_has_its_own() -> None:
    budget = Budget()
    assert [budget.admit("a", 1.0) for _ in range(BURST + 2)] == [True] * BURST + [False] * 2
    assert budget.admit("b", 1.0)
    assert not budget.admit("a", 1.0 + EVERY / 2)
    assert budget.admit("a", 1.5 + EVERY)


def test_what_was_left_out_is_told_once_and_in_time() -> None:
    budget = Budget()
    for _ in range(BURST + 5):
        budget.admit("a", 1.0)
    assert budget.withheld(1.0 + SUMMARY / 2) == []
    assert budget.withheld(1.0 + SUMMARY) == [("a", 5)]
    assert budget.withheld(1.0 + SUMMARY) == []


def test_all_together_have_one() -> None:
    budget = Budget()
    admitted = sum(budget.admit(f"kind {number}", 1.0) for number in range(2 * ALL_BURST))
    assert ALL_BURST <= admitted <= ALL_BURST + 10


def test_kinds_are_bounded_and_old_ones_make_room() -> None:
    budget = Budget()
    for number in range(10 * KINDS):
        budget.admit(f"kind {number}", 1.0)
    assert len(budget._kinds) <= KINDS + 1
    late = 1.0 + BURST * EVERY
    budget.withheld(late)
    assert budget.admit("new", late + 1.0)
    assert "new" in budget._kinds


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3600)), max_size=300))
def test_every_line_is_written_or_counted(calls: list[tuple[str, float]]) -> None:
    budget, written, told = Budget(), 0, 0
    for kind, now in sorted(calls, key=lambda one: one[1]):
        written += budget.admit(kind, now)
        told += sum(count for _, count in budget.withheld(now))
    assert written + told + sum(count for _, count in budget.withheld(1e9)) == len(calls)


# --- the switch's


class Stderr:
    """What the switch and the keeper write to descriptor 2."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reader, self.writer = os.pipe()
        monkeypatch.setattr(report, "_STDERR", self.writer)
        monkeypatch.setattr(keeper, "STDERR", self.writer)

    def lines(self) -> list[str]:
        os.set_blocking(self.reader, False)
        data = b""
        while True:
            try:
                data += os.read(self.reader, 1 << 16)
            except BlockingIOError:
                return data.decode().splitlines()

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stderr]:
    one = Stderr(monkeypatch)
    yield one
    one.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    return now


def test_a_fault_with_each_call_does_not_fill_the_disk(stderr: Stderr, clock: list[float]) -> None:
    """Ten faults a second for an hour: some at once, one now and then, and how many there were."""
    log = report.Log(as_json=True)
    lines = []
    for _ in range(36_000):
        log("fault", app="00000001", error="OSError(24)", trace="Traceback\n" * 100)
        clock[0] += 0.1
        lines += stderr.lines()
    found = [json.loads(line) for line in lines]
    assert len(found) < BURST + 3600 / EVERY + 3600 / SUMMARY + 2
    assert sum(map(len, lines)) < 1 << 20
    told = [one["event"] for one in found if "suppressed" in one["event"]]
    assert all("'fault 00000001'" in one for one in told)
    clock[0] += SUMMARY
    log.tell_suppressed()
    told += [json.loads(line)["event"] for line in stderr.lines()]
    assert sum(int(one.split()[0]) for one in told) + len(found) - len(told) + 1 == 36_000
    clock[0] += 1
    log("fault", app="00000002", error="x")
    assert json.loads(stderr.lines()[0])["app"] == "00000002", "another app's are told"


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("text", ["x" * 9000, "é" * 9000, "\n" * 9000, "\udcff" * 9000])
def test_a_line_fits_a_pipe(stderr: Stderr, as_json: bool, text: str) -> None:
    """PIPE_BUF is what is written at once; a JSON object that is cut is none."""
    log = report.Log(as_json)
    log("fault", app=text, error=text, trace=f"first{text}last")
    (line,) = stderr.lines() if as_json else ["\n".join(stderr.lines())]
    assert len(line.encode()) < select.PIPE_BUF
    assert "first" in line
    assert "last" in line
    if as_json:
        assert json.loads(line)["level"] == "error"
    assert log.recent[0].splitlines()[0] == line.splitlines()[0]


def test_nobody_reads(stderr: Stderr) -> None:
    log = report.Log(as_json=True)
    for number in range(150):
        log(f"event {number}", text="x" * 1000)
    first = len(stderr.lines())
    assert 0 < first < 150
    log("and now")
    assert json.loads(stderr.lines()[0])["lost_before"] == 150 - first


def test_the_level_is_the_events(stderr: Stderr) -> None:
    log = report.Log(as_json=True, level="warning")
    log("denied", app="1")
    log("fault", error="x")
    (line,) = stderr.lines()
    assert json.loads(line)["level"] == "error"
    assert "ax debug dump" in json.loads(line)["hint"]


# --- control's


@pytest.fixture
def control(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[str]]]:
    """What it has written since the last look; whatever was configured before is so afterwards."""
    import logging

    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    for handler in handlers:
        root.removeHandler(handler)
    logs.RECENT.clear()
    yield lambda: capsys.readouterr().err.splitlines()  # noqa: PLW0108 - what is read then, not now
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_control_has_budgets_and_hints_as_well(control: Callable[[], list[str]]) -> None:
    logs.configure({"AX_LOG_FORMAT": "json"})
    log = structlog.get_logger(part="api")
    for _ in range(BURST + 30):
        log.error("a request failed", path="/v1/x", exc_info=ValueError("y"))
    log.info("connected to the switch", pid=1)
    found = [json.loads(line) for line in control()]
    assert [one["event"] for one in found] == ["a request failed"] * BURST + ["connected to the switch"]
    assert "ax debug dump" in found[0]["hint"]
    assert "ValueError: y" in found[0]["trace"]
    assert (found[0]["level"], found[0]["part"]) == ("error", "api")
    assert len(logs.RECENT) == BURST + 1
    (writer,) = logs._writers
    writer.tell_suppressed(1e12)
    assert "30 more lines like 'a request failed' were suppressed" in control()[0]


def test_libraries_lines_look_alike_and_have_budgets(control: Callable[[], list[str]]) -> None:
    import logging

    logs.configure({})
    for number in range(BURST + 30):
        logging.getLogger("asyncio").error("something %s", number)
    lines = control()
    assert len(lines) == BURST
    assert " error    something 0" in lines[0]


# --- the keeper's


NOT_OURS = "ignored a message on the notify socket from pid {pid}, which is not ours"


def test_the_keeper_has_budgets_as_well(stderr: Stderr, clock: list[float]) -> None:
    log = keeper.Log()
    for pid in range(BURST + 30):
        log("warning", NOT_OURS, pid=pid)
    lines = stderr.lines()
    assert len(lines) == BURST
    assert lines[3].startswith("ax daemon: ignored a message on the notify socket from pid 3, which is not ours  hint=")
    assert log.due() == clock[0] + SUMMARY
    log.tell_suppressed(clock[0] + SUMMARY)
    assert stderr.lines() == [f"ax daemon: 30 more lines like {NOT_OURS!r} were suppressed"]
    assert log.due() is None


def test_the_keepers_lines_as_json(stderr: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AX_LOG_FORMAT", "json")
    keeper.Log()("error", "no upgrade: {reason}", reason="\n{x}" * 9000)
    (line,) = stderr.lines()
    told = json.loads(line)
    assert (told["level"], told["part"], told["event"][:20]) == ("error", "keeper", "no upgrade: \n{x}\n{x}")
    assert "try again" in told["hint"]


def test_the_keeper_does_not_wait_for_a_reader(stderr: Stderr, clock: list[float]) -> None:
    log = keeper.Log()
    for _ in range(3000):
        log("info", "the keeper was upgraded")
        clock[0] += EVERY
    assert 0 < len(stderr.lines()) < 3000


def test_every_line_of_the_keepers_says_what_to_do() -> None:
    """Those that are warnings or errors, but for what the user is told who starts it in vain."""
    source = "".join(path.read_text("utf-8") for path in (SOURCES / "keeper").glob("*.py") if path.stem != "log")
    told = {
        node.args[1].value if isinstance(node.args[1], ast.Constant) else ast.unparse(node.args[1])
        for node in ast.walk(ast.parse(source.replace("from __future__ import annotations\n", "")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "log" and ast.unparse(node.args[0]) != "'info'"
    }
    told -= {"str(err)", "AX_RUN_DIR is not set (the keeper is started by `ax daemon`)"}
    assert told == set(keeper.HINTS)


# --- every event


def logged(part: str, *called: str) -> set[str]:
    """The first argument of every call of a log, where it is a constant."""
    found: set[str] = set()
    for path in (SOURCES / part).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in called:
                found |= {one.value for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant)}  # type: ignore[misc]
    return found


@pytest.mark.parametrize(
    ("part", "called", "table"),
    [
        ("switch", ["log", "self.log", "self._log", "switch.log", "self._switch.log", "self._reports.log"],
         logevents.SWITCH),
        ("control", [f"_log.{level}" for level in (*logline.LEVELS, "exception")], logevents.CONTROL),
    ],
)  # fmt: skip
def test_every_event_is_in_the_table_and_says_what_to_do(part: str, called: list[str], table: dict[str, Any]) -> None:
    assert logged(part, *called) == set(table)
    for event, (level, hint) in table.items():
        assert level in logline.LEVELS
        assert hint or level in ("debug", "info"), f"{event}: and now?"


def test_what_a_hint_names_is_there() -> None:
    from appswitch.cli.commands import SUBCOMMANDS

    docs = SOURCES.parent.parent if (SOURCES.parent.parent / "docs").is_dir() else Path(__file__).parents[2]
    hints = [event.hint for table in (logevents.SWITCH, logevents.CONTROL) for event in table.values()]
    for hint in [*hints, *keeper.HINTS.values()]:
        for word in hint.split("`")[1::2]:
            if word.startswith("ax "):
                assert word.split()[1] in SUBCOMMANDS, word
        for word in hint.replace(":", " ").replace(",", " ").split():
            if word.startswith("docs/"):
                assert (docs / word).is_file(), word
