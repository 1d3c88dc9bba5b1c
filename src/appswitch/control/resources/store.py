"""Resources on disk: one SQLite file, ``state.db`` in the state directory, written before a change counts.

The daemon has it for itself (an exclusive lock). A file that is damaged, or none of ours, is put aside: nothing that
lies there keeps the daemon from starting.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from appswitch.control.resources.catalog import Entry, Key
from appswitch.paths import STATE
from appswitch.resources import Policy, Proxy, Reference, Resource, VService

APPLICATION_ID = 0x61787377  # "axsw": what makes an SQLite file ours, PRAGMA application_id
# Errors that say nothing about what is in the file: no room, no permission, a bad disk.
_OF_THE_PLACE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
BUSY = 3.0  # seconds that a predecessor may take to end

# Each brings the schema from its index to the next version, PRAGMA user_version.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE documents (
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        uid INTEGER NOT NULL,
        created REAL NOT NULL,
        generation INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        drawn INTEGER NOT NULL,
        spec TEXT NOT NULL,
        PRIMARY KEY (kind, name)
    ) WITHOUT ROWID
    """,
)
# A value in JSON, name and owner included; a field that a later version adds has its default.
_DECODERS: dict[str, msgspec.json.Decoder[Resource]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in (VService, Policy, Reference, Proxy)
}

_log = structlog.get_logger(part="store")


class StoreError(Exception):
    """The state cannot be kept there. The text is for the user."""


class _RefusedError(Exception):
    """A file that is no state of ours, or a damaged one."""


class Store:
    """Of ``directory``; without one, in memory. `write` may be called from any thread, one call at a time."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._database: sqlite3.Connection | None = None

    def load(self) -> list[Entry]:
        """Open it, and read all of it. Raises StoreError: no such place, or another daemon's."""
        if self._directory is None:
            self._database = _open(":memory:")
            return []
        path = self._directory / STATE
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self._load(path)
        except _RefusedError as err:
            aside = _put_aside(path)
            _log.error("the state cannot be read: it is put aside, and the daemon starts without", state=str(path),
                       error=str(err), aside=aside)  # fmt: skip
            return self._load(path)
        except OSError as err:
            raise StoreError(f"cannot keep state in {self._directory}: {err.strerror or err}") from None

    def write(self, entries: Iterable[Entry], removed: Iterable[Key]) -> None:
        """All or nothing, and on disk when it returns. Raises StoreError."""
        assert self._database is not None
        try:
            with self._database:  # a transaction: committed, or rolled back
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany("DELETE FROM documents WHERE kind = ? AND name = ?", removed)
                self._database.executemany(
                    "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(_row, entries)
                )
        except sqlite3.Error as err:
            raise StoreError(f"cannot write the state: {err}") from None

    def close(self) -> None:
        """Nothing is read or written any more."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _load(self, path: Path) -> list[Entry]:
        """Raises _RefusedError."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        try:
            database = _open(str(path))
        except sqlite3.OperationalError as err:
            if err.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                detail = f"another daemon keeps its state in {path.parent}: name a directory with --state-dir"
                raise StoreError(detail) from None
            if err.sqlite_errorcode & 0xFF in _OF_THE_PLACE and err.sqlite_errorcode != sqlite3.SQLITE_IOERR_SHORT_READ:
                raise StoreError(f"cannot keep state in {path.parent}: {err}") from None
            raise _RefusedError(str(err)) from None
        except sqlite3.Error as err:
            raise _RefusedError(str(err)) from None
        try:
            entries = [_entry(row) for row in database.execute("SELECT * FROM documents ORDER BY sequence")]
        except (sqlite3.Error, msgspec.MsgspecError, KeyError, TypeError) as err:
            database.close()
            raise _RefusedError(f"{type(err).__name__}: {err}") from None
        self._database = database
        return entries


def _open(path: str) -> sqlite3.Connection:
    """Ours, locked, and of the newest version. Raises sqlite3.Error, _RefusedError."""
    database = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check(database)  # before anything is written
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN EXCLUSIVE")  # the lock is taken now, and kept
        _migrate(database)
        database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    """Raises sqlite3.Error, _RefusedError."""
    ours, version, pages = (_pragma(database, name) for name in ("application_id", "user_version", "page_count"))
    if ours != APPLICATION_ID and (ours or version or _tables(database)):
        raise _RefusedError("it is not a state of this daemon's")
    if version > len(MIGRATIONS):
        raise _RefusedError(f"it has version {version}, of a newer daemon; this one knows {len(MIGRATIONS)}")
    if pages and (found := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise _RefusedError(found)


def _migrate(database: sqlite3.Connection) -> None:
    version = _pragma(database, "user_version")
    if version == len(MIGRATIONS):
        return
    for migration in MIGRATIONS[version:]:
        database.execute(migration)
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _tables(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


def _row(entry: Entry) -> Sequence[Any]:
    kind, name = entry.key
    spec = msgspec.json.encode(entry.resource).decode()
    return kind, name, entry.resource.uid, entry.created, entry.generation, entry.order, int(entry.drawn), spec


def _entry(row: tuple[Any, ...]) -> Entry:
    """Raises msgspec.MsgspecError, KeyError, TypeError."""
    kind, _, _, created, generation, sequence, drawn, spec = row
    resource = _DECODERS[kind].decode(spec)
    return Entry(resource=resource, created=created, generation=generation, order=sequence, drawn=bool(drawn))


def _put_aside(path: Path) -> str:
    """With its journal, which would otherwise be taken for the next one's."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.refused-{stamp}")
    for number in range(1, 1000):
        if not aside.exists():
            break
        aside = path.with_name(f"{path.name}.refused-{stamp}-{number}")
    path.rename(aside)
    for suffix in ("-wal", "-shm", "-journal"):
        companion = Path(f"{path}{suffix}")
        if companion.exists():
            companion.rename(f"{aside}{suffix}")
    return str(aside)
