"""Where the reader threads leave frames and the pipeline picks them up: one lock, one condition."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable

from edgefer.capture.lens import LensPolicy
from edgefer.capture.pairing import Match, Pairing
from edgefer.capture.source import Clock
from edgefer.config import Capture
from edgefer.types import Frame, FramePair, Lens, LensState

States = tuple[LensState, LensState]

OPENING_S = 3.0
"""How long a camera may take to open and to deliver its first frame before its silence counts as a loss. USB cameras
need one to two seconds, GStreamer pipelines up to three; one that is not there says so at once."""


class Mailbox:
    """Readers call `post`, `lose`, `end` and `fail`; the pipeline calls `start`, once, and `next_pair`."""

    def __init__(self, config: Capture, lenses: Collection[Lens], lockstep: bool, clock: Clock) -> None:
        self._news = threading.Condition()
        self._pairing = Pairing(config.tolerance_ms, config.fps, lockstep)
        self._policies = {lens: LensPolicy(config.lost_s, config.frozen_s, config.black_level) for lens in Lens}
        self._running = set(lenses)
        self._opening = set(lenses)
        self._lockstep = lockstep
        self._clock = clock
        self._opening_ns = round(max(OPENING_S, config.lost_s) * 1e9)
        self._started_ns: int | None = None
        self._newest_ns: int | None = None
        self._failure: Exception | None = None
        self._closed = False
        self.frames: dict[Lens, int] = dict.fromkeys(Lens, 0)

    def start(self) -> None:
        """The cameras begin to open: their opening time runs from here."""
        with self._news:
            self._started_ns = self._clock()

    def post(self, frames: tuple[Frame, ...]) -> None:
        """New frames, all at once. In lockstep blocks until they were taken, or the mailbox is closed."""
        with self._news:
            for frame in frames:
                self.frames[frame.lens] += 1
                self._opening.discard(frame.lens)
                if not self._lockstep:
                    self._see(frame)
                self._pairing.put(frame)
            self._news.notify_all()
            while self._lockstep and not self._closed and any(self._pairing.waiting(f.lens) for f in frames):
                self._news.wait()

    def lose(self, lenses: Iterable[Lens]) -> None:
        """The device of these lenses has failed."""
        with self._news:
            for lens in lenses:
                self._policies[lens].fail()
                self._opening.discard(lens)
            self._news.notify_all()

    def end(self, lenses: Iterable[Lens]) -> None:
        """No more frames will come from these lenses."""
        with self._news:
            self._running.difference_update(lenses)
            self._opening.difference_update(lenses)
            self._news.notify_all()

    def fail(self, failure: Exception) -> None:
        """An error the reader cannot cure: `next_pair` raises it in the pipeline's thread. The first one counts."""
        with self._news:
            self._failure = self._failure or failure
            self._news.notify_all()

    def close(self) -> None:
        """Lets blocked readers and a blocked `next_pair` go."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    @property
    def ended(self) -> bool:
        """Never after `fail`: whoever loops until the end looks once more, and `next_pair` raises."""
        with self._news:
            return self._failure is None and self._drained()

    def states(self) -> States:
        with self._news:
            return self._states(self._now())

    def counts(self) -> tuple[dict[Lens, int], dict[Lens, int], int]:
        """(frames, drops) for each lens, and the unpaired."""
        with self._news:
            return dict(self.frames), dict(self._pairing.drops), self._pairing.unpaired

    def next_pair(self, timeout_s: float) -> FramePair | None:
        """See `Rig.next_pair`."""
        give_up = time.monotonic() + timeout_s
        with self._news:
            while True:
                if self._failure is not None:
                    raise self._failure
                now_ns = self._now()
                match = self._pairing.take(now_ns, self._awaited(now_ns))
                if match is not None:
                    return self._pair(match)
                left_s = give_up - time.monotonic()
                if left_s <= 0 or self._closed or self._drained():
                    return self._nothing(now_ns)
                self._news.wait(min(left_s, self._pairing.wait_s(now_ns)))

    def now_ns(self) -> int:
        with self._news:
            return self._now()

    def _now(self) -> int:
        """In lockstep the recording is the clock: it may run faster than the world."""
        return self._newest_ns if self._lockstep and self._newest_ns is not None else self._clock()

    def _drained(self) -> bool:
        return not self._running and self._pairing.empty()

    def _awaited(self, now_ns: int) -> set[Lens]:
        """A lost lens is not waited for, one that is still opening is; in lockstep every reader that still runs is."""
        if self._lockstep:
            return self._running
        alive = {lens for lens in self._running if self._policies[lens].state(now_ns) is not LensState.LOST}
        return alive | self._still_opening(now_ns)

    def _still_opening(self, now_ns: int) -> set[Lens]:
        """The lenses with neither a frame nor a failure nor an end so far, until their opening time is over."""
        if self._started_ns is not None and now_ns >= self._started_ns + self._opening_ns:
            self._opening.clear()
        return self._opening

    def _states(self, now_ns: int) -> States:
        return self._policies[Lens.VISIBLE].state(now_ns), self._policies[Lens.INFRARED].state(now_ns)

    def _see(self, frame: Frame) -> None:
        self._policies[frame.lens].see(frame.image, frame.mono_ns)
        self._newest_ns = max(frame.mono_ns, self._newest_ns or frame.mono_ns)

    def _pair(self, match: Match) -> FramePair:
        frames = [frame for frame in match if frame is not None]
        if self._lockstep:  # a frame that waits for its moment must not make its lens alive before that
            for frame in frames:
                self._see(frame)
            self._news.notify_all()  # the reader waits for its slot
        return FramePair(*match, *self._states(self._now()), mono_ns=min(frame.mono_ns for frame in frames))

    def _nothing(self, now_ns: int) -> FramePair | None:
        """All lenses lost is worth saying, but not while a camera is still opening, nor of a recording's slow disk."""
        lost = self._states(now_ns) == (LensState.LOST, LensState.LOST)
        if not lost or self._closed or self._lockstep or self._drained() or self._still_opening(now_ns):
            return None
        return FramePair(None, None, LensState.LOST, LensState.LOST, now_ns)
