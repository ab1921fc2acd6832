"""One physical lens as the mailbox knows it: its clock, its health, and how closely it was looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgefer.capture.lens import LensPolicy
from edgefer.capture.lensclock import LensClock
from edgefer.capture.look import Look, look_at
from edgefer.config import Capture
from edgefer.types import Frame, Lens, LensState

CLOSE_LOOK_S: Final = 0.25
"""edges are measured four times a second: they cost ten times what the rest does, and no fault of theirs is faster"""


class Eye:
    """lens and unit name it. `examine` belongs to the reader's thread, all else to whoever holds the mailbox's lock."""

    def __init__(self, lens: Lens, unit: int, config: Capture, lockstep: bool) -> None:
        self.lens, self.unit = lens, unit
        self.policy = LensPolicy(config.lost_s, config.frozen_s, config.black_level)
        self.clock = LensClock()
        self.frames = 0
        self.running = True
        self.opening = True
        self._lockstep = lockstep
        self._close_ns: int | None = None

    def examine(self, frame: Frame, arrival_ns: int) -> tuple[Frame, Look]:
        """The frame with its time on the host's clock, and its numbers. In lockstep the stamps are the clock."""
        mono_ns = frame.mono_ns if self._lockstep else self.clock.host_ns(frame.mono_ns, arrival_ns)
        if mono_ns != frame.mono_ns or frame.unit != self.unit:
            frame = replace(frame, mono_ns=mono_ns, unit=self.unit)
        since_ns = None if self._close_ns is None else mono_ns - self._close_ns
        closely = since_ns is None or not 0 <= since_ns < CLOSE_LOOK_S * 1e9
        if closely:
            self._close_ns = mono_ns
        return frame, look_at(frame.image, frame.chroma, closely)

    def state(self, now_ns: int) -> LensState:
        return self.policy.state(now_ns)
