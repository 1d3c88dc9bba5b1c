"""When services came alive: the time from an app's exec until it first listened somewhere.

The switch notes both moments. A successor of it knows neither, and says so: to it the app came when it was registered.
So what was learned first is kept here as long as the app lives.
"""

from __future__ import annotations

from appswitch.control.link import Event, ServerKey, server_key
from appswitch.model import AppRow, ServerRow
from appswitch.wire import AppChanged, AppGone, ServerUp

MAX_PLACES = 256  # of one app, remembered beyond their socket's end

Place = tuple[str, str, int]  # protocol, virtual address, port


class _Life:
    """Of one app."""

    def __init__(self) -> None:
        self.began: float | None = None  # seconds since the epoch
        self.places: dict[Place, float] = {}
        self.first: ServerKey | None = None


class Liveness:
    """Fed with every event (`SwitchLink.on_event`) before watchers see it."""

    def __init__(self) -> None:
        self._lives: dict[int, _Life] = {}

    def take(self, event: Event) -> None:
        """Note what it says of beginnings."""
        match event:
            case AppChanged(row):
                self._began(row)
            case AppGone(app_id):
                self._lives.pop(app_id, None)
            case ServerUp(row):
                self._listens(row)

    def alive_after(self, row: ServerRow) -> float | None:
        """Seconds from exec until the app first listened where ``row`` does; None: not known."""
        life = self._lives.get(row.app_id)
        return None if life is None else _between(life.began, life.places.get(_place(row), row.since))

    def app_alive_after(self, app_id: int) -> float | None:
        """Seconds from exec until it listened anywhere; None: it never did, or that is not known."""
        life = self._lives.get(app_id)
        return None if life is None or not life.places else _between(life.began, next(iter(life.places.values())))

    def is_first(self, row: ServerRow) -> bool:
        """Whether this is the listening socket with which its app came alive."""
        life = self._lives.get(row.app_id)
        return life is not None and life.first == server_key(row)

    def _began(self, row: AppRow) -> None:
        life = self._lives.setdefault(row.app.id, _Life())
        if life.began is None and row.attached != row.app.created:
            life.began = row.attached

    def _listens(self, row: ServerRow) -> None:
        life = self._lives.setdefault(row.app_id, _Life())
        if life.first is None:
            life.first = server_key(row)
        if len(life.places) < MAX_PLACES:
            life.places.setdefault(_place(row), row.since)


def _place(row: ServerRow) -> Place:
    return row.proto, row.service_ip, row.service_port


def _between(began: float | None, then: float) -> float | None:
    """Clocks are set; time does not run backwards for that."""
    return None if began is None else max(0.0, then - began)
