"""The table of `appswitch.control.access`, line by line."""

from __future__ import annotations

import os

import pytest
from tests.unit.control.conftest import Connect

from appswitch.control.access import Caller, Peer, caller
from appswitch.control.problems import ProblemError
from appswitch.model import AppSpec, ConnectionRow

TOKEN = "0123456789abcdef"


def spec(uid: int) -> AppSpec:
    return AppSpec(id=uid + 1, uid=uid, gid=uid, node="n1", cluster="c", command=("x",), created=1.0)


@pytest.fixture
def daemon_of(monkeypatch: pytest.MonkeyPatch) -> object:
    return lambda uid: monkeypatch.setattr(os, "geteuid", lambda: uid)


def unix(uid: int) -> Caller:
    return caller(Peer(1, uid, uid), None, None)


@pytest.mark.parametrize(("daemon", "uid"), [(0, 0), (1000, 1000), (1000, 0)])
def test_root_and_the_daemons_user_may_all(daemon_of: object, daemon: int, uid: int) -> None:
    daemon_of(daemon)  # type: ignore[operator]
    who = unix(uid)
    assert (who.admin, who.writes, who.sees_all) == (True, True, True)
    who.must_own(spec(4711))


def test_users_of_roots_daemon_have_their_own(daemon_of: object) -> None:
    daemon_of(0)  # type: ignore[operator]
    who = unix(1000)
    assert (who.uid, who.gid, who.admin, who.writes) == (1000, 1000, False, True)
    assert who.sees(spec(1000))
    assert not who.sees(spec(1001))
    assert not who.sees(spec(0))
    assert not who.sees(None)
    who.must_own(spec(1000))
    with pytest.raises(ProblemError, match="another user"):
        who.must_own(spec(1001))


def test_either_end_sees_a_connection(daemon_of: object) -> None:
    daemon_of(0)  # type: ignore[operator]
    apps = {1: spec(1000), 2: spec(1001)}
    row = ConnectionRow(client_app=1, server_app=2, proto="tcp", client="", server="", transport="unix")
    assert [unix(uid).sees_connection(row, apps.get) for uid in (1000, 1001, 1002, 0)] == [True, True, False, True]


def test_strangers_of_a_users_daemon_have_nothing(daemon_of: object) -> None:
    daemon_of(1000)  # type: ignore[operator]
    with pytest.raises(ProblemError, match="serves uid 1000 only, and you are uid 1001") as caught:
        unix(1001)
    assert caught.value.slug == "forbidden"


def test_tcp_reads() -> None:
    for token in (None, TOKEN):
        who = caller(None, None, token)
        assert (who.admin, who.writes, who.sees_all) == (False, False, True)
        with pytest.raises(ProblemError) as caught:
            who.must_write()
        assert caught.value.slug == "read-only"


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN} "])
def test_tcp_with_the_token_may_all(header: str) -> None:
    who = caller(None, header, TOKEN)
    assert (who.uid, who.admin, who.writes) == (os.geteuid(), True, True)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ä"])
def test_tcp_with_another_token_may_nothing(header: str) -> None:
    with pytest.raises(ProblemError) as caught:
        caller(None, header, TOKEN)
    assert caught.value.slug == "bad-token"
    assert "WWW-Authenticate" in caught.value.headers


def test_tcp_with_a_token_where_there_is_none() -> None:
    with pytest.raises(ProblemError, match="has no token"):
        caller(None, f"Bearer {TOKEN}", None)


def test_a_token_is_not_needed_on_the_unix_socket(daemon_of: object) -> None:
    daemon_of(0)  # type: ignore[operator]
    assert caller(Peer(1, 1000, 1000), "Bearer wrong", TOKEN).uid == 1000


@pytest.mark.parametrize("what", ["check", "dump"])
async def test_only_administrators_look_behind_the_scenes(connect: Connect, as_root_daemon: None, what: str) -> None:
    for client in (connect(uid=1000), connect()):
        answer = await client.get(f"/v1/debug/{what}")
        assert answer.status_code == 403, answer.text
        assert "administrators" in answer.json()["detail"]
