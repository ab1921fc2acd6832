"""Is this picture, and are these captures, good enough? Pure; every verdict is one line that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from edgefer.calibrate.boards import Board, Found
from edgefer.calibrate.solve import RigFit, View, common
from edgefer.types import F64, U8, Lens

VIEWS = 15
"""views both lenses must share"""
EDGE_PX = 6.0
"""an edge of the board may take this many pixels from dark to light"""
CORNER = 0.25
"""share of width and height that counts as a corner of the picture"""
TILT_DEG = 10.0
"""median turn of the boards away from their mean direction"""
LENS_RMS_PX, RIG_RMS_PX = 1.0, 1.5
QUICK_SHARE, QUICK_RMS_PX = 0.04, 1.5
GREY = 1.0
"""mean difference of the colours, grey levels, below which a picture has none"""


@dataclass
class Tally:
    """What was seen, kept or not: counts of pairs."""

    pairs: int = 0
    seen: dict[Lens, int] = field(default_factory=lambda: dict.fromkeys(Lens, 0))
    blurred: dict[Lens, int] = field(default_factory=lambda: dict.fromkeys(Lens, 0))
    alone: int = 0
    """pairs in which one lens delivered no picture"""
    apart: int = 0
    """pairs whose pictures are not simultaneous"""
    grey: int = 0
    """pairs whose visible picture has no colour"""
    moving: int = 0


def edge_px(grey: U8, found: Found) -> float:
    """Width of the sharpest edges of the board, pixels: its contrast over its steepest slope."""
    (x0, y0), (x1, y1) = np.floor(found.points.min(0)).astype(int), np.ceil(found.points.max(0)).astype(int)
    patch = cv2.GaussianBlur(grey[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1], (3, 3), 0).astype(np.float32)
    slope = cv2.magnitude(cv2.Sobel(patch, cv2.CV_32F, 1, 0), cv2.Sobel(patch, cv2.CV_32F, 0, 1)) / 8
    low, high = np.percentile(patch, (5, 95))
    return float((high - low) / max(float(np.percentile(slope, 99)), 1e-3))


def is_grey(image: U8) -> bool:
    """Whether a picture, uint8 [H, W, 3], carries no colour: it comes from a grey sensor."""
    few = image[::4, ::4].astype(np.int16)
    return float(np.abs(few[..., 0] - few[..., 2]).mean()) < GREY


def problems(board: Board, tally: Tally, views: Sequence[View], sizes: dict[Lens, tuple[int, int]]) -> list[str]:
    """Why these captures cannot be calibrated from, one line each; empty: they can."""
    found = _setup_problems(board, tally)
    shared = len(common(board, views))
    if shared < VIEWS:
        found.append(f"too few: {shared} usable views of the board by both lenses, {VIEWS} are needed")
    if found:
        return found
    for lens in Lens:
        points = [f for view in views if (f := view.on(lens)) is not None]
        found += _spread_problems(board, lens, points, sizes[lens])
    return found


def _setup_problems(board: Board, tally: Tally) -> list[str]:
    """What is wrong with the set-up, whatever the poses."""
    v, i, found = tally.seen[Lens.VISIBLE], tally.seen[Lens.INFRARED], []
    if tally.pairs == 0:
        return [f"no pair of pictures came, {tally.alone} of one lens alone: is a lens dead, or not simultaneous?"]
    if tally.grey > tally.pairs / 2:
        found.append(
            "the visible pictures have no colour: lenses swapped? exchange capture.visible and .infrared, or say "
            "--grey-visible"
        )
    if tally.apart > tally.pairs / 2:
        found.append(f"not simultaneous: in {tally.apart} of {tally.pairs} pairs; see capture.tolerance_ms")
    if v == i == 0:
        found.append(f"no {board} board in any of {tally.pairs} pairs: is --board right, the board lit and whole?")
    elif min(v, i) < 0.2 * max(v, i):
        blind, count = (Lens.VISIBLE, v) if v < i else (Lens.INFRARED, i)
        found.append(
            f"board seen by one lens only: the {blind.value} lens sees it in {count} of {tally.pairs} pairs; "
            "out of its view, or printed with ink it cannot see (toner shows in infrared)"
        )
    for lens in Lens:
        if tally.blurred[lens] > 0.5 * max(1, tally.seen[lens]):
            found.append(f"blurred: {tally.blurred[lens]} of {tally.seen[lens]} {lens.value} pictures; focus that lens")
    if tally.moving > 0.8 * max(1, v, i):
        found.append("the board moves in nearly all pictures: hold it still for a second at each place")
    return found


def _spread_problems(board: Board, lens: Lens, found: Sequence[Found], size: tuple[int, int]) -> list[str]:
    """What the poses of the board leave out on one lens."""
    problems = []
    empty = empty_corners(found, size)
    if empty:
        where = ", ".join(empty)
        problems.append(f"board not covering corners: never {where} of the {lens.value} picture; hold it there")
    turned = tilt_deg(board, found, size)
    if turned < TILT_DEG:
        problems.append(
            f"all at one tilt on the {lens.value} lens ({turned:.0f} degrees): turn the board left, right, up and down"
        )
    return problems


def empty_corners(found: Sequence[Found], size: tuple[int, int]) -> list[str]:
    """Names of the corners of the picture into which no point of the board came."""
    points = np.concatenate([f.points for f in found]) / np.array(size) if found else np.empty((0, 2))
    near, far = points < CORNER, points > 1 - CORNER
    corners = {
        "top left": near[:, 0] & near[:, 1], "top right": far[:, 0] & near[:, 1],
        "bottom left": near[:, 0] & far[:, 1], "bottom right": far[:, 0] & far[:, 1],
    }  # fmt: skip
    return [name for name, hit in corners.items() if not hit.any()]


def tilt_deg(board: Board, found: Sequence[Found], size: tuple[int, int]) -> float:
    """Median angle of the board's normals to their mean, degrees, with a guess of the lens: for judging poses only."""
    w, h = size
    guess = np.array([[0.9 * w, 0, w / 2], [0, 0.9 * w, h / 2], [0, 0, 1]])
    normals = [_normal(board, f, guess) for f in found]
    mean = np.sum(normals, 0)
    cosines = np.clip(np.array(normals) @ mean / np.linalg.norm(mean), -1, 1)
    return float(np.degrees(np.median(np.arccos(cosines))))


def _normal(board: Board, found: Found, matrix: F64) -> F64:
    _, turned, _ = cv2.solvePnP(board.points_mm[found.ids], found.points, matrix, None, flags=cv2.SOLVEPNP_IPPE)
    return np.asarray(cv2.Rodrigues(turned)[0][:, 2], np.float64)


def fit_problems(fit: RigFit) -> list[str]:
    """Why a solution is not to be trusted."""
    found = [
        f"the {lens.value} lens fits to {of.rms_px:.2f} px only, {LENS_RMS_PX:g} is the limit: is the board flat, "
        "are its millimetres right, the pictures sharp?"
        for lens, of in ((Lens.VISIBLE, fit.visible), (Lens.INFRARED, fit.infrared)) if of.rms_px > LENS_RMS_PX
    ]  # fmt: skip
    if not found and fit.rms_px > max(RIG_RMS_PX, 3 * max(fit.visible.rms_px, fit.infrared.rms_px)):
        found.append(
            f"not simultaneous: the lenses agree to {fit.rms_px:.1f} px only though each fits well; the board or a "
            "lens moved between the two pictures of a pair"
        )
    return found


def quick_problems(board: Board, tally: Tally, views: Sequence[View], sizes: dict[Lens, tuple[int, int]]) -> list[str]:
    """As `problems`, for one homography from one board."""
    found = _setup_problems(board, tally)
    if not found and not common(board, views):
        found.append("too few: no usable view of the board by both lenses")
    if not found:
        w, h = sizes[Lens.VISIBLE]
        share = max(_hull_share(c.visible, w * h) for c in common(board, views))
        if share < QUICK_SHARE:
            found.append(f"the board fills {share:.0%} of the visible picture, {QUICK_SHARE:.0%} are needed: go nearer")
    return found


def _hull_share(points: F64, area: int) -> float:
    return float(cv2.contourArea(cv2.convexHull(points)) / area)
