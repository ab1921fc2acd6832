"""Judgements that need a while: what persists, what flickers, what goes missing. Pure, time is an argument."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import numpy as np


class Persisting:
    """A condition that counts once it has held for ``limit_s`` and is over once it has been away for ``back_s``."""

    def __init__(self, limit_s: float, back_s: float) -> None:
        self._limit_ns, self._back_ns = round(limit_s * 1e9), round(back_s * 1e9)
        self._since_ns: int | None = None
        self.active = False

    def update(self, bad: bool, mono_ns: int) -> bool:
        """Whether it counts at ``mono_ns``."""
        if bad is self.active:
            self._since_ns = None
            return self.active
        if self._since_ns is None:
            self._since_ns = mono_ns
        if mono_ns - self._since_ns >= (self._limit_ns if bad else self._back_ns):
            self.active, self._since_ns = bad, None
        return self.active

    def reset(self) -> None:
        self._since_ns, self.active = None, False


class Flicker:
    """Counts how often the brightness turns round: up, then down by more than ``swing`` of itself, and so on.

    A cloud or a tunnel turns it once or twice; an illuminator that fails or beats with the shutter does so with every
    few frames.
    """

    SWING: Final = 0.12
    LEAST: Final = 2.0
    """grey levels: in the dark a share of almost nothing is noise"""
    TURNS: Final = 8
    WINDOW_S: Final = 1.0

    def __init__(self) -> None:
        self._turns: deque[int] = deque(maxlen=self.TURNS)
        self._extreme: float | None = None
        self._rising = True

    def see(self, level: float, mono_ns: int) -> bool:
        """Whether the brightness has turned ``TURNS`` times within the last ``WINDOW_S`` seconds."""
        if self._extreme is None:
            self._extreme = level
        swing = max(self.LEAST, self.SWING * self._extreme)
        beyond = level > self._extreme if self._rising else level < self._extreme
        if beyond:
            self._extreme = level
        elif abs(level - self._extreme) > swing:
            self._turns.append(mono_ns)
            self._extreme, self._rising = level, not self._rising
        return len(self._turns) == self.TURNS and mono_ns - self._turns[0] <= self.WINDOW_S * 1e9


class Dropping:
    """The share of frames that is missing, from the times of those that came.

    The period is the shortest median seen lately; it is forgotten over a minute, so that a camera which slows down for
    good (long exposure at night) is not blamed for ever. A rate that is low but regular is no loss at all.
    """

    SHARE: Final = 0.25
    WINDOW_S: Final = 2.0
    EVERY_S: Final = 0.25
    FORGET_S: Final = 60.0
    UNEVEN: Final = 1.5
    """longest tenth of the intervals over the shortest tenth: below that the rate is regular"""

    def __init__(self) -> None:
        self._times: deque[int] = deque(maxlen=512)
        self._period_ns = math.inf
        self._judged_ns, self._missing = 0, 0.0

    def see(self, mono_ns: int) -> float:
        """Takes note of a frame; returns the share that is missing of the last ``WINDOW_S`` seconds, 0 to 1."""
        if self._times and mono_ns <= self._times[-1]:
            self.reset()  # its clock has jumped: what was is no measure any more
        self._times.append(mono_ns)
        while mono_ns - self._times[0] > self.WINDOW_S * 1e9:
            self._times.popleft()
        if len(self._times) >= 8 and mono_ns - self._judged_ns >= self.EVERY_S * 1e9:
            self._missing = self._judge(mono_ns)
        return self._missing

    def reset(self) -> None:
        self._times.clear()
        self._judged_ns, self._missing = 0, 0.0

    def _judge(self, mono_ns: int) -> float:
        gaps = np.diff(np.fromiter(self._times, np.int64))
        short, middle, long = (float(q) for q in np.quantile(gaps, (0.1, 0.5, 0.9)))
        since_s = (mono_ns - self._judged_ns) / 1e9 if self._judged_ns else 0.0
        self._judged_ns = mono_ns
        self._period_ns = min(middle, self._period_ns * (1.0 + since_s / self.FORGET_S))
        if long < self.UNEVEN * max(short, 1.0):
            return 0.0
        return max(0.0, 1.0 - len(gaps) * self._period_ns / float(self._times[-1] - self._times[0]))
