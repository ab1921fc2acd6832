"""Where the reader threads leave frames and the pipeline picks them up: one lock, one condition.

Pictures are examined before the lock is taken, so no reader waits for another one's picture.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable

import numpy as np

from edgefer.capture.chooser import Chooser, picture_score
from edgefer.capture.eye import Eye
from edgefer.capture.lens import states_of, swapped
from edgefer.capture.look import Look
from edgefer.capture.pairing import Match, Pairing
from edgefer.capture.source import Clock
from edgefer.config import Capture
from edgefer.types import Frame, FramePair, Lens, LensState

States = tuple[LensState, LensState]

OPENING_S = 3.0
"""How long a camera may take to open and to deliver its first frame before its silence counts as a loss; so long the
other lens is held back. USB cameras need one to two seconds, GStreamer pipelines up to three; one that is not there
says so at once."""


class Mailbox:
    """Readers call `post`, `lose`, `end` and `fail`; the pipeline calls `start`, once, and `next_pair`.

    eyes: (lens, unit) of every physical lens; unit is 0, or 1 for the second of a spectrum.
    """

    def __init__(self, config: Capture, eyes: Collection[tuple[Lens, int]], lockstep: bool, clock: Clock) -> None:
        self._news = threading.Condition()
        self._pairing = Pairing(config.tolerance_ms, config.fps, lockstep)
        self._eyes = {(lens, unit): Eye(lens, unit, config, lockstep) for lens, unit in eyes}
        self._absent = {lens: Eye(lens, 0, config, lockstep) for lens in Lens if (lens, 0) not in self._eyes}
        self._choosers = {lens: Chooser() for lens in Lens if (lens, 1) in self._eyes}
        self._looks: dict[Lens, Look] = {}
        self._lockstep = lockstep
        self._clock = clock
        self._opening_ns = round(max(OPENING_S, config.lost_s) * 1e9)
        self._started_ns: int | None = None
        self._newest_ns: int | None = None
        self._failure: Exception | None = None
        self._closed = False

    def start(self) -> None:
        """The cameras begin to open: their opening time runs from here."""
        with self._news:
            self._started_ns = self._clock()

    def post(self, frames: tuple[Frame, ...], unit: int = 0) -> None:
        """New frames, all at once. In lockstep blocks until they were taken, or the mailbox is closed."""
        now_ns = self._clock()
        examined = [self._eyes[frame.lens, unit].examine(frame, now_ns) for frame in frames]
        with self._news:
            for frame, look in examined:
                self._take_in(frame, look, now_ns)
            self._news.notify_all()
            while self._lockstep and not self._closed and any(self._pairing.waiting(f.lens) for f in frames):
                self._news.wait()

    def lose(self, lenses: Iterable[Lens], unit: int = 0) -> None:
        """The device of these lenses has failed."""
        with self._news:
            for lens in lenses:
                self._eyes[lens, unit].policy.fail()
                self._eyes[lens, unit].opening = False
            self._news.notify_all()

    def end(self, lenses: Iterable[Lens], unit: int = 0) -> None:
        """No more frames will come from these lenses."""
        with self._news:
            for lens in lenses:
                self._eyes[lens, unit].running = self._eyes[lens, unit].opening = False
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

    def note_face(self, lens: Lens | None) -> None:
        """Where the face was found just now; None: nowhere. Of two lenses of a spectrum the better one shows it."""
        with self._news:
            now_ns = self._now()
            for of, chooser in self._choosers.items():
                if lens is None or lens is of:
                    chooser.face(lens is of, now_ns)

    @property
    def ended(self) -> bool:
        """Never after `fail`: whoever loops until the end looks once more, and `next_pair` raises."""
        with self._news:
            return self._failure is None and self._drained()

    def states(self) -> States:
        with self._news:
            return self._states(self._now())

    def counters(self) -> dict[str, int]:
        """See `Rig.counters`."""
        with self._news:
            counts = {"unpaired": self._pairing.unpaired, "pairs": self._pairing.pairs}
            for lens in Lens:
                eyes = [eye for eye in self._eyes.values() if eye.lens is lens]
                counts[f"{lens.value}_frames"] = sum(eye.frames for eye in eyes)
                counts[f"{lens.value}_drops"] = self._pairing.drops[lens]
                counts[f"{lens.value}_clock_jumps"] = sum(eye.clock.jumps for eye in eyes)
                if lens in self._choosers:
                    counts[f"{lens.value}_switches"] = self._choosers[lens].switches
            return counts

    def timing(self) -> dict[str, float]:
        """See `Rig.timing`."""
        with self._news:
            figures = {"tolerance_ms": self._pairing.tolerance_ns / 1e6}
            for eye in self._eyes.values():
                if eye is self._eye(eye.lens):
                    figures[f"{eye.lens.value}_drift_ppm"] = eye.clock.drift_ppm
            skews = np.array(self._pairing.skews_ns, np.float64) / 1e6
        if skews.size:
            middle, far = float(np.median(skews)), float(np.quantile(np.abs(skews), 0.99))
            figures |= {"skew_p50_ms": middle, "skew_p99_ms": far}
        return figures

    def next_pair(self, timeout_s: float) -> FramePair | None:
        """See `Rig.next_pair`."""
        give_up = time.monotonic() + timeout_s
        with self._news:
            while True:
                if self._failure is not None:
                    raise self._failure
                now_ns = self._now()
                match = None if self._opening(now_ns) else self._pairing.take(now_ns, self._awaited(now_ns))
                if match is not None:
                    return self._pair(match)
                left_s = give_up - time.monotonic()
                if left_s <= 0 or self._closed or self._drained():
                    return self._nothing(now_ns)
                self._news.wait(min(left_s, self._wait_s(now_ns)))

    def _wait_s(self, now_ns: int) -> float:
        """Seconds after which there may be something to deliver without news."""
        if self._started_ns is not None and self._opening(now_ns):
            return (self._started_ns + self._opening_ns - now_ns) / 1e9
        return self._pairing.wait_s(now_ns)

    def now_ns(self) -> int:
        with self._news:
            return self._now()

    def _now(self) -> int:
        """In lockstep the recording is the clock: it may run faster than the world."""
        return self._newest_ns if self._lockstep and self._newest_ns is not None else self._clock()

    def _drained(self) -> bool:
        return not any(eye.running for eye in self._eyes.values()) and self._pairing.empty()

    def _eye(self, lens: Lens) -> Eye:
        """The one that is looked through."""
        unit = self._choosers[lens].current if lens in self._choosers else 0
        return self._eyes[lens, unit] if (lens, unit) in self._eyes else self._absent[lens]

    def _awaited(self, now_ns: int) -> set[Lens]:
        """A lost lens is not waited for; in lockstep every reader that still runs is."""
        running = {eye.lens for eye in self._eyes.values() if eye.running and eye is self._eye(eye.lens)}
        if self._lockstep:
            return running
        return {lens for lens in running if self._eye(lens).state(now_ns) is not LensState.LOST}

    def _opening(self, now_ns: int) -> bool:
        """Whether a spectrum has delivered nothing and a lens of it may be opening still: neither failed nor ended,
        and its time not over. Nothing is delivered then: the other spectrum alone would say that this one is lost.
        """
        if self._lockstep or (self._started_ns is not None and now_ns >= self._started_ns + self._opening_ns):
            return False
        seen = {eye.lens for eye in self._eyes.values() if eye.frames}
        return any(eye.opening for eye in self._eyes.values() if eye.lens not in seen)

    def _states(self, now_ns: int) -> States:
        return states_of(self._eye(Lens.VISIBLE).policy, self._eye(Lens.INFRARED).policy, now_ns)

    def _take_in(self, frame: Frame, look: Look, now_ns: int) -> None:
        eye = self._eyes[frame.lens, frame.unit]
        eye.frames += 1
        eye.opening = False
        if self._lockstep:  # a frame that waits for its moment must not make its lens alive before that
            self._looks[frame.lens] = look
        else:
            self._see(frame, look)
            self._choose(frame.lens, now_ns)
        if eye is self._eye(frame.lens):
            self._pairing.put(frame, None if self._lockstep else now_ns)

    def _choose(self, lens: Lens, now_ns: int) -> None:
        if lens not in self._choosers:
            return
        first, second = self._eyes[lens, 0], self._eyes[lens, 1]
        scores = picture_score(first.policy.closely), picture_score(second.policy.closely)
        self._choosers[lens].choose((first.state(now_ns), second.state(now_ns)), scores, now_ns)

    def _see(self, frame: Frame, look: Look) -> None:
        self._eyes[frame.lens, frame.unit].policy.see(look, frame.mono_ns)
        if look.edges is not None:
            policies = [self._eye(lens).policy for lens in Lens]
            exchanged = swapped(policies[0].closely, policies[1].closely)
            for policy in policies:
                policy.set_swapped(exchanged, frame.mono_ns)
        self._newest_ns = max(frame.mono_ns, self._newest_ns or frame.mono_ns)

    def _pair(self, match: Match) -> FramePair:
        frames = [frame for frame in match if frame is not None]
        if self._lockstep:
            for frame in frames:
                self._see(frame, self._looks[frame.lens])
            self._news.notify_all()  # the reader waits for its slot
        return FramePair(*match, *self._states(self._now()), mono_ns=min(frame.mono_ns for frame in frames))

    def _nothing(self, now_ns: int) -> FramePair | None:
        """All lenses lost is worth saying, but not while a camera is still opening, nor of a recording's slow disk."""
        lost = self._states(now_ns) == (LensState.LOST, LensState.LOST)
        if not lost or self._closed or self._lockstep or self._drained() or self._opening(now_ns):
            return None
        return FramePair(None, None, LensState.LOST, LensState.LOST, now_ns)
