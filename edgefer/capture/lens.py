"""What a lens is worth: a pure policy, time is an argument."""

from __future__ import annotations

from typing import Final

import numpy as np

from edgefer.types import U8, LensState

_SAMPLES_PER_SIDE: Final = 48
"""Rows and columns looked at. Every real sensor has noise, so two of its pictures never agree in 48 x 48 points."""

_BRIGHT_SHARE: Final = 0.01


class LensPolicy:
    """Judges one lens from its frames and the clock.

    LOST when silent for ``lost_s`` (and before the first frame, and after `fail`), BLACK when the brightest 1 % of
    the last frame stays below ``black_level`` grey levels, FROZEN when the same picture has come for ``frozen_s``,
    else OK. BLACK is asked before FROZEN: a closed cover is constant too, and black says more.
    """

    def __init__(self, lost_s: float, frozen_s: float, black_level: float) -> None:
        self._lost_ns = round(lost_s * 1e9)
        self._frozen_ns = round(frozen_s * 1e9)
        self._black_level = black_level
        self._print: U8 | None = None
        self._changed_ns = 0
        self._seen_ns: int | None = None
        self._black = False

    def see(self, image: U8, mono_ns: int) -> None:
        """Takes note of a frame, uint8 [H, W] or [H, W, 3], captured at ``mono_ns``. Costs a few thousand bytes."""
        sample = _subsample(image)
        self._black = _brightest(sample) < self._black_level
        if not self._same(sample):
            self._changed_ns = mono_ns
        self._seen_ns = mono_ns

    def fail(self) -> None:
        """The device is known to have failed: no need to wait for the silence."""
        self._seen_ns = None
        self._print = None

    def state(self, now_ns: int) -> LensState:
        """The judgement at ``now_ns``."""
        if self._seen_ns is None or now_ns - self._seen_ns >= self._lost_ns:
            return LensState.LOST
        if self._black:
            return LensState.BLACK
        if self._seen_ns - self._changed_ns >= self._frozen_ns:
            return LensState.FROZEN
        return LensState.OK

    def _same(self, sample: U8) -> bool:
        """Compares with the previous sample, whose buffer is kept and refilled."""
        if self._print is not None and self._print.shape == sample.shape:
            if np.array_equal(self._print, sample):
                return True
            np.copyto(self._print, sample)
            return False
        self._print = sample.copy()
        return False


def _subsample(image: U8) -> U8:
    h, w = image.shape[:2]
    return image[:: max(1, h // _SAMPLES_PER_SIDE), :: max(1, w // _SAMPLES_PER_SIDE)]


def _brightest(sample: U8) -> int:
    """The level that 1 % of the sample exceeds: one hot pixel does not make a picture."""
    flat = sample.reshape(-1)
    k = int((1.0 - _BRIGHT_SHARE) * (flat.size - 1))
    return int(np.partition(flat, k)[k])
