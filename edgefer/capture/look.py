"""What one picture shows of its lens: numbers, no judgement. Pure.

Every picture is sampled coarsely (levels, saturation, colour, and the print by which a repeated picture is known).
Edges need neighbouring pixels and cost ten times more, so they are measured only when asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
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
_BANDS: Final = 4
_UNITS: Final = 200
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
    """a coarse sample, uint8 [h, w], green of a colour picture; its own memory"""
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
    sample = image[:: max(1, h // _SAMPLES_PER_SIDE), :: max(1, w // _SAMPLES_PER_SIDE)]
    brightest = int(_exceeded(sample, _BRIGHT_SHARE))
    return Look(
        print=(sample[..., 1] if image.ndim == 3 else sample).copy(),
        brightest=brightest,
        level=float(sample.mean()),
        saturated=float(np.count_nonzero(sample >= _FULL_SCALE)) / sample.size,
        chroma=chroma_of(sample) if image.ndim == 3 and closely else chroma,
        edges=edges_of(image, brightest) if closely else None,
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


def edges_of(image: U8, brightest: int) -> Edges:
    """Edges along the rows of a picture, uint8 [H, W] or [H, W, 3] (of which green is taken), in ``_BANDS`` bands.

    brightest: the level against which a step is an edge.
    """
    least = max(_LEAST_EDGE, _EDGE_SHARE_OF_BRIGHTEST * brightest)
    found = [_band_edges(band, least) for band in _bands(image)]
    ratios = np.concatenate([ratios for ratios, _ in found])
    if ratios.size == 0:
        return Edges(0.0, 0.0)
    share = ratios.size / sum(size for _, size in found)
    return Edges(share, min(1.0, float(_exceeded(ratios, 1.0 - _SHARP_QUANTILE)) / _UNITS))


def _band_edges(small: U8, least: float) -> tuple[U8, int]:
    """(of every edge the share of its step between two neighbours in ``_UNITS``, points looked at)"""
    if small.shape[1] <= _REACH:
        return np.empty(0, np.uint8), 1
    near = cv2.absdiff(small[:, 1:], small[:, :-1])
    across = cv2.absdiff(small[:, _REACH:], small[:, :-_REACH])
    strong = across > least
    steepest = near[:, : across.shape[1]].copy()
    for k in range(1, _REACH):
        np.maximum(steepest, near[:, k : k + across.shape[1]], out=steepest)
    ratios = np.divide(steepest[strong], across[strong], dtype=np.float32)
    return (ratios * _UNITS).astype(np.uint8), across.size


def _bands(image: U8) -> Iterator[U8]:
    """Half of the rows, averaged down to ``_EDGE_WIDTH``; in pieces, so that no large array is needed."""
    h, w = image.shape[:2]
    shrink = max(1, round(w / _EDGE_WIDTH))
    height = max(1, h // (2 * _BANDS))
    for k in range(min(_BANDS, h)):
        band = image[2 * k * height : (2 * k + 1) * height]
        if band.shape[0] == 0:
            return
        if shrink > 1:
            size = (max(1, w // shrink), max(1, height // shrink))
            band = cv2.resize(band, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        yield np.ascontiguousarray(band[:, :, 1] if band.ndim == 3 else band)


def _exceeded(values: np.ndarray[Any, Any], share: float) -> Any:
    """The value that ``share`` of the values exceed."""
    flat = values.reshape(-1)
    k = int((1.0 - share) * (flat.size - 1))
    return np.partition(flat, k)[k]
