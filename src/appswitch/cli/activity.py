"""What happened between two looks at a daemon: the rows of ``ax top``. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from appswitch.cli import output

Key = tuple[Any, ...]
_KEY = ("client_app", "client", "server_app", "server", "proto")


@dataclass(frozen=True)
class Look:
    """What the daemon said at one time."""

    time: float  # seconds, of any clock
    metrics: Sequence[output.Row]
    connections: Sequence[output.Row]
    stats: dict[str, float] = field(default_factory=dict)


@dataclass
class Flows:
    """Decisions since the look before: by verdict, and by (app id, verdict)."""

    verdicts: Counter[str] = field(default_factory=Counter)
    apps: Counter[tuple[int, str]] = field(default_factory=Counter)

    def take(self, row: output.Row) -> None:
        """One more. Between two apps it is of both, and of an app with itself once."""
        self.verdicts[row["verdict"]] += 1
        for app in {row["client_app"], row["server_app"]} - {0}:
            self.apps[app, row["verdict"]] += 1


def rows(before: Look, now: Look, flows: Flows) -> list[output.Row]:
    """One for each running app, with what it did a second and what it uses."""
    span = max(now.time - before.time, 1e-3)
    active = Counter(app for one in now.connections for app in {one["client_app"], one["server_app"]})
    sent, received, told = _carried(before, now)
    cpu = {one["id"]: one["figures"]["cpu"] for one in before.metrics if one["figures"]}
    found = []
    for one in now.metrics:
        app, figures, growth = one["id"], one["figures"] or {}, one["growth"] or {}
        used = figures.get("cpu", 0.0) - cpu.get(app, figures.get("cpu", 0.0))
        found.append(
            {
                "name": one["name"],
                "appid": one["appid"],
                "conn": flows.apps[app, "allowed"] / span,
                "active": active[app],
                "denied": flows.apps[app, "denied"] / span,
                "tx": sent[app] / span if app in told else None,
                "rx": received[app] / span if app in told else None,
                "cpu": 100 * used / span,
                "rss": figures.get("resident"),
                "heap": figures.get("anonymous"),
                "grown": growth.get("anonymous"),
                "stack": figures.get("stack"),
                "threads": figures.get("threads"),
                "fds": figures.get("descriptors"),
            }
        )
    return found


def summary(before: Look, now: Look, flows: Flows) -> dict[str, Any]:
    """Of the node."""
    span = max(now.time - before.time, 1e-3)
    calls = sum(count - before.stats.get(name, 0) for name, count in now.stats.items() if name.startswith("calls."))
    return {
        "apps": len(now.metrics),
        "connections": dict(sorted(Counter(one["transport"] for one in now.connections).items())),
        "calls": max(0.0, calls) / span,  # a switch that was restarted begins at 0
        "flows": {verdict: count / span for verdict, count in sorted(flows.verdicts.items())},
        "parked": now.stats.get("parked", 0),
        "waiting": now.stats.get("waiting", 0),
    }


def ordered(found: Sequence[output.Row], key: str, *, ascending: bool) -> list[output.Row]:
    """By one column, the largest first; names in their order, and what is not known last."""
    known = [one for one in found if one[key] is not None]
    unknown = [one for one in found if one[key] is None]
    known.sort(key=lambda one: one["appid"])
    known.sort(key=lambda one: one[key], reverse=(key not in ("name", "appid")) != ascending)
    return known + unknown


def _carried(before: Look, now: Look) -> tuple[Counter[int], Counter[int], set[int]]:
    """Bytes sent and received by apps, as far as TCP tells, and the apps of which it does."""
    old = {_key(one): one for one in before.connections}
    sent: Counter[int] = Counter()
    received: Counter[int] = Counter()
    told = set()
    for one in now.connections:
        if one["bytes_sent"] is not None:
            was = old.get(_key(one), {})
            out, back = (max(0, one[name] - (was.get(name) or 0)) for name in ("bytes_sent", "bytes_received"))
            client, server = one["client_app"], one["server_app"]
            told |= {client, server}
            sent.update({client: out})
            sent.update({server: back})
            received.update({client: back})
            received.update({server: out})
    return sent, received, told


def _key(row: output.Row) -> Key:
    return tuple(row[name] for name in _KEY)
