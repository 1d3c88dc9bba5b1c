"""A connection on its way to a proxy at the delegation endpoint.

It gets there in four steps, so that nobody has descriptors of what it does not serve: the proxy is asked, it accepts,
it is sent the descriptors, it confirms that it has them. Until the last step the switch keeps its own.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from appswitch._kernel import Fd
from appswitch.routing.route import Delegate
from appswitch.switch.held import Held
from appswitch.switch.loop import Timer

if TYPE_CHECKING:
    from appswitch.switch.guest import Guest


class Phase(enum.Enum):
    """How far a connection is on its way to a proxy."""

    QUEUED = "not asked yet"
    ASKED = "asked"
    ACCEPTED = "accepted, the descriptors not sent yet"
    SENT = "descriptors sent, not confirmed"

    @property
    def accepted(self) -> bool:
        """Whether the proxy has said that it wants it."""
        return self in (Phase.ACCEPTED, Phase.SENT)


class Pending:
    """A connection that a proxy is to have, and does not have for certain yet."""

    __slots__ = (
        "app_end", "away", "fd", "guest", "held", "number", "offerer", "phase", "server_end", "timer", "verdict",
    )  # fmt: skip

    def __init__(self, fd: Fd, held: Held, verdict: Delegate, app_end: Fd | None = None) -> None:
        self.fd = fd  # the client's other end
        self.held = held
        self.verdict = verdict
        self.app_end = app_end  # of direction server: its other end is the app that accepts
        self.server_end: Fd | None = None  # of the pair that was made for that, what the server is to accept
        self.offerer: Guest | None = None  # who handed over sockets of its own, and was told nothing yet
        self.guest: Guest | None = None  # who is asked
        self.away: Fd | None = None  # from when its descriptors are sent: somebody else may have them
        self.number = 0
        self.phase = Phase.QUEUED
        self.timer: Timer | None = None

    @property
    def both(self) -> bool:
        """Whether the proxy stands between two: direction server."""
        return self.verdict.server_side or self.app_end is not None

    @property
    def descriptors(self) -> list[Fd]:
        """What goes with HANDOVER."""
        return [self.fd] if self.app_end is None else [self.app_end, self.fd]

    def settled(self) -> None:
        """Nobody waits for the proxy any more."""
        self.guest = None
        if self.timer is not None:
            self.timer.cancel()
