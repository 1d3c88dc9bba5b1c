"""What was decided about connections, for whoever looks: counters always, denials once, everything while followed."""

from __future__ import annotations

import errno
import time
from typing import Literal, NamedTuple

from appswitch import wire
from appswitch.address import Address
from appswitch.attributes import shown
from appswitch.model import FlowRow, FlowVerdict, Transport
from appswitch.routing.clusters import Upstream
from appswitch.routing.route import Balanced, Flow, Home, Local, Outside, Verdict, Wait
from appswitch.switch.report import Reports

AGAIN = 60.0  # seconds in which a flow that was denied by the same rule is not logged again
REMEMBERED = 4096  # of those

COUNTED = ("allowed", "denied", "refused", "waiting", "timed_out", "ejections", "dry_run_denied", "delegated")

Carried = Transport | Literal["", "splice"]


class More(NamedTuple):
    """What is known of a decision beside flow and verdict."""

    server_app: int = 0
    vservice: str = ""
    backend: str = ""
    rule: str = ""
    error: str = ""
    transport: Carried = ""
    waited: float = 0.0


_NOT_JUDGED = (Wait, Home)
_Seen = tuple[int, Address, str, bool]


class FlowLog:
    """Sends `FlowRow`s to control, and lines to the log."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self.followed = False
        self.counts = dict.fromkeys(COUNTED, 0)
        self._logged: dict[_Seen, float] = {}

    def made(self, number: int) -> None:
        """So many connections were allowed, of which nobody wants to hear."""
        self.counts["allowed"] += number

    def told(self, flow: Flow, client: Address, verdict: Local, unix: bool) -> None:
        """A connection to a listener was allowed, and is counted already."""
        if not self._is_told(flow, client, verdict):
            return
        server = verdict.endpoints[0].app_id if len({e.app_id for e in verdict.endpoints}) == 1 else 0
        more = More(server, backend=str(verdict.to), transport="unix" if unix else "tcp")
        self._emit(flow, client, "allowed", verdict, more)

    def allowed(
        self,
        flow: Flow,
        client: Address,
        verdict: Verdict,
        upstream: Upstream,
        transport: Carried,
        since: float | None = None,
    ) -> None:
        """A connection of a vservice, or one that was held (``since`` when)."""
        self.counts["allowed"] += 1
        if self._is_told(flow, client, verdict):
            member = upstream.member
            endpoints = upstream.endpoints
            server = member.id if member is not None else endpoints[0].app_id if endpoints else 0
            waited = time.monotonic() - since if since is not None else 0.0
            more = More(server, backend=str(upstream.address), transport=transport, waited=waited)
            self._emit(flow, client, "allowed", verdict, more)

    def outside(self, flow: Flow, client: Address, verdict: Outside) -> None:
        """A connection to the host's network."""
        self.counts["allowed"] += 1
        if self._is_told(flow, client, verdict):
            self._emit(flow, client, "allowed", verdict, More(transport="tcp"))

    def delegated(self, flow: Flow, client: Address, verdict: Verdict, proxy: str, transport: Carried) -> None:
        """A proxy has taken it."""
        self.counts["delegated"] += 1
        if self._is_told(flow, client, verdict):
            self._emit(flow, client, "allowed", verdict, More(rule=f"proxy {proxy}", transport=transport))

    def refused(self, flow: Flow, client: Address, verdict: Verdict, error: int, rule: str) -> None:
        """Nobody is there, or (``rule``) somebody forbids it."""
        what: FlowVerdict = "denied" if rule else "refused"
        self.counts[what] += 1
        news = bool(rule) and self._log_once(flow, client, rule, error)
        if news or self.followed:
            self._emit(flow, client, what, verdict, More(error=errno.errorcode.get(error, str(error)), rule=rule))

    def waiting(self, flow: Flow, verdict: Wait) -> None:
        """A client waits for a service to come."""
        self.counts["waiting"] += 1
        if self.followed:
            self._emit(flow, Address(flow.client.ip, 0), "waiting", verdict, More(vservice=verdict.name))

    def timed_out(self, flow: Flow, verdict: Wait) -> None:
        """It did not come."""
        self.counts["timed_out"] += 1
        if self.followed:
            client = Address(flow.client.ip, 0)
            self._emit(flow, client, "timed out", verdict, More(vservice=verdict.name, error="ETIMEDOUT"))

    def ejected(self, vservice: str, backend: str, error: str) -> None:
        """A backend is left alone for a while."""
        self.counts["ejections"] += 1
        self._reports.log("backend ejected", vservice=vservice, backend=backend, error=error)

    def _is_told(self, flow: Flow, client: Address, verdict: Verdict) -> bool:
        """Whether anybody hears of an allowed connection: who follows, or because a dry run would have denied it."""
        told = self.followed
        for name in _dry_run(verdict):
            self.counts["dry_run_denied"] += 1
            told = self._log_once(flow, client, name, 0, dry_run=True) or told
        return told

    def _log_once(self, flow: Flow, client: Address, rule: str, error: int, dry_run: bool = False) -> bool:
        """Whether this is news. Nobody else is told more often either: a denied program may try again for ever."""
        key = (flow.client.app_id, flow.to, rule, dry_run)
        now = time.monotonic()
        if now - self._logged.get(key, -AGAIN) < AGAIN:
            return False
        self._logged.pop(key, None)
        self._logged[key] = now
        if len(self._logged) > REMEMBERED:
            del self._logged[next(iter(self._logged))]
        self._reports.log(
            "would be denied" if dry_run else "denied", rule=rule, app=f"{flow.client.app_id:08x}",
            client=str(client), server=str(flow.to), protocol=flow.protocol,
            **({} if dry_run else {"error": errno.errorcode.get(error, str(error))}),
        )  # fmt: skip
        return True

    def _emit(self, flow: Flow, client: Address, what: FlowVerdict, verdict: Verdict, more: More) -> None:
        dry_run = _dry_run(verdict)
        attributes = shown(flow.attributes or {})
        vservice, rule = more.vservice, more.rule
        if isinstance(verdict, Balanced):
            vservice = verdict.cluster.name
            rule = rule or (verdict.route.name if len(verdict.cluster.routes) > 1 else "")
        row = FlowRow(
            time=time.time(), proto=flow.protocol, verdict=what, client_app=flow.client.app_id,
            server_app=more.server_app, client=str(client), server=str(flow.to), vservice=vservice,
            backend=more.backend, rule=rule or (dry_run[0] if dry_run else ""), error=more.error,
            dry_run=bool(dry_run), protocol=attributes.pop("protocol", ""), attributes=attributes,
            transport=more.transport, waited=more.waited,
        )  # fmt: skip
        self._reports.send(wire.FlowSeen(row=row))


def _dry_run(verdict: Verdict) -> tuple[str, ...]:
    return () if isinstance(verdict, _NOT_JUDGED) else verdict.dry_run
