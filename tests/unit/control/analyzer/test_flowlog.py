"""What is remembered of flows, and counted; all of it bounded."""

from __future__ import annotations

from tests.unit.control.analyzer.builders import app, flow

from appswitch.control.analyzer import flowlog
from appswitch.control.analyzer.flowlog import KEPT, MAX_APPS, MAX_SERIES, OTHER, FlowLog, Series


def test_the_last_ones_are_kept() -> None:
    log = FlowLog({})
    for number in range(KEPT + 5):
        log.take(flow(time=float(number)))
    assert [row.time for row in log.recent()] == [float(number) for number in range(5, KEPT + 5)]


def test_counts_by_what_decided() -> None:
    log = FlowLog({})
    log.take(flow(verdict="denied", rule="no-db"))
    log.take(flow(verdict="denied", rule="no-db"))
    log.take(flow(rule="no-web", vservice="web", dry_run=True))
    assert log.counts == {Series("denied", "no-db", "", False): 2, Series("allowed", "no-web", "web", True): 1}


def test_too_many_rules_are_counted_together() -> None:
    log = FlowLog({})
    for number in range(MAX_SERIES + 10):
        log.take(flow(verdict="denied", rule=f"rule-{number}"))
    log.take(flow(verdict="denied", rule="rule-0"))
    assert len(log.counts) == MAX_SERIES + 1
    assert log.counts[Series("denied", "rule-0", "", False)] == 2
    assert log.counts[Series("denied", OTHER, OTHER, False)] == 10


def test_apps_are_known_beyond_their_end() -> None:
    apps = {1: app(1, name="web", command=("a", "secret"))}
    log = FlowLog(apps)
    log.take(flow(client=1, server=0))
    assert log.app(1) is apps[1].app
    apps.clear()
    gone = log.app(1)
    assert gone is not None
    assert (gone.name, gone.command) == ("web", ())
    assert log.app(2) is None


def test_not_all_apps_are_remembered_for_ever() -> None:
    apps = {number: app(number) for number in range(1, MAX_APPS + 11)}
    log = flowlog.FlowLog(apps)
    for number in apps:
        log.take(flow(client=number, server=0))
    apps.clear()
    assert log.app(10) is None
    assert log.app(11) is not None
