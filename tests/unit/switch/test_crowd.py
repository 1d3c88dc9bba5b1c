"""Who has to go when everybody's socket is full."""

from __future__ import annotations

import pytest

from appswitch.switch.crowd import displaced


class One:
    def __init__(self, uid: int) -> None:
        self.uid = uid


@pytest.mark.parametrize(
    ("counts", "newcomer", "expected"),
    [
        ({1: 4, 2: 3, 3: 1}, 3, 1),
        ({1: 4, 2: 5, 3: 1}, 3, 2),
        ({1: 4, 2: 5, 3: 5}, 3, None),
        ({1: 1}, 1, None),
        ({1: 4, 2: 3}, 1, None),
    ],
)
def test_the_place_of_who_has_most(counts: dict[int, int], newcomer: int, expected: int | None) -> None:
    """``counts`` with the newcomer."""
    peers = [One(uid) for uid, count in counts.items() for _ in range(count)]
    found = displaced(peers, peers, newcomer)
    assert (found.uid if found is not None else None) == expected


def test_only_the_idle_go() -> None:
    peers = [One(1) for _ in range(9)] + [One(2) for _ in range(3)] + [One(3)]
    assert displaced(peers, [], 3) is None
    assert displaced(peers, [peers[10]], 3) is peers[10]


def test_users_who_work_together_shut_nobody_out() -> None:
    """Four of them have all the places, and a fifth comes."""
    limit, users = 256, 4
    peers = [One(uid) for uid in range(users) for _ in range(limit // users)]
    mine = []
    for _ in range(60):
        mine.append(One(99))
        peers.append(mine[-1])
        gone = displaced(peers, peers, 99)
        peers.remove(gone or mine[-1])
    assert sum(one in peers for one in mine) == limit // (users + 1)
