"""``edgefer calibrate --self-test``: the whole calibration on rendered boards of which the truth is known.

The truth stays here: `calibrate` is given a folder of pictures and the board's name. What it finds is compared
afterwards.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgefer.align import Aligner
from edgefer.calibrate import Plan, boards, calibrate, render
from edgefer.calibrate.boards import Board
from edgefer.calibrate.captures import from_folder
from edgefer.calibrate.render import TrueRig
from edgefer.config import Align
from edgefer.errors import EX_OK, EX_SOFTWARE
from edgefer.types import F64, Face, Frame, FramePair, Lens, LensState

BOARDS: Final = ("charuco:9x6:26", "chessboard:9x6:24", "circles:8x5:28", "acircles:4x11:18")
FOCAL, BASELINE, REGISTRATION_PX = 0.5, 1.0, 1.0
"""limits: per cent, per cent, pixels of a 112-pixel crop"""
DISTANCES_MM: Final = (400.0, 500.0, 700.0, 900.0, 1500.0, 2500.0, 3500.0)
VIEWS: Final = 30
CROP: Final = 112
TEMPLATE: Final = [(35.6, 44.0), (76.4, 44.0), (56.0, 67.4), (39.5, 84.5), (72.5, 84.5)]
EYES_MM, SPREAD_MM = 63.0, 3.8
"""mean and standard deviation of adults (Dodgson 2004)"""


@dataclass(frozen=True)
class Result:
    """Errors against the truth: per cent, per cent, pixels at 112 by distance, CPU seconds."""

    board: Board
    focal: float
    baseline: float
    registration: dict[float, float]
    seconds: float

    @property
    def good(self) -> bool:
        return (
            self.focal <= FOCAL
            and self.baseline <= BASELINE
            and max(self.registration.values()) <= REGISTRATION_PX
        )  # fmt: skip


def self_test(specs: Sequence[str] = BOARDS) -> int:
    """Prints a line for every kind of board; the exit code says whether all are within the limits."""
    rig = render.vehicle_rig()
    print(f"{VIEWS} rendered pairs of 640x480 each, lenses {_baseline(rig):.1f} mm apart, seed 1")
    print("board               focal length   baseline   registration, px at 112-crop, 0.4 to 3.5 m   CPU s")
    good = True
    with tempfile.TemporaryDirectory(prefix="edgefer-calibrate-") as folder:
        for spec in specs:
            result = measure(Path(folder), boards.parse(spec), rig)
            far = " ".join(f"{v:.2f}" for v in result.registration.values())
            mark = "ok" if result.good else "FAIL"
            print(f"{spec:<20}{result.focal:9.3f} %{result.baseline:10.3f} %   {far:<41}{result.seconds:6.1f}  {mark}")
            good &= result.good
        other = registration(Path(folder) / "charuco.json", rig, EYES_MM + SPREAD_MM) if good else {}
    if other:
        print(f"a person whose eyes are {SPREAD_MM} mm (one standard deviation) wider: {max(other.values()):.1f} px")
    return EX_OK if good else EX_SOFTWARE


def measure(folder: Path, board: Board, rig: TrueRig, views: int = VIEWS) -> Result:
    """Renders, calibrates, compares. Raises InputError when the pictures are refused."""
    pictures = render.session(folder / board.kind, rig, board, views)
    found = folder / f"{board.kind}.json"
    start = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        pairs, stream = from_folder(pictures)
        calibrate(Plan(board, found), pairs, stream, 25.0)
    seconds = time.process_time() - start
    read = json.loads(found.read_text())
    focal = max(abs(got / true - 1) for got, true in _focals(read, rig))
    baseline = abs(read["baseline_mm"] / _baseline(rig) - 1)
    return Result(board, 100 * focal, 100 * baseline, registration(found, rig), seconds)


def _focals(read: dict[str, dict[str, F64]], rig: TrueRig) -> Iterator[tuple[float, float]]:
    for name, lens in (("visible", rig.visible), ("infrared", rig.infrared)):
        matrix = np.asarray(read[name]["matrix"])
        yield from zip((float(matrix[0, 0]), float(matrix[1, 1])), lens.focal, strict=True)


def _baseline(rig: TrueRig) -> float:
    return float(np.linalg.norm(rig.translation_mm))


def registration(file: Path | None, rig: TrueRig, eyes_mm: float = EYES_MM) -> dict[float, float]:
    """Largest disagreement of the two crops over a flat face, by distance (millimetres): pixels of a 112-pixel crop.

    The face stands at nine places of the picture and is found on either lens in turn. file: None for no calibration.
    """
    aligner = Aligner(Align(calibration=str(file) if file else ""), CROP, 1, TEMPLATE)
    return {z: max(_disagreement(aligner, rig, face) for face in _faces(rig, z, eyes_mm)) for z in DISTANCES_MM}


def _faces(rig: TrueRig, distance_mm: float, eyes_mm: float) -> Iterator[F64]:
    """Flat faces [n, 3] in the visible lens's frame: five landmarks, then a grid over the crop."""
    grid = np.stack(np.meshgrid(np.linspace(8, 104, 5), np.linspace(8, 104, 5)), -1).reshape(-1, 2)
    flat = (np.vstack((TEMPLATE, grid)) - 56) * eyes_mm / (TEMPLATE[1][0] - TEMPLATE[0][0])
    for v in (0.3, 0.5, 0.7):
        for u in (0.3, 0.5, 0.7):
            middle = (np.array((u, v)) * rig.visible.size - rig.visible.centre) / rig.visible.focal * distance_mm
            yield np.column_stack((flat + middle, np.full(len(flat), distance_mm)))


def _disagreement(aligner: Aligner, rig: TrueRig, face: F64) -> float:
    pixels = {
        Lens.VISIBLE: rig.visible.project(face),
        Lens.INFRARED: rig.infrared.project(face @ rig.rotation.T + rig.translation_mm),
    }
    pair = _blank_pair()
    worst = 0.0
    for lens, marks in pixels.items():
        low, high = marks.min(0), marks.max(0)
        seen = Face(lens, (*low, *(high - low)), marks[:5].astype(np.float32), 0.9)
        crops = [_mapped(aligner.to_crop(pair, seen, other), at[5:]) for other, at in pixels.items()]
        inside = _inside(pixels, rig)[5:]
        if inside.any():
            worst = max(worst, float(np.linalg.norm(crops[0] - crops[1], axis=1)[inside].max()))
    return worst


def _inside(pixels: dict[Lens, F64], rig: TrueRig) -> F64:
    """Which points both lenses see."""
    sizes = {Lens.VISIBLE: rig.visible.size, Lens.INFRARED: rig.infrared.size}
    return np.all([((p >= 0) & (p <= np.array(sizes[lens]) - 1)).all(1) for lens, p in pixels.items()], 0)


def _mapped(m: F64, points: F64) -> F64:
    flat = np.column_stack((points, np.ones(len(points)))) @ m.T
    return flat[:, :2] / flat[:, 2:]


def _blank_pair() -> FramePair:
    frames = (
        Frame(Lens.VISIBLE, np.zeros((480, 640, 3), np.uint8), 1, 0),
        Frame(Lens.INFRARED, np.zeros((480, 640), np.uint8), 1, 0),
    )
    return FramePair(*frames, LensState.OK, LensState.OK, 1)
