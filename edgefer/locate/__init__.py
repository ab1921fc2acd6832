"""Finds the driver's face: YuNet proposes, :class:`DriverTracker` decides which face is the driver's, over time."""

from __future__ import annotations

import cv2

from edgefer.config import Locate
from edgefer.locate.driver import DriverTracker
from edgefer.locate.yunet import FaceDetector, YuNet
from edgefer.types import Face, Frame, FramePair, Lens

DARK_LEVEL = 28.0
"""mean grey level below which the infrared lens is asked first; an order of asking, not a verdict"""
AGAIN_S = 1.0
"""a face found on the lens asked second is looked for on the first again this often, seconds"""


class Locator:
    """The driver's face in a pair: on the visible lens, on the infrared lens when the visible one is dark or dead."""

    def __init__(self, config: Locate, threads: int, detector: FaceDetector | None = None) -> None:
        """``detector``: None for OpenCV's; the locator closes it."""
        self._config, self._detector = config, detector if detector is not None else YuNet(config)
        self._tracker, self._misses, self._first_ns = DriverTracker(config), 0, 0
        cv2.setNumThreads(threads)

    def find(self, pair: FramePair) -> Face | None:
        """The driver's face, or None. One look a call: after a miss the next call asks the other lens."""
        frames = self._order(pair)
        if not frames:
            return None
        turn = self._misses % len(frames)
        again = turn > 0 and pair.mono_ns - self._first_ns >= AGAIN_S * 1e9
        frame = frames[0 if again else turn]
        face = self._tracker.choose(frame, self._detector.detect(frame.image))
        if frame is frames[0]:
            self._first_ns = pair.mono_ns
            self._misses = 0 if face is not None else self._misses
        if face is None and not again:
            self._misses += 1
        return face if face is not None else self._tracker.hold(pair)

    def forget(self) -> None:
        """The next pair has nothing to do with the last one."""
        self._tracker, self._misses, self._first_ns = DriverTracker(self._config), 0, 0

    def close(self) -> None:
        self._detector.close()

    def _order(self, pair: FramePair) -> list[Frame]:
        visible, infrared = pair.frame(Lens.VISIBLE), pair.frame(Lens.INFRARED)
        frames = [f for f in (visible, infrared) if f is not None]
        if len(frames) == 2 and frames[0].image[::16, ::16].mean() < DARK_LEVEL:
            frames.reverse()
        return frames
