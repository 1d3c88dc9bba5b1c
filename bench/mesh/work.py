"""What is done between two pods: servers, loads, and how what the loads say is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.mesh import tools
from bench.mesh.istio import Service
from bench.processes import BenchError

CONNECTIONS, RATE = 100, 1000  # of gRPC; calls a second where the rate is given: half of what the slowest can do
CACHED, SHORT, STREAMS = 50, 8, 4  # connections of memcached and redis; clients of short connections; of iperf3
TRIAL = 10_000  # requests of redis-benchmark while it is not known how fast it is

GRPC = Service("grpc", 8080, 2)
HTTP = Service("http", 8081, 1)
MEMCACHED = Service("memcached", 11211, 0)
REDIS = Service("redis", 6379, 0)
IPERF = Service("iperf", 5201, 0)
SERVICES = (GRPC, HTTP, MEMCACHED, REDIS, IPERF)

NGINX = """\
user root;
daemon off;
worker_processes 2;
pid {place}/nginx.pid;
error_log {place}/nginx.err;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {place}; proxy_temp_path {place}; fastcgi_temp_path {place};
    uwsgi_temp_path {place}; scgi_temp_path {place};
    server {{
        listen {listen} backlog=4096;
        location / {{ return 200 "0123456789abcdef"; }}
    }}
}}
"""


class Spot(NamedTuple):
    """Where a server listens, or is reached: an address and port, or a Unix socket."""

    host: str
    port: int
    path: str = ""

    @property
    def words(self) -> list[str]:
        """For our loads."""
        return [self.path, "0"] if self.path else [self.host, str(self.port)]


class Result(NamedTuple):
    """What a load found. ``curve``: of each quantile the latency in ms; empty where there are no requests."""

    rate: float  # a second
    requests: float  # while processor time was counted
    curve: tuple[tuple[float, float], ...] = ()

    def at(self, quantile: float) -> float:
        """The latency in ms, interpolated linearly. Raises ValueError where nothing is known around it."""
        if not self.curve or not self.curve[0][0] <= quantile <= self.curve[-1][0]:
            raise ValueError(f"no latency at {quantile}")
        before = self.curve[0]
        for after in self.curve:
            if after[0] >= quantile:
                break
            before = after
        share = (quantile - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0
        return before[1] + (after[1] - before[1]) * share


class Work(NamedTuple):
    """One load. ``client``: from a spot, seconds, and the rate that the last time gave (0: none) to a command."""

    name: str
    what: str
    unit: str  # of its rate
    service: Service
    client: Callable[[Spot, float, float], list[str]]
    read: Callable[[str], Result]
    unix: bool = True  # it can do without IP


def server(service: Service, spot: Spot, place: Path) -> list[str]:
    """The command of a service's server. ``place``: a directory for its files. Raises UnavailableError."""
    return _SERVERS[service.name](spot, place)


def _grpc(spot: Spot, _: Path) -> list[str]:
    return [tools.compiled("echo_server"), _target(spot)]


def _target(spot: Spot) -> str:
    return f"unix:{spot.path}" if spot.path else f"{spot.host}:{spot.port}"


def nginx(spot: Spot, place: Path) -> list[str]:
    """It answers everything with 16 bytes."""
    listen = f"unix:{spot.path}" if spot.path else f"{spot.host}:{spot.port}"
    config = place / "nginx.conf"
    config.write_text(NGINX.format(place=place, listen=listen))
    return [tools.program("nginx"), "-p", str(place), "-e", str(place / "nginx.err"), "-c", str(config)]


def _memcached(spot: Spot, _: Path) -> list[str]:
    where = ["-s", spot.path] if spot.path else ["-l", spot.host, "-p", str(spot.port)]
    return [tools.program("memcached"), "-u", "root", "-t", "2", "-c", "4096", *where]


def _redis(spot: Spot, place: Path) -> list[str]:
    where = ["--unixsocket", spot.path, "--port", "0"] if spot.path else ["--bind", spot.host, "--port", str(spot.port)]
    options = ["--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir", str(place)]
    return [tools.program("redis-server"), *where, *options]


def _iperf(spot: Spot, _: Path) -> list[str]:
    return [tools.program("iperf3"), "-s", "-B", spot.host, "-p", str(spot.port)]


_SERVERS: dict[str, Callable[[Spot, Path], list[str]]] = {
    "grpc": _grpc,
    "http": nginx,
    "memcached": _memcached,
    "redis": _redis,
    "iperf": _iperf,
}


# -- clients


def _calls(rate: int) -> Callable[[Spot, float, float], list[str]]:
    def words(spot: Spot, seconds: float, _: float) -> list[str]:
        return [tools.compiled("echo_load"), _target(spot), str(CONNECTIONS), f"{seconds:g}", str(rate)]

    return words


def _short(spot: Spot, seconds: float, _: float) -> list[str]:
    return [tools.compiled("short_load"), *spot.words, str(SHORT), f"{seconds:g}"]


def _cached(spot: Spot, seconds: float, _: float) -> list[str]:
    return [tools.compiled("memcached_load"), *spot.words, str(CACHED), f"{seconds:g}"]


def _redis_benchmark(spot: Spot, seconds: float, rate: float) -> list[str]:
    """It takes no time but a number: so many as were done in that time before."""
    where = ["-s", spot.path] if spot.path else ["-h", spot.host, "-p", str(spot.port)]
    count = str(max(TRIAL, round(rate * seconds)))
    return [tools.program("redis-benchmark"), *where, "-c", str(CACHED), "-n", count, "-t", "get", "--precision", "3"]


def _streams(spot: Spot, seconds: float, _: float) -> list[str]:
    time = str(max(1, round(seconds)))
    return [tools.program("iperf3"), "-c", spot.host, "-p", str(spot.port), "-t", time, "-P", str(STREAMS), "-J"]


# -- what they say


def read_timings(text: str) -> Result:
    """Of our loads: bench/mesh/c/timings.h. Raises BenchError when a request failed."""
    said: dict[str, Any] = json.loads(text)
    if said["errors"]:
        raise BenchError(f"{said['errors']} requests failed, {said['requests']} were answered")
    if not said["requests"]:
        raise BenchError("no request was answered in time: more are asked for than it can do here and now")
    return Result(said["rate"], said["requests"], tuple((q, ms) for q, ms in said["curve"]))


def read_redis(text: str) -> Result:
    """Of redis-benchmark without --csv, which alone has the distribution. Raises BenchError."""
    rate = re.search(r"throughput summary: ([\d.]+) requests per second", text)
    count = re.search(r"(\d+) requests completed in", text)
    _, _, distribution = text.partition("Latency by percentile distribution:")
    distribution = distribution.partition("Cumulative distribution")[0]
    rows = re.findall(r"^([\d.]+)% <= ([\d.]+) milliseconds", distribution, re.MULTILINE)
    if not rate or not count or not rows:
        raise BenchError(f"not what redis-benchmark says: {text[:500]!r}")
    return Result(float(rate[1]), float(count[1]), tuple((float(q) / 100, float(ms)) for q, ms in rows))


def read_iperf(text: str) -> Result:
    """Of iperf3 -J. Its rate in Gbit/s; a request is a GB. Raises BenchError."""
    said: dict[str, Any] = json.loads(text)
    if "error" in said:
        raise BenchError(str(said["error"]))
    received = said["end"]["sum_received"]
    return Result(received["bits_per_second"] / 1e9, received["bytes"] / 1e9)


WORKS: Sequence[Work] = (
    Work("grpc", f"gRPC, {CONNECTIONS} connections, closed loop", "/s", GRPC, _calls(0), read_timings),
    Work("grpc-rate", f"gRPC, {CONNECTIONS} connections, {RATE:,} calls/s", "/s", GRPC, _calls(RATE), read_timings),
    Work("memcached", f"memcached, 9 gets : 1 set, {CACHED} connections", "/s", MEMCACHED, _cached, read_timings),
    Work("redis", f"redis GET, {CACHED} connections", "/s", REDIS, _redis_benchmark, read_redis),
    Work("short", f"connect, one HTTP request, close; {SHORT} at a time", "/s", HTTP, _short, read_timings),
    Work("streams", f"iperf3, {STREAMS} streams", "Gbit/s", IPERF, _streams, read_iperf, unix=False),
)
