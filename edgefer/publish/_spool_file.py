"""The spool's file: made, opened, looked through, mended, set aside.

Why the space is reserved: a WAL database on a full disk can neither check its log in nor delete. So the file is made
at its full size (a smaller one when the disk has no more), and the log is written once over its whole length at every
opening; after that, nothing others do to the disk takes the spool's place away. The size counts when the file is
made.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from edgefer.messages import MESSAGES

FILE = "spool.db"
PAGE = 4096
VERSION = 1
MIN_PAGES = 64
"""a spool smaller than this (256 KiB) is not worth having: events are held in memory instead"""
MEMORY_BYTES = 4 << 20
"""bound of a spool that has no file"""
TOPICS = tuple(kind.TOPIC for kind in MESSAGES if kind.KEPT)
INDEXES = """
CREATE UNIQUE INDEX numbered ON event(stream, seq);
CREATE INDEX waiting ON event(id) WHERE done = 0;
"""
TABLES = """
CREATE TABLE event(id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, seq INTEGER NOT NULL,
                   topic TEXT NOT NULL, payload BLOB NOT NULL, done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE loss(id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, first INTEGER NOT NULL,
                  last INTEGER NOT NULL, count INTEGER NOT NULL);
CREATE TABLE reserve(id INTEGER PRIMARY KEY, x BLOB);
"""
_STREAM = "stream GLOB '" + "[0-9a-f]" * 8 + "'"
_NUMBER = "typeof({0}) = 'integer' AND {0} > 0"
ROWS = {
    "event": f"{_STREAM} AND {_NUMBER.format('seq')} AND topic IN {TOPICS} AND typeof(payload) = 'blob'"
    " AND done IN (0, 1)",
    "loss": " AND ".join([_STREAM, *(_NUMBER.format(name) for name in ("first", "last", "count"))]),
}
"""what a row of the tables must be"""


def _take_pages(db: sqlite3.Connection, pages: int) -> None:
    """Let the database have nearly ``pages`` pages, free for what comes."""
    rest = pages - int(db.execute("PRAGMA page_count").fetchone()[0]) - 1
    db.execute("INSERT INTO reserve VALUES (2, zeroblob(?))", (max(0, rest) * (PAGE - 16),))
    db.execute("DELETE FROM reserve WHERE id = 2")


def set_aside(path: Path) -> Path:
    """Rename a damaged spool, its log included; an older damaged one makes room. Returns the new name."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        old, new = Path(f"{path}{suffix}"), Path(f"{path}.damaged{suffix}")
        if old.exists():
            os.replace(old, new)
    return Path(f"{path}.damaged")


def in_memory() -> sqlite3.Connection:
    """A spool that is gone with the process, bounded as well; its memory is taken now, not in hours."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute(f"PRAGMA page_size = {PAGE}")
    db.execute(f"PRAGMA max_page_count = {MEMORY_BYTES // PAGE}")
    db.executescript(TABLES + INDEXES)
    _take_pages(db, MEMORY_BYTES // PAGE)
    return db


def attach(path: Path) -> tuple[sqlite3.Connection, str]:
    """The spool in ``path``, looked through and with its log written; what was mended, else "". Raises sqlite3.Error.

    SQLite keeps no checksums: a bit that has changed on the disk must cost its own event, not those behind it.
    """
    db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    try:
        return db, _prepare(db)
    except BaseException:
        db.close()
        raise


def _prepare(db: sqlite3.Connection) -> str:
    db.execute("PRAGMA locking_mode = EXCLUSIVE")  # one daemon a spool, and no -shm file
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -1024")
    pages = int(db.execute("PRAGMA page_count").fetchone()[0])
    db.execute(f"PRAGMA max_page_count = {pages}")
    log_pages = _log_pages(pages)
    db.execute(f"PRAGMA wal_autocheckpoint = {log_pages}")
    db.execute(f"PRAGMA journal_size_limit = {4 * log_pages * PAGE}")
    if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        raise sqlite3.DatabaseError("not a spool of this version")
    with contextlib.closing(sqlite3.connect(":memory:")) as sound:
        sound.executescript(TABLES + INDEXES)
        if _schema(db) != _schema(sound):
            raise sqlite3.DatabaseError("not a spool's tables")
    mended = _mend(db)
    db.execute("UPDATE reserve SET x = randomblob(length(x))")  # writes the log over its whole length: it is ours now
    db.execute("PRAGMA wal_checkpoint(PASSIVE)")
    return mended


def _mend(db: sqlite3.Connection) -> str:
    """What was wrong, "" when all is well: all or nothing. Raises sqlite3.Error where it cannot be mended."""
    found = _one(db, "PRAGMA integrity_check(1)")
    if found == "ok" and not any(_one(db, f"SELECT count(*) {_bad(table)}") for table in ROWS):
        return ""
    db.create_function("names", 3, _names, deterministic=True)
    db.execute("BEGIN IMMEDIATE")  # left open by an error, it is undone when the file is closed
    db.execute("DROP INDEX numbered")  # first: a row that is not found in it cannot be deleted
    db.execute("DROP INDEX waiting")
    struck = sum(db.execute(f"DELETE {_bad(table)}").rowcount for table in ROWS)
    struck += db.execute("DELETE FROM event WHERE NOT names(payload, stream, seq)").rowcount
    for index in INDEXES.split(";")[:-1]:
        db.execute(index)
    if (still := _one(db, "PRAGMA integrity_check(1)")) != "ok":
        raise sqlite3.DatabaseError(" ".join(str(still).split()))
    db.execute("COMMIT")
    return f"was damaged, is mended; {struck} of its rows had to be struck out"


def _bad(table: str) -> str:
    return f"FROM {table} WHERE ({ROWS[table]}) IS NOT TRUE"


def _names(payload: bytes, stream: str, seq: int) -> bool:
    """Whether an event says of itself what its row says of it."""
    try:
        said = json.loads(payload)
        return bool(said["stream"] == stream and said["seq"] == seq)
    except (ValueError, TypeError, LookupError, RecursionError):
        return False


def _one(db: sqlite3.Connection, query: str) -> Any:
    return db.execute(query).fetchone()[0]


def _schema(db: sqlite3.Connection) -> list[tuple[bytes]]:
    """As bytes: damaged, it may be no text."""
    query = "SELECT CAST(sql AS BLOB) FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    return db.execute(query).fetchall()


def _log_pages(pages: int) -> int:
    return max(16, min(256, pages // 8))


def create(path: Path, pages: int) -> None:
    """A new spool of ``pages`` pages, or half, a quarter ... of it: as much as the disk gives. All or nothing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = Path(f"{path}.new")
    while True:
        try:
            _forget(fresh)
            _fill(fresh, pages)
            break
        except sqlite3.OperationalError as e:
            _forget(fresh)
            if not is_full(e) or pages // 2 < MIN_PAGES:
                raise
            pages //= 2
    os.replace(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _fill(path: Path, pages: int) -> None:
    """Tables, free pages, and one try of the log, so that the disk is known to have room for both."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.executescript(
            f"PRAGMA page_size = {PAGE}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {TABLES + INDEXES}"
        )
        db.execute("INSERT INTO reserve VALUES (1, zeroblob(?))", (2 * _log_pages(pages) * PAGE,))
        _take_pages(db, pages)
        db.execute(f"PRAGMA user_version = {VERSION}")
        _prepare(db)
    finally:
        db.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _forget(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def is_full(error: sqlite3.Error) -> bool:
    """Whether the file, or the disk, has no more room."""
    return "is full" in str(error)
