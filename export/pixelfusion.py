"""Pixel fusion of aligned infrared and visible images: classical baselines, figures of merit, and the comparison.

Images are uint8 [H, W], grey, the two of a pair of one size. Every figure is a float, larger is better.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from export.data.fusion_pairs import FusionPairs
from export.errors import InputError
from export.fusionmetrics import figures

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Fuse = Callable[[U8, U8], U8]
"""(visible, infrared) -> fused"""
HELD_OUT = 15
"""last RoadScene pairs by frame number: neighbours come from one drive, so a block is cut off, not every fourth"""


class Pair(NamedTuple):
    name: str
    visible: U8
    infrared: U8


def read_pairs(root: Path) -> tuple[list[Pair], tuple[str, ...]]:
    """All usable pairs of a folder, or of its ``ir_visible_pairs``, and a line per file that is not used and why.

    Raises InputError when there is no pair.
    """
    found = FusionPairs(root)
    return [Pair(*row) for row in found], found.rejected


def split_pairs(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """(training, held out): all but the last fifteen RoadScene pairs; those fifteen and whatever is not RoadScene."""
    road = [p for p in pairs if p.name.startswith("RoadScene")]
    other = [p for p in pairs if not p.name.startswith("RoadScene")]
    cut = max(0, len(road) - HELD_OUT)
    return road[:cut], road[cut:] + other


# ---- baselines


def average(visible: U8, infrared: U8) -> U8:
    return _image((visible.astype(np.float64) + infrared) / 2)


def maximum(visible: U8, infrared: U8) -> U8:
    return np.maximum(visible, infrared)


def laplacian_pyramid(visible: U8, infrared: U8, levels: int = 4) -> U8:
    """The larger coefficient of every band, the mean of the remainder (Burt & Kolczynski 1993, choose-max rule)."""
    a, b = _pyramid(visible, levels), _pyramid(infrared, levels)
    bands = [np.where(np.abs(x) >= np.abs(y), x, y) for x, y in zip(a[:-1], b[:-1], strict=True)]
    image = (a[-1] + b[-1]) / 2
    for band in reversed(bands):
        image = band + cv2.pyrUp(image, dstsize=band.shape[::-1])
    return _image(image)


def _pyramid(image: U8, levels: int) -> list[F64]:
    bands, rest = [], image.astype(np.float64)
    for _ in range(levels):
        if min(rest.shape) < 4:
            break
        small = cv2.pyrDown(rest)
        bands.append(rest - cv2.pyrUp(small, dstsize=rest.shape[::-1]))
        rest = small
    return [*bands, rest]


def guided_filter_fusion(visible: U8, infrared: U8) -> U8:
    """Two-scale fusion with guided-filtered weights (Li, Kang & Hu 2013, eq. 5-15; their radii and regularisation)."""
    images = [x.astype(np.float64) / 255 for x in (visible, infrared)]
    bases = [cv2.blur(x, (31, 31), borderType=cv2.BORDER_REFLECT) for x in images]
    saliency = [cv2.GaussianBlur(np.abs(cv2.Laplacian(x, cv2.CV_64F)), (11, 11), 5.0) for x in images]
    first = (saliency[0] >= saliency[1]).astype(np.float64)
    coarse = _weights(images, first, radius=45, regularisation=0.3)
    fine = _weights(images, first, radius=7, regularisation=1e-6)
    base = coarse * bases[0] + (1 - coarse) * bases[1]
    detail = fine * (images[0] - bases[0]) + (1 - fine) * (images[1] - bases[1])
    return _image((base + detail) * 255)


def _weights(images: list[F64], first: F64, radius: int, regularisation: float) -> F64:
    """Weight of the first image: both maps filtered along their own image, then brought to the sum one."""
    a = np.clip(guided_filter(images[0], first, radius, regularisation), 0, 1)
    b = np.clip(guided_filter(images[1], 1 - first, radius, regularisation), 0, 1)
    return np.asarray((a + 1e-12) / (a + b + 2e-12))


def guided_filter(guide: F64, image: F64, radius: int, regularisation: float) -> F64:
    """Float64 [H, W]: ``image`` smoothed along the edges of ``guide`` (He, Sun & Tang 2010, eq. 5-8)."""

    def mean(x: F64) -> F64:
        return cv2.blur(x, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REFLECT)

    mg, mi = mean(guide), mean(image)
    slope = (mean(guide * image) - mg * mi) / (mean(guide * guide) - mg * mg + regularisation)
    return np.asarray(mean(slope) * guide + mean(mi - slope * mg))


def _image(x: F64) -> U8:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


BASELINES: dict[str, Fuse] = {
    "average": average,
    "maximum": maximum,
    "laplacian pyramid": laplacian_pyramid,
    "guided filter": guided_filter_fusion,
}


# ---- comparison


def evaluate_fusion(fuse: Fuse, pairs: Sequence[Pair]) -> dict[str, float]:
    """Mean of every figure of merit over the pairs."""
    rows = [figures(p.visible, p.infrared, fuse(p.visible, p.infrared)) for p in pairs]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def compare_fusion(
    generator_checkpoint: Path | None, pairs: Sequence[Pair], say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """{method: {figure: mean over ``pairs``}} of the baselines and, where a checkpoint is given, of its generator.

    Raises InputError when there are no pairs or the checkpoint is none of ``adversarial.train_generator``.
    """
    if not pairs:
        raise InputError("no infrared/visible pairs to compare on")
    methods = dict(BASELINES)
    if generator_checkpoint is not None:
        from export.adversarial import load_generator

        methods["wgan"] = load_generator(generator_checkpoint).fuse
    table = {}
    for name, fuse in methods.items():
        table[name] = evaluate_fusion(fuse, pairs)
        say(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in table[name].items()))
    return table


def write_results(path: Path, table: dict[str, dict[str, float]], **about: object) -> None:
    """JSON {"about": ..., "methods": {method: {figure: four decimals}}}; whole or not at all."""
    methods = {m: {k: round(v, 4) for k, v in row.items()} for m, row in table.items()}
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"about": about, "methods": methods}, indent=1) + "\n")
    os.replace(part, path)
