"""What is on disk: there after a restart, put aside when it is damaged, and never two daemons'."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
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


# --- versions


OLD = """
    CREATE TABLE documents (
        kind TEXT NOT NULL, name TEXT NOT NULL, uid INTEGER NOT NULL, created REAL NOT NULL,
        generation INTEGER NOT NULL, sequence INTEGER NOT NULL, drawn INTEGER NOT NULL, spec TEXT NOT NULL,
        PRIMARY KEY (kind, name)
    ) WITHOUT ROWID;
    INSERT INTO documents VALUES ('Reference', 'r', 0, 3.5, 1, 3, 0,
        '{"name":"r","network":"10.9.0.5/32","to":[{"name":"db"}],"uid":0}');
    PRAGMA user_version = 1;
"""  # as version 1 wrote it: this must not follow what the code says today


def _of_version_1(path: Path) -> None:
    database = sqlite3.connect(path)
    database.executescript(OLD + f"PRAGMA application_id = {store.APPLICATION_ID};")
    database.close()


def test_what_version_1_wrote_can_be_read(tmp_path: Path) -> None:
    _of_version_1(tmp_path / "state.db")
    assert reopened(tmp_path) == [REFERENCE]


def test_an_older_version_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _of_version_1(tmp_path / "state.db")
    more = ("ALTER TABLE documents ADD COLUMN note TEXT NOT NULL DEFAULT 'none'", "CREATE TABLE other (x)")
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, *more))
    monkeypatch.setattr(store, "_entry", lambda row, was=store._entry: was(row[:-1]) if row[-1] == "none" else None)
    assert reopened(tmp_path) == [REFERENCE]
    database = sqlite3.connect(tmp_path / "state.db")
    assert database.execute("PRAGMA user_version").fetchone() == (3,)
    assert database.execute("SELECT count(*) FROM other").fetchone() == (0,)
    database.close()
    assert reopened(tmp_path) == [REFERENCE], "and only once"


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All or nothing: what is put aside is as the old version left it."""
    _of_version_1(tmp_path / "state.db")
    known = store.MIGRATIONS

    def put_aside(path: Path, was=store._put_aside) -> str:  # type: ignore[no-untyped-def]
        monkeypatch.setattr(store, "MIGRATIONS", known)
        return str(was(path))

    monkeypatch.setattr(store, "MIGRATIONS", (*known, "CREATE TABLE other (x)", "INSERT INTO nowhere VALUES (1)"))
    monkeypatch.setattr(store, "_put_aside", put_aside)
    assert reopened(tmp_path) == []
    (aside,) = [path for path in tmp_path.iterdir() if ".refused-" in path.name and "-wal" not in path.name]
    aside.rename(tmp_path / "state.db")
    assert reopened(tmp_path) == [REFERENCE]


# --- disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small one."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "axt", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.root
def test_a_full_disk(disk: Path) -> None:
    """What does not fit is refused, what was there stays, and when there is room again it goes on."""
    one, _ = load(disk)
    one.write([VSERVICE], [])
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(4096))
    big = [Entry(resource=VService(name=f"v{n}", ips=(), ports=()), created=1.0) for n in range(500)]
    with pytest.raises(StoreError, match="cannot write the state: database or disk is full"):
        one.write(big, [("VService", "web")])
    one.close()
    one, entries = load(disk)
    assert entries == [VSERVICE], "a daemon that starts now has what is there"
    ballast.unlink()
    one.write([POLICY], [])
    one.close()
    assert reopened(disk) == [POLICY, VSERVICE]


@pytest.mark.root
def test_a_disk_that_is_full_from_the_start(disk: Path) -> None:
    """Nothing is wrong with what is there: it is not put aside, and the daemon says what is missing."""
    (disk / "ballast").write_bytes(bytes(128 << 10))
    with pytest.raises(StoreError, match="cannot keep state in"):
        load(disk)
    assert not [path for path in disk.iterdir() if ".refused-" in path.name]


@pytest.mark.root
def test_a_disk_that_cannot_be_written(disk: Path) -> None:
    one, _ = load(disk)
    one.write([VSERVICE], [])
    one.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StoreError, match=r"cannot keep state in .*Read-only file system"):
        load(disk)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert reopened(disk) == [VSERVICE]
