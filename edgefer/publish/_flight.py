"""The courier's window: what is on its way, what has landed, when to pause. Judgement only; time is an argument."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

from edgefer.publish.spool import Event

WINDOW = 16
"""events on their way or delivered-but-not-noted, at most: so many may come twice after a kill"""
NOTE_S = 5.0
"""deliveries are noted together with the next event, or after this long: flash wears out"""
PROGRESS_S = 20.0
"""no acknowledgement for this long, with events on their way, is a dead link whatever the client says"""
HOLD_S, MAX_HOLD_S = 0.25, 4.0
"""pause after an event found nobody; doubled up to the second"""
TRY_LATER = frozenset({16, 128, 131, 145, 147, 151})
"""PUBACK reasons that may pass: nobody subscribes, unspecified, implementation specific, id in use, receive maximum
exceeded, quota exceeded"""
CHUNK = 64


class Token(NamedTuple):
    """What is on its way: row ``row`` of the spool's life ``life``; below 0 a replay, of which nothing is noted."""

    life: int
    row: int


class Waiting(Protocol):
    floor: int

    def waiting(self, after: int, limit: int) -> list[tuple[int, Event]]: ...


class Flight:
    """Used by one thread. ``dry``: the spool had nothing more to send when it was last asked."""

    def __init__(self) -> None:
        self.flying: set[Token] = set()
        self.dry = False
        self.hold_s = 0.0
        self._landed: set[int] = set()
        self._first_landed = self._hold_until = self._progress = 0.0
        self._again = False
        self._life = self._cursor = self._replays = 0
        self._buffer: deque[tuple[int, Event]] = deque()

    def new_life(self) -> None:
        """Another spool: verdicts on rows of the old one mean nothing now."""
        self.flying.clear()
        self._landed.clear()
        self._life += 1
        self._rewind()

    def _rewind(self) -> None:
        self._cursor, self._again, self.dry = 0, False, False
        self._buffer.clear()

    def free(self, room: int, now: float) -> bool:
        """Whether one more may leave: after a pause one alone until it gets through."""
        if self._again and (self.flying or now < self._hold_until):
            return False
        return len(self.flying) < (1 if self.hold_s else room) and len(self.flying) + len(self._landed) < room

    def next_row(self, spool: Waiting) -> tuple[int, Event] | None:
        """The oldest event that is neither on its way nor delivered; None: nothing more."""
        if self._again:
            self._rewind()
        while True:
            if not self._buffer:
                self._buffer.extend(spool.waiting(self._cursor, CHUNK))
            if not self._buffer:
                self.dry = True
                return None
            row, event = self._buffer.popleft()
            self._cursor = row
            if row <= spool.floor:
                continue  # read beforehand, dropped and told as lost meanwhile
            if row not in self._landed and Token(self._life, row) not in self.flying:
                return row, event

    def off(self, row: int | None, now: float) -> Token:
        """``row`` (None: a replay) leaves."""
        if row is None:
            self._replays += 1
            row = -self._replays
        if not self.flying:
            self._progress = now
        token = Token(self._life, row)
        self.flying.add(token)
        return token

    def landed(self, token: Token, reason: int, now: float) -> int | None:
        """Take the verdict; the row when it is refused for good."""
        if token not in self.flying:
            return None
        self.flying.discard(token)
        self._progress = now
        if reason in TRY_LATER:
            if token.row > 0:
                self._pause(now)
            return None
        if reason < 128:
            self.hold_s = 0.0
        if token.row < 0:
            return None
        if not self._landed:
            self._first_landed = now
        self._landed.add(token.row)
        return token.row if reason >= 128 else None

    def _pause(self, now: float) -> None:
        self._again, self.dry = True, False
        if now >= self._hold_until:  # a whole window that finds nobody is one pause
            self.hold_s = min(MAX_HOLD_S, max(HOLD_S, self.hold_s * 2))
            self._hold_until = now + self.hold_s

    def due(self, room: int, now: float) -> bool:
        """Whether deliveries must be noted now."""
        full = len(self.flying) + len(self._landed) >= room
        return bool(self._landed) and (full or now - self._first_landed >= NOTE_S)

    def noted(self) -> list[int]:
        """The rows delivered since the last call, to be noted in the spool."""
        rows = sorted(self._landed)
        self._landed.clear()
        return rows

    def stuck(self, now: float) -> bool:
        """True once every PROGRESS_S without an acknowledgement."""
        if not self.flying or now - self._progress < PROGRESS_S:
            return False
        self._progress = now
        return True

    def link_changed(self, now: float) -> None:
        self._progress = now

    def wait_s(self, now: float) -> float:
        """How long the thread may sleep when nothing comes in."""
        ends = [now + 1.0]
        if self._again:
            ends.append(self._hold_until)
        if self._landed:
            ends.append(self._first_landed + NOTE_S)
        return max(0.0, min(ends) - now)
