"""Brings events from the pipeline into the spool and from the spool to the broker: one thread, one window.

``put()`` hands an event over and never waits: the thread commits what has gathered and then sends it. Never more than
WINDOW events are on their way or delivered-but-not-yet-noted; so many can come twice after a kill, no more (after a
power cut those noted since the last event was committed, too).
Delivered is what the broker acknowledged with a reason below 128 other than 16 (nobody subscribes). 16 and passing
refusals (quota, busy) are tried again, one event of their topic at a time, until one gets through; the other topic goes
on. A final refusal (135: the ACL) is a loss. Lost ranges wait until the link is up; then the pipeline's thread tells
them as events (``notices``).

First deliveries are in the order of ``seq`` except after 16, a passing refusal or an outage: sort by ``seq``.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from edgefer.messages import encode
from edgefer.publish._flight import Flight, Token
from edgefer.publish._mailbox import QUEUE, Ask, Mailbox, Notice
from edgefer.publish._spool_file import TOPICS
from edgefer.publish.spool import BATCH, Event, Loss, Spool, SpoolFull

log = logging.getLogger("edgefer.publish")

NOTICES = 64
REPLAY_MAX = 1000
"""most events of one replay command; more are asked for in several"""
REPLAY_QUEUE = 4000
JOIN_S = 0.5
"""a stop waits so much longer for a disk that hangs"""


class Link(Protocol):
    """The far side as the courier sees it."""

    def send_event(self, topic: str, payload: bytes, token: Token) -> None:
        """Hand over; the verdict comes later, from any thread, through ``settle``. Never blocks."""

    def stalled(self) -> None:
        """No acknowledgement for PROGRESS_S: connect anew."""


class Courier(Mailbox):
    """``open_spool`` runs in the courier's thread, and again when the file turns out to be damaged."""

    def __init__(self, open_spool: Callable[[], Spool], link: Link, queue_limit: int = QUEUE) -> None:
        super().__init__(queue_limit)
        self._open_spool, self._link = open_spool, link
        self._flight = Flight(TOPICS)
        self._replays: deque[Event] = deque()
        self._give_up, self._turn, self._renewed = 0.0, False, False
        self._spool: Spool
        self.fault = ""
        """why the thread has died, "" while it lives"""
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, drain_s: float) -> None:
        """Commit everything, send for at most ``drain_s`` seconds, note what was delivered, let go of the file."""
        with self._news:
            self._closing, self._give_up = True, time.monotonic() + drain_s
            self._news.notify()
        if self._thread.ident is not None:
            self._thread.join(drain_s + JOIN_S)

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except Exception as e:  # the pipeline must hear of it: it ends the service, and a restart begins anew
            log.exception("the spool's thread has died")
            self.fault = f"the spool's thread has died: {type(e).__name__}: {e}"

    def _work(self) -> None:
        self._open()
        while not self._finished():
            with self._news:
                bound = self._flight.wait_s(time.monotonic())
                self._news.wait_for(self._has_work, min(bound, 0.05) if self._closing else bound)
            self._round()
        self._save([], self._flight.noted(), [])
        self._show()
        self._spool.close()

    def _round(self) -> None:
        """A file that can no longer be read is opened anew, and what was under way is sent again from what it holds.

        Raises sqlite3.Error where that has not helped: the service ends, and its restarts keep their distance.
        """
        try:
            self._judge()
            self._store()
            self._note()
            self._answer()
            self._send()
            self._renewed = False
            return
        except sqlite3.Error as e:
            if self._renewed:
                raise
            error = str(e)
        self._renewed = True
        self._replace(error)

    def _has_work(self) -> bool:
        waiting = self._queue or self._verdicts or self._asks or self._turned
        return bool(waiting) or (self._closing and self._finished()) or self._can_send()

    def _can_send(self) -> bool:
        more = bool(self._replays) or self._flight.ready(time.monotonic())
        return self._up and more and self._flight.room(self._room)

    def _finished(self) -> bool:
        if not self._closing or self._queue:
            return False
        return self._flight.over or not self._up or time.monotonic() >= self._give_up

    def _open(self) -> None:
        self._spool = self._open_spool()
        self._flight.new_life()
        self._show()
        if self._spool.trouble:
            log.error("spool: %s", self._spool.trouble)
            with self._news:
                self._notices.append(Notice(None, self._spool.trouble))

    def _judge(self) -> None:
        """Take the verdicts that came in; what is refused for good is a loss."""
        now = time.monotonic()
        with self._news:
            verdicts, self._verdicts = self._verdicts, []
            if self._turned:
                self._turned = False
                self._flight.link_changed(now)
        rows = [self._flight.landed(token, reason, now) for token, reason in verdicts]
        refused = [self._spool.event(row) for row in rows if row is not None]
        # A report of a loss that is refused makes no new loss: that would go on for ever.
        self._lose_all([e for e in refused if e is not None and b'"spool_lost"' not in e.payload])
        if self._up and self._flight.stuck(now):
            self._link.stalled()

    def _store(self) -> None:
        """Commit what was put, a transaction for every BATCH, and put what was lost on record."""
        while True:
            with self._news:
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            if not batch:
                break
            new = [Event(m.stream, m.seq, m.TOPIC, encode(m)) for m, _ in batch]
            self._save(new, self._flight.noted(), [loss for _, loss in batch if loss is not None])
            self._flight.more()
        if self._unstored:
            self._record()

    def _save(self, new: Sequence[Event], done: Collection[int], settled: Collection[Loss]) -> None:
        """One transaction. A spool that takes nothing costs ``new``; a damaged one is replaced, ``new`` goes there."""
        if not (new or done or settled):
            return
        try:
            self._commit(new, done, settled)
            return
        except SpoolFull:
            self._lose_all(new)
            return
        except sqlite3.Error as e:
            error = str(e)
        try:
            self._replace(error)
            self._commit(new, (), ())
        except (SpoolFull, sqlite3.Error):
            self._lose_all(new)

    def _lose_all(self, events: Sequence[Event]) -> None:
        with self._news:
            for event in events:
                self._lose(event.stream, event.seq)

    def _commit(self, new: Sequence[Event], done: Collection[int], settled: Collection[Loss]) -> None:
        self._spool.commit(new, done, settled)
        with self._news:
            self._counts["events_committed"] += len(new)

    def _record(self) -> None:
        with self._news:
            ranges, self._unstored = self._unstored, []
        try:
            self._spool.lose(ranges)
        except (SpoolFull, sqlite3.Error) as e:
            log.warning("spool: a loss cannot be put on record yet: %s", e)
            with self._news:
                self._unstored = ranges + self._unstored

    def _replace(self, error: str) -> None:
        """Outside of ``except``: the error's traceback holds a cursor of the old file, and with it that file's lock."""
        log.error("spool: %s; opening it anew", error)
        self._spool.close()
        self._open()

    def _note(self) -> None:
        """Deliveries into the spool when they are due, losses to be told when somebody listens."""
        if self._flight.due(self._room, time.monotonic()):
            self._save([], self._flight.noted(), [])
        if self._up:
            fresh = self._spool.hand_losses(NOTICES - len(self._notices))
            with self._news:
                self._notices.extend(Notice(loss) for loss in fresh)
        self._show()

    def _show(self) -> None:
        with self._news:
            self._counts["spool_depth"] = self._spool.depth
            self._counts["events_lost"] += self._spool.dropped
            self._tails = dict(self._spool.tails)
        self._spool.dropped = 0

    def _answer(self) -> None:
        """Find what replays ask for."""
        while self._asks:
            ask = self._asks.popleft()
            if len(self._replays) + REPLAY_MAX > REPLAY_QUEUE:
                ask.answer(-1)
                continue
            ask.answer(self._find(ask))

    def _find(self, ask: Ask) -> int:
        """What ``ask.answer`` is to hear. No ask ends this thread, whatever is in it and whatever the file does."""
        try:
            found = self._spool.stored(ask.stream, ask.first, ask.last, REPLAY_MAX)
        except (OverflowError, ValueError) as e:
            log.error("spool: a replay that cannot be looked for: %s", e)
            return 0
        except sqlite3.Error as e:
            error = str(e)
        else:
            self._replays.extend(found)
            return len(found)
        self._replace(error)
        return -1

    def _send(self) -> None:
        """Fill the window: what is new and what was asked for take turns, so that neither keeps the other waiting."""
        while self._can_send():
            now = time.monotonic()
            self._turn = not self._turn
            first = not (self._replays and self._turn)
            left = self._flight.take(self._spool, now) if first else None
            if left is not None:
                self._link.send_event(left[1].topic, left[1].payload, left[0])
            elif self._replays:
                event = self._replays.popleft()
                self._counts["events_replayed"] += 1
                payload = event.payload.replace(b'"replayed":false', b'"replayed":true', 1)
                self._link.send_event(event.topic, payload, self._flight.replay(now))
