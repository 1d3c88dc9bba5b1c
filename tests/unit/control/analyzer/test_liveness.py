"""The time from exec to the first listen, whatever happens to the switch in between."""

from __future__ import annotations

from tests.unit.control.analyzer.builders import app, server

from appswitch.control.analyzer.liveness import MAX_PLACES, Liveness
from appswitch.wire import AppChanged, AppGone, ServerDown, ServerUp


def fed(*events: AppChanged | AppGone | ServerUp | ServerDown) -> Liveness:
    made = Liveness()
    for event in events:
        made.take(event)
    return made


def test_seconds_since_exec() -> None:
    made = fed(AppChanged(app(1, attached=None)), AppChanged(app(1, attached=2.0)), ServerUp(server(since=5.5)))
    assert made.alive_after(server(since=5.5)) == 3.5
    assert made.app_alive_after(1) == 3.5
    assert made.is_first(server(since=5.5))


def test_a_second_port_is_later_and_not_first() -> None:
    made = fed(AppChanged(app(1)), ServerUp(server(since=5)), ServerUp(server(port=81, since=9)))
    assert made.alive_after(server(port=81, since=9)) == 7
    assert made.app_alive_after(1) == 3
    assert not made.is_first(server(port=81, since=9))


def test_exposing_it_changes_nothing() -> None:
    made = fed(AppChanged(app(1)), ServerUp(server()), ServerUp(server(actual=("0.0.0.0:80",))))
    assert made.is_first(server(actual=("0.0.0.0:80",)))
    assert made.alive_after(server()) == 3


def test_listening_again_is_not_coming_alive() -> None:
    made = fed(AppChanged(app(1)), ServerUp(server(since=5)), ServerDown(server(since=5)), ServerUp(server(since=50)))
    assert made.alive_after(server(since=50)) == 3
    assert not made.is_first(server(since=50))


def test_a_new_switch_tells_nothing_new() -> None:
    """To it the app came when it was registered, and listens since it looked."""
    successor = AppChanged(app(1, attached=1.0, pid=0)), ServerDown(server(since=5)), ServerUp(server(since=50))
    made = fed(AppChanged(app(1)), ServerUp(server(since=5)), *successor)
    assert made.alive_after(server(since=50)) == 3
    assert not made.is_first(server(since=50))


def test_what_is_not_known() -> None:
    made = fed(AppChanged(app(1, attached=1.0)), ServerUp(server(since=50)))
    assert made.alive_after(server(since=50)) is None
    assert made.app_alive_after(1) is None
    assert made.alive_after(server(app_id=9)) is None
    assert made.app_alive_after(9) is None


def test_a_clock_that_was_set_back() -> None:
    made = fed(AppChanged(app(1, attached=100.0)), ServerUp(server(since=50)))
    assert made.alive_after(server(since=50)) == 0


def test_an_app_that_has_ended_is_forgotten() -> None:
    made = fed(AppChanged(app(1)), ServerUp(server()), AppGone(1))
    assert made.alive_after(server()) is None
    assert made._lives == {}


def test_many_ports() -> None:
    made = fed(AppChanged(app(1)), *(ServerUp(server(port=port)) for port in range(1, 2 * MAX_PLACES)))
    assert len(made._lives[1].places) == MAX_PLACES
    assert made.alive_after(server(port=2 * MAX_PLACES - 1)) == 3
