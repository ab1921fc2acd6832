"""Pictures of a board before a pair of lenses of which everything is known: the yardstick of the calibration.

Nothing of what is known here reaches the code it measures: that reads picture files and the board's name, no more (a
test holds that no module but `selftest` imports this one). The lens model is written out anew, in numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgefer.calibrate import boards
from edgefer.calibrate.boards import Board
from edgefer.types import F32, F64, U8

TEXEL = 4.0
"""texture pixels for each millimetre"""
FINE = 2
"""rays for each pixel and direction"""
PAPER_BGR = np.array([0.93, 0.98, 1.0])
"""a visible lens sees white paper with a tint"""


@dataclass(frozen=True)
class TrueLens:
    """focal and centre in pixels; distortion k1, k2, p1, p2, k3 (Brown 1966); grey levels of ink and of paper."""

    focal: tuple[float, float]
    centre: tuple[float, float]
    distortion: tuple[float, float, float, float, float]
    ink: float = 25.0
    paper: float = 215.0
    blur: float = 0.6
    noise: float = 2.0
    colour: bool = True
    size: tuple[int, int] = (640, 480)

    def project(self, points: F64) -> F64:
        """float64 [n, 3] in this lens's frame, millimetres -> float64 [n, 2] pixels."""
        plane = _distorted(points[:, :2] / points[:, 2:], self.distortion)
        return plane * self.focal + self.centre


@dataclass(frozen=True)
class TrueRig:
    """rotation [3, 3] and translation_mm [3] take a point from the visible lens's frame to the infrared one's."""

    visible: TrueLens
    infrared: TrueLens
    rotation: F64
    translation_mm: F64


def vehicle_rig() -> TrueRig:
    """Two unlike lenses 46 mm apart, a little turned against each other; ink is pale in infrared."""
    visible = TrueLens((612.0, 609.0), (327.0, 236.0), (-0.21, 0.06, 0.0006, -0.0009, 0.0))
    infrared = TrueLens(
        (548.0, 551.0), (311.0, 246.0), (-0.26, 0.09, -0.0005, 0.0007, 0.0),
        ink=95.0, paper=165.0, blur=0.8, noise=3.0, colour=False,
    )  # fmt: skip
    return TrueRig(visible, infrared, turn((0.012, -0.02, 0.008)), np.array([-45.6, 3.1, -5.2]))


def turn(vector: tuple[float, float, float]) -> F64:
    """Rotation [3, 3] about ``vector`` by its length in radians (Rodrigues)."""
    v = np.asarray(vector, np.float64)
    angle = float(np.linalg.norm(v))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = v / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def _distorted(plane: F64, distortion: tuple[float, ...]) -> F64:
    k1, k2, p1, p2, k3 = distortion
    x, y = plane[..., 0], plane[..., 1]
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    dx = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    dy = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack((dx, dy), -1)


class Camera:
    """Renders what one lens sees of a board; the rays of its pixels are worked out once."""

    def __init__(self, lens: TrueLens, board: Board, rng: np.random.Generator) -> None:
        self._lens, self._rng, self._board = lens, rng, board
        texture = boards.draw(board, TEXEL).astype(np.float32) / 255
        self._texture = (lens.ink + texture * (lens.paper - lens.ink)).astype(np.float32)
        self._rays = self._undistorted()
        clutter = rng.uniform(40, 160, (9, 12)).astype(np.float32)
        self._wall = cv2.resize(clutter, self._fine_size(), interpolation=cv2.INTER_CUBIC)

    def _fine_size(self) -> tuple[int, int]:
        return self._lens.size[0] * FINE, self._lens.size[1] * FINE

    def _undistorted(self) -> F32:
        w, h = self._fine_size()
        v, u = np.mgrid[0:h, 0:w]
        pixels = (np.stack((u, v), -1) + 0.5) / FINE - 0.5
        wanted = (pixels - self._lens.centre) / self._lens.focal
        rays = wanted.copy()
        for _ in range(25):
            rays += wanted - _distorted(rays, self._lens.distortion)
        return rays.astype(np.float32)

    def picture(self, rotation: F64, place_mm: F64) -> U8:
        """The board with its first point at ``place_mm``: uint8 [H, W, 3] or [H, W]."""
        m = np.linalg.inv(np.column_stack((rotation[:, 0], rotation[:, 1], place_mm))).astype(np.float32)
        x, y = self._rays[..., 0], self._rays[..., 1]
        w = m[2, 0] * x + m[2, 1] * y + m[2, 2]
        left, top = boards.origin_mm(self._board)
        at = [((m[i, 0] * x + m[i, 1] * y + m[i, 2]) / w + o) * TEXEL - 0.5 for i, o in ((0, left), (1, top))]
        seen = cv2.remap(
            self._texture, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-1.0
        )
        return self._exposed(np.where(seen < 0, self._wall, seen))

    def _exposed(self, fine: F32) -> U8:
        fine = cv2.GaussianBlur(fine, (0, 0), max(0.1, self._lens.blur * FINE))
        grey = cv2.resize(fine, self._lens.size, interpolation=cv2.INTER_AREA)
        if self._lens.colour:
            grey = (grey[..., None] * PAPER_BGR).astype(np.float32)
        grey = grey + self._rng.normal(0, self._lens.noise, grey.shape)
        return np.clip(grey + 0.5, 0, 255).astype(np.uint8)


def poses(rig: TrueRig, board: Board, count: int, rng: np.random.Generator) -> Iterator[tuple[F64, F64]]:
    """(rotation, place_mm) as a patient person would hold the board: everywhere, near and far, tilted each way."""
    grid = [(x, y) for y in (0.16, 0.5, 0.84) for x in (0.15, 0.5, 0.85)]
    for k in range(count):
        u, v = np.array(grid[k % len(grid)]) + rng.uniform(-0.07, 0.07, 2)
        for shrink in np.linspace(1.0, 0.0, 40):  # towards the middle until it is seen whole
            rotation, place = _pose(rig, board, (0.5 + (u - 0.5) * shrink, 0.5 + (v - 0.5) * shrink), rng)
            if _whole(rig, board, rotation, place, infrared_alone=k // len(grid) % 3 == 1):
                yield rotation, place
                break


def _pose(rig: TrueRig, board: Board, at: tuple[float, float], rng: np.random.Generator) -> tuple[F64, F64]:
    tilt = rng.uniform(-0.6, 0.6, 3) * (1, 1, 0.3)
    rotation = turn((tilt[0], tilt[1], tilt[2]))
    lens = rig.visible
    across, down = (float(v) for v in board.points_mm[:, :2].max(0))
    span = max(across, down * lens.size[0] / lens.size[1])
    distance = lens.focal[0] * span / (lens.size[0] * rng.uniform(0.34, 0.62))
    ray = np.append((np.array(at) * lens.size - lens.centre) / lens.focal, 1.0)
    middle = board.points_mm.mean(0)
    return rotation, ray * distance - rotation @ middle


def _whole(rig: TrueRig, board: Board, rotation: F64, place: F64, infrared_alone: bool) -> bool:
    """Whether both lenses see the whole board; every third round goes to where the infrared lens alone does."""
    points = board.points_mm @ rotation.T + place
    rim = 0.5 * board.step_mm * rig.visible.focal[0] / place[2]
    both = ((rig.visible, points), (rig.infrared, points @ rig.rotation.T + rig.translation_mm))
    for lens, seen in both[infrared_alone:]:
        pixels = lens.project(seen.astype(np.float64))
        if seen[:, 2].min() < 50 or (pixels < rim).any() or (pixels > np.array(lens.size) - rim).any():
            return False
    return True


def session(folder: Path, rig: TrueRig, board: Board, count: int = 24, seed: int = 1) -> Path:
    """Writes ``count`` pairs into ``folder``/visible and /infrared, PNG, as `edgefer calibrate --from` reads them."""
    rng = np.random.default_rng(seed)
    visible, infrared = Camera(rig.visible, board, rng), Camera(rig.infrared, board, rng)
    for name in ("visible", "infrared"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for k, (rotation, place) in enumerate(poses(rig, board, count, rng)):
        cv2.imwrite(str(folder / "visible" / f"{k:03d}.png"), visible.picture(rotation, place))
        picture = infrared.picture(rig.rotation @ rotation, rig.rotation @ place + rig.translation_mm)
        cv2.imwrite(str(folder / "infrared" / f"{k:03d}.png"), picture)
    return folder
