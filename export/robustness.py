"""When a lens fails, slips out of register or the face is covered: is the pair still as good as its better lens?

What the daemon notices (dead, black, frozen) reaches the network as ``present`` 0, and then it is that other lens's
network; the rows "unnoticed" show the second before a frozen lens is noticed, and a black one handed over as present.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgefer.types import F32, F64, U8
from export import lenses, metrics
from export.data import augment
from export.data.faces import Faces
from export.lenses import Inputs

SHIFTS = (2, 4, 6)
"""misregistration of the infrared lens, pixels of a crop of 112"""
REFERENCE_SIDE = 112
Answer = Callable[[Inputs, str], F32]
"""inputs and a title for the progress line -> logits float32 [N, K]"""
Row = dict[str, Any]


def rows(faces: Faces, infrared: U8, known: dict[str, F32], template: F64, seed: int, answer: Answer) -> list[Row]:
    """One row per fault: accuracy fused and of each lens alone under it.

    infrared: uint8 [N, S, S] of ``faces``; known: logits of each mode without a fault; template: float64 [5, 2],
    landmarks in the crop (right eye, left eye, nose, mouth corners).
    """
    right = {mode: metrics.accuracy(x, faces.labels) for mode, x in known.items()}
    bench = _Bench(faces, infrared, right, answer)
    alone = {"visible": right["infrared"], "infrared": right["visible"]}
    out = [bench.row(f"{lens} lens dead, black or frozen, noticed", {"fused": alone[lens]}, {lens}) for lens in alone]
    black, stale = np.zeros_like(infrared), np.roll(np.arange(len(faces)), 1)
    out.append(bench.seen("visible lens black, unnoticed", black, infrared, lost="visible"))
    out.append(bench.seen("infrared lens black, unnoticed", faces.images, black, lost="infrared"))
    out.append(bench.seen("visible lens shows another face", faces.images[stale], infrared, lost="visible"))
    out.append(bench.seen("infrared lens shows another face", faces.images, infrared[stale], lost="infrared"))
    for pixels in SHIFTS:
        moved = shifted(infrared, pixels * infrared.shape[1] / REFERENCE_SIDE, seed)
        out.append(bench.seen(f"infrared {pixels} px off (of {REFERENCE_SIDE})", faces.images, moved, same="visible"))
    lit = in_the_sun(faces.images, seed)
    out.append(bench.seen("sun on one side, visible lens", lit, infrared, same="infrared"))
    for name, cover in COVERS.items():
        visible, other = (covered(x, template, cover, seed) for x in (faces.images, infrared))
        out.append(bench.seen(f"{name}-like patch on both lenses", visible, other))
    return out


class _Bench:
    """Accuracies under a fault; those that the fault does not touch are taken over, not measured twice."""

    def __init__(self, faces: Faces, infrared: U8, right: dict[str, float], answer: Answer) -> None:
        self._faces, self._infrared, self._right, self._answer = faces, infrared, right, answer

    def seen(self, name: str, visible: U8, infrared: U8, lost: str = "", same: str = "") -> Row:
        """``lost``: this lens alone is worth nothing under the fault; ``same``: the fault does not touch it."""
        given = {lens: self._right[lens] for lens in ("visible", "infrared") if lens == same or lost not in ("", lens)}
        for mode in lenses.MODES:
            key = "fused" if "+" in mode else mode
            if key not in given and key != lost:
                logits = self._answer(lenses.inputs(visible, infrared, mode), f"{name}, {mode}")
                given[key] = metrics.accuracy(logits, self._faces.labels)
        return self.row(name, given, {lost})

    def row(self, name: str, given: dict[str, float], lost: set[str]) -> Row:
        single = {lens: given.get(lens, self._right[lens]) for lens in ("visible", "infrared") if lens not in lost}
        better = max(single.values())
        return {"fault": name, "fused": given["fused"], **single, "better_single": better,
                "points": 100 * (given["fused"] - better)}  # fmt: skip


def shifted(images: U8, pixels: float, seed: int) -> U8:
    """uint8 [N, S, S], each moved by ``pixels`` in a direction of its own."""
    out = np.empty_like(images)
    for k, image in enumerate(images):
        angle = np.random.default_rng((seed, 88, k)).uniform(0, 2 * np.pi)
        m = np.array([[1, 0, pixels * np.cos(angle)], [0, 1, pixels * np.sin(angle)]])
        out[k] = cv2.warpAffine(image, m, image.shape[::-1], borderMode=cv2.BORDER_REFLECT_101)
    return out


def in_the_sun(images: U8, seed: int) -> U8:
    """uint8 [N, S, S], each lit and shaded by a sun of its own (`augment.sunlit`)."""
    return np.stack([augment.sunlit(image, np.random.default_rng((seed, 77, k))) for k, image in enumerate(images)])


Cover = Callable[[npt.NDArray[Any], F64, np.random.Generator], None]


def covered(images: U8, template: F64, cover: Cover, seed: int) -> U8:
    """uint8 [N, S, S] with the patch drawn where the template has eyes, nose and mouth."""
    out = images.copy()
    for k, image in enumerate(out):
        cover(image, template, np.random.default_rng((seed, 99, k)))
    return out


def _sunglasses(image: npt.NDArray[Any], template: F64, rng: np.random.Generator) -> None:
    """Two dark lenses and a bridge; dark on infrared too, though many sunglasses let it through."""
    apart = float(np.linalg.norm(template[1] - template[0]))
    grey = int(rng.integers(5, 45))
    for eye in template[:2]:
        axes = (round(0.42 * apart), round(0.3 * apart))
        cv2.ellipse(image, _pixel(eye), axes, 0, 0, 360, grey, -1)
    cv2.line(image, _pixel(template[0]), _pixel(template[1]), grey, max(1, round(0.08 * apart)))


def _mask(image: npt.NDArray[Any], template: F64, rng: np.random.Generator) -> None:
    """A light mask from the nose to below the chin."""
    side = image.shape[0]
    apart = float(np.linalg.norm(template[1] - template[0]))
    nose, middle = template[2], template[:2].mean(axis=0)
    left, right = middle[0] - 0.95 * apart, middle[0] + 0.95 * apart
    outline = [(left, nose[1] + 0.1 * apart), nose, (right, nose[1] + 0.1 * apart), (right - 0.3 * apart, side - 1),
               (left + 0.3 * apart, side - 1)]  # fmt: skip
    cv2.fillPoly(image, [np.array(outline).round().astype(np.int32)], int(rng.integers(150, 230)))


def _hand(image: npt.NDArray[Any], template: F64, rng: np.random.Generator) -> None:
    """A palm as bright as the face over one cheek and half the mouth."""
    apart = float(np.linalg.norm(template[1] - template[0]))
    corner = template[3 + int(rng.integers(2))]
    axes = (round(0.6 * apart), round(0.85 * apart))
    cv2.ellipse(image, _pixel(corner), axes, float(rng.uniform(-30, 30)), 0, 360, int(np.median(image)), -1)


def _pixel(point: Sequence[float] | F64) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


COVERS: dict[str, Cover] = {"sunglasses": _sunglasses, "mask": _mask, "hand": _hand}


def table(found: list[Row]) -> list[str]:
    """Aligned plain text."""
    keys = ("fused", "visible", "infrared", "better_single")
    lines = ["fault".ljust(46) + "".join(f"{k.replace('_', ' '):>15}" for k in keys) + f"{'points':>9}"]
    for r in found:
        cells = "".join(f"{r[k]:15.2%}" if k in r else f"{'-':>15}" for k in keys)
        lines.append(f"{r['fault']:46}{cells}{r['points']:+9.2f}")
    return lines
