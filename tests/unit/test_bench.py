"""The arithmetic of the benchmarks. What they measure is not tested here: nothing below looks at a clock."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from bench import machine, report
from bench.compare import SMALLEST_WHEN_BUSY, Change, compare
from bench.pairing import Figure, Target, Verdict, differences, percentile, rank_sum, ratios, take_turns, trend
from hypothesis import given
from hypothesis import strategies as st

numbers = st.floats(min_value=0.001, max_value=1e6)


def figure(*samples: float, name: str = "f", **more: object) -> Figure:
    return Figure(name=name, what="something", unit="x", samples=samples, **more)  # type: ignore[arg-type]


# -- pairing


def test_turns_alternate_and_every_other_one_goes_backwards() -> None:
    order: list[str] = []
    subjects = {name: (lambda name=name: order.append(name)) for name in "AB"}
    take_turns(subjects, 3, warm_up=0)
    assert "".join(order) == "ABBAAB"


def test_warm_up_is_run_and_thrown_away() -> None:
    counter = iter(range(100))
    assert take_turns({"A": lambda: next(counter)}, 3, warm_up=2) == {"A": [2, 3, 4]}


def test_samples_of_one_turn_stay_together() -> None:
    clock = iter(range(100))
    results = take_turns({"A": lambda: next(clock), "B": lambda: next(clock)}, 4, warm_up=1)
    assert all(abs(a - b) == 1 for a, b in zip(results["A"], results["B"], strict=True))


def test_ratios_and_differences_are_turn_by_turn() -> None:
    assert ratios([2, 9], [1, 3]) == (2, 3)
    assert differences([2, 9], [1, 3]) == (1, 6)


def test_a_missing_turn_is_an_error() -> None:
    with pytest.raises(ValueError, match="longer"):
        ratios([1], [1, 2])


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (10, 1.4), (50, 3.0), (90, 4.6), (100, 5.0)], ids=lambda value: f"{value}"
)
def test_percentiles_are_interpolated(percent: float, expected: float) -> None:
    assert percentile([5, 1, 4, 2, 3], percent) == pytest.approx(expected)


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@given(st.lists(numbers, min_size=1), st.floats(min_value=0, max_value=100))
def test_a_percentile_lies_within(values: list[float], percent: float) -> None:
    assert min(values) * 0.999 <= percentile(values, percent) <= max(values) * 1.001


@given(st.lists(numbers, min_size=1))
def test_p10_median_p90_are_in_order(values: list[float]) -> None:
    one = figure(*values)
    assert one.p10 <= one.median * 1.001
    assert one.median <= one.p90 * 1.001


def test_a_trend_is_what_grows_steadily() -> None:
    assert trend([10, 12, 14, 16]) == pytest.approx(6)
    assert trend([10, 10, 10, 15, 15, 15, 15, 15]) == 0
    assert trend([5, 4, 3]) == -2
    with pytest.raises(ValueError, match="three"):
        trend([1, 2])


# -- verdicts


@pytest.mark.parametrize(
    ("samples", "target", "verdict"),
    [
        ((1, 2, 3), Target(at_most=2), Verdict.MET),
        ((1, 3, 3), Target(at_most=2), Verdict.UNCLEAR),
        ((3, 3, 3), Target(at_most=2), Verdict.MISSED),
        ((1, 2, 3), Target(at_least=2), Verdict.MET),
        ((1, 1, 3), Target(at_least=2), Verdict.UNCLEAR),
        ((1, 1, 1), Target(at_least=2), Verdict.MISSED),
        ((9, 9, 9), None, Verdict.REPORTED),
        ((0,), Target(at_most=0), Verdict.MET),
        ((1,), Target(at_most=0), Verdict.MISSED),
    ],
)
def test_verdict(samples: tuple[float, ...], target: Target | None, verdict: Verdict) -> None:
    assert figure(*samples, target=target).verdict is verdict


def test_one_bad_turn_misses_no_target() -> None:
    assert figure(*[1.0] * 14, 100.0, target=Target(at_most=2)).verdict is Verdict.MET


def test_targets_as_text() -> None:
    assert str(Target(at_most=2.5)) == "<= 2.5"
    assert str(Target(at_least=0.97)) == ">= 0.97"


# -- change or noise


def test_rank_sum_agrees_with_a_table() -> None:
    # U = 0 of 10 and 10: z = (50 - 0.5) / sqrt(175), two-sided.
    assert rank_sum(range(10), range(10, 20)) == pytest.approx(0.000183, abs=2e-6)


@given(st.lists(numbers, min_size=4, max_size=30), st.lists(numbers, min_size=4, max_size=30))
def test_rank_sum_is_a_symmetric_probability(one: list[float], other: list[float]) -> None:
    chance = rank_sum(one, other)
    assert 0 <= chance <= 1
    assert chance == pytest.approx(rank_sum(other, one))


@given(st.lists(numbers, min_size=4, max_size=30))
def test_a_sample_does_not_differ_from_itself(values: list[float]) -> None:
    assert rank_sum(values, values) > 0.9


def test_rank_sum_tells_nothing_from_few_or_from_equal_values() -> None:
    assert rank_sum([1, 2, 3], [7, 8, 9]) == 1.0
    assert rank_sum([1] * 9, [1] * 9) == 1.0


def noisy(middle: float, seed: int, spread: float = 0.03, count: int = 15) -> tuple[float, ...]:
    dice = random.Random(seed)
    return tuple(middle * dice.gauss(1, spread) for _ in range(count))


def change(old: Figure, new: Figure) -> Change:
    (line,) = compare([old], [new])
    return line.change


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_change(seed: int) -> None:
    assert change(figure(*noisy(2.0, seed)), figure(*noisy(2.02, seed + 100))) is Change.SAME


@pytest.mark.parametrize("seed", range(20))
def test_a_fifth_more_is_a_regression(seed: int) -> None:
    assert change(figure(*noisy(2.0, seed)), figure(*noisy(2.4, seed + 100))) is Change.WORSE


def test_less_is_better_unless_said_otherwise() -> None:
    old, new = noisy(2.0, 1), noisy(1.5, 2)
    assert change(figure(*old), figure(*new)) is Change.BETTER
    assert change(figure(*old, lower_is_better=False), figure(*new, lower_is_better=False)) is Change.WORSE


def test_a_steady_but_tiny_difference_is_none() -> None:
    assert change(figure(*[2.0] * 15), figure(*[2.1] * 15)) is Change.SAME


def test_samples_that_overlap_are_the_same() -> None:
    wide = [1.0, 3.0] * 8
    assert change(figure(*wide), figure(*(value * 1.2 for value in wide))) is Change.SAME


def test_single_samples_are_compared_by_size() -> None:
    assert change(figure(100), figure(110)) is Change.SAME
    assert change(figure(100), figure(120)) is Change.WORSE


def test_within_the_grain_there_is_no_change() -> None:
    assert change(figure(0), figure(1000, grain=1024)) is Change.SAME
    assert change(figure(0), figure(1100, grain=1024)) is Change.WORSE


def test_a_yardstick_takes_the_machine_out() -> None:
    slow = [value * 1.7 for value in noisy(10.0, 1)]
    old = figure(*noisy(10.0, 2), yardstick=noisy(1.0, 3), grain=1.0)
    assert change(old, figure(*slow, yardstick=noisy(1.7, 4), grain=1.0)) is Change.SAME
    assert change(old, figure(*slow, yardstick=noisy(1.0, 5), grain=1.0)) is Change.WORSE


def test_figure_and_yardstick_must_agree() -> None:
    old = figure(*noisy(15.0, 1), yardstick=noisy(4.0, 2))
    assert change(old, figure(*noisy(9.0, 3), yardstick=noisy(1.5, 4))) is Change.SAME


def test_on_a_busy_machine_a_change_must_be_large() -> None:
    old, new = figure(*noisy(2.0, 1)), figure(*noisy(2.4, 2))
    (line,) = compare([old], [new], SMALLEST_WHEN_BUSY)
    assert line.change is Change.SAME


def test_without_a_yardstick_on_both_sides_there_is_none() -> None:
    assert change(figure(*noisy(10.0, 1), yardstick=noisy(5.0, 2)), figure(*noisy(10.0, 3))) is Change.SAME


def test_what_the_scheduler_decides_is_no_regression() -> None:
    old, new = noisy(2.0, 1), noisy(5.0, 2)
    assert change(figure(*old, steady=False), figure(*new, steady=False)) is Change.LUCK


def test_figures_that_came_and_went() -> None:
    lines = compare([figure(1, name="old"), figure(1, name="both")], [figure(1, name="both"), figure(1, name="new")])
    assert [(line.name, line.change) for line in lines] == [
        ("both", Change.SAME),
        ("new", Change.ADDED),
        ("old", Change.REMOVED),
    ]


def test_a_target_that_is_missed_now_is_told_even_when_the_change_is_small() -> None:
    target = Target(at_most=2.5)
    (line,) = compare([figure(*[2.49] * 9, target=target)], [figure(*[2.51] * 9, target=target)])
    assert line.change is Change.SAME
    assert line.missed
    (again,) = compare([figure(*[2.51] * 9, target=target)], [figure(*[2.52] * 9, target=target)])
    assert not again.missed


# -- reports


def a_report(*figures: Figure, not_run: tuple[report.NotRun, ...] = ()) -> report.Report:
    return report.Report(
        when="2026-01-01T00:00:00+00:00", machine=machine.describe(), turns=3, figures=figures, not_run=not_run
    )


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "latest.json"
    written = a_report(figure(1, 2, 3, target=Target(at_most=2), sides={"ax": 2.0}), not_run=(report.NotRun("a", "b"),))
    report.write(written, path)
    back = report.read(path)
    assert back.figures == written.figures
    assert back.machine == written.machine
    assert back.not_run == written.not_run
    assert back.summary["f"] == report.Summary(2.0, 1.2, 2.8, Verdict.MET)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 1}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"x\.json"):
        report.read(path)


def test_a_report_is_good_unless_a_target_is_missed_or_a_case_failed() -> None:
    missed = figure(3, 3, target=Target(at_most=2))
    assert a_report(figure(1)).ok
    assert a_report(figure(1), not_run=(report.NotRun("elsewhere", "one machine"),)).ok
    assert not a_report(missed).ok
    assert not a_report(figure(1), not_run=(report.NotRun("case", "failed", failed=True),)).ok


def test_the_table_has_every_figure_and_what_was_not_run() -> None:
    text = report.text(
        a_report(
            figure(1, 2, name="one"),
            figure(3, name="two", target=Target(at_most=2)),
            not_run=(report.NotRun("x", "why"),),
        )
    )
    for words in ("one", "two", "<= 2", "missed", "1.1..1.9", "x: why"):
        assert words in text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (2.5, "2.5"), (99.94, "99.9"), (12345.6, "12,346")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_the_comparison_as_text() -> None:
    text = report.compared(
        compare([figure(*[2.0] * 9, name="slow")], [figure(*[4.0] * 9, name="slow"), figure(1, name="new")])
    )
    assert "WORSE" in text
    assert "+100.0 %" in text


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A directory with reports old.json, new.json, worse.json and other.json."""
    for name, samples in (("old", (1.0, 1.1, 1.0)), ("new", (1.1, 1.0, 1.0)), ("worse", (2.0, 2.1, 2.0))):
        report.write(a_report(figure(*samples)), tmp_path / f"{name}.json")
    report.write(a_report(figure(1.0, name="another")), tmp_path / "other.json")
    return tmp_path


@pytest.mark.parametrize(
    ("new", "status", "words"),
    [
        ("new", 0, "nothing worse"),
        ("worse", 1, "1 worse"),
        ("other", 2, "no figure in common"),
        ("none", 2, "No such file"),
    ],
)
def test_ax_bench_compares_from_any_directory(two: Path, new: str, status: int, words: str) -> None:
    script = Path(__file__).parents[2] / "scripts" / "ax-bench"
    done = subprocess.run(
        [script, "compare", "old.json", f"{new}.json"], cwd=two, capture_output=True, text=True, check=False
    )
    assert (done.returncode, words in done.stdout + done.stderr) == (status, True), done


# -- the machine


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("'--enable-optimizations' '--with-lto'", "GCC 12.2.0, --enable-optimizations, --with-lto"),
        ("'--prefix=/usr'", "GCC 12.2.0"),
    ],
)
def test_the_build_of_python(arguments: str, expected: str) -> None:
    assert machine.python_build(arguments, "3.11.7 (main) [GCC 12.2.0]") == expected
