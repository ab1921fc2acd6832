"""What flows through the house, frozen: Frame -> FramePair -> Face -> AlignedPair -> Scores -> Reading.

Times are CLOCK_BOOTTIME nanoseconds (monotonic, counts suspend) unless a name says otherwise. Images are uint8,
visible frames [H, W, 3] in BGR order (OpenCV's), infrared frames [H, W] grey.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def now_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds; CLOCK_MONOTONIC where the kernel has no boot time clock."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lens(str, Enum):
    VISIBLE = "visible"
    INFRARED = "infrared"


class LensState(str, Enum):
    """What a lens is worth at this instant."""

    OK = "ok"
    BLACK = "black"
    """delivers frames without a picture in them (night for the visible lens, cover closed)"""
    FROZEN = "frozen"
    """delivers the same picture again and again"""
    LOST = "lost"
    """delivers nothing"""
    SATURATED = "saturated"
    """most of the picture is at full scale: glare, or an exposure that is stuck"""
    COVERED = "covered"
    """light comes in, but there is no edge in the picture: a hand, tape or fog before the lens"""
    WRONG_SPECTRUM = "wrong_spectrum"
    """visible and infrared lens are swapped"""
    BLURRED = "blurred"
    """edges, but none sharp: out of focus or smeared"""
    FLICKER = "flicker"
    """brightness goes up and down many times a second: the illuminator"""
    DROPPING = "dropping"
    """more than a quarter of the frames is missing, again and again"""

    @property
    def usable(self) -> bool:
        """Whether its pictures still count. A lens that is only degraded is named, but looked through."""
        return self in (LensState.OK, LensState.BLURRED, LensState.FLICKER, LensState.DROPPING)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of one lens. ``image`` is uint8 [H, W, 3] BGR (visible) or [H, W] grey (infrared), read-only."""

    lens: Lens
    image: U8
    mono_ns: int
    index: int
    """counts the frames of this lens since it was opened, drops included"""
    chroma: float | None = None
    """mean difference of the colours before an infrared picture was made grey, grey levels; None: it came grey"""
    unit: int = 0
    """0 or 1: which of two lenses of one spectrum"""


@dataclass(frozen=True, slots=True)
class FramePair:
    """The newest frame of each lens within the pairing tolerance; a lens that is not usable may still carry a frame."""

    visible: Frame | None
    infrared: Frame | None
    visible_state: LensState
    infrared_state: LensState
    mono_ns: int
    """capture time of the older of the two frames; the time of the look when there is none"""

    def frame(self, lens: Lens) -> Frame | None:
        """The frame of ``lens`` if that lens is usable, else None."""
        if not self.state(lens).usable:
            return None
        return self.visible if lens is Lens.VISIBLE else self.infrared

    def state(self, lens: Lens) -> LensState:
        return self.visible_state if lens is Lens.VISIBLE else self.infrared_state


@dataclass(frozen=True, slots=True)
class Face:
    """The driver's face in the pixels of the lens it was found on.

    box: x, y, width, height; landmarks: float32 [5, 2], x and y of right eye, left eye, nose tip, right and left
    mouth corner (the driver's right, which is left in the picture); score: the detector's, 0 to 1.
    """

    lens: Lens
    box: tuple[float, float, float, float]
    landmarks: F32
    score: float
    fresh: bool = True
    """False when the detector saw nothing in this frame and the last place is held"""

    @property
    def yaw_deg(self) -> float:
        """Head turn estimated from the landmarks, degrees, positive towards the driver's left; about 10 degrees exact.

        The nose tip stands about half an eye distance in front of the eyes, so its offset from between them, in eye
        distances, is half the sine of the turn.
        """
        right, left, nose = self.landmarks[0], self.landmarks[1], self.landmarks[2]
        axis = left - right
        length = max(float(np.hypot(axis[0], axis[1])), 1e-6)
        offset = float((nose - (right + left) / 2) @ axis) / length**2
        return math.degrees(math.asin(max(-1.0, min(1.0, 2 * offset))))


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """What the network sees: visible uint8 [1, S, S, C], infrared uint8 [1, S, S, 1], present float32 [1, 2] of 0 or 1.

    The arrays are buffers of the aligner: valid until its next call.
    """

    visible: U8
    infrared: U8
    present: F32


@dataclass(frozen=True, slots=True)
class Scores:
    """logits float32 [K], in the order of the bundle's labels."""

    logits: F32

    def probabilities(self, temperature: float) -> F32:
        """Calibrated probabilities float32 [K] (Guo et al. 2017, temperature scaling)."""
        z = self.logits / temperature
        e = np.exp(z - z.max())
        return (e / e.sum()).astype(np.float32)


class Why(str, Enum):
    """Why a reading carries no label. A result, not an error."""

    NO_FACE = "no_face"
    LOW_QUALITY = "low_quality"
    CAMERA_LOST = "camera_lost"
    FROZEN = "frozen"
    BLACK = "black"
    SATURATED = "saturated"
    COVERED = "covered"
    WRONG_SPECTRUM = "wrong_spectrum"
    UNCERTAIN = "uncertain"
    PRIVACY = "privacy"


UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Reading:
    """The driver's expression at ``mono_ns``. ``label`` is ``unknown`` exactly when ``why`` is set.

    probs: label -> probability after calibration and smoothing, empty when nothing was seen; conf: probability of the
    label that is shown, or would be.
    """

    label: str
    conf: float
    probs: Mapping[str, float]
    why: Why | None
    face_score: float
    yaw_deg: float
    lenses: tuple[LensState, LensState]
    mono_ns: int

    @property
    def valid(self) -> bool:
        return self.why is None
