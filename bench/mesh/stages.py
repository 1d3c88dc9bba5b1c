"""Where the programs of each variant run, and what is between them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import envoy
from bench.mesh import hosts, istio
from bench.mesh.hosts import VIP, Namespaces, Pair
from bench.mesh.istio import Service, Sidecar
from bench.mesh.sidecars import THREADS, Sidecars, ready, sidecars, write
from bench.mesh.work import SERVICES, Spot, server
from bench.node import Node, with_children
from bench.processes import BenchError, Process

RUNNER = Path(__file__).with_name("runner.py")
SERVING, ASKING, PROXYING = "10.93.200.1", "10.93.200.2", "10.93.200.3"  # virtual addresses of apps
LABELS = {"server": ["--labels", "zone=default,app=server"], "client": ["--labels", "zone=default,app=client"]}
PEEK = 20  # milliseconds: gRPC's clients wait for the server's SETTINGS before they say more

Start = Callable[[Service], Process]


class Stage:
    """A variant that is up. ``spot``: where its client reaches a service; ``middle``: who works for it besides."""

    def __init__(
        self, runner: Process, spot: Callable[[Service], Spot], start: Start, middle: Sequence[Process] = ()
    ) -> None:
        self.spot = spot
        self.envoys: Sidecars | None = None
        self._runner, self._start, self._middle = runner, start, tuple(middle)
        self._servers: dict[str, Process] = {}

    def serve(self, service: Service) -> None:
        """Start its server, unless it is there. Raises UnavailableError, BenchError."""
        if service.name not in self._servers:
            self._servers[service.name] = self._start(service)

    def _pids(self, service: Service) -> list[int]:
        """The server, and all in between, with their children."""
        processes = (self._servers[service.name], *self._middle)
        return [pid for process in processes for pid in with_children(process.pid)]

    def run(self, command: Sequence[str], service: Service, patience: float) -> dict[str, Any]:
        """A client to its end: see bench/mesh/runner.py. Raises BenchError when it fails."""
        asked = {"command": command, "pids": self._pids(service), "patience": patience}
        said = self._runner.ask(json.dumps(asked), patience + 10)
        if said["status"] != 0:
            errors = (said["errors"].strip() or said["output"].strip())[-1000:]
            raise BenchError(f"`{' '.join(command)}`: status {said['status']}: {errors}")
        return said


class Bench(NamedTuple):
    """What all variants share. ``place``: a directory; each has its own in it."""

    spaces: Namespaces
    place: Path

    def directory(self, name: str) -> Path:
        """A new one, which other users may enter."""
        path = self.place / name
        path.mkdir(mode=0o755)
        return path


class Starter:
    """Starts servers by one prefix of words, and ends them with the stack."""

    def __init__(self, stack: contextlib.ExitStack, place: Path, prefix: Callable[[Service], list[str]]) -> None:
        self._stack, self._place, self._prefix = stack, place, prefix
        self.environment: Mapping[str, str] = os.environ
        self.spot: Callable[[Service], Spot] = lambda service: Spot("0.0.0.0", service.port)  # its own namespace
        self.listens: Callable[[Service], bool] = lambda _: True

    def __call__(self, service: Service) -> Process:
        files = self._place / service.name
        files.mkdir(exist_ok=True)
        words = [*self._prefix(service), *server(service, self.spot(service), files)]
        process = self._stack.enter_context(Process(words, self.environment))
        process.wait_until(lambda: self.listens(service))
        return process


def _runner(stack: contextlib.ExitStack, prefix: Sequence[str], environment: Mapping[str, str]) -> Process:
    words = [*prefix, sys.executable, "-I", "-S", str(RUNNER)]
    return stack.enter_context(Process(words, environment))


# -- without ax


@contextlib.contextmanager
def bare_unix(bench: Bench, name: str) -> Iterator[Stage]:
    """Programs that speak over Unix sockets by themselves."""
    with contextlib.ExitStack() as stack:
        place = bench.directory(name)
        start = Starter(stack, place, lambda _: [])
        start.spot = lambda service: Spot("", 0, str(place / f"{service.name}.sock"))
        start.listens = lambda service: _connects(start.spot(service).path)
        yield Stage(_runner(stack, [], os.environ), start.spot, start)


def _connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(path) == 0


@contextlib.contextmanager
def loopback(bench: Bench, name: str) -> Iterator[Stage]:
    """Both in one namespace."""
    host = hosts.alone(bench.spaces, name)
    with _plain(bench, name, Pair(host, host), host.ip) as stage:
        yield stage


@contextlib.contextmanager
def cable(bench: Bench, name: str) -> Iterator[Stage]:
    """Two pods on one cable."""
    pair = hosts.veth(bench.spaces, name)
    with _plain(bench, name, pair, pair.server.ip) as stage:
        yield stage


@contextlib.contextmanager
def overlay(bench: Bench, name: str) -> Iterator[Stage]:
    """Two pods, on two hosts that VXLAN joins."""
    pair = hosts.vxlan(bench.spaces, name)
    with _plain(bench, name, pair, pair.server.ip) as stage:
        yield stage


@contextlib.contextmanager
def _plain(bench: Bench, name: str, pair: Pair, ip: str, middle: Sequence[Process] = ()) -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        start = Starter(stack, bench.directory(f"{name}-servers"), lambda _: pair.server.enter)
        start.listens = lambda service: bool(hosts.do(*pair.server.enter, "ss", "-Hltn", f"sport = :{service.port}"))
        runner = _runner(stack, pair.client.enter, os.environ)
        yield Stage(runner, lambda service: Spot(ip, service.port), start, middle)


def mesh(*, vxlan: bool = False, one: bool = False, **options: bool) -> Callable[[Bench, str], Any]:
    """Pods with sidecars. ``options``: of `Sidecar`; ``one``: only the client has one."""

    @contextlib.contextmanager
    def opened(bench: Bench, name: str) -> Iterator[Stage]:
        pair = (hosts.vxlan if vxlan else hosts.veth)(bench.spaces, name)
        sidecar = Sidecar(str(bench.directory(name)), **options)
        with (
            sidecars(pair, sidecar, SERVICES, one) as envoys,
            _plain(bench, name, pair, VIP, envoys.processes) as stage,
        ):
            stage.envoys = envoys
            yield stage

    return opened


# -- with ax


def one_host(policy: str = "") -> Callable[[Bench, str], Any]:
    """Client and server are apps of one node. ``policy``: none, "l4" or "l7"."""

    @contextlib.contextmanager
    def opened(bench: Bench, name: str) -> Iterator[Stage]:
        with contextlib.ExitStack() as stack:
            node = stack.enter_context(Node())
            start = _served(stack, bench.directory(name), node)
            node.apply(*(_vservice(one, {"ip": SERVING}) for one in SERVICES), *_policies(policy))
            yield Stage(_asking(stack, node), _virtual, start, _daemons(node))

    return opened


def two_hosts(policy: str = "") -> Callable[[Bench, str], Any]:
    """A node on each of two hosts that a cable joins; the client's leads to ports that the server's exposes."""

    @contextlib.contextmanager
    def opened(bench: Bench, name: str) -> Iterator[Stage]:
        pair = hosts.veth(bench.spaces, name)
        with contextlib.ExitStack() as stack:
            here, there = (stack.enter_context(Node(enter=host.enter)) for host in pair)
            start = _served(stack, bench.directory(name), there, exposed=True)
            backends = {one: {"external": f"{pair.server.ip}:{one.port}"} for one in SERVICES}
            node_policies = _policies(policy, "egress")
            here.apply(*(_vservice(one, backend) for one, backend in backends.items()), *node_policies)
            yield Stage(_asking(stack, here), _virtual, start, (*_daemons(here), *_daemons(there)))

    return opened


@contextlib.contextmanager
def delegated(bench: Bench, name: str) -> Iterator[Stage]:
    """One node; its vservice's connections are handed to an Envoy, which is an app, with the client's configuration."""
    with contextlib.ExitStack() as stack:
        node, place = stack.enter_context(Node()), bench.directory(name)
        start = _served(stack, bench.directory(f"{name}-servers"), node)
        config = write(place, "client", Sidecar(str(place), log=True).client(SERVICES, SERVING))
        words = [envoy.program(), *envoy.options(config, THREADS)]
        process = stack.enter_context(Process(node.run(PROXYING, "unix", words), node.environment))
        process.wait_until(lambda: ready(place / "client.admin") and _listens(node, istio.OUTBOUND))
        node.apply(
            {"kind": "Proxy", "metadata": {"name": "envoy"}, "spec": {"listener": f"{PROXYING}:{istio.OUTBOUND}"}}
        )
        node.apply(*(_vservice(one, {"ip": SERVING}, proxy="envoy") for one in SERVICES))
        stage = Stage(_asking(stack, node), _virtual, start, (*_daemons(node), process))
        stage.envoys = Sidecars((process,), (place / "client.admin",), place)
        yield stage


def _served(stack: contextlib.ExitStack, place: Path, node: Node, exposed: bool = False) -> Starter:
    def prefix(service: Service) -> list[str]:
        more = ["--expose", f"{service.port}:{service.port}/tcp"] if exposed else []
        return node.run(SERVING, "unix", [], [*LABELS["server"], *more])

    start = Starter(stack, place, prefix)
    start.environment = node.environment
    start.listens = lambda service: _listens(node, service.port)
    return start


def _asking(stack: contextlib.ExitStack, node: Node) -> Process:
    return _runner(stack, node.run(ASKING, "unix", [], LABELS["client"]), node.environment)


def _listens(node: Node, port: int) -> bool:
    return any(row["service_port"] == port for row in node.get("servers")["servers"])


def _virtual(service: Service) -> Spot:
    return Spot(VIP, service.port)


def _daemons(node: Node) -> tuple[Process, ...]:
    return (node.process,)


def _vservice(service: Service, backend: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Of one port; all of them share the address."""
    ports = {"ips": [VIP], "ports": [str(service.port)], "backends": [backend]}
    spec = {**ports, "peek": {"milliseconds": PEEK}, **more}
    return {"kind": "VService", "metadata": {"name": f"mesh-{service.name}"}, "spec": spec}


# What the first bytes of each work say: an allow policy lets through only that.
_FIRST: Sequence[dict[str, list[str]]] = (
    {"protocol": ["http2", "grpc"]},
    {"http.method": ["GET"]},
    {"memcached.command": ["get", "set"]},
    {"redis.command": ["GET", "SET", "CONFIG"]},
    {"protocol": ["unknown"]},
)


def _policies(kind: str, direction: str = "ingress") -> list[dict[str, Any]]:
    """From the client, to the server: by ports, or by first bytes as well."""
    if not kind:
        return []
    client: list[dict[str, Any]] = [{"labels": {"app": "client"}}]
    to = client_to = [{"labels": {"app": "server"}}]
    if direction == "egress":
        to = [{"networks": [hosts.NETWORK]}]
    ports = [f"{service.port}/tcp" for service in SERVICES]
    spec = {"action": "allow", "direction": direction, "from": client, "to": to or client_to, "ports": ports}
    if kind == "l7":
        spec["l7"] = list(_FIRST)
    return [{"kind": "Policy", "metadata": {"name": "mesh"}, "spec": spec}]


# -- all of them


class Variant(NamedTuple):
    """One row of the table. ``http``: it differs from others only for what Envoy reads as HTTP."""

    name: str
    title: str
    group: str  # bare, sidecars, ax
    open: Callable[[Bench, str], Any]
    http: bool = False


VARIANTS: Sequence[Variant] = (
    Variant("unix", "Unix socket", "bare", bare_unix),
    Variant("loopback", "loopback", "bare", loopback),
    Variant("veth", "veth", "bare", cable),
    Variant("vxlan", "VXLAN", "bare", overlay),
    Variant("tcp", "veth, 2 sidecars: tcp_proxy", "sidecars", mesh(http=False)),
    Variant("http", "veth, 2 sidecars: HTTP", "sidecars", mesh(), http=True),
    Variant("http-log", "veth, 2 sidecars: HTTP, access logs", "sidecars", mesh(log=True), http=True),
    Variant("vxlan-log", "VXLAN, 2 sidecars, access logs", "sidecars", mesh(vxlan=True, log=True)),
    Variant(
        "vxlan-mtls", "VXLAN, 2 sidecars, access logs, mutual TLS", "sidecars", mesh(vxlan=True, log=True, mtls=True)
    ),
    Variant(
        "vxlan-check",
        "VXLAN, 2 sidecars, access logs, check of each request",
        "sidecars",
        mesh(vxlan=True, log=True, check=True),
        http=True,
    ),
    Variant("one-log", "veth, 1 sidecar, access log", "sidecars", mesh(log=True, one=True)),
    Variant("ax-hosts", "ax, two hosts", "ax", two_hosts()),
    Variant("ax-hosts-l4", "ax, two hosts, L4 policy", "ax", two_hosts("l4")),
    Variant("ax-hosts-l7", "ax, two hosts, L7 policy", "ax", two_hosts("l7")),
    Variant("ax-host", "ax, one host", "ax", one_host()),
    Variant("ax-host-l4", "ax, one host, L4 policy", "ax", one_host("l4")),
    Variant("ax-host-l7", "ax, one host, L7 policy", "ax", one_host("l7")),
    Variant("ax-envoy", "ax, one host, delegated to Envoy, access log", "ax", delegated),
)
