"""Who hears of decisions: counters always, denials once in a while, everything while somebody follows."""

from __future__ import annotations

import errno

import pytest

from appswitch import wire
from appswitch.address import Address
from appswitch.model import FlowRow
from appswitch.resources import BackendSpec, ServicePort, VService
from appswitch.routing.clusters import Clusters, Upstream
from appswitch.routing.policy import End
from appswitch.routing.route import Balanced, Deny, Flow, Outside, Wait
from appswitch.switch import flowlog as module
from appswitch.switch.flowlog import FlowLog
from appswitch.switch.report import Reports

SERVER, CLIENT = Address(b"\x0a\0\0\2", 80), Address(b"\x0a\0\0\1", 40000)
FLOW = Flow(End(7, "client", (), frozenset(), CLIENT.ip, None, None), SERVER)


class Heard:
    """A log of its own, and what others hear of it."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.rows: list[FlowRow] = []
        reports = Reports(lambda event, **fields: self.lines.append((event, fields)))  # type: ignore[arg-type]
        reports.send = self._send
        self.log = FlowLog(reports)

    def _send(self, message: wire.ToControl) -> None:
        assert isinstance(message, wire.FlowSeen)
        self.rows.append(message.row)


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_an_allowed_connection_is_only_counted(heard: Heard) -> None:
    heard.log.outside(FLOW, CLIENT, Outside(SERVER))
    assert heard.log.counts["allowed"] == 1
    assert heard.rows == heard.lines == []


def test_whoever_follows_hears_everything(heard: Heard) -> None:
    heard.log.followed = True
    heard.log.outside(FLOW, CLIENT, Outside(SERVER))
    heard.log.refused(FLOW, CLIENT, Deny(errno.ECONNREFUSED), errno.ECONNREFUSED, "")
    heard.log.waiting(FLOW, Wait(SERVER, 3, "db"))
    heard.log.timed_out(FLOW, Wait(SERVER, 3, "db"))
    assert [(row.verdict, row.error, row.vservice) for row in heard.rows] == [
        ("allowed", "", ""), ("refused", "ECONNREFUSED", ""), ("waiting", "", "db"), ("timed out", "ETIMEDOUT", "db"),
    ]  # fmt: skip
    assert heard.rows[0].client == "10.0.0.1:40000"
    assert heard.rows[0].server == "10.0.0.2:80"


def test_a_denial_is_told_once_per_flow_and_rule(heard: Heard) -> None:
    for _ in range(3):
        heard.log.refused(FLOW, CLIENT, Deny(errno.EACCES, "closed"), errno.EACCES, "closed")
    assert heard.log.counts["denied"] == 3
    assert [(event, fields["rule"], fields["error"]) for event, fields in heard.lines] == [
        ("denied", "closed", "EACCES")
    ]
    assert len(heard.rows) == 1
    heard.log.refused(FLOW, CLIENT, Deny(errno.EACCES, "other"), errno.EACCES, "other")
    heard.log.refused(FLOW._replace(to=CLIENT), CLIENT, Deny(errno.EACCES, "closed"), errno.EACCES, "closed")
    assert len(heard.lines) == len(heard.rows) == 3


def test_a_denial_is_told_again_after_a_while(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.0)
    for _ in range(2):
        heard.log.refused(FLOW, CLIENT, Deny(errno.EACCES, "closed"), errno.EACCES, "closed")
    assert len(heard.lines) == 2


def test_what_is_remembered_of_denials_is_bounded(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 4)
    for port in range(100):
        flow = FLOW._replace(to=Address(SERVER.ip, port))
        heard.log.refused(flow, CLIENT, Deny(errno.EACCES, "closed"), errno.EACCES, "closed")
    assert len(heard.log._logged) == 4


def test_a_dry_run_is_told_once_and_counted_always(heard: Heard) -> None:
    for _ in range(2):
        heard.log.outside(FLOW, CLIENT, Outside(SERVER, ("maybe",)))
    assert heard.log.counts["dry_run_denied"] == 2
    assert [event for event, _ in heard.lines] == ["would be denied"]
    (row,) = heard.rows
    assert (row.verdict, row.dry_run, row.rule) == ("allowed", True, "maybe")


def test_a_vservice_and_its_backend_are_named_and_headers_are_not_told(heard: Heard) -> None:
    clusters = Clusters()
    spec = BackendSpec(external="192.0.2.7:80")
    clusters.put(VService(name="web", ips=("10.0.0.2",), ports=(ServicePort(80, 80),), backends=(spec,)))
    cluster = clusters.find(SERVER)
    assert cluster is not None
    upstream = Upstream(Address(b"\xc0\0\2\7", 80), None, (), spec)
    verdict = Balanced(cluster, cluster.default, (upstream,), (), SERVER)
    peeked = {"protocol": "http", "http.path": "/", "http.header.cookie": "secret", "http.query": "token=1"}
    heard.log.followed = True
    heard.log.allowed(FLOW._replace(attributes=peeked), CLIENT, verdict, upstream, "splice", since=0.0)
    (row,) = heard.rows
    assert (row.vservice, row.backend, row.transport, row.protocol) == ("web", "192.0.2.7:80", "splice", "http")
    assert row.attributes == {"http.path": "/"}
    assert row.waited > 0


def test_an_ejection_is_logged(heard: Heard) -> None:
    heard.log.ejected("web", "10.0.0.2:80", "ECONNREFUSED")
    assert heard.log.counts["ejections"] == 1
    assert heard.lines[0][0] == "backend ejected"
