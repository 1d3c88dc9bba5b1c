"""How many connections backends have: as the kernel lists them, whatever the balancer believes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch, Named, address

from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET
from appswitch.model import BackendRow
from appswitch.resources import BackendSpec, L7Route, Limits
from appswitch.switch import census as module
from appswitch.switch import naming, pace
from appswitch.switch.census import Census
from appswitch.switch.connections import Established

OUTSIDE = "192.0.2.7:8080"
WEB = BackendSpec(labels={"app": "web"})


class Kernel:
    """What it lists, and how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connections: list[Established] = []
        self.queues: list[tuple[bytes, int]] = []  # name of a listener, how many wait
        self.asked = 0
        monkeypatch.setattr(module, "established", self._established)
        monkeypatch.setattr(module._kernel, "dump_unix", self._dump)

    def connect(self, app: int, to: str = "10.9.0.1:80", outside: str = "") -> None:
        actual = address(outside) if outside else None
        self.connections.append(
            Established(0, 0, 1, app, address("10.0.0.1:40000"), address(to), "unix", actual=actual)
        )

    def queue(self, app: int, port: int, waiting: int) -> None:
        name = naming.listener(naming.Listener(app, AF_INET, address(f"0.0.0.0:{port}"), 0, 1))
        self.queues.append((name, waiting))

    def _established(self, _switch: object) -> Any:
        self.asked += 1
        return iter(self.connections)

    def _dump(self, _states: int) -> list[tuple[Any, ...]]:
        strangers = [(0, 0, 0, 0, 5, 0, b"/run/other.sock\0")]
        return strangers + [(0, 0, 0, 0, waiting, 0, name + b"\0") for name, waiting in self.queues]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.fixture
def census(fake: FakeSwitch) -> Census:
    """Of a vservice with one app, one address outside, and one backend that nobody is."""
    fake.app(1, "10.0.0.1")
    fake.listen(fake.app(2, "10.0.0.2", app="web"), 8080)
    serve(fake)
    return Census(fake)  # type: ignore[arg-type] # a switch


def serve(fake: FakeSwitch, **more: Any) -> None:
    backends = WEB, BackendSpec(external=OUTSIDE), BackendSpec(name="nobody", weight=3)
    fake.vservice("web", "10.9.0.1", "80:8080", *backends, **more)


def rows(census: Census) -> dict[str, BackendRow]:
    census._pace.at = -math.inf  # the last count was long ago
    return {row.backend: row for row in census.rows()}


def test_connections_are_counted_by_backend(census: Census, kernel: Kernel) -> None:
    for app, to, outside in ((2, "10.9.0.1:80", ""), (2, "10.9.0.1:80", ""), (0, "10.9.0.1:80", OUTSIDE),
                             (2, "10.0.0.2:8080", ""), (0, "10.9.0.1:80", "")):  # fmt: skip
        kernel.connect(app, to, outside)
    found = rows(census)
    assert {where: (row.active, row.app_id, row.spec) for where, row in found.items()} == {
        "10.0.0.2:8080": (2, 2, "app=web"),
        OUTSIDE: (1, 0, OUTSIDE),
        "?": (0, 0, "name=nobody"),
    }
    kernel.connections.clear()
    assert {row.active for row in rows(census).values()} == {0}, "close(2) is not reported"


def test_states(fake: FakeSwitch, census: Census, kernel: Kernel) -> None:
    states = {where: row.state for where, row in rows(census).items()}
    assert states == {"10.0.0.2:8080": "healthy", OUTSIDE: "healthy", "?": "unknown"}
    fake.app(3, "10.0.0.3", app="web")  # it does not listen
    fake.vservice("web", "10.9.0.1", "80:8080", WEB, BackendSpec(external=OUTSIDE, drain=True))
    states = {where: row.state for where, row in rows(census).items()}
    assert states == {"10.0.0.2:8080": "healthy", "10.0.0.3:8080": "down", OUTSIDE: "draining"}


def test_routes_are_told_apart_where_there_are_some(fake: FakeSwitch, census: Census, kernel: Kernel) -> None:
    serve(fake, routes=(L7Route(match={"http.path": ("/a",)}, backends=(BackendSpec(external=OUTSIDE),), name="a"),))
    assert [(row.route, row.backend) for row in census.rows()] == [
        ("a", OUTSIDE), ("default", "10.0.0.2:8080"), ("default", OUTSIDE), ("default", "?"),
    ]  # fmt: skip


def test_a_count_is_good_for_a_moment(census: Census, kernel: Kernel) -> None:
    census.refresh(0.0)
    assert kernel.asked == 1
    took = census._pace
    census.refresh(took.at + took.pause / 2)
    assert kernel.asked == 1
    census.rows()
    assert kernel.asked == 1, "nor may who looks at the rows have everybody wait"
    census.refresh(took.at + took.pause * 1.01)  # a sum of floats may be less than its parts
    assert kernel.asked == 2


def test_it_counts_regularly_only_for_who_goes_by_it(fake: FakeSwitch, census: Census, kernel: Kernel) -> None:
    census.regularly()
    assert kernel.asked == 0
    serve(fake, lbtype="LeastConnections")
    census.regularly()
    assert kernel.asked == 1
    census._pace.at = -math.inf
    census.regularly()
    assert kernel.asked == 1
    census._regular.at = -math.inf
    census.regularly()
    assert kernel.asked == 2


def test_backends_of_what_is_not_counted_are_not_looked_for(
    fake: FakeSwitch, census: Census, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.vservice("limited", "10.9.0.2", "80:8080", WEB, limits=Limits(connections=2))
    looked: list[tuple[BackendSpec, ...]] = []
    upstreams = fake.clusters.upstreams
    monkeypatch.setattr(
        type(fake.clusters), "upstreams", lambda _self, specs, *more: (looked.append(specs), upstreams(specs, *more))[1]
    )
    census.refresh(0.0)
    assert looked == [(WEB,)], "of the vservice with a limit, and of no other"


def test_queues_are_counted_where_they_are_limited(fake: FakeSwitch, census: Census, kernel: Kernel) -> None:
    kernel.queue(2, 8080, 3)
    kernel.queue(2, 8080, 1)  # another listener of the app
    kernel.queue(2, 9090, 7)
    serve(fake, limits=Limits(pending=4))
    census.rows()
    cluster = fake.clusters.find(address("10.9.0.1:80"))
    assert cluster is not None
    upstream = next(iter(fake.clusters.upstreams((WEB,), 8080, fake.table)))
    assert cluster.default.balancer.pending(upstream.key) == 4


def test_a_client_that_does_not_wait_leaves_no_pending_connection_behind(
    fake: FakeSwitch, census: Census, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(fake, limits=Limits(connections=2))
    cluster = fake.clusters.find(address("10.9.0.1:80"))
    assert cluster is not None
    balancer, backend = cluster.default.balancer, address(OUTSIDE)
    for _ in range(2):
        balancer.started(backend)  # and nobody ever says what became of it
    actual = sockaddr.encode(AF_INET, backend)
    sock = Named(peer=address("10.9.0.1:80"), peer_app=None, actual=actual)
    fake.sockets.by_cookie[7] = sock
    connecting: list[tuple[int, ...]] = [(7, 0)]
    monkeypatch.setattr(module._kernel, "dump_inet", lambda family, *_: connecting if family == AF_INET else [])
    rows(census)
    assert balancer.pending(backend) == 1
    connecting.clear()
    census.outbound[id(cluster), backend] += 2
    rows(census)
    assert balancer.pending(backend) == 2
    census.outbound.clear()
    rows(census)
    assert balancer.pending(backend) == 0


def test_a_count_that_takes_long_is_good_for_longer(
    census: Census, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(pace.time, "thread_time", lambda: now.__setitem__(0, now[0] + 1.0) or now[0])
    census.refresh(100.0)
    assert kernel.asked == 1
    census.refresh(census._pace.at + pace.SHARE - 0.1)
    assert kernel.asked == 1
    census.refresh(census._pace.at + pace.SHARE)
    assert kernel.asked == 2
