"""`ax policy test`: a verdict in steps, and nothing happens."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.switch.fake import FakeSwitch

from appswitch import wire
from appswitch.address import Address
from appswitch.resources import BackendSpec, L7Route, Policy, Selector
from appswitch.routing.table import Endpoint
from appswitch.switch import explain as module
from appswitch.switch.explain import explain

WEB = BackendSpec(labels={"app": "web"})


@pytest.fixture
def there(fake: FakeSwitch) -> FakeSwitch:
    """A client, a server, and a vservice that leads to it."""
    fake.app(1, "10.0.0.1", "client")
    fake.listen(fake.app(2, "10.0.0.2", "web", app="web"), 8080)
    fake.vservice("shop", "10.9.0.1", "80:8080", WEB)
    return fake


def ask(fake: FakeSwitch, to: str, client: int = 1, **more: Any) -> wire.Explained:
    answer = explain(fake, wire.Explain(seq=7, client=client, to=to, **more))  # type: ignore[arg-type] # a switch
    assert isinstance(answer, wire.Explained), answer
    assert answer.seq == 7
    return answer


@pytest.mark.parametrize(
    ("client", "to", "error"),
    [(9, "10.0.0.2:80", "no-such-app"), (1, "web:80", "bad-request"), (1, "10.0.0.2:x", "bad-request")],
)
def test_questions_that_cannot_be_answered(there: FakeSwitch, client: int, to: str, error: str) -> None:
    answer = explain(there, wire.Explain(seq=7, client=client, to=to))  # type: ignore[arg-type] # a switch
    assert isinstance(answer, wire.Done)
    assert (answer.seq, answer.error) == (7, error)


@pytest.mark.parametrize(
    ("to", "allowed", "sentence"),
    [
        ("10.0.0.2:8080", True, "allowed: to 1 listener of this host"),
        ("10.0.0.2:80", False, "denied: ECONNREFUSED, nobody is there"),
        ("10.9.0.1:80", True, "allowed: to one of 1 backends of shop"),
        ("[::ffff:10.9.0.1]:80", True, "allowed: to one of 1 backends of shop"),
        ("10.9.0.1:81", False, "denied: ECONNREFUSED, nobody is there"),
        ("192.0.2.9:80", True, "allowed: to 192.0.2.9:80 on the host's network"),
        ("127.0.0.1:80", False, "denied: ECONNREFUSED, nobody is there"),
    ],
)
def test_verdicts(there: FakeSwitch, to: str, allowed: bool, sentence: str) -> None:
    answer = ask(there, to)
    assert (answer.allowed, answer.steps[-1]) == (allowed, sentence)
    assert answer.steps[0] == "client: app 00000001 client zone=default"
    assert there.rows == there.lines == [], "nothing is counted or told"


def test_a_port_that_a_vservice_does_not_have(there: FakeSwitch) -> None:
    steps = ask(there, "10.9.0.1:81").steps
    assert "no vservice has port 81 of 10.9.0.1" in steps
    assert not any("outside" in step for step in steps)


def test_a_server_that_does_not_listen(there: FakeSwitch) -> None:
    there.app(3, "10.0.0.3", app="web")
    steps = ask(there, "10.9.0.1:80").steps
    assert "server: app 00000003 (no name) at 10.0.0.3:8080 app=web,zone=default" in steps
    assert "it does not listen on port 8080" in steps


def test_who_shares_no_label(there: FakeSwitch) -> None:
    there.listen(there.app(3, "10.0.0.3", zone="other"), 80)
    answer = ask(there, "10.0.0.3:80")
    assert "client and server share no label: it is not reachable" in answer.steps
    assert not answer.allowed


def test_what_is_waited_for(there: FakeSwitch) -> None:
    there.reference("old", "10.9.9.9/32", BackendSpec(name="nobody"), wait=12)
    assert ask(there, "10.9.9.9:5432").steps[1:] == (
        "10.9.9.9:5432 is Reference old", "waits up to 12 s for a server to come up",
    )  # fmt: skip


def test_first_bytes(there: FakeSwitch) -> None:
    """Without attributes it is told that they are waited for, with them what then follows."""
    there.listen(there.app(3, "10.0.0.3", "api"), 8080)
    route = L7Route(match={"http.path": ("/api/*",)}, backends=(BackendSpec(name="api"),), name="api")
    there.vservice("shop", "10.9.0.1", "80:8080", WEB, routes=(route,))
    assert ask(there, "10.9.0.1:80").steps[-1] == "held for its first bytes (at most 200 ms), then decided"
    answer = ask(there, "10.9.0.1:80", attributes={"http.path": "/api/1"})
    assert answer.steps[-1] == "allowed: to one of 1 backends of shop by route api"
    answer = ask(there, "10.9.0.1:80", attributes={"http.path": "/"})
    assert answer.steps[-1] == "allowed: to one of 1 backends of shop by route default"


def test_a_policy_is_named(there: FakeSwitch) -> None:
    there.policies.put(
        Policy(
            name="closed", action="deny", from_=(Selector(uids=(5,)),), to=(Selector(names=("shop",)),), error="EPERM"
        )
    )
    there.table.changed()
    answer = ask(there, "10.9.0.1:80", uid=5)
    assert (answer.allowed, answer.rule, answer.error) == (False, "closed", "EPERM")
    assert answer.steps[-1] == "denied: EPERM, by closed"
    assert "deny policies that match: closed" in answer.steps
    assert ask(there, "10.9.0.1:80", uid=6).allowed
    assert ask(there, "10.0.0.2:8080", uid=5).allowed, "the server itself has another name"


def test_udp_has_its_own_tables(there: FakeSwitch) -> None:
    assert ask(there, "10.0.0.2:8080", protocol="udp").steps[-1] == "denied: ECONNREFUSED, nobody is there"
    there.datagrams.table.add(Endpoint(1, 2, Address(bytes(4), 53), dual=False, labels=frozenset()), (b"\x0a\0\0\2",))
    assert (
        "server: app 00000002 web at 10.0.0.2:53 app=web,zone=default"
        in ask(there, "10.0.0.2:53", protocol="udp").steps
    )


def test_many_servers_are_not_all_told(there: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOWN", 2)
    for number in range(3, 7):
        there.listen(there.app(number, f"10.0.0.{number}", app="web"), 8080)
    steps = ask(there, "10.9.0.1:80").steps
    assert "... and 3 more servers" in steps
    assert sum(step.startswith("server: app") for step in steps) == 2
