"""Where strangers come in: ports of the host that follow the external vservices, and what becomes of who comes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch, address

from appswitch._kernel import Fd
from appswitch.resources import BackendSpec, L7Route, Policy, Selector
from appswitch.routing.l7 import UNKNOWN, Peeked
from appswitch.routing.route import Balanced, Flow, Leave
from appswitch.switch.gates import Gates
from appswitch.switch.services import Service

WEB = BackendSpec(labels={"app": "web"})
STRANGER = address("127.0.0.1:50000")
EXPOSED = address("10.0.0.2:80")


@pytest.fixture
def gates(fake: FakeSwitch) -> Iterator[Gates]:
    one = Gates(fake)  # type: ignore[arg-type] # a switch
    yield one
    fake.clusters.clear()
    one.reconcile()
    for fd, *_ in fake.holding.settled:
        fd.close()


@pytest.fixture
def port() -> int:
    """Nobody has it, of either family."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as one:
        return int(one.getsockname()[1])


def serve(fake: FakeSwitch, port: int, name: str = "web", ip: str = "10.9.0.1", **more: Any) -> None:
    fake.vservice(name, ip, f"{port}:8080", WEB, external=True, **more)


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), 20)


def is_open(port: int, host: str = "127.0.0.1") -> bool:
    try:
        connect(port, host).close()
    except ConnectionRefusedError:
        return False
    return True


# -- external vservices


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_stranger_is_led_to_the_vservice(fake: FakeSwitch, gates: Gates, port: int, host: str) -> None:
    """With the address that it comes from, whatever family that is of."""
    fake.listen(fake.app(2, "10.0.0.2", app="web"), 8080)
    serve(fake, port)
    gates.reconcile()
    with connect(port, host) as client:
        fake.run(lambda: fake.holding.settled)
        ((_, held, verdict),) = fake.holding.settled
        assert (held.client.port, held.to) == (client.getsockname()[1], address(f"10.9.0.1:{port}"))
        assert isinstance(verdict, Balanced)
        assert [str(upstream.address) for upstream in verdict.upstreams] == ["10.0.0.2:8080"]
        assert held.flow.client.app_id == 0
        assert not held.unix


def test_an_app_that_goes_to_the_host_is_no_stranger(fake: FakeSwitch, gates: Gates, port: int) -> None:
    """It is judged as itself, with its own rules of where it may go."""
    fake.listen(fake.app(2, "10.0.0.2", app="web"), 8080)
    serve(fake, port)
    gates.reconcile()
    one = fake.app(3, "10.0.0.3", app="client")
    left = Flow(one.end(b"\x0a\0\0\3"), address(f"127.0.0.1:{port}"), leave=Leave(lambda _ip: False))
    with socket.socket() as client, connect(port) as other:
        client.connect(("127.0.0.1", port))
        fake.comers.expect(Fd(os.dup(client.fileno())), left.to, 0, left)
        fake.run(lambda: len(fake.holding.settled) == 2)
        by_port = {held.client.port: held.flow for _, held, _ in fake.holding.settled}
    known, stranger = sorted(by_port.values(), key=lambda flow: -flow.client.app_id)
    assert known == left._replace(to=address(f"10.9.0.1:{port}"))
    assert stranger.client.app_id == 0
    assert other.fileno() < 0
    assert not len(fake.comers)


def test_first_bytes_are_waited_for_where_they_count(fake: FakeSwitch, gates: Gates, port: int) -> None:
    fake.listen(fake.app(2, "10.0.0.2", app="web"), 8080)
    serve(fake, port, routes=(L7Route(match={"http.path": ("/x",)}, backends=(WEB,)),))
    gates.reconcile()
    with connect(port):
        fake.run(lambda: fake.holding.settled)
    assert fake.holding.settled[0][2].milliseconds == 200, "how long it is held"


def test_ports_follow_what_is_configured(fake: FakeSwitch, gates: Gates, port: int) -> None:
    serve(fake, port)
    assert not is_open(port)
    gates.reconcile()
    gates.reconcile()
    assert is_open(port)
    assert is_open(port, "::1")
    fake.vservice("web", "10.9.0.1", f"{port}:8080", WEB)  # external no more
    gates.reconcile()
    assert not is_open(port)
    assert not is_open(port, "::1")


def test_an_open_port_may_come_to_lead_elsewhere(fake: FakeSwitch, gates: Gates, port: int) -> None:
    serve(fake, port)
    gates.reconcile()
    fake.clusters.remove("VService", "web")
    serve(fake, port, "other", "10.9.0.2")
    gates.reconcile()
    with connect(port):
        fake.run(lambda: fake.holding.settled)
    assert fake.holding.settled[0][1].to == address(f"10.9.0.2:{port}")


def test_a_port_that_is_taken_is_told(fake: FakeSwitch, gates: Gates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        serve(fake, port)
        for _ in range(2):
            gates.reconcile()
        told = [(event, fields["vservice"], fields["error"]) for event, fields in fake.lines]
        assert told == [("cannot open a port of the host", "web", "EADDRINUSE")]
    gates.reconcile()
    assert is_open(port)


# -- exposed ports


class Exposed:
    """A service at an exposed port, and strangers who come."""

    def __init__(self, fake: FakeSwitch, gates: Gates) -> None:
        self.fake = fake
        self.gates = gates
        self.service: Service = fake.listen(fake.app(2, "10.0.0.2", app="web"), 80)
        self.clients: list[socket.socket] = []

    def come(self) -> socket.socket:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            end, _ = listener.accept()
        self.clients.append(client)
        client.settimeout(20)
        self.gates.admit_to(self.service, Fd(end.detach()), STRANGER, EXPOSED)
        return client


@pytest.fixture
def exposed(fake: FakeSwitch, gates: Gates) -> Iterator[Exposed]:
    one = Exposed(fake, gates)
    yield one
    for client in one.clients:
        client.close()
    for arrival in fake.offered:
        arrival.fd.close()


def is_reset(client: socket.socket) -> bool:
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def test_only_policies_are_a_reason_to_look(fake: FakeSwitch, gates: Gates) -> None:
    assert not gates.judges
    fake.policies.put(Policy(name="no", action="deny"))
    assert gates.judges


def test_who_may_is_handed_to_the_service(fake: FakeSwitch, exposed: Exposed) -> None:
    exposed.come()
    (arrival,) = fake.offered
    assert (arrival.peer, arrival.local, arrival.client_app, arrival.unix) == (STRANGER, EXPOSED, 0, False)
    assert [(row.verdict, row.client) for row in fake.rows] == [("allowed", str(STRANGER))]
    assert fake.flowlog.counts["allowed"] == 1


def test_who_may_not_is_reset(fake: FakeSwitch, exposed: Exposed) -> None:
    fake.policies.put(
        Policy(
            name="no",
            action="deny",
            from_=(Selector(networks=("127.0.0.0/8",)),),
            to=(Selector(labels={"app": "web"}),),
        )
    )
    assert is_reset(exposed.come())
    assert [(row.verdict, row.rule, row.error) for row in fake.rows] == [("denied", "no", "EACCES")]
    assert not fake.offered


@pytest.mark.parametrize(("path", "verdict"), [("/private", "denied"), ("/", "allowed")])
def test_who_is_judged_by_first_bytes_is_held(fake: FakeSwitch, exposed: Exposed, path: str, verdict: str) -> None:
    fake.policies.put(Policy(name="no", action="deny", l7=({"http.path": ("/private*",)},)))
    client = exposed.come()
    ((fd, done),) = fake.peeking.held
    assert not fake.rows
    done(fd, Peeked("http", {"http.path": path}))
    assert [row.verdict for row in fake.rows] == [verdict]
    assert verdict == "allowed" or is_reset(client)
    assert len(fake.offered) == (verdict == "allowed")


def test_who_says_nothing_is_no_match(fake: FakeSwitch, exposed: Exposed) -> None:
    fake.policies.put(Policy(name="no", action="deny", l7=({"http.path": ("*",)},)))
    exposed.come()
    ((fd, done),) = fake.peeking.held
    done(fd, UNKNOWN)
    assert len(fake.offered) == 1


@pytest.mark.parametrize("why", ["gone", "full"])
def test_a_service_that_is_gone_or_full_refuses(fake: FakeSwitch, exposed: Exposed, why: str) -> None:
    if why == "gone":
        fake.services.by_id.clear()
    else:
        fake.room = False
    assert is_reset(exposed.come())
    assert [(row.verdict, row.error) for row in fake.rows] == [("refused", "ECONNREFUSED")]
    assert fake.flowlog.counts["allowed"] == 0
