"""Store and forward of events: one SQLite file in WAL mode, synchronous=FULL, bounded, its space reserved beforehand
(:mod:`edgefer.publish._spool_file`).

An event is **committed** once the transaction that holds it was synced to the disk; only committed events are sent.
From then on it is delivered at least once, or its loss is on record as a range of sequence numbers. Events of one
stream are stored, and first sent, in the order of ``seq``. What was delivered stays for replay until its place is
needed: the oldest go first, delivered or not, and those that were not delivered become losses. What the disk itself
has damaged is struck out when the file is opened: that it happened is told, once (``trouble``), which events is not.

One thread opens and uses a Spool; see :mod:`edgefer.publish.courier`.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from edgefer.messages import SpoolSeq, StreamId
from edgefer.publish._spool_file import FILE, PAGE, attach, create, in_memory, is_full, set_aside

BATCH = 64
"""most events of one transaction"""
DROP = 128
"""events dropped at a time when the spool is full"""
TAILS = 4
"""streams (starts of the daemon) whose highest number is told"""
MAX_LOSSES = 256
"""ranges on record; more are merged, stream by stream"""

Range = tuple[str, int, int, int]
"""stream, first, last, count"""
_REPORT = TypeAdapter(tuple[StreamId, SpoolSeq, SpoolSeq, SpoolSeq], config=ConfigDict(strict=True))


class SpoolFull(Exception):
    """Not even an empty spool takes this batch."""


@dataclass(frozen=True, slots=True)
class Event:
    """``topic`` is that below the device; ``payload`` the JSON to send; ``seq`` counts inside ``stream``."""

    stream: str
    seq: int
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Loss:
    """``count`` events between ``first`` and ``last`` of ``stream`` will not come. ``id``: its record in the spool."""

    id: int
    stream: str
    first: int
    last: int
    count: int


class Spool:
    """``folder`` None: in memory, gone with the process. ``trouble``: what was wrong with the file, else ""."""

    def __init__(self, folder: Path | None, size_bytes: int) -> None:
        self.trouble = ""
        self.dropped = 0
        """events that were dropped before they were delivered, since this object was made"""
        self.floor = 0
        """rows up to this one were dropped to make room"""
        self._handed: set[int] = set()
        self._untold = True
        self._db = self._open(folder, size_bytes)
        self.depth = self._one("SELECT count(*) FROM event WHERE done = 0")
        """events not yet delivered"""
        self.tails = self._read_tails()
        """highest committed seq of the newest streams"""

    # -- opening ------------------------------------------------------------------------------------------------

    def _open(self, folder: Path | None, size_bytes: int) -> sqlite3.Connection:
        if folder is None:
            return in_memory()
        try:
            return self._open_file(folder / FILE, size_bytes // PAGE)
        except (sqlite3.Error, OSError) as e:
            self.trouble = f"{folder / FILE}: {e}; events are held in memory until the next start"
            return in_memory()

    def _open_file(self, path: Path, pages: int) -> sqlite3.Connection:
        if not path.exists():
            create(path, pages)
        try:
            db, mended = attach(path)
        except sqlite3.OperationalError:
            raise  # locked, read-only, disk full: the content may be sound
        except (sqlite3.DatabaseError, UnicodeDecodeError) as e:  # the latter: in what names the tables
            aside = set_aside(path)
            self.trouble = f"{path}: {e}; set aside as {aside.name}, begun anew; what it held is not known"
            create(path, pages)
            return attach(path)[0]
        if mended:
            self.trouble = f"{path}: {mended}"
        return db

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    # -- writing ------------------------------------------------------------------------------------------------

    def commit(self, new: Sequence[Event], done: Collection[int] = (), settled: Collection[Loss] = ()) -> None:
        """Mark the rows ``done``; store ``new`` (BATCH at most) and strike the losses ``settled``: all or nothing.

        Makes room by dropping the oldest. Raises SpoolFull; sqlite3.Error when the file has become unusable.
        """
        rows = [(e.stream, e.seq, e.topic, e.payload) for e in new]
        # Deliveries alone are not synced: the kernel has them, so a kill costs nothing, and a power cut only doubles.
        self._db.execute(f"PRAGMA synchronous = {'FULL' if new or settled else 'NORMAL'}")
        if new and done:  # first, and in a transaction of its own: making room must not take them for undelivered
            self.commit([], done)
            done = ()
            self._db.execute("PRAGMA synchronous = FULL")
        change = self._making_room(lambda: self._write(rows, done, settled))  # which may change depth itself
        self.depth += change
        for event in new:
            self.tails[event.stream] = event.seq
        while len(self.tails) > TAILS:
            del self.tails[next(iter(self.tails))]
        self._handed.difference_update(loss.id for loss in settled)

    def _making_room(self, work: Callable[[], int]) -> int:
        """``work`` in a transaction, again after dropping the oldest for as long as the spool is full."""
        while True:
            try:
                with self._transaction():
                    return work()
            except sqlite3.OperationalError as e:
                if not is_full(e):
                    raise
                if not self._drop_oldest():
                    raise SpoolFull(str(e)) from None

    def _write(self, rows: list[tuple[str, int, str, bytes]], done: Collection[int], settled: Collection[Loss]) -> int:
        """Returns the change of depth."""
        many = self._db.executemany
        finished = many("UPDATE event SET done = 1 WHERE id = ? AND done = 0", [(i,) for i in done]).rowcount
        # By its range as well: after damage the ids of another spool mean other losses.
        where = "id = ? AND stream = ? AND first = ? AND last = ?"
        many(f"DELETE FROM loss WHERE {where}", [(x.id, x.stream, x.first, x.last) for x in settled])
        stored = many("INSERT OR IGNORE INTO event(stream, seq, topic, payload) VALUES (?, ?, ?, ?)", rows).rowcount
        return max(0, stored) - max(0, finished)

    def _drop_oldest(self) -> bool:
        """Whether there was anything to drop."""
        query = "SELECT id, stream, seq, topic, payload, done FROM event ORDER BY id LIMIT ?"
        oldest = self._db.execute(query, (DROP,)).fetchall()
        if not oldest:
            return False
        undelivered = [Event(*row[1:5]) for row in oldest if not row[5]]
        with self._transaction():
            self._db.execute("DELETE FROM event WHERE id <= ?", (oldest[-1][0],))
            self._record(_ranges(undelivered))
        self.floor = oldest[-1][0]
        self.dropped += len(undelivered)
        self.depth -= len(undelivered)
        return True

    def lose(self, ranges: Sequence[Range]) -> None:
        """Put on record events that never came to be committed, or were refused. Raises as ``commit`` does."""
        self._db.execute("PRAGMA synchronous = FULL")
        self._making_room(lambda: self._record(ranges))

    def _record(self, ranges: Sequence[Range]) -> int:
        self._untold = True
        for stream, first, last, count in ranges:
            row = self._db.execute("SELECT id, last FROM loss WHERE stream = ? ORDER BY id DESC LIMIT 1", (stream,))
            near = row.fetchone()
            if near is not None and near[1] + 1 == first and near[0] not in self._handed:
                self._db.execute("UPDATE loss SET last = ?, count = count + ? WHERE id = ?", (last, count, near[0]))
            else:
                values = (stream, first, last, count)
                self._db.execute("INSERT INTO loss(stream, first, last, count) VALUES (?, ?, ?, ?)", values)
        if self._one("SELECT count(*) FROM loss") > MAX_LOSSES:
            self._merge_losses()
        return 0

    def _merge_losses(self) -> None:
        merged = self._db.execute("SELECT stream, min(first), max(last), sum(count) FROM loss GROUP BY stream")
        rows = merged.fetchall()
        self._db.execute("DELETE FROM loss")
        self._handed.clear()  # one that is just being reported is reported twice: never too little
        self._db.executemany("INSERT INTO loss(stream, first, last, count) VALUES (?, ?, ?, ?)", rows)

    # -- reading ------------------------------------------------------------------------------------------------

    def waiting(self, topic: str, after: int, limit: int) -> list[tuple[int, Event]]:
        """The oldest events of ``topic`` not yet delivered whose row number is above ``after``."""
        query = "SELECT id, stream, seq, topic, payload FROM event WHERE done = 0 AND topic = ? AND id > ?"
        rows = self._db.execute(query + " ORDER BY id LIMIT ?", (topic, after, limit))
        return [(row[0], Event(*row[1:])) for row in rows]

    def newest(self) -> int:
        """The highest row number, 0 when there is no event."""
        return self._one("SELECT coalesce(max(id), 0) FROM event")

    def stored(self, stream: str, first: int, last: int, limit: int) -> list[Event]:
        """The events ``first`` to ``last`` of ``stream`` that are still here, in order, delivered or not."""
        query = "SELECT stream, seq, topic, payload FROM event WHERE stream = ? AND seq BETWEEN ? AND ? ORDER BY seq"
        return [Event(*row) for row in self._db.execute(query + " LIMIT ?", (stream, first, last, limit))]

    def event(self, row: int) -> Event | None:
        found = self._db.execute("SELECT stream, seq, topic, payload FROM event WHERE id = ?", (row,)).fetchone()
        return Event(*found) if found else None

    def hand_losses(self, limit: int) -> list[Loss]:
        """At most ``limit`` losses on record that were not handed out yet by this object."""
        if not self._untold or limit <= 0:
            return []
        rows = self._db.execute("SELECT id, stream, first, last, count FROM loss ORDER BY id").fetchall()
        fresh = [Loss(*row) for row in rows if row[0] not in self._handed]
        self._untold = len(fresh) > limit
        self._handed.update(loss.id for loss in fresh[:limit])
        return fresh[:limit]

    def _read_tails(self) -> dict[str, int]:
        query = "SELECT stream, max(seq) FROM event GROUP BY stream ORDER BY max(id) DESC LIMIT ?"
        return dict(reversed(self._db.execute(query, (TAILS,)).fetchall()))

    def _one(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                self._db.execute("ROLLBACK")
            raise


def _ranges(events: Sequence[Event]) -> list[Range]:
    """(stream, first, last, count) of ``events``; a report of a loss that is itself lost brings its range back."""
    found: list[Range] = []
    for e in events:
        found += _reported(e)
        if found and found[-1][0] == e.stream and found[-1][2] + 1 == e.seq:
            stream, first, _, count = found.pop()
            found.append((stream, first, e.seq, count + 1))
        else:
            found.append((e.stream, e.seq, e.seq, 1))
    return found


def _reported(event: Event) -> list[Range]:
    if b'"spool_lost"' not in event.payload:
        return []
    try:
        said = json.loads(event.payload)
        return [_REPORT.validate_python((said["lost_stream"], said["first"], said["last"], said["count"]))]
    except (ValueError, TypeError, LookupError, RecursionError):  # changed on the disk, or a loss of another kind
        return []
