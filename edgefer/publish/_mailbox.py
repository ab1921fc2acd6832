"""What other threads hand to the courier's and take from it, under one lock that nobody holds for long."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgefer.messages import Message
from edgefer.publish._flight import WINDOW, Token
from edgefer.publish.spool import Loss, Range

QUEUE = 1024
"""events that may wait for the disk; below 1 MiB"""
ASKS = 16
"""replays that may wait to be looked for"""
OTHERS = 4
"""places in the broker's receive maximum that events leave to status, meta, health and a response"""


@dataclass(frozen=True, slots=True)
class Notice:
    """To be told as an event by the pipeline's thread: a lost range, or trouble with the spool's file."""

    loss: Loss | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """A replay that was asked for; ``answer`` takes how many of the range are here, -1: not now, ask again."""

    stream: str
    first: int
    last: int
    answer: Callable[[int], None]


class Mailbox:
    """The courier's thread waits for ``_news`` and holds it where it touches what is named here; no call waits."""

    def __init__(self, queue_limit: int = QUEUE) -> None:
        self._limit = queue_limit
        self._news = threading.Condition()
        self._queue: deque[tuple[Message, Loss | None]] = deque()
        self._verdicts: list[tuple[Token, int]] = []
        self._unstored: list[Range] = []
        self._asks: deque[Ask] = deque()
        self._notices: deque[Notice] = deque()
        self._up, self._room, self._closing, self._turned = False, WINDOW, False, False
        self._counts = {"spool_depth": 0, "events_committed": 0, "events_lost": 0, "events_replayed": 0}
        self._tails: dict[str, int] = {}

    def put(self, message: Message, settles: Loss | None = None) -> None:
        """Never waits. When the disk is so slow that QUEUE events wait for it, ``message`` is lost, and on record.

        ``settles``: the loss that ``message`` tells; it leaves the record in the transaction that commits ``message``.
        """
        with self._news:
            if len(self._queue) < self._limit and not self._closing:
                self._queue.append((message, settles))
            else:
                if settles is not None:  # its range comes back: told twice rather than never
                    self._unstored.append((settles.stream, settles.first, settles.last, settles.count))
                self._lose(message.stream, message.seq)
            self._news.notify()

    def _lose(self, stream: str, seq: int) -> None:
        self._counts["events_lost"] += 1
        if self._unstored and self._unstored[-1][0] == stream and self._unstored[-1][2] < seq:
            _, first, last, count = self._unstored[-1]
            if last + 1 == seq or len(self._unstored) >= self._limit:  # a disk that hangs for hours costs no memory
                self._unstored[-1] = (stream, first, seq, count + 1)
                return
        self._unstored.append((stream, seq, seq, 1))

    def settle(self, token: Token, reason: int) -> None:
        """The broker's verdict on what ``send_event`` was given."""
        with self._news:
            self._verdicts.append((token, reason))
            self._news.notify()

    def link(self, up: bool, receive_maximum: int = 65535) -> None:
        """The connection is there (and takes ``receive_maximum`` unacknowledged messages) or gone."""
        with self._news:
            self._up, self._room = up, max(1, min(WINDOW, receive_maximum - OTHERS))
            self._turned = True
            self._news.notify()

    def replay(self, ask: Ask) -> None:
        """Send a range again. ``ask.answer`` is called by the courier's thread, or at once when too much is asked."""
        with self._news:
            taken = len(self._asks) < ASKS
            if taken:
                self._asks.append(ask)
                self._news.notify()
        if not taken:
            ask.answer(-1)

    def notices(self) -> list[Notice]:
        """What became due for telling since the last call."""
        if not self._notices:
            return []
        with self._news:
            found = list(self._notices)
            self._notices.clear()
            return found

    def counters(self) -> dict[str, int]:
        """``spool_depth`` is a level, the others only rise."""
        with self._news:
            return dict(self._counts)

    def tails(self) -> dict[str, int]:
        """Highest committed ``seq`` of the newest streams."""
        with self._news:
            return dict(self._tails)
