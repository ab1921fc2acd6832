"""What one picture shows of its lens: numbers, no judgement. Pure.

Every picture is sampled coarsely (levels, saturation, colour, and the print by which a repeated picture is known).
Edges need neighbouring pixels and cost ten times more, so they are measured only when asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from edgefer.types import U8

_SAMPLES_PER_SIDE: Final = 48
"""Rows and columns looked at. Every real sensor has noise, so two of its pictures never agree in 48 x 48 points."""
_BRIGHT_SHARE: Final = 0.01
_FULL_SCALE: Final = 250
_EDGE_WIDTH: Final = 160
"""width at which edges are measured: the averaging takes the sensor's noise out"""
_REACH: Final = 4
_LEAST_EDGE: Final = 4.0
"""grey levels across ``_REACH`` pixels that make an edge in a dark picture; in a lit one its share of the brightest"""
_EDGE_SHARE_OF_BRIGHTEST: Final = 0.08
_SHARP_QUANTILE: Final = 0.9
CHANGED_SHARE: Final = 0.005
"""two prints that differ in fewer points than this are the same picture: a clock in the corner, an encoder's breath"""


@dataclass(frozen=True, slots=True)
class Edges:
    """share: of the picture that is an edge, 0 to 1; sharpness: how much of an edge's step lies between two
    neighbours, 0.25 (a ramp) to 1 (a step), of the sharpest tenth; 0 when there is no edge."""

    share: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class Look:
    """One picture in numbers. Levels are grey levels, 0 to 255."""

    print: U8
    """a coarse sample, uint8 [h, w] or [h, w, 3]; its own memory"""
    brightest: int
    """the level that 1 % of the sample exceeds: one hot pixel does not make a picture"""
    level: float
    saturated: float
    """share of the sample at full scale, 0 to 1"""
    chroma: float | None
    """mean difference of the colours; None: not known"""
    edges: Edges | None
    """None: not measured this time"""


def look_at(image: U8, chroma: float | None = None, closely: bool = True) -> Look:
    """Measures a picture, uint8 [H, W] or [H, W, 3] BGR.

    chroma: of the picture before it was made grey. closely: edges too, and a colour picture's own chroma.
    """
    h, w = image.shape[:2]
    sample = np.ascontiguousarray(image[:: max(1, h // _SAMPLES_PER_SIDE), :: max(1, w // _SAMPLES_PER_SIDE)])
    return Look(
        print=sample if sample.base is None and sample is not image else sample.copy(),
        brightest=int(_exceeded(sample, _BRIGHT_SHARE)),
        level=float(sample.mean()),
        saturated=float(np.count_nonzero(sample >= _FULL_SCALE)) / sample.size,
        chroma=chroma_of(sample) if image.ndim == 3 and closely else chroma,
        edges=edges_of(image) if closely else None,
    )


def chroma_of(image: U8) -> float:
    """Mean distance of blue and red from green, grey levels, of a coarse sample of uint8 [H, W, 3]. A grey sensor
    behind a colour format has none."""
    h, w = image.shape[:2]
    s = image[:: max(1, h // _SAMPLES_PER_SIDE), :: max(1, w // _SAMPLES_PER_SIDE)].astype(np.int16)
    return float(np.abs(s[..., 0] - s[..., 1]).mean() + np.abs(s[..., 2] - s[..., 1]).mean()) / 2


def same_picture(a: U8, b: U8) -> bool:
    """Whether two prints show the same picture, or as good as."""
    return a.shape == b.shape and int(np.count_nonzero(a != b)) <= CHANGED_SHARE * a.size


def edges_of(image: U8) -> Edges:
    """Edges along every other row of a picture, uint8 [H, W] or [H, W, 3] (of which green is taken)."""
    small = _small_grey(image)
    if small.shape[1] <= _REACH:
        return Edges(0.0, 0.0)
    near = np.abs(np.diff(small))
    across = np.abs(small[:, _REACH:] - small[:, :-_REACH])
    strong = across > max(_LEAST_EDGE, _EDGE_SHARE_OF_BRIGHTEST * _exceeded(small, _BRIGHT_SHARE))
    count = int(np.count_nonzero(strong))
    if count == 0:
        return Edges(0.0, 0.0)
    steepest = np.maximum.reduce([near[:, k : k + across.shape[1]] for k in range(_REACH)])
    ratios = steepest[strong] / across[strong]
    return Edges(count / across.size, min(1.0, float(_exceeded(ratios, 1.0 - _SHARP_QUANTILE))))


def _small_grey(image: U8) -> np.ndarray[Any, np.dtype[np.int16]]:
    h, w = image.shape[:2]
    shrink = max(1, round(w / _EDGE_WIDTH))
    if shrink > 1:
        size = (max(1, w // shrink), max(1, h // shrink))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return (image[::2, :, 1] if image.ndim == 3 else image[::2]).astype(np.int16)


def _exceeded(values: np.ndarray[Any, Any], share: float) -> Any:
    """The value that ``share`` of the values exceed."""
    flat = values.reshape(-1)
    k = int((1.0 - share) * (flat.size - 1))
    return np.partition(flat, k)[k]
