"""`bench mesh` with real sidecars, and what is left of it: nothing."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bench import envoy, report
from bench.mesh import hosts, istio, sidecars
from bench.mesh.istio import Sidecar
from bench.mesh.work import SERVICES
from harness import wait_until

ROOT = Path(__file__).parents[2]
MESH = [sys.executable, "-m", "bench", "mesh", "--quick"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def left(pid: int) -> list[str]:
    """Namespaces of this run."""
    return [str(path) for path in hosts.HERE.glob(f"{hosts.PREFIX}-{pid}-*")]


@pytest.mark.root
@pytest.mark.timeout(150)  # a few seconds, but for neighbours
def test_sidecars_and_ax_do_the_same_work_and_nothing_is_left(tmp_path: Path) -> None:
    words = [*MESH, "--only", "vxlan-mtls,ax-hosts,short", "--output", str(tmp_path)]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        output, errors = run.communicate(timeout=140)
    assert run.returncode == 0, output + errors
    found = {figure.name: figure for figure in report.read(tmp_path / "mesh.json").figures}
    assert {name for name in found if name.startswith("short.p50")} == {
        "short.p50.vxlan-mtls",
        "short.p50.ax-hosts",
    }
    assert all(figure.median > 0 for name, figure in found.items() if name.startswith(("short.rate", "short.cpu")))
    assert left(run.pid) == []


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_that_is_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    told = tmp_path / "told"
    words = [*MESH, "--only", "http-log,ax-hosts", "--output", str(tmp_path)]
    with told.open("w") as errors:
        run = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=errors)
    wait_until(lambda: "bringing up ax-hosts" in told.read_text(), told.read_text, 40)
    assert left(run.pid)
    run.send_signal(number)
    run.wait(30)
    assert left(run.pid) == []


@pytest.mark.root
def test_what_a_killed_run_left_is_removed_by_the_next() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    stale = f"{hosts.PREFIX}-{gone.pid}-veth-c"
    hosts.do("ip", "netns", "add", stale)
    with hosts.Namespaces() as spaces:
        assert not (hosts.HERE / stale).exists()
        own = spaces.make("one")
        hosts.redirect(hosts.Host(own, ""), istio.RULES)
    assert not (hosts.HERE / own).exists()


def test_envoy_takes_every_configuration(tmp_path: Path) -> None:
    """Of each kind of sidecar, both sides at once: validation starts no workers."""
    sidecars.certificate(tmp_path)
    for number, (http, log, mtls, check) in enumerate(itertools.product((True, False), repeat=4)):
        if (log, check) not in ((True, True), (False, False)):
            continue
        sidecar = Sidecar(str(tmp_path), http=http, log=log, mtls=mtls, check=check)
        for side, config in (("client", sidecar.client(SERVICES, "10.0.0.2")), ("server", sidecar.server(SERVICES))):
            path = sidecars.write(tmp_path, f"{side}-{number}", config)
            words = [envoy.program(), "--mode", "validate", *envoy.options(path, 1)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
            assert done.returncode == 0, (http, log, mtls, check, side, done.stderr)
