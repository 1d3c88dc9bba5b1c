"""A pair of Envoys as sidecars, each in the network namespace of its pod, and what they need around them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import envoy
from bench.mesh import istio
from bench.mesh.hosts import Host, Pair, do, redirect
from bench.mesh.istio import Service, Sidecar
from bench.mesh.work import Spot, nginx
from bench.node import UnixConnection
from bench.processes import Process

THREADS = 2  # Istio's default for a proxy's --concurrency


class Sidecars(NamedTuple):
    """Running. ``admins``: the Unix sockets of their admin interfaces."""

    processes: tuple[Process, ...]
    admins: tuple[Path, ...]
    place: Path

    def connections(self, service: Service) -> list[int]:
        """How many connections of a service each has had."""
        return [connections(admin, service) for admin in self.admins]

    def forget(self) -> None:
        """Make the logs empty: they are written as long as there are requests."""
        for log in self.place.glob("*.log"):
            os.truncate(log, 0)


@contextlib.contextmanager
def sidecars(pair: Pair, sidecar: Sidecar, services: Sequence[Service], one: bool = False) -> Iterator[Sidecars]:
    """Both pods redirect to theirs. ``one``: only the client's does. Raises UnavailableError, BenchError."""
    place = Path(sidecar.place)
    if sidecar.mtls:
        certificate(place)
    sides = {"client": (pair.client, sidecar.client(services, pair.server.ip))}
    if not one:
        sides["server"] = (pair.server, sidecar.server(services))
    with contextlib.ExitStack() as stack:
        started = []
        if sidecar.check:
            started.append(stack.enter_context(_checker(pair.server, place)))
        for name, (host, config) in sides.items():
            started.append(stack.enter_context(_sidecar(host, place, name, config)))
        yield Sidecars(tuple(started), tuple(place / f"{name}.admin" for name in sides), place)


@contextlib.contextmanager
def _sidecar(host: Host, place: Path, name: str, config: dict[str, Any]) -> Iterator[Process]:
    """As Istio's user, whose connections are not redirected."""
    path = write(place, name, config)
    for file in (place, *place.iterdir()):
        shutil.chown(file, istio.USER, istio.USER)
    become = ["setpriv", "--reuid", str(istio.USER), "--regid", str(istio.USER), "--clear-groups"]
    words = [*host.enter, *become, envoy.program(), *envoy.options(path, THREADS)]
    with Process(words, os.environ) as process:
        process.wait_until(lambda: ready(place / f"{name}.admin"), "is not ready")
        redirect(host, istio.RULES)
        yield process


@contextlib.contextmanager
def _checker(host: Host, place: Path) -> Iterator[Process]:
    """Says yes to every request."""
    files = place / "checker"
    files.mkdir()
    with Process([*host.enter, *nginx(Spot("127.0.0.1", istio.CHECK), files)], os.environ) as process:
        listens = [*host.enter, "ss", "-Hltn", f"sport = :{istio.CHECK}"]
        process.wait_until(lambda: bool(do(*listens)))
        yield process


def write(place: Path, name: str, config: dict[str, Any]) -> Path:
    """A bootstrap as a file."""
    path = place / f"{name}.json"
    path.write_text(json.dumps(config))
    return path


def certificate(place: Path) -> None:
    """One for both, signed by itself, and its key. Raises UnavailableError."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    files = ["-keyout", str(place / "key.pem"), "-out", str(place / "cert.pem")]
    do("openssl", "req", "-x509", *curve, "-subj", "/CN=server", "-addext", "subjectAltName=DNS:server", *files)


def ready(admin: Path) -> bool:
    """Whether it has its listeners."""
    with contextlib.suppress(OSError):
        return ask(admin, "/ready").startswith("LIVE")
    return False


def connections(admin: Path, service: Service) -> int:
    """Of this service, so far."""
    found = 0
    for line in ask(admin, f"/stats?filter=bound_{service.port}.downstream_cx_total").splitlines():
        found += int(line.rpartition(" ")[2])
    return found


def ask(admin: Path, path: str) -> str:
    """The text of Envoy's answer. Raises OSError."""
    connection = UnixConnection(admin)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()
