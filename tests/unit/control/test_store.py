"""What is on disk: there after a restart, put aside when it is damaged, and never two daemons'."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from appswitch.control.resources import store
from appswitch.control.resources.catalog import Entry
from appswitch.control.resources.store import Store, StoreError
from appswitch.resources import BackendSpec, Policy, Proxy, Reference, Selector, ServicePort, VService

VSERVICE = Entry(
    resource=VService(name="web", ips=("10.250.0.16",), ports=(ServicePort(80, 8080),), uid=7,
                      backends=(BackendSpec(labels={"a": "b"}),)),
    created=1.5, generation=3, drawn=True, order=2,
)  # fmt: skip
POLICY = Entry(
    resource=Policy(name="web", action="deny", from_=(Selector(uids=(1,)),), order=1, uid=0), created=2.5, order=1
)
REFERENCE = Entry(
    resource=Reference(name="r", network="10.9.0.5/32", to=(BackendSpec(name="db"),)), created=3.5, order=3
)

PROXY = Entry(resource=Proxy(name="web", next="b", wants=({"http.path": ("/*",)},), uid=7), created=4.5, order=4)


def load(place: Path) -> tuple[Store, list[Entry]]:
    one = Store(place)
    return one, one.load()


def reopened(place: Path) -> list[Entry]:
    one, entries = load(place)
    one.close()
    return entries


def test_it_is_there_again(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    one, entries = load(place)
    assert entries == []
    one.write([VSERVICE, POLICY, REFERENCE, PROXY], [])
    one.close()
    assert reopened(place) == [POLICY, VSERVICE, REFERENCE, PROXY]
    one, _ = load(place)
    changed = Entry(resource=POLICY.resource, created=2.5, generation=9, order=1)
    one.write([changed], [("VService", "web"), ("Reference", "nope")])
    one.close()
    assert reopened(place) == [changed, REFERENCE, PROXY]
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert [path.name for path in place.iterdir()] == ["state.db"]
    assert stat.S_IMODE((place / "state.db").stat().st_mode) == 0o600


def test_a_daemon_that_is_killed(tmp_path: Path) -> None:
    """What was written is there without an end: it is in the journal."""
    pid = os.fork()
    if pid == 0:
        one, _ = load(tmp_path)
        one.write([VSERVICE], [])
        os._exit(0)
    os.waitpid(pid, 0)
    assert (tmp_path / "state.db-wal").stat().st_size > 0
    assert reopened(tmp_path) == [VSERVICE]


def test_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = Store(None)
    assert one.load() == []
    one.write([VSERVICE], [])
    one.close()
    one.close()
    assert list(tmp_path.iterdir()) == []


def _garbage(path: Path) -> None:
    path.write_bytes(b"what is this" * 1000)


def _torn(path: Path) -> None:
    one, _ = load(path.parent)
    one.write([Entry(resource=VService(name=f"v{n}", ips=(), ports=()), created=1.0) for n in range(500)], [])
    one.close()
    data = bytearray(path.read_bytes())
    data[5000:9000] = os.urandom(4000)
    path.write_bytes(data)


def _cut(path: Path) -> None:
    _torn(path)
    path.write_bytes(path.read_bytes()[:6000])


def _alien(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t (x)")
    database.close()


def _newer(path: Path) -> None:
    reopened(path.parent)
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


def _strange(path: Path) -> None:
    reopened(path.parent)
    database = sqlite3.connect(path)
    database.execute("INSERT INTO documents VALUES ('Route', 'x', 0, 1, 1, 1, 0, '{}')")
    database.commit()
    database.close()


def _no_spec(path: Path) -> None:
    reopened(path.parent)
    database = sqlite3.connect(path)
    database.execute("INSERT INTO documents VALUES ('VService', 'x', 0, 1, 1, 1, 0, '[]')")
    database.commit()
    database.close()


@pytest.mark.parametrize("spoil", [_garbage, _torn, _cut, _alien, _newer, _strange, _no_spec])
def test_what_cannot_be_read_is_put_aside(tmp_path: Path, spoil, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "state.db"
    spoil(path)
    before = path.read_bytes()
    one, entries = load(tmp_path)
    assert entries == []
    one.write([VSERVICE], [])
    one.close()
    assert reopened(tmp_path) == [VSERVICE]
    (aside,) = [path for path in tmp_path.iterdir() if ".refused-" in path.name]
    assert aside.read_bytes() == before
    assert str(aside) in capsys.readouterr().out


def test_put_aside_twice(tmp_path: Path) -> None:
    for _ in range(3):
        _garbage(tmp_path / "state.db")
        assert reopened(tmp_path) == []
    assert len([path for path in tmp_path.iterdir() if ".refused-" in path.name]) == 3


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "state.db").touch()
    assert reopened(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["state.db"]


def test_two_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY", 0.05)
    one, _ = load(tmp_path)
    with pytest.raises(StoreError, match="another daemon keeps its state"):
        load(tmp_path)
    one.write([VSERVICE], [])
    one.close()
    assert reopened(tmp_path) == [VSERVICE]


def test_no_such_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot keep state in"):
        load(tmp_path / "file")
    (tmp_path / "state.db").symlink_to("/dev/null")
    with pytest.raises(StoreError, match="cannot keep state in"):
        load(tmp_path)


def test_all_or_nothing(tmp_path: Path) -> None:
    one, _ = load(tmp_path)
    one.write([REFERENCE], [])
    bad = Entry(resource=VSERVICE.resource, created="x" * 10, order=None)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="cannot write the state"):
        one.write([POLICY, bad], [("Reference", "r")])
    one.write([], [])
    one.close()
    assert reopened(tmp_path) == [REFERENCE]
