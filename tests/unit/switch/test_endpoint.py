"""Who gets in at the delegation endpoint, and whose proxies get connections from whom."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from appswitch.address import Address
from appswitch.delegate.errors import Reason
from appswitch.delegate.metadata import MAX_CHAIN, Metadata
from appswitch.resources import Proxy
from appswitch.routing.proxies import Proxies
from appswitch.routing.route import REFUSED, Delegate, Flow
from appswitch.switch import endpoint as module
from appswitch.switch.endpoint import Endpoint
from appswitch.switch.gates import stranger
from appswitch.switch.guest import Pending
from appswitch.switch.held import Held

TO = Address(b"\x0a\1\0\1", 80)
MINE, OTHERS = 1000, 1001


class Settled:
    """Where connections went on to."""

    def __init__(self) -> None:
        self.flows: list[Flow] = []

    def settle(self, _fd: object, held: Held, _verdict: object) -> None:
        self.flows.append(held.flow)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    proxies = Proxies({"mine": Proxy(name="mine", uid=MINE), "others": Proxy(name="others", uid=OTHERS)})
    switch = SimpleNamespace(
        loop=SimpleNamespace(watch=lambda *_: None), proxies=proxies, apps={}, holding=Settled(), log=lambda *_: None
    )
    with socket.socket() as listener:
        yield Endpoint(switch, listener, own_uid=0)  # type: ignore[arg-type]


def test_one_user_does_not_lock_the_others_out(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "USERS_GUESTS", 2)
    peers: set[Any] = endpoint._peers
    peers |= {_Peer(MINE), _Peer(MINE), _Peer(MINE)}
    assert not endpoint._has_room(MINE)
    assert endpoint._has_room(OTHERS)
    peers |= {_Peer(0), _Peer(0), _Peer(0)}
    assert endpoint._has_room(0)


def test_users_do_not_lock_administrators_out(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GUESTS", 3)
    peers: set[Any] = endpoint._peers
    peers |= {_Peer(uid) for uid in (MINE, OTHERS, 1002, 1003)}
    assert not endpoint._has_room(OTHERS)
    assert endpoint._has_room(0)
    peers |= {_Peer(0) for _ in range(4)}
    assert not endpoint._has_room(0)


class _Peer:
    def __init__(self, uid: int) -> None:
        self.uid, self.pid, self.idle, self.refusals = uid, 1, False, list[Reason]()

    def refuse(self, reason: Reason, _detail: str) -> None:
        self.refusals.append(reason)


def test_nobody_offers_sockets_to_another_users_proxy(endpoint: Endpoint) -> None:
    peer = _Peer(MINE)
    metadata = Metadata(connection=0, direction="client", source=TO, destination=TO, proxy="others")
    endpoint.offer(peer, metadata, [])  # type: ignore[arg-type]
    assert peer.refusals == [Reason.PERMISSION]


@pytest.mark.parametrize(("wanted", "had"), [("others", ()), ("mine", tuple(map(str, range(MAX_CHAIN))))])
def test_who_cannot_be_handed_on_goes_on_directly(endpoint: Endpoint, wanted: str, had: tuple[str, ...]) -> None:
    flow = Flow(stranger(TO.ip), TO, had=had)
    held = Held(flow, TO, TO, unix=True, zone="", since=0.0)
    pending = Pending(None, held, Delegate(None, (), False, TO, REFUSED))  # type: ignore[arg-type]
    endpoint._hand_on(pending, "mine", wanted)
    (after,) = endpoint._switch.holding.flows  # type: ignore[attr-defined]
    assert after.direct
