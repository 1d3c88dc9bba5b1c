"""Beside the load balancers that stand in between: haproxy (mode tcp) and nginx (stream), same client, same server.

All of them have one backend, and take turns in the same run; `direct` is the client and the server without anybody.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import tempfile
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from bench.cases import Run
from bench.cases.services import vservice
from bench.pairing import Figure, Target, ratios, take_turns
from bench.processes import Process, UnavailableError
from bench.programs import DIRECT, SPREAD, Place, client_of, serving

ROUNDS, CLIENTS, WORKERS, EACH = 1_000, 4, 4, 100  # a turn
MODULES = (Path("/usr/lib/nginx/modules/ngx_stream_module.so"), Path("/usr/lib64/nginx/modules/ngx_stream_module.so"))
FASTER = {"latency": Target(at_most=0.5), "rate": None}

# To several addresses of the one server, as clients do: each has ports of its own.
HAPROXY = """\
global
    nbthread {threads}
    maxconn 4096
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend in
    bind 0.0.0.0:{port} interface lo
    default_backend out
backend out
    balance roundrobin
{servers}
"""
NGINX = """\
{module}
user {user};
daemon off;
worker_processes {threads};
pid {place}/nginx.pid;
error_log {place}/error.log;
events {{ worker_connections 4096; }}
stream {{
    upstream out {{
        {servers}
    }}
    server {{
        {listen}
        proxy_pass out;
    }}
}}
"""


def measure(run: Run) -> Iterator[Figure]:
    """Round trips on an established connection, and connections a second of several clients at a time."""
    for pin, cpus in run.pins():
        with contextlib.ExitStack() as stack:
            clients = _clients(run, cpus, stack)
            trips = take_turns({name: _round_trip(client) for name, client in clients.items()}, run.few)
            yield from _figures(pin, "latency", "round trip of 16 bytes", "us", trips)
            rates = take_turns({name: _rate(client) for name, client in clients.items()}, run.few)
            what = f"connections a second, {CLIENTS} clients, {WORKERS} workers"
            yield from _figures(pin, "rate", what, "/s", rates)


def _figures(pin: str, kind: str, what: str, unit: str, results: dict[str, list[float]]) -> Iterator[Figure]:
    for other in ("haproxy", "nginx"):
        sides = {side: statistics.median(results[side]) for side in ("ax", other, "direct")}
        yield Figure(
            name=f"proxies.{other}.{kind}.{pin}",
            what=f"{what}: a vservice, to {other}",
            unit="x",
            samples=ratios(results["ax"], results[other]),
            target=FASTER[kind],
            steady=pin == "pinned",
            lower_is_better=kind == "latency",
            sides=sides,
            side_unit=unit,
        )


def _round_trip(client: Process) -> Callable[[], float]:
    return lambda: statistics.median(client.ask(f"rounds {ROUNDS}")["round"]) / 1000


def _rate(client: Process) -> Callable[[], float]:
    return lambda: CLIENTS * EACH / (client.ask(f"parallel {CLIENTS} {EACH}")["took"] / 1e9)


# -- who takes part


def _clients(run: Run, cpus: Set[int], stack: contextlib.ExitStack) -> dict[str, Process]:
    place = Place("unix", run.node)
    ip, port = stack.enter_context(serving(run.programs, place, cpus, WORKERS))
    backends = [{"ip": ip, "port": int(port)}]
    asked = {"ax": vservice(run.node, stack, "bench-proxied", {"backends": backends})}
    host, port = stack.enter_context(serving(run.programs, DIRECT, cpus, WORKERS))
    asked["direct"] = host, port
    for name, starting in (("haproxy", _haproxy), ("nginx", _nginx)):
        asked[name] = host, stack.enter_context(starting(int(port), cpus))
    return {
        name: stack.enter_context(client_of(run.programs, place if name == "ax" else DIRECT, cpus, *where))
        for name, where in asked.items()
    }


@contextlib.contextmanager
def _haproxy(port: int, cpus: Set[int]) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="axb-haproxy-", dir="/tmp") as place:
        own, config = _free_port(), Path(place, "haproxy.cfg")
        servers = "\n".join(f"    server s{n} {ip}:{port}" for n, ip in enumerate(_addresses()))
        config.write_text(HAPROXY.format(threads=len(cpus), port=own, servers=servers))
        with Process([_program("haproxy"), "-db", "-f", str(config)], os.environ, cpus) as process:
            process.wait_until(lambda: _connects(own))
            yield str(own)


@contextlib.contextmanager
def _nginx(port: int, cpus: Set[int]) -> Iterator[str]:
    module = next((f"load_module {path};" for path in MODULES if path.exists()), "")
    with tempfile.TemporaryDirectory(prefix="axb-nginx-", dir="/tmp") as place:
        own, config = _free_port(), Path(place, "nginx.conf")
        servers = " ".join(f"server {ip}:{port};" for ip in _addresses())
        listen = " ".join(f"listen {ip}:{own};" for ip in _addresses())
        user = "root" if os.geteuid() == 0 else "nobody"
        values = {"module": module, "user": user, "threads": len(cpus), "place": place}
        config.write_text(NGINX.format(servers=servers, listen=listen, **values))
        words = [_program("nginx"), "-p", place, "-e", f"{place}/error.log", "-c", str(config)]
        with Process(words, os.environ, cpus) as process:
            process.wait_until(lambda: _connects(own))
            yield str(own)


def _addresses() -> list[str]:
    return [f"127.0.0.{n}" for n in range(1, SPREAD + 1)]


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise UnavailableError(f"{name} is not installed")
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
