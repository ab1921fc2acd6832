"""YuNet's raw outputs to faces (Wu et al. 2023), in numpy: pure, and what ``cv2.FaceDetectorYN`` makes of them.

For each stride s of 8, 16, 32 the network gives, for every cell of the picture divided by s, row by row: cls and obj
float32 [1, cells, 1], bbox float32 [1, cells, 4], kps float32 [1, cells, 10].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgefer.types import F32

STRIDES = (8, 16, 32)
OVERLAP = 0.3
"""of two boxes above which the weaker one is dropped"""
MOST = 200
"""candidates that are looked at, best first"""
Raw = Mapping[str, F32]


def decode(raw: Raw, size: tuple[int, int], min_score: float) -> F32:
    """Faces float32 [F, 15], best first: x, y, width, height, five landmarks x, y, score; pixels of the picture.

    size: (height, width) of the picture the network saw, multiples of 32.
    """
    rows = np.concatenate([_stride(raw, s, size, min_score) for s in STRIDES])
    return rows[suppress(rows, MOST)]


def _stride(raw: Raw, s: int, size: tuple[int, int], min_score: float) -> F32:
    """Candidates above ``min_score``, float32 [n, 15]."""
    columns = size[1] // s
    cls, obj = (np.clip(raw[f"{name}_{s}"].reshape(-1), 0.0, 1.0) for name in ("cls", "obj"))
    score = np.sqrt(cls * obj)
    at = np.flatnonzero(score > min_score)
    cell = np.stack((at % columns, at // columns), axis=1).astype(np.float32)
    box, points = raw[f"bbox_{s}"].reshape(-1, 4)[at], raw[f"kps_{s}"].reshape(-1, 5, 2)[at]
    extent = np.exp(box[:, 2:]) * s
    corner = (cell + box[:, :2]) * s - extent / 2
    landmarks = ((points + cell[:, None]) * s).reshape(-1, 10)
    return np.concatenate((corner, extent, landmarks, score[at, None]), axis=1).astype(np.float32)


def suppress(rows: F32, most: int) -> npt.NDArray[np.intp]:
    """Indices of the rows that stay, best first: a weaker box that overlaps a better one is dropped.

    Boxes are cut to whole pixels first, as OpenCV does; among equal scores the earlier one is better.
    """
    order = np.argsort(-rows[:, 14], kind="stable")[:most]
    left, top, width, height = np.trunc(rows[order, :4]).T.astype(np.float64)
    overlaps = _overlaps(left, top, width, height)
    alive, kept = np.ones(len(order), bool), []
    for k in range(len(order)):
        if alive[k]:
            kept.append(k)
            alive &= overlaps[k] <= OVERLAP
    return order[kept]


def _overlaps(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], w: npt.NDArray[np.float64],
              h: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:  # fmt: skip
    """Intersection over union of every box with every box, [n, n]."""
    across = np.minimum.outer(x + w, x + w) - np.maximum.outer(x, x)
    down = np.minimum.outer(y + h, y + h) - np.maximum.outer(y, y)
    shared = np.clip(across, 0, None) * np.clip(down, 0, None)
    area = w * h
    return shared / np.maximum(np.add.outer(area, area) - shared, 1e-9)
