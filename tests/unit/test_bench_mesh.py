"""The parts of `bench mesh` that start nothing: configuration, what loads say, figures, aims, tables, the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bench import machine, report
from bench.__main__ import main
from bench.compare import Change, compare
from bench.mesh import command, figures, page, pictures, runner, tables, tools
from bench.mesh.figures import aims, curves
from bench.mesh.istio import Service, Sidecar
from bench.mesh.measure import Measured, Trial, measure, not_suited, suits
from bench.mesh.stages import VARIANTS
from bench.mesh.work import SERVICES, WORKS, Result, Work, read_iperf, read_redis, read_timings
from bench.pairing import Figure, Verdict
from bench.processes import BenchError, UnavailableError
from hypothesis import given
from hypothesis import strategies as st

REDIS = """\
====== GET ======
  10000 requests completed in 0.50 seconds
  50 parallel clients

Latency by percentile distribution:
0.000% <= 0.100 milliseconds (cumulative count 1)
50.000% <= 1.000 milliseconds (cumulative count 5000)
75.000% <= 2.000 milliseconds (cumulative count 7500)
100.000% <= 9.000 milliseconds (cumulative count 10000)

Cumulative distribution of latencies:
0.000% <= 0.103 milliseconds (cumulative count 0)

Summary:
  throughput summary: 20000.00 requests per second
"""


# -- Envoy's configuration


@given(http=st.booleans(), log=st.booleans(), mtls=st.booleans(), check=st.booleans())
def test_every_cluster_that_is_named_is_there(http: bool, log: bool, mtls: bool, check: bool) -> None:
    sidecar = Sidecar("/place", http=http, log=log, mtls=mtls, check=check)
    for bootstrap in (sidecar.client(SERVICES, "10.0.0.2"), sidecar.server(SERVICES)):
        there = {cluster["name"] for cluster in bootstrap["static_resources"]["clusters"]}
        named = set(_values(bootstrap["static_resources"]["listeners"], "cluster"))
        assert named <= there
        assert ("check" in there) is (check and bootstrap["node"]["cluster"] == "server")
        assert ("FileAccessLog" in json.dumps(bootstrap)) is log


def _values(tree: Any, key: str) -> list[Any]:
    """Of this key, at any depth."""
    if isinstance(tree, dict):
        own = [tree[key]] if isinstance(tree.get(key), str) else []
        return own + [found for value in tree.values() for found in _values(value, key)]
    return [found for value in tree for found in _values(value, key)] if isinstance(tree, list) else []


def test_only_http_is_routed_as_http() -> None:
    services = (Service("web", 80, 1), Service("bytes", 90, 0))
    (listener,) = Sidecar("/place").server(services)["static_resources"]["listeners"]
    kinds = {
        chain["filter_chain_match"]["destination_port"]: chain["filters"][0]["name"]
        for chain in listener["filter_chains"]
    }
    assert kinds == {
        80: "envoy.filters.network.http_connection_manager",
        90: "envoy.filters.network.tcp_proxy",
    }
    plain = json.dumps(Sidecar("/place", http=False).server(services))
    assert "http_connection_manager" not in plain


def test_mutual_tls_is_on_the_wire_between_the_sidecars_alone() -> None:
    sidecar = Sidecar("/place", mtls=True)
    client, server = sidecar.client(SERVICES, "10.0.0.2"), sidecar.server(SERVICES)
    assert all(
        "UpstreamTls" in json.dumps(one) for one in client["static_resources"]["clusters"] if "outbound" in one["name"]
    )
    assert "Tls" not in json.dumps(client["static_resources"]["listeners"])
    assert all(
        "DownstreamTls" in json.dumps(one) for one in server["static_resources"]["listeners"][0]["filter_chains"]
    )
    assert "TlsContext" not in json.dumps(server["static_resources"]["clusters"])


# -- what loads say


def test_latencies_between_quantiles_are_interpolated() -> None:
    result = Result(1, 1, ((0.5, 1.0), (0.9, 3.0), (1.0, 9.0)))
    assert [result.at(q) for q in (0.5, 0.7, 0.9, 1.0)] == pytest.approx([1.0, 2.0, 3.0, 9.0])
    with pytest.raises(ValueError, match=r"0\.1"):
        result.at(0.1)


def test_our_loads() -> None:
    result = read_timings('{"rate": 5.5, "requests": 11, "errors": 0, "curve": [[0.5, 0.25]]}')
    assert result == Result(5.5, 11, ((0.5, 0.25),))
    with pytest.raises(BenchError, match="3 requests failed"):
        read_timings('{"rate": 5.5, "requests": 11, "errors": 3, "curve": []}')
    with pytest.raises(BenchError, match="in time"):
        read_timings('{"rate": 0, "requests": 0, "errors": 0, "curve": [[0.5, 900]]}')


def test_redis_benchmark() -> None:
    result = read_redis(REDIS)
    assert (result.rate, result.requests) == (20000, 10000)
    assert result.at(0.5) == 1
    with pytest.raises(BenchError, match="Could not connect"):
        read_redis("Could not connect to Redis")


def test_iperf() -> None:
    assert read_iperf(json.dumps({"end": {"sum_received": {"bits_per_second": 8e9, "bytes": 2e9}}})) == Result(8, 2)
    with pytest.raises(BenchError, match="busy"):
        read_iperf('{"error": "the server is busy"}')


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("/x/envoy  version: abc9d/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1", "7.0.15"),
        ("iptables v1.8.9 (nf_tables)", "1.8.9"),
        ("memcached 1.6.18", "1.6.18"),
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("none", ""),
    ],
)
def test_versions(text: str, number: str) -> None:
    assert tools.version(text) == number


# -- the runner


def test_the_runner_tells_status_and_output_without_the_marks() -> None:
    said = runner.run(["sh", "-c", "echo begin; echo found; echo end; echo more >&2; exit 3"], [], 60)
    assert (said["status"], said["output"], said["errors"]) == (3, "found\n", "more\n")
    assert said.keys() >= {"took", "cpu", "others"}


def test_work_outside_the_marks_is_not_counted() -> None:
    """Nothing is done between these: 100,000 steps of a shell before and after them."""
    steps = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done;"
    marked, whole = (
        runner.run(["sh", "-c", f"{steps} {begin} {end} {steps}"], [], 60)["cpu"]
        for begin, end in (("echo begin;", "echo end;"), ("", ""))
    )
    assert marked < whole  # type: ignore[operator]


def test_a_load_that_does_not_end_is_ended() -> None:
    said = runner.run(["sleep", "1000"], [], 0.1)
    assert said["status"] == -9


def test_a_load_that_is_not_there() -> None:
    assert "No such file" in str(runner.run(["/nowhere/load"], [], 1)["errors"])


# -- turns


class FakeStage:
    """Whose loads answer with these latencies, in turn; an exception is raised."""

    envoys = None

    def __init__(self, *answers: float | Exception) -> None:
        self._answers = list(answers)

    def serve(self, _: Service) -> None: ...

    def spot(self, _: Service) -> None: ...

    def run(self, *_: object) -> dict[str, Any]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        said = {"rate": 100.0, "requests": 200, "errors": 0, "curve": [[0.1, answer], [0.5, answer], [0.99, answer]]}
        return {"output": json.dumps(said), "cpu": 0.5, "others": 0.25, "took": 1.0}


FAKE = Work("grpc", "calls", "/s", SERVICES[0], lambda *_: ["load"], read_timings)


def variants(*names: str) -> dict[str, Any]:
    return {one.name: one for one in VARIANTS if one.name in names}


def turns(stages: dict[str, FakeStage], rounds: int = 3) -> Any:
    known = variants(*stages)
    return measure(FAKE, {known[name]: stage for name, stage in stages.items()}, 1.0, rounds, lambda _: None)  # type: ignore[misc]


def test_everybody_takes_every_turn() -> None:
    results, not_run = turns({"veth": FakeStage(1.0), "tcp": FakeStage(2.0)})
    assert not_run == []
    assert {name: [one.result.at(0.5) for one in found] for name, found in results.items()} == {
        "veth": [1.0] * 3,
        "tcp": [2.0] * 3,
    }


def test_what_fails_once_is_tried_again() -> None:
    results, not_run = turns({"veth": FakeStage(1.0, BenchError("hiccup"), 1.0)})
    assert (len(results["veth"]), not_run) == (3, [])


def test_what_fails_is_left_out_and_told() -> None:
    results, (told,) = turns({"veth": FakeStage(1.0), "tcp": FakeStage(1.0, 1.0, BenchError("broken"))})
    assert list(results) == ["veth"]
    assert told == report.NotRun("grpc on tcp", "broken", failed=True)


def test_what_fails_for_the_same_reason_is_told_once_with_all_names() -> None:
    broken = {name: FakeStage(BenchError("broken")) for name in ("tcp", "http")}
    _, (told,) = turns({"veth": FakeStage(1.0), **broken})
    assert told.what == "grpc on tcp, http"


def test_what_is_missing_for_everybody_is_told_once() -> None:
    results, (told,) = turns({name: FakeStage(UnavailableError("no compiler")) for name in ("veth", "tcp")})
    assert not results
    assert told == report.NotRun("grpc", "no compiler")


def test_a_trial_that_was_given_up_starts_nothing() -> None:
    trial = Trial(FakeStage(UnavailableError("none")), FAKE, 1.0)  # type: ignore[arg-type]
    assert trial() is None
    trial._stage = None  # type: ignore[assignment]
    assert trial() is None


def test_what_is_left_out_on_purpose_is_told() -> None:
    for work in WORKS:
        left = {one.name for one in VARIANTS if not suits(work, one)}
        told = " ".join(one.what for one in not_suited([work], VARIANTS))
        assert all(name in told for name in left)


# -- figures and aims


def measured(*latencies: float, cpu: float = 0.1) -> list[Measured]:
    return [Measured(Result(100, 100, ((0.1, ms), (0.5, ms), (0.99, ms))), cpu, 0.1) for ms in latencies]


def figures_of(**latencies: Sequence[float]) -> list[Figure]:
    named = {name.replace("_", "-"): measured(*found) for name, found in latencies.items()}
    return list(figures.figures(FAKE, named))


def test_figures_of_a_work() -> None:
    found = {one.name: one for one in figures_of(veth=[1, 2], tcp=[4, 6])}
    assert found["grpc.p50.tcp"].samples == (4, 6)
    assert found["grpc.p50.tcp"].comparable == (4, 3)
    assert found["grpc.p50.veth"].yardstick == ()
    assert found["grpc.cpu.tcp"].samples == (1000, 1000)
    assert not found["grpc.rate.tcp"].lower_is_better


def aim(name: str, **latencies: Sequence[float]) -> Figure:
    found, _ = aims(figures_of(**latencies))
    return next(one for one in found if one.name == name)


def test_two_hosts_are_as_fast_as_a_cable() -> None:
    assert aim("aim.two-hosts.grpc", veth=[1.0] * 3, ax_hosts=[1.01] * 3).verdict is Verdict.MET
    assert aim("aim.two-hosts.grpc", veth=[1.0] * 3, ax_hosts=[1.1] * 3).verdict is Verdict.MISSED


def test_one_host_is_faster() -> None:
    assert aim("aim.one-host.grpc", veth=[1.0] * 3, ax_host=[0.8] * 3).verdict is Verdict.MET


def test_what_is_kept_of_an_advantage() -> None:
    kept = aim("aim.kept.one-host.grpc.tcp", unix=[1.0] * 3, ax_host=[1.2] * 3, tcp=[5.0] * 3)
    assert kept.samples == pytest.approx((0.95,) * 3)
    whole = aim("aim.kept.two-hosts.grpc.tcp", veth=[1.0] * 3, ax_hosts=[0.9] * 3, tcp=[5.0] * 3)
    assert whole.median > 1


def test_where_nothing_is_to_be_kept_is_told() -> None:
    found, missing = aims(figures_of(unix=[2.0, 2.0, 1.0], ax_host=[1.0] * 3, tcp=[1.5] * 3))
    assert [(one.name, one.median) for one in found] == [("times.one-host.grpc.tcp", 1.5)]
    assert [one.what for one in missing] == ["aim.kept.one-host.grpc.tcp", "cpu-kept.one-host.grpc.tcp"]


def test_what_follows_is_computed_anew_and_nothing_is_there_twice() -> None:
    own = figures_of(unix=[1.0] * 3, ax_host=[1.2] * 3, tcp=[5.0] * 3, veth=[1.0] * 3)
    gap = report.NotRun("short", "broken")
    once = figures.derived_anew(own, [gap])
    again = figures.derived_anew(*once)
    assert again == once
    assert len(once[0]) > len(own)
    assert once[1][0] == gap


def test_delegation_has_aims_of_its_own() -> None:
    found, _ = aims(figures_of(ax_envoy=[1.0] * 3, one_log=[2.0] * 3))
    assert {one.name: one.median for one in found} == {
        "aim.delegation.grpc.p50": 0.5,
        "aim.delegation.grpc.rate": 1.0,
        "aim.delegation.grpc.cpu": 1.0,
    }


def test_curves_are_the_median_of_the_turns() -> None:
    assert curves(FAKE, {"veth": measured(1, 2, 9)}) == {"grpc.veth": ((0.1, 2), (0.5, 2), (0.99, 2))}


# -- reports


@pytest.fixture
def result() -> report.Report:
    found = figures_of(veth=[1, 2, 3], unix=[1, 1, 1], tcp=[4, 5, 6], ax_hosts=[1, 2, 3], ax_host=[1, 1, 1])
    told, missing = aims(found)
    others = list(figures.others(FAKE, {"veth": measured(1.0)}))
    lines = curves(FAKE, {name: measured(1, 2, 3) for name in pictures.DRAWN})
    return report.Report(
        when="2026-01-01T00:00:00+00:00",
        machine=machine.describe(),
        turns=3,
        figures=(*told, *found, *others),
        not_run=(report.NotRun("short on tcp", "broken\nat length"), *missing),
        curves=lines,
    )


def test_a_report_is_read_as_it_was_written(tmp_path: Path, result: report.Report) -> None:
    report.write(result, tmp_path / "mesh.json")
    back = report.read(tmp_path / "mesh.json")
    assert (back.figures, back.curves, back.not_run) == (result.figures, result.curves, result.not_run)


def test_tables(result: report.Report) -> None:
    text = tables.text(result)
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("veth", "tcp", "ax-"))}
    assert rows["veth"] == ["2", "2", "2", "100", "1,000", "1", "1"]
    assert rows["tcp"] == ["5", "5", "5", "100", "1,000", "2.50", "1.00"]
    beside = [line.split()[2:] for line in text.splitlines() if line.startswith("grpc, ax-")]
    assert beside == [["2.50"], ["5.00"], ["1.00"], ["1.00"]]  # times, kept
    assert "short on tcp: broken" in text
    assert "grpc 10 %" in text


def test_the_page_has_what_was_measured_and_keeps_the_rest(result: report.Report) -> None:
    before = f"Head.\n{page.BEGIN}\nold\n{page.END}\nTail.\n"
    after = page.replaced(before, page.section(result))
    assert after.startswith("Head.\n")
    assert after.endswith("\nTail.\n")
    assert "old" not in after
    assert "| veth, 2 sidecars: tcp_proxy (`tcp`) | 5 | 5 | 5 |" in after
    assert "- short on tcp: broken\n" in after
    assert page.replaced(after, page.section(result)) == after
    with pytest.raises(ValueError, match="no section"):
        page.replaced("Head.", "new")


def test_the_page_in_docs_has_its_marks() -> None:
    page.replaced(page.PAGE.read_text(), "")


def test_two_reports_of_few_rounds_are_compared() -> None:
    """A neighbour that slows all of it is no regression; what is slower than the rest is."""
    old = figures_of(veth=[1.0, 1.05, 0.98, 1.02, 1.0], tcp=[4.0, 4.1, 3.9, 4.05, 4.0])
    busy = figures_of(veth=[2.0, 2.1, 1.96, 2.04, 2.0], tcp=[8.0, 8.2, 7.8, 8.1, 8.0])
    worse = figures_of(veth=[1.0, 1.05, 0.98, 1.02, 1.0], tcp=[6.0, 6.1, 5.9, 6.05, 6.0])
    overlap = figures_of(veth=[1.0, 1.05, 0.98, 1.02, 1.0], tcp=[6.0, 3.9, 5.9, 6.05, 6.0])

    def change(new: list[Figure]) -> Change:
        return next(line.change for line in compare(old, new) if line.name == "grpc.p50.tcp")

    assert change(busy) is Change.SAME
    assert change(worse) is Change.WORSE
    assert change(overlap) is Change.SAME


# -- the command


def test_pictures_and_page_are_made_from_a_report(tmp_path: Path, result: report.Report) -> None:
    report.write(result, tmp_path / "mesh.json")
    made = tmp_path / "page.md"
    made.write_text(f"Head.\n{page.BEGIN}\n{page.END}\n")
    assert main(["mesh", "report", str(tmp_path / "mesh.json"), "--page", str(made)]) == 0
    assert "tcp_proxy" in made.read_text()
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    assert drawn == ["cpu.png", "distribution.png", "latency.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in drawn)
    assert main(["mesh", "report", str(tmp_path / "nosuch.json"), "--page", str(made)]) == 2


def test_names_choose_works_variants_or_both() -> None:
    works, some = command.chosen("short,veth")
    assert ([one.name for one in works], [one.name for one in some]) == (["short"], ["veth"])
    works, some = command.chosen("veth")
    assert (works, len(some)) == (list(WORKS), 1)
    assert command.chosen(None) == (list(WORKS), list(VARIANTS))
    with pytest.raises(ValueError, match="no such work or variant: nosuch"):
        command.chosen("nosuch,veth")


def test_the_runner_needs_nothing_but_the_standard_library() -> None:
    said = runner.run([sys.executable, "-I", "-S", runner.__file__], [], 60)
    assert said["status"] == 0
