"""Fault drills: a camera that goes wrong by the clock, so that an installer sees what the daemon says of each fault.

``visible:black:5-8 infrared:lost:10-12``: from second 5 to 8 after the start the visible lens is black, and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from edgefer.capture.source import Clock, Source
from edgefer.errors import ConfigError
from edgefer.types import U8, Frame, Lens, LensState

PICTURES: Final[dict[LensState, Callable[[U8, int], U8]]] = {
    LensState.BLACK: lambda image, k: np.zeros_like(image),
    LensState.SATURATED: lambda image, k: np.full_like(image, 255),
    LensState.COVERED: lambda image, k: cv2.addWeighted(cv2.blur(image, (301, 301)), 0.05, image & 3, 1.0, 20),
    LensState.BLURRED: lambda image, k: cv2.blur(cv2.blur(image, (41, 41)), (41, 41)),
    LensState.FLICKER: lambda image, k: image // 2 if k % 2 else image,
}
"""what each fault makes of a picture; the others are about which picture comes, and when"""


@dataclass(frozen=True, slots=True)
class Drill:
    lens: Lens
    fault: LensState
    start_s: float
    end_s: float


def read_drills(text: str) -> tuple[Drill, ...]:
    """Raises ConfigError that names the word that is not understood."""
    return tuple(_drill(word) for word in text.split())


def _drill(word: str) -> Drill:
    try:
        lens, fault, span = word.split(":")
        start, end = (float(t) for t in span.split("-"))
        drill = Drill(Lens(lens), LensState(fault), start, end)
    except ValueError:
        raise ConfigError(f"'capture.faults': '{word}' is not lens:fault:from-to, as in visible:black:5-8") from None
    if drill.fault is LensState.OK or not start < end:
        raise ConfigError(f"'capture.faults': '{word}' names no fault, or no time")
    return drill


class DrillSource:
    """Wraps a source and spoils its frames as planned. Times count from the first `open`."""

    def __init__(self, inner: Source, drills: tuple[Drill, ...], clock: Clock) -> None:
        self._inner, self._drills, self._clock = inner, drills, clock
        self._start_ns: int | None = None
        self._last: dict[Lens, U8] = {}

    @property
    def lenses(self) -> tuple[Lens, ...]:
        return self._inner.lenses

    def open(self) -> None:
        self._inner.open()
        self._start_ns = self._start_ns if self._start_ns is not None else self._clock()

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        frames = self._inner.read(timeout_s)
        faults = {f.lens: self._fault(f) for f in frames}
        if LensState.WRONG_SPECTRUM in faults.values() and len(frames) == 2:
            frames = _exchanged(*frames)
        return tuple(g for f in frames if (g := self._spoilt(f, faults[f.lens])) is not None)

    def close(self) -> None:
        self._inner.close()

    def _fault(self, frame: Frame) -> LensState:
        at_s = (frame.mono_ns - (self._start_ns or frame.mono_ns)) / 1e9
        on = (d.fault for d in self._drills if d.lens is frame.lens and d.start_s <= at_s < d.end_s)
        return next(on, LensState.OK)

    def _spoilt(self, frame: Frame, fault: LensState) -> Frame | None:
        if fault is LensState.LOST or (fault is LensState.DROPPING and frame.index % 5 in (1, 2)):
            return None
        if fault is LensState.FROZEN:
            return replace(frame, image=self._last.setdefault(frame.lens, frame.image))
        self._last[frame.lens] = frame.image
        spoil = PICTURES.get(fault)
        return frame if spoil is None else replace(frame, image=spoil(frame.image, frame.index))


def _exchanged(visible: Frame, infrared: Frame) -> tuple[Frame, Frame]:
    """As if the plugs were: the grey lens in colour form, the colour lens turned to grey."""
    from edgefer.capture.look import chroma_of

    grey: U8 = cv2.cvtColor(visible.image, cv2.COLOR_BGR2GRAY)
    return (
        replace(visible, image=cv2.cvtColor(infrared.image, cv2.COLOR_GRAY2BGR)),
        replace(infrared, image=grey, chroma=chroma_of(visible.image)),
    )
