"""Which face is the driver's, over time. Pure: frames and detections in, a face out; time is in the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgefer.config import Locate
from edgefer.types import Face, Frame, FramePair

if TYPE_CHECKING:
    from edgefer.locate.yunet import Detection

Box = tuple[float, float, float, float]
SAME_FACE = 0.3
"""overlap (intersection over union) from one frame to the next above which a face is the same one"""


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x, y, width, height; 0 to 1."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (a[2] * a[3] + b[2] * b[3] - w * h)


class DriverTracker:
    """The largest face in the driver's region, kept while it is seen: a passenger leaning in takes nothing over."""

    def __init__(self, config: Locate) -> None:
        self._region, self._hold_ns = config.region, int(config.hold_s * 1e9)
        self._last: Face | None = None
        self._seen_ns = self._unit = 0

    def choose(self, frame: Frame, found: Sequence[Detection]) -> Face | None:
        """The driver among ``found``, or None."""
        h, w = frame.image.shape[:2]
        inside = [d for d in found if self._is_inside(d.box, w, h)]
        if not inside:
            return None
        best = max(inside, key=lambda d: d.box[2] * d.box[3])
        last = self._last
        same_lens = last is not None and (last.lens, self._unit) == (frame.lens, frame.unit)
        if last is not None and same_lens and frame.mono_ns - self._seen_ns <= self._hold_ns:
            best = max(inside, key=lambda d: overlap(d.box, last.box))
            if overlap(best.box, last.box) <= SAME_FACE:
                return None  # somebody else; the driver's place is held
        self._last = Face(frame.lens, best.box, best.landmarks, best.score)
        self._seen_ns, self._unit = frame.mono_ns, frame.unit
        return self._last

    def hold(self, pair: FramePair) -> Face | None:
        """The last place, marked as not fresh, while its lens lives and ``hold_s`` has not passed."""
        if self._last is None:
            return None
        frame = pair.frame(self._last.lens)
        if frame is None or frame.unit != self._unit or frame.mono_ns - self._seen_ns > self._hold_ns:
            self._last = None
            return None
        return replace(self._last, fresh=False)

    def _is_inside(self, box: Box, w: int, h: int) -> bool:
        x, y = (box[0] + box[2] / 2) / w, (box[1] + box[3] / 2) / h
        left, top, right, bottom = self._region
        return left <= x <= right and top <= y <= bottom
