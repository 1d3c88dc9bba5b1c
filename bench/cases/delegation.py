"""Delegation to an Envoy, beside the same Envoy to which iptables redirects, as in a service mesh, and beside none.

Same client, same server; Envoy carries bytes to where they were to go (tcp_proxy, ORIGINAL_DST). `redirect` is a
network namespace of its own, with the rules of Istio's sidecar: what leaves is redirected, unless it is Envoy's user's.
`open` is the delegated one once more, by a proxy with `onFailure: open`: the switch keeps its queue.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from bench import envoy
from bench.cases import Run
from bench.cases.services import vservice
from bench.pairing import Figure, Target, ratios, take_turns
from bench.processes import Process, UnavailableError
from bench.programs import SPREAD, Programs

CONNECTIONS, ROUNDS, CLIENTS, EACH = 50, 500, 4, 50  # a turn
PORT, USER = 15001, 1337  # Istio's
NETWORK = "10.99.0"
PROXY = "bench-envoy"


class Side(NamedTuple):
    """A client, and everybody who works for its connections."""

    client: Process
    pids: tuple[int, ...]


class Cost(NamedTuple):
    """Of a connection with one round trip, microseconds."""

    took: float
    cpu: float


def measure(run: Run) -> Iterator[Figure]:
    """Setup, and processor time of everybody for it; round trips on an established connection; connections a second."""
    binary = _envoy()
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            sides = {
                **stack.enter_context(_delegated(run, binary, cpus)),
                "redirect": stack.enter_context(_redirected(run.programs, binary, cpus)),
                "direct": stack.enter_context(_direct(run.programs, cpus)),
            }
            yield from _figures(run, pin, sides)


def _figures(run: Run, pin: str, sides: dict[str, Side]) -> Iterator[Figure]:
    costs = take_turns({name: _setup(side) for name, side in sides.items()}, run.turns)
    what = "connect, accept, round trip, close"
    yield from _pair(pin, "setup", what, "us", {name: [one.took for one in all_] for name, all_ in costs.items()})
    what = "processor time of all for a connection"
    yield from _pair(pin, "cpu", what, "us", {name: [one.cpu for one in all_] for name, all_ in costs.items()})
    sides = {name: side for name, side in sides.items() if name != "open"}  # once it is made it is as any other
    trips = take_turns({name: _round_trip(side) for name, side in sides.items()}, run.turns)
    yield from _pair(pin, "latency", "round trip of 16 bytes", "us", trips)
    rates = take_turns({name: _rate(side) for name, side in sides.items()}, run.turns)
    yield from _pair(pin, "rate", f"connections a second, {CLIENTS} clients", "/s", rates)


def _pair(pin: str, kind: str, what: str, unit: str, results: dict[str, list[float]]) -> Iterator[Figure]:
    """To the redirected ones, better in each; to those without a proxy; and what `onFailure: open` costs."""
    low = kind != "rate"
    better = Target(at_most=1.0) if low else Target(at_least=1.0)
    pairs = (("ax", "redirect", better), ("ax", "direct", None), ("open", "ax", None))
    for one, other, target in (pair for pair in pairs if pair[0] in results):
        yield Figure(
            name=f"delegation.{other if one == 'ax' else one}.{kind}.{pin}",
            what=f"{what}: " + (f"delegated to Envoy, to {other}" if one == "ax" else "onFailure: open, to closed"),
            unit="x",
            samples=ratios(results[one], results[other]),
            target=target,
            steady=pin == "pinned",
            lower_is_better=low,
            sides={side: statistics.median(results[side]) for side in (one, other)},
            side_unit=unit,
        )


def _setup(side: Side) -> Callable[[], Cost]:
    def turn() -> Cost:
        before = _cpu(side.pids)
        took = statistics.median(side.client.ask(f"connect {CONNECTIONS}")["total"])
        return Cost(took / 1000, (_cpu(side.pids) - before) / 1000 / CONNECTIONS)

    return turn


def _round_trip(side: Side) -> Callable[[], float]:
    return lambda: statistics.median(side.client.ask(f"rounds {ROUNDS}")["round"]) / 1000


def _rate(side: Side) -> Callable[[], float]:
    return lambda: CLIENTS * EACH / (side.client.ask(f"parallel {CLIENTS} {EACH}")["took"] / 1e9)


def _cpu(pids: Sequence[int]) -> int:
    """Nanoseconds of all their threads. proc(5), schedstat."""
    tasks = itertools.chain.from_iterable(Path(f"/proc/{pid}/task").iterdir() for pid in pids)
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


# -- who takes part


@contextlib.contextmanager
def _direct(programs: Programs, cpus: Set[int]) -> Iterator[Side]:
    with Process([programs["server"], "0.0.0.0", "0", "1"], os.environ, cpus) as server:
        words = [programs["client"], "127.0.0.1", server.line(), str(SPREAD)]
        with Process(words, os.environ, cpus) as client:
            yield Side(client, (client.pid, server.pid))


@contextlib.contextmanager
def _delegated(run: Run, binary: str, cpus: Set[int]) -> Iterator[dict[str, Side]]:
    """By one Envoy, with two clients: a proxy of each kind of `onFailure`."""
    node, programs = run.node, run.programs
    with contextlib.ExitStack() as stack:
        own, host = node.fresh_ip(), node.fresh_ip()
        config = stack.enter_context(_config())
        words = node.run(own, "unix", [binary, *envoy.options(config, len(cpus))])
        proxy = stack.enter_context(Process(words, node.environment, cpus))
        words = node.run(host, "unix", [programs["server"], host, "0", "1"])
        server = stack.enter_context(Process(words, node.environment, cpus))
        backend = {"ip": host, "port": int(server.line())}
        proxy.wait_until(lambda: any(row["service_port"] == PORT for row in node.get("servers")["servers"]))
        sides = {}
        for name, on_failure in (("ax", "closed"), ("open", "open")):
            spec = {"listener": f"{own}:{PORT}", "onFailure": on_failure}
            node.apply({"kind": "Proxy", "metadata": {"name": f"{PROXY}-{name}"}, "spec": spec})
            stack.callback(node.delete, f"proxies/{PROXY}-{name}")
            service = {"backends": [backend], "proxy": f"{PROXY}-{name}"}
            ip, port = vservice(node, stack, f"bench-delegated-{name}", service)
            words = node.run(node.fresh_ip(), "unix", [programs["client"], ip, port, "1"])
            client = stack.enter_context(Process(words, node.environment, cpus))
            sides[name] = Side(client, (client.pid, proxy.pid, server.pid, node.pids["switch"]))
        yield sides


@contextlib.contextmanager
def _redirected(programs: Programs, binary: str, cpus: Set[int]) -> Iterator[Side]:
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context(_namespace())
        config = stack.enter_context(_config())
        become = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
        proxy = stack.enter_context(
            Process([*enter, *become, binary, *envoy.options(config, len(cpus))], os.environ, cpus)
        )
        server = stack.enter_context(Process([*enter, programs["server"], "0.0.0.0", "0", "1"], os.environ, cpus))
        words = [*enter, programs["client"], f"{NETWORK}.1", server.line(), str(SPREAD)]
        listens = [*enter, "ss", "-Hltn", f"sport = :{PORT}"]
        proxy.wait_until(lambda: bool(subprocess.run(listens, capture_output=True, check=True).stdout))
        client = stack.enter_context(Process(words, os.environ, cpus))
        yield Side(client, (client.pid, proxy.pid, server.pid))


@contextlib.contextmanager
def _namespace() -> Iterator[list[str]]:
    """The words that run a command in it. Raises UnavailableError."""
    if os.geteuid() != 0:
        raise UnavailableError("beside iptables: root is needed")
    name = f"axb-{os.getpid()}"
    enter = ["ip", "netns", "exec", name]
    nat = [*enter, "iptables", "-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp"]
    addresses = (["ip", "-n", name, "address", "add", f"{NETWORK}.{n}/32", "dev", "lo"] for n in range(1, SPREAD + 1))
    try:
        _do("ip", "netns", "add", name)
        for words in (["ip", "-n", name, "link", "set", "lo", "up"], *addresses):
            _do(*words)
        _do(*nat, "-m", "owner", "--uid-owner", str(USER), "-j", "RETURN")
        _do(*nat, "-d", "127.0.0.1/32", "-j", "RETURN")
        _do(*nat, "-j", "REDIRECT", "--to-ports", str(PORT))
        yield enter
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _do(*words: str) -> None:
    try:
        subprocess.run(words, check=True, capture_output=True, text=True)
    except OSError as problem:
        raise UnavailableError(f"beside iptables: {problem}") from None
    except subprocess.CalledProcessError as failed:
        raise UnavailableError(f"beside iptables: `{' '.join(words)}`: {failed.stderr.strip()}") from None


# -- Envoy


def _envoy() -> str:
    if shutil.which("iptables", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        raise UnavailableError("beside iptables: it is not installed")
    return envoy.program()


@contextlib.contextmanager
def _config() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="axb-envoy-", dir="/tmp") as place:
        Path(place).chmod(0o755)
        config = Path(place, "envoy.json")
        config.write_text(json.dumps(_configuration()))
        yield config


def _configuration() -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions.filters"
    original = {"@type": f"{types}.listener.original_dst.v3.OriginalDst"}
    carry = {"@type": f"{types}.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "tcp", "cluster": "original"}
    listener = {
        "name": "outbound",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": PORT}},
        "listener_filters": [{"name": "envoy.filters.listener.original_dst", "typed_config": original}],
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": carry}]}],
    }
    cluster = {"name": "original", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "5s"}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
