"""The small HTTP client, against what a daemon may and may not say."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from tests.unit.cli.daemon import FakeDaemon, problem

from appswitch.cli import locate, rest
from appswitch.paths import RunDir


def test_request(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, (201, {"a": "ä"}), (204, None)) as daemon:
        sock = rest.connect(str(tmp_path))
        assert rest.owner(sock) == os.geteuid()
        assert rest.request(sock, "POST", "/v1/apps", {"x": ["\udc80ä", 1]}) == {"a": "ä"}
        assert rest.request(rest.connect(str(tmp_path)), "DELETE", "/v1/apps/1") is None
        assert daemon.requests == [("POST", "/v1/apps", {"x": ["\udc80ä", 1]}), ("DELETE", "/v1/apps/1", None)]


def test_large_reply(tmp_path: Path) -> None:
    rows = [{"n": number, "x": "y" * 100} for number in range(5000)]
    with FakeDaemon(tmp_path, (200, rows)):
        assert rest.request(rest.connect(str(tmp_path)), "GET", "/") == rows


def test_problem(tmp_path: Path) -> None:
    errors = [{"path": ["ips", 0], "detail": "no"}]
    with FakeDaemon(tmp_path, problem(409, "ip-in-use", "taken", errors=errors)):
        with pytest.raises(rest.RefusedError, match="taken") as caught:
            rest.request(rest.connect(str(tmp_path)), "GET", "/")
        assert (caught.value.status, caught.value.slug, caught.value.errors) == (409, "ip-in-use", errors)


@pytest.mark.parametrize("body", [b"", b"oops", b"[]", b"null"])
def test_error_that_is_no_problem(tmp_path: Path, body: bytes) -> None:
    reply = b"HTTP/1.1 500 X\r\n\r\n" + body
    with FakeDaemon(tmp_path, reply), pytest.raises(rest.RefusedError, match="HTTP status 500"):
        rest.request(rest.connect(str(tmp_path)), "GET", "/")


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])
def test_daemon_that_ends_in_the_middle(tmp_path: Path, reply: bytes) -> None:
    with FakeDaemon(tmp_path, reply):
        with pytest.raises(rest.DaemonDownError, match="in the middle of its reply") as caught:
            rest.request(rest.connect(str(tmp_path)), "GET", "/")
        assert caught.value.stale


def test_stream(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, b'HTTP/1.1 200 OK\r\n\r\n{"a":1}\n\n{"a":"' + b"x" * 100_000 + b'"}\n{"cut'):
        found = list(rest.stream(rest.connect(str(tmp_path)), "/v1/events"))
    assert [len(str(one["a"])) for one in found] == [1, 100_000]


def test_stream_that_is_refused(tmp_path: Path) -> None:
    reply = problem(403, "forbidden", "not you")
    with FakeDaemon(tmp_path, reply), pytest.raises(rest.RefusedError, match="not you"):
        next(rest.stream(rest.connect(str(tmp_path)), "/v1/events"))


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(rest.DaemonDownError, match=f"^no daemon runs in {tmp_path}$"):
        rest.connect(str(tmp_path))
    with pytest.raises(rest.DaemonDownError, match="no daemon runs in"):
        rest.connect(str(tmp_path / "missing"))


def test_dead_daemon(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "rest.sock"))
    with pytest.raises(rest.DaemonDownError, match="has died, only its socket is left") as caught:
        rest.connect(str(tmp_path))
    assert caught.value.stale


def test_unreachable_daemon(tmp_path: Path) -> None:
    with pytest.raises(rest.DaemonDownError, match=r"cannot reach the daemon in .*too long"):
        rest.connect(str(tmp_path / ("x" * 200)))


# --- which daemon ----------------------------------------------------------------------------------------------------


@pytest.fixture
def dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A user's own directory, and the host's."""
    own, system = tmp_path / "own", tmp_path / "system"
    own.mkdir()
    system.mkdir()
    monkeypatch.delenv("AX_RUN_DIR", raising=False)
    monkeypatch.setattr(locate, "run_dir", lambda: RunDir(own))
    monkeypatch.setattr(locate, "SYSTEM", str(system))
    return own, system


def test_the_users_own_comes_first(dirs: tuple[Path, Path]) -> None:
    own, system = dirs
    with FakeDaemon(system):
        found, sock = locate.reach()
        sock.close()
        assert found == RunDir(system)
        with FakeDaemon(own):
            found, sock = locate.reach()
            sock.close()
            assert found == RunDir(own)


def test_what_was_named_is_what_is_meant(
    dirs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with FakeDaemon(dirs[1]):
        with pytest.raises(rest.DaemonDownError, match=r"no daemon runs in .*/other"):
            locate.reach(str(tmp_path / "other"))
        monkeypatch.setenv("AX_RUN_DIR", str(dirs[0]))
        with pytest.raises(rest.DaemonDownError, match=r"no daemon runs in .*/own"):
            locate.reach()


def test_nowhere(dirs: tuple[Path, Path]) -> None:
    with pytest.raises(rest.DaemonDownError, match=r"no daemon runs in .*/own"):
        locate.reach()


def test_a_daemon_that_is_about_to_answer_is_waited_for(dirs: tuple[Path, Path]) -> None:
    own = dirs[0]
    (own / "daemon.pid").write_text(f"{os.getpid()}\n")
    daemon = FakeDaemon(own)
    timer = threading.Timer(0.2, daemon.__enter__)
    timer.start()
    found, sock = locate.reach()
    sock.close()
    assert found == RunDir(own)
    timer.join()
    daemon.__exit__()


@pytest.mark.parametrize("text", ["", "x", "99999999999999999999", "4194305"])
def test_not_alive(tmp_path: Path, text: str) -> None:
    (tmp_path / "daemon.pid").write_text(text)
    assert not locate.alive(RunDir(tmp_path))


def test_alive(tmp_path: Path) -> None:
    assert not locate.alive(RunDir(tmp_path))
    (tmp_path / "daemon.pid").write_text("1\n")
    assert locate.alive(RunDir(tmp_path))
