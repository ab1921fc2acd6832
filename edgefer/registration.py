"""Do the lenses still agree? Measured on the driver's face now and then, judged over minutes.

The face is cut out of both lenses through the calibration, wide and at one scale, and the detector finds its landmarks
in both cuts: a calibration that is right puts them at one place. Edges, correlated, measure the rest. Lengths are
pixels of a crop of 112.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import cv2
import numpy as np

from edgefer.config import Align
from edgefer.messages import EventSystem
from edgefer.stamp import Stamper
from edgefer.types import F32, F64, U8, AlignedPair, Face, FramePair, Lens

WINDOW: Final = 224
"""side of the cut, pixels: the crop of 112 in the middle of it, so that a face half a crop away is still inside"""
CROP: Final = 112
MOST_YAW_DEG: Final = 20.0
LEAST_SCORE: Final = 0.7
MOST_REST_PX, LEAST_PEAK = 8.0, 0.05
"""what the edges may add to the landmarks, and how clear their peak must be; a thermal lens shows few of them"""
PARTS, IN_PART = 3, 10
"""the time is judged in so many parts, each of at least so many faces"""
MOST: Final = 1000
"""faces a span is judged by; those that come faster are passed over"""
BACK: Final = 0.7
"""share of the limit below which the lenses agree again"""


class Found(Protocol):
    """What the detector returns: landmarks float32 [5, 2] in pixels, score 0 to 1."""

    @property
    def landmarks(self) -> F32: ...
    @property
    def score(self) -> float: ...


def window_template(template: Sequence[tuple[float, float]], crop_size: int) -> list[tuple[float, float]]:
    """The bundle's landmarks in the cut of `WINDOW` pixels."""
    k, rim = CROP / crop_size, (WINDOW - CROP) / 2
    return [(x * k + rim, y * k + rim) for x, y in template]


def offset_px(visible: Sequence[Found], infrared: Sequence[Found]) -> F64 | None:
    """x and y of the infrared face from the visible one, float64 [2]; None when either is missing or doubtful.

    The median over the landmarks: one of them may be behind a hand.
    """
    best = [max(found, key=lambda f: f.score, default=None) for found in (visible, infrared)]
    if best[0] is None or best[1] is None or min(best[0].score, best[1].score) < LEAST_SCORE:
        return None
    return np.asarray(np.median(best[1].landmarks - best[0].landmarks, axis=0), np.float64)


def refined(visible: U8, infrared: U8, coarse: F64) -> F64:
    """``coarse`` (x, y; float64 [2]) corrected by phase correlation of the edges; as it was where they say nothing.

    visible: uint8 [S, S, 3], infrared: uint8 [S, S], both of `WINDOW` pixels.
    """
    rim = (WINDOW - CROP) // 2
    x, y = (int(np.clip(round(float(v)), -rim, rim)) for v in coarse)
    still = _edges(cv2.cvtColor(visible, cv2.COLOR_BGR2GRAY)[rim:-rim, rim:-rim])
    moved = _edges(infrared[rim + y : rim + y + CROP, rim + x : rim + x + CROP])
    (dx, dy), peak = cv2.phaseCorrelate(still, moved, _HANN)
    rest = np.array((x + dx, y + dy)) - coarse
    return coarse + rest if peak >= LEAST_PEAK and np.hypot(*rest) <= MOST_REST_PX else coarse


_HANN: Final = cv2.createHanningWindow((CROP, CROP), cv2.CV_32F)


def _edges(grey: U8) -> F32:
    """Strength of the edges, float32 [CROP, CROP]: light and dark may be exchanged between the spectra, edges not."""
    soft = cv2.GaussianBlur(grey, (0, 0), 1.5)
    edges = cv2.magnitude(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    return np.asarray(cv2.log(edges + 8.0), np.float32)


@dataclass(frozen=True)
class Verdict:
    """drifted: or back again; offset x, y in pixels; faces it is the median of."""

    drifted: bool
    x: float
    y: float
    faces: int


class DriftWatch:
    """Says once when the lenses have disagreed by more than ``limit_px`` for ``span_s`` seconds, and once when no more.

    The last span is judged in three parts: in each the median of the offsets must be beyond the limit, so that neither
    one driver's odd minute nor single wrong landmarks count, and silence is no verdict. Pure; time is an argument.
    """

    def __init__(self, limit_px: float, span_s: float) -> None:
        self._limit, self._span_ns = limit_px, int(span_s * 1e9)
        self._least_ns = self._span_ns // MOST
        self._seen: deque[tuple[int, float, float]] = deque(maxlen=MOST + 1)
        self._drifted = False

    def add(self, offset: F64, at_ns: int) -> Verdict | None:
        """An offset float64 [2], measured at ``at_ns``; times increase."""
        if self._seen and at_ns - self._seen[-1][0] < self._least_ns:
            return None
        self._seen.append((at_ns, float(offset[0]), float(offset[1])))
        while self._seen[0][0] <= at_ns - self._span_ns:
            self._seen.popleft()
        parts = self._parts(at_ns)
        if min(len(part) for part in parts) < IN_PART:
            return None
        off = [float(np.hypot(*np.median(part, 0))) for part in parts]
        if (max(off) < BACK * self._limit) if self._drifted else (min(off) > self._limit):
            self._drifted = not self._drifted
            x, y = np.median(np.concatenate(parts), 0)
            return Verdict(self._drifted, float(x), float(y), len(self._seen))
        return None

    def _parts(self, at_ns: int) -> list[F64]:
        times = np.array([seen[0] for seen in self._seen], np.int64)
        offsets = np.array([seen[1:] for seen in self._seen])
        which = (times - (at_ns - self._span_ns) - 1) * PARTS // self._span_ns
        return [offsets[which == k] for k in range(PARTS)]


class RegistrationCheck:
    """Looks every ``check_s`` at a face both lenses see; `DriftWatch` judges.

    cut: both lenses' windows about the face (an Aligner of `WINDOW` pixels); detect: faces in a window.
    """

    def __init__(
        self, config: Align, stamper: Stamper, cut: Callable[[FramePair, Face], AlignedPair],
        detect: Callable[[U8], Sequence[Found]],
    ) -> None:  # fmt: skip
        self._period_ns, self._due_ns = int(config.check_s * 1e9), 0
        self._limit, self._span_s = config.drift_px, config.drift_s
        self._watch = DriftWatch(config.drift_px, config.drift_s)
        self._stamper, self._cut, self._detect = stamper, cut, detect

    def __call__(self, pair: FramePair, face: Face | None) -> EventSystem | None:
        """The event there is to publish, nearly always None; a look costs two small detections."""
        if face is None or self._period_ns == 0 or pair.mono_ns < self._due_ns or not _is_fit(pair, face):
            return None
        self._due_ns = pair.mono_ns + self._period_ns
        windows = self._cut(pair, face)
        offset = self.measure(windows.visible[0], windows.infrared[0, :, :, 0])
        verdict = self._watch.add(offset, pair.mono_ns) if offset is not None else None
        return self._event(verdict, pair.mono_ns) if verdict is not None else None

    def measure(self, visible: U8, infrared: U8) -> F64 | None:
        """Offset float64 [2] of the infrared window, uint8 [S, S], from the visible one, [S, S, 3]; None: no face."""
        coarse = offset_px(self._detect(visible), self._detect(infrared))
        return refined(visible, infrared, coarse) if coarse is not None else None

    def _event(self, v: Verdict, at_ns: int) -> EventSystem:
        said = f"infrared off by {np.hypot(v.x, v.y):.1f} px of a 112-pixel crop ({v.x:+.1f}, {v.y:+.1f}), median of "
        said += f"{v.faces} faces in {self._span_s:g} s; limit {self._limit:g}"
        kind, remedy = ("registration_drifted", "; run edgefer calibrate") if v.drifted else ("registration_back", "")
        return self._stamper.message(EventSystem, at_ns, kind=kind, detail=said + remedy)


def _is_fit(pair: FramePair, face: Face) -> bool:
    """Both lenses alive, and the face seen now, well, and from the front."""
    both = all(pair.frame(lens) is not None for lens in Lens)
    return both and face.fresh and face.score >= LEAST_SCORE and abs(face.yaw_deg) <= MOST_YAW_DEG
