"""What the switch has told of its decisions about connections: the last of them, and how many by what decided."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import structs

from appswitch.model import AppRow, AppSpec, FlowRow, FlowVerdict

KEPT = 1000  # flows
MAX_APPS = 4096  # that were seen in flows, remembered beyond their end
MAX_SERIES = 200  # combinations that are counted apart
OTHER = "other"


class Series(NamedTuple):
    """What flows are counted by."""

    verdict: FlowVerdict
    rule: str
    vservice: str
    dry_run: bool


class FlowLog:
    """Denials come always, everything else only while somebody follows (`SwitchLink.follow`)."""

    def __init__(self, apps: Mapping[int, AppRow]) -> None:
        self.counts: Counter[Series] = Counter()
        self._apps = apps
        self._rows: deque[FlowRow] = deque(maxlen=KEPT)
        self._gone: dict[int, AppSpec] = {}

    def take(self, row: FlowRow) -> None:
        """Keep it. Whose it was is looked up now: a follower that is behind may read of it after the app's end."""
        self._rows.append(row)
        for app_id in (row.client_app, row.server_app):
            self._remember(app_id)
        self.counts[self._series(row)] += 1

    def recent(self) -> tuple[FlowRow, ...]:
        """The last ones, the oldest first."""
        return tuple(self._rows)

    def app(self, app_id: int) -> AppSpec | None:
        """An end of a flow, without its command if it has ended; None: not an app, or long gone."""
        row = self._apps.get(app_id)
        return row.app if row is not None else self._gone.get(app_id)

    def _remember(self, app_id: int) -> None:
        row = self._apps.get(app_id)
        if row is None or app_id in self._gone:
            return
        if len(self._gone) >= MAX_APPS:
            del self._gone[next(iter(self._gone))]
        self._gone[app_id] = structs.replace(row.app, command=())  # it may be long

    def _series(self, row: FlowRow) -> Series:
        series = Series(row.verdict, row.rule, row.vservice, row.dry_run)
        if series in self.counts or len(self.counts) < MAX_SERIES:
            return series
        return Series(row.verdict, OTHER, OTHER, row.dry_run)
