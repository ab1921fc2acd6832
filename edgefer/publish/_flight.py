"""The courier's window: what is on its way, what has landed, when to pause. Judgement only; time is an argument."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
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
    """The spool, as far as it is read here."""

    floor: int

    def waiting(self, topic: str, after: int, limit: int) -> list[tuple[int, Event]]: ...
    def newest(self) -> int: ...


class Lane:
    """One topic: what was read of it, and its pause after one of its events found nobody. What holds one topic up
    (nobody subscribes to it, a quota of its own) says nothing of another one.

    ``out``: events on their way; ``dry``: the spool had nothing more to send when it was last asked; ``hold_s``: above
    0 from a refusal until an event gets through.
    """

    def __init__(self, topic: str) -> None:
        self.out = 0
        self.dry = False
        self.hold_s = self.hold_until = 0.0
        self._topic = topic
        self._read = 0
        self._heap: list[tuple[int, Event]] = []

    def ready(self, now: float) -> bool:
        """Whether there may be one that may leave: after a pause one alone, until it gets through."""
        alone = self.hold_s > 0
        return not self.dry and now >= self.hold_until and not (alone and self.out)

    def refused(self, row: int, event: Event, now: float) -> None:
        """To be tried again."""
        heapq.heappush(self._heap, (row, event))  # a window at most: so nothing is read twice
        self.dry = False
        if now >= self.hold_until:  # a whole window that finds nobody is one pause
            self.hold_s = min(MAX_HOLD_S, max(HOLD_S, self.hold_s * 2))
            self.hold_until = now + self.hold_s

    def peek(self, spool: Waiting) -> int | None:
        """The row of the oldest event that is neither on its way nor delivered; None: nothing more."""
        while self._heap and self._heap[0][0] <= spool.floor:
            heapq.heappop(self._heap)  # read beforehand, dropped and told as lost meanwhile
        if not self._heap:
            self._heap = spool.waiting(self._topic, self._read, CHUNK)
            # The end of one topic is the end of all: another one's thousands are not looked through every time.
            self._read = self._heap[-1][0] if len(self._heap) == CHUNK else spool.newest()
        self.dry = not self._heap
        return None if self.dry else self._heap[0][0]

    def take(self) -> tuple[int, Event]:
        """What ``peek`` has found leaves."""
        self.out += 1
        return heapq.heappop(self._heap)


class Flight:
    """Used by one thread. A lane for each of ``topics``; one window for all, replays included."""

    def __init__(self, topics: Iterable[str]) -> None:
        self.flying: dict[Token, tuple[Lane, Event] | None] = {}
        self._lanes = {topic: Lane(topic) for topic in topics}
        self._landed: set[int] = set()
        self._first_landed = self._progress = 0.0
        self._life = self._replays = 0

    def new_life(self) -> None:
        """Another spool: verdicts on rows of the old one mean nothing now."""
        self.flying.clear()
        self._landed.clear()
        self._life += 1
        self._lanes = {topic: Lane(topic) for topic in self._lanes}

    def more(self) -> None:
        """The spool has got new events."""
        for lane in self._lanes.values():
            lane.dry = False

    def room(self, window: int) -> bool:
        """Whether one more may be out."""
        return len(self.flying) + len(self._landed) < window

    def ready(self, now: float) -> bool:
        """Whether ``take`` is worth asking."""
        return any(lane.ready(now) for lane in self._lanes.values())

    @property
    def over(self) -> bool:
        """Nothing is on its way, and what there is to send, if anything, has found nobody."""
        return not self.flying and all(lane.dry or lane.hold_s > 0 for lane in self._lanes.values())

    def take(self, spool: Waiting, now: float) -> tuple[Token, Event] | None:
        """The oldest event that may leave now leaves; None: there is none."""
        ready = [lane for lane in self._lanes.values() if lane.ready(now)]
        found = [(row, lane) for lane in ready if (row := lane.peek(spool)) is not None]
        if not found:
            return None
        _, lane = min(found, key=lambda one: one[0])
        row, event = lane.take()
        return self._off(row, (lane, event), now), event

    def replay(self, now: float) -> Token:
        """An event leaves that was asked for again."""
        self._replays += 1
        return self._off(-self._replays, None, now)

    def _off(self, row: int, what: tuple[Lane, Event] | None, now: float) -> Token:
        if not self.flying:
            self._progress = now
        token = Token(self._life, row)
        self.flying[token] = what
        return token

    def landed(self, token: Token, reason: int, now: float) -> int | None:
        """Take the verdict; the row when it is refused for good."""
        if token not in self.flying:
            return None
        what, self._progress = self.flying.pop(token), now
        if what is None:
            return None
        lane, event = what
        lane.out -= 1
        if reason in TRY_LATER:
            lane.refused(token.row, event, now)
            return None
        if reason < 128:
            lane.hold_s = 0.0
        if not self._landed:
            self._first_landed = now
        self._landed.add(token.row)
        return token.row if reason >= 128 else None

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
        # A pause that is over and yet sends nothing waits for a verdict or for the link, which wake the thread.
        ends += [lane.hold_until for lane in self._lanes.values() if lane.hold_until > now]
        if self._landed:
            ends.append(self._first_landed + NOTE_S)
        return max(0.0, min(ends) - now)
