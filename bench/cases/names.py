"""From a name to the first byte of the answer: getaddrinfo, connect, one round trip. Bare it is dnsmasq on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Set

from bench.cases import Run
from bench.node import ax
from bench.pairing import Figure, ratios, take_turns
from bench.processes import Process, UnavailableError

NAME, BARE_IP = "first-byte.appswitch.local", "127.0.0.2"
COUNT = 100  # a turn
NAMESPACES = 'ip link set lo up && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


def measure(run: Run) -> Iterator[Figure]:
    """Both sides use glibc's resolver and the same programs; each turn's sample is the median of its rounds."""
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            clients = {
                "ax": stack.enter_context(_switched(run, cpus)),
                "direct": stack.enter_context(_bare(run, cpus)),
            }
            for key, what in (("total", "name, connect, first byte"), ("lookup", "of it: getaddrinfo")):
                turns = take_turns({side: _turn(one, key) for side, one in clients.items()}, run.turns)
                yield Figure(
                    name=f"named.{key}.{pin}",
                    what=f"{what}; direct is dnsmasq and loopback",
                    unit="x",
                    samples=ratios(turns["ax"], turns["direct"]),
                    steady=pin == "pinned",
                    sides={side: statistics.median(turns[side]) for side in ("ax", "direct")},
                    side_unit="us",
                )


def _turn(client: Process, key: str) -> Callable[[], float]:
    return lambda: statistics.median(client.ask(f"first {COUNT}")[key]) / 1000


@contextlib.contextmanager
def _switched(run: Run, cpus: Set[int]) -> Iterator[Process]:
    node, ip = run.node, run.node.fresh_ip()
    words = [*ax(), "run", "--no-start-daemon", "--name", NAME.partition(".")[0], "--ip", ip, "--"]
    with Process([*words, run.programs["server"], ip, "0", "1"], node.environment, cpus) as server:
        command = [run.programs["named"], NAME, server.line()]
        with Process(node.run(node.fresh_ip(), "unix", command), node.environment, cpus) as client:
            yield client


@contextlib.contextmanager
def _bare(run: Run, cpus: Set[int]) -> Iterator[Process]:
    """In a network namespace and with a resolv.conf of its own: the host's port 53 is somebody else's."""
    dnsmasq = shutil.which("dnsmasq", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if dnsmasq is None:
        raise UnavailableError("dnsmasq is not installed")
    if os.geteuid() != 0:
        raise UnavailableError("only root can give programs a resolv.conf of their own")
    with tempfile.NamedTemporaryFile("w", prefix="axb-resolv-") as resolv:
        resolv.write("nameserver 127.0.0.1\n")
        resolv.flush()
        words = ["unshare", "--net", "--mount", "sh", "-c", NAMESPACES, "sh", resolv.name]
        with Process([*words, run.programs["server"], BARE_IP, "0", "1"], os.environ, cpus) as server:
            port = server.line()
            inside = ["nsenter", "--target", str(server.pid), "--net", "--mount"]
            names = [
                dnsmasq, "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--no-resolv", "--no-hosts",
                "--user=", "--listen-address=127.0.0.1", "--bind-interfaces", "--log-facility=-",
                f"--host-record={NAME},{BARE_IP}",
            ]  # fmt: skip
            with (
                Process([*inside, *names], os.environ, cpus),
                Process([*inside, run.programs["named"], NAME, port], os.environ, cpus) as client,
            ):
                yield client
