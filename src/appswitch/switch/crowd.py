"""Who has to go when a socket of the daemon's that is open to every user is full: max-min fairness among users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol, TypeVar


class Peer(Protocol):
    """Somebody who is connected."""

    uid: int


P = TypeVar("P", bound=Peer)


def displaced(peers: Iterable[Peer], idle: Iterable[P], uid: int) -> P | None:
    """One of the ``idle`` whose place a newcomer of user ``uid`` gets; None: the newcomer has to go.

    ``peers``: all there are, the newcomer included. It is one of the user who has the most, if that is more than the
    newcomer's user has: so nobody can shut others out, however many users work together.
    """
    counts = Counter(peer.uid for peer in peers)
    worst = max(idle, key=lambda peer: counts[peer.uid], default=None)
    return worst if worst is not None and counts[worst.uid] > counts[uid] else None
