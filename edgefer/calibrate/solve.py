"""From points to lenses: intrinsics and distortion of each, the pose between them, or one homography. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from edgefer.calibrate.boards import FEWEST, Board, Found, same_turn
from edgefer.types import F64, Lens

STRAY = 3.0
"""a view whose error is this many times the median's is left out, once, and no more than a fifth of them"""
WORTH = 0.97
"""a third radial term is used when it lowers the error to this share: fitted to nothing, it bends the corners"""


@dataclass(frozen=True)
class View:
    """One pair: the board on either lens, None where it is not seen."""

    visible: Found | None
    infrared: Found | None

    def on(self, lens: Lens) -> Found | None:
        return self.visible if lens is Lens.VISIBLE else self.infrared


@dataclass(frozen=True)
class LensFit:
    """matrix float64 [3, 3], pixels; distortion float64 [5] k1 k2 p1 p2 k3; rms_px over all points; views used."""

    matrix: F64
    distortion: F64
    rms_px: float
    views: int


@dataclass(frozen=True)
class RigFit:
    """rotation [3, 3] and translation_mm [3] take a point of the visible lens's frame to the infrared one's."""

    visible: LensFit
    infrared: LensFit
    rotation: F64
    translation_mm: F64
    rms_px: float
    views: int


@dataclass(frozen=True)
class Common:
    """What both lenses see of one board: board [n, 3] millimetres, visible and infrared [n, 2] pixels, float32."""

    board: Any
    visible: Any
    infrared: Any


def solve_lens(board: Board, found: Sequence[Found], size: tuple[int, int]) -> LensFit:
    """Zhang's method (2000) over the views of one lens; size: width and height, pixels."""
    kept = list(found)
    fit, errors = _fit(board, kept, size, cv2.CALIB_FIX_K3)
    good = _without_strays(errors)
    if not all(good):
        kept = [f for f, keep in zip(kept, good, strict=True) if keep]
        fit, _ = _fit(board, kept, size, cv2.CALIB_FIX_K3)
    bent, _ = _fit(board, kept, size, 0)
    return bent if bent.rms_px < WORTH * fit.rms_px else fit


def _fit(board: Board, found: Sequence[Found], size: tuple[int, int], flags: int) -> tuple[LensFit, F64]:
    points = board.points_mm
    seen, true = [f.points for f in found], [points[f.ids] for f in found]
    rms, matrix, bend, *_, errors = cv2.calibrateCameraExtended(true, seen, size, None, None, flags=flags)
    return LensFit(matrix, np.ravel(bend)[:5], float(rms), len(found)), np.ravel(errors)


def _without_strays(errors: F64) -> list[bool]:
    """Views whose error is not far above the others'; all of them when more than a fifth would go."""
    good = errors <= STRAY * max(float(np.median(errors)), 0.05)
    return [True] * len(errors) if good.mean() < 0.8 else [bool(g) for g in good]


def common(board: Board, views: Sequence[View]) -> list[Common]:
    """The points of each view that both lenses see, at least `FEWEST`."""
    points, found = board.points_mm, []
    for view in views:
        if view.visible is None or view.infrared is None:
            continue
        infrared = same_turn(board, view.visible, view.infrared)
        ids, first, second = np.intersect1d(view.visible.ids, infrared.ids, return_indices=True)
        if len(ids) >= FEWEST:
            found.append(Common(points[ids], view.visible.points[first], infrared.points[second]))
    return found


def solve_rig(board: Board, views: Sequence[View], sizes: Mapping[Lens, tuple[int, int]]) -> RigFit:
    """Each lens, then both and the pose between them; sizes: width and height, pixels."""
    found: dict[Lens, list[Found]] = {lens: [f for view in views if (f := view.on(lens)) is not None] for lens in Lens}
    v = solve_lens(board, found[Lens.VISIBLE], sizes[Lens.VISIBLE])
    i = solve_lens(board, found[Lens.INFRARED], sizes[Lens.INFRARED])
    shared = common(board, views)
    fit = _joined(shared, v, i, sizes[Lens.VISIBLE])
    good = _without_strays(np.array([_across_error(c, fit) for c in shared]))
    if not all(good):
        shared = [c for c, keep in zip(shared, good, strict=True) if keep]
        fit = _joined(shared, v, i, sizes[Lens.VISIBLE])
    return fit


def _joined(shared: Sequence[Common], v: LensFit, i: LensFit, size: tuple[int, int]) -> RigFit:
    """The pose, and focal lengths and centres once more with it: each lens alone leaves its centre and the turn between
    the lenses to trade against each other, which shows at distances farther than the boards were.

    Distortion stays: the views of one lens alone reach farther into its corners.
    """
    flags = cv2.CALIB_USE_INTRINSIC_GUESS | cv2.CALIB_FIX_K1 | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3
    rms, mv, dv, mi, di, rotation, translation, *_ = cv2.stereoCalibrate(
        [c.board for c in shared], [c.visible for c in shared], [c.infrared for c in shared],
        v.matrix.copy(), v.distortion.copy(), i.matrix.copy(), i.distortion.copy(), size,
        flags=flags | cv2.CALIB_FIX_TANGENT_DIST,
    )  # fmt: skip
    visible = replace(v, matrix=np.asarray(mv), distortion=np.ravel(dv)[:5])
    infrared = replace(i, matrix=np.asarray(mi), distortion=np.ravel(di)[:5])
    return RigFit(visible, infrared, np.asarray(rotation), np.ravel(translation), float(rms), len(shared))


def _across_error(c: Common, fit: RigFit) -> float:
    """The board's place as the visible lens has it, carried to the infrared one: rms, pixels."""
    v, i = fit.visible, fit.infrared
    _, turned, place = cv2.solvePnP(c.board, c.visible, v.matrix, v.distortion)
    r = fit.rotation @ cv2.Rodrigues(turned)[0]
    t = fit.rotation @ np.ravel(place) + fit.translation_mm
    seen, _ = cv2.projectPoints(c.board, cv2.Rodrigues(r)[0], t, i.matrix, i.distortion)
    return float(np.sqrt(((seen.reshape(-1, 2) - c.infrared) ** 2).sum(1).mean()))


def solve_homography(shared: Common) -> tuple[F64, float]:
    """Visible to infrared pixels for the plane of one board: float64 [3, 3], and its rms error, pixels."""
    h, _ = cv2.findHomography(shared.visible.astype(np.float64), shared.infrared.astype(np.float64))
    h = np.asarray(h, np.float64)
    mapped = cv2.perspectiveTransform(shared.visible[None].astype(np.float64), h)[0]
    return h, float(np.sqrt(((mapped - shared.infrared) ** 2).sum(1).mean()))
