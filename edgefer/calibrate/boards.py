"""The boards of a calibration: their true points, how they are found in a picture, how they are printed.

Works with OpenCV 4.8 to 5. What differs between them (shapes of what the ArUco detectors return, None for nothing) ends
in `_found`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from edgefer.errors import UsageError
from edgefer.types import F32, U8

KINDS: Final = ("charuco", "chessboard", "circles", "acircles")
FEWEST: Final = 8
"""points in a picture below which a view tells too little"""
MARKER: Final = 0.70
"""side of a ChArUco marker, of the square it stands in: leaves the corners of the squares room to be measured in"""
STRAY_PX: Final = 1.0
_STOP: Final = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 40, 1e-3)
RADIUS: Final = {"circles": 0.30, "acircles": 0.55}
"""of a printed circle: share of the distance between rows"""


@dataclass(frozen=True)
class Found:
    """A board in a picture. ids: int32 [n], increasing, places in `Board.points_mm`; points: float32 [n, 2], pixels."""

    ids: npt.NDArray[np.int32]
    points: F32


@dataclass(frozen=True)
class Board:
    """columns x rows: squares of a ChArUco board, inner corners of a chessboard, circles of a grid.

    step_mm: side of a square; distance between neighbours of a grid (acircles: between rows, columns are twice that).
    """

    kind: str
    columns: int
    rows: int
    step_mm: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.columns}x{self.rows}:{self.step_mm:g}"

    @property
    def points_mm(self) -> F32:
        """float32 [N, 3], the third coordinate 0; x to the right, y down, as printed."""
        across, down = (self.columns - 1, self.rows - 1) if self.kind == "charuco" else (self.columns, self.rows)
        y, x = (v.ravel().astype(np.float32) for v in np.mgrid[0:down, 0:across])
        if self.kind == "acircles":
            x = 2 * x + y % 2
        return np.stack((x, y, 0 * x), 1) * np.float32(self.step_mm)

    def find(self, grey: U8) -> Found | None:
        """The board in ``grey``, uint8 [H, W]; None when it is not there, or too little of it.

        A second look is taken with the contrast raised piece by piece: ink is pale in infrared.
        """
        look = _FINDERS[self.kind]
        found = look(self, grey)
        if found is None:
            found = look(self, cv2.createCLAHE(4.0, (8, 8)).apply(grey))
        if found is None or np.ptp(self.points_mm[found.ids, :2], axis=0).min() < self.step_mm / 2:
            return None  # one row of points lies on a line, which says nothing of a plane
        return found

    @property
    def turnable(self) -> bool:
        """Whether its finder may begin at either end of it; OpenCV's does so even where the colours tell the ends."""
        return self.kind in ("circles", "chessboard")


def parse(text: str) -> Board:
    """``KIND:COLUMNSxROWS:MILLIMETRES``. Raises UsageError."""
    try:
        kind, size, step = text.split(":")
        columns, rows = (int(n) for n in size.split("x"))
        board = Board(kind, columns, rows, float(step))
    except ValueError:
        raise UsageError(f"--board {text}: write KIND:COLUMNSxROWS:MILLIMETRES, e.g. charuco:9x6:26") from None
    if kind not in KINDS:
        raise UsageError(f"--board {text}: the kinds are {', '.join(KINDS)}")
    if not (3 <= columns <= 40 and 3 <= rows <= 40 and 1 <= board.step_mm <= 1000):
        raise UsageError(f"--board {text}: 3 to 40 columns and rows, 1 to 1000 millimetres")
    return board


def same_turn(board: Board, first: Found, second: Found) -> Found:
    """``second`` numbered from the same end as ``first``: lenses are mounted the same way up."""
    if not board.turnable:
        return second
    a, b = (f.points[-1] - f.points[0] for f in (first, second))
    if float(a @ b) >= 0:
        return second
    return Found(second.ids, np.ascontiguousarray(second.points[::-1]))


def _found(ids: Any, points: Any) -> Found | None:
    if ids is None or points is None or len(ids) < FEWEST:
        return None
    numbers, places = np.asarray(ids).reshape(-1).astype(np.int32), np.asarray(points, np.float32).reshape(-1, 2)
    order = np.argsort(numbers)
    return Found(numbers[order], np.ascontiguousarray(places[order]))


def _charuco(board: Board, grey: U8) -> Found | None:
    if not hasattr(cv2, "aruco"):
        raise UsageError("--board charuco: this OpenCV has no ArUco; use a chessboard")
    corners, markers = cv2.aruco.CharucoParameters(), cv2.aruco.DetectorParameters()
    corners.minMarkers = 1  # a corner with one readable neighbour is as good, and pale ink loses many
    markers.adaptiveThreshConstant = 3
    places, ids, *_ = cv2.aruco.CharucoDetector(_charuco_board(board), corners, markers).detectBoard(grey)
    found = _found(ids, places)
    if found is None:
        return None
    refined = Found(found.ids, _refined(grey, found, board.columns - 1, (1 - MARKER) / 2))
    return _without_strays(refined, board.points_mm[found.ids, :2] / board.step_mm)


def _without_strays(found: Found, places: F32) -> Found | None:
    """Without corners that were taken for another edge: those off a smooth surface over ``places``, float32 [n, 2].

    A polynomial bends with perspective and lens alike, so that no point is lost because the lens distorts.
    """
    degree = 3 if len(places) >= 24 else 2 if len(places) >= 14 else 1
    x, y = ((places - places.mean(0)) / 5).T
    terms = np.stack([x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)], 1)
    keep = np.ones(len(x), bool)
    for _ in range(len(x) // 5):
        fit = np.linalg.lstsq(terms[keep], found.points[keep], rcond=None)[0]
        error = np.where(keep, np.linalg.norm(terms @ fit - found.points, axis=1), 0)
        if error.max() <= max(STRAY_PX, 5 * float(np.median(error[keep]))):
            break
        keep[error.argmax()] = False
    return _found(found.ids[keep], found.points[keep])


def _charuco_board(board: Board) -> Any:
    few = board.columns * board.rows <= 500
    words = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_250 if few else cv2.aruco.DICT_4X4_1000)
    return cv2.aruco.CharucoBoard((board.columns, board.rows), board.step_mm, MARKER * board.step_mm, words)


def _chessboard(board: Board, grey: U8) -> Found | None:
    flags = cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_ACCURACY
    seen, points = cv2.findChessboardCornersSB(grey, (board.columns, board.rows), flags=flags)
    if not seen:
        return None
    found = _found(range(board.columns * board.rows), points)
    return Found(found.ids, _refined(grey, found, board.columns, 0.5)) if found is not None else None


def _refined(grey: U8, found: Found, across: int, share: float) -> F32:
    """Corners of squares measured anew, float32 [n, 2], in windows that reach ``share`` of a square from the corner.

    The finders alone leave a focal length up to 0.6 % too long on a soft picture, and differ between versions.
    """
    beside = (np.diff(found.ids) == 1) & (found.ids[1:] % across != 0)
    steps = np.linalg.norm(np.diff(found.points, axis=0), axis=1)[beside]
    reach = int(min(5, max(2, share * (steps.min() if len(steps) else 0) - 1)))
    points = found.points.reshape(-1, 1, 2).copy()
    cv2.cornerSubPix(grey, points, (reach, reach), (-1, -1), _STOP)
    return points.reshape(-1, 2)


def _circles(board: Board, grey: U8) -> Found | None:
    """Dark circles, or light ones: holes in a sheet before something warm, for a thermal lens."""
    layout = cv2.CALIB_CB_ASYMMETRIC_GRID if board.kind == "acircles" else cv2.CALIB_CB_SYMMETRIC_GRID
    for picture in (grey, cv2.bitwise_not(grey)):
        detector = cv2.SimpleBlobDetector.create(_blobs(picture))
        seen, points = cv2.findCirclesGrid(
            picture, (board.columns, board.rows), flags=layout | cv2.CALIB_CB_CLUSTERING, blobDetector=detector
        )
        if seen:
            return _found(range(board.columns * board.rows), points)
    return None


def _blobs(picture: U8) -> Any:
    p = cv2.SimpleBlobDetector.Params()
    p.minArea, p.maxArea = 15.0, picture.size / 60
    p.minDistBetweenBlobs = 4.0
    p.thresholdStep = 8.0
    return p


_FINDERS: Final[dict[str, Callable[[Board, U8], Found | None]]] = {
    "charuco": _charuco, "chessboard": _chessboard, "circles": _circles, "acircles": _circles,
}  # fmt: skip


def draw(board: Board, px_per_mm: float) -> U8:
    """The board alone, uint8 [H, W], black on white, with a white rim; see `origin_mm`."""
    width, height = (round(v * px_per_mm) for v in outer_mm(board))
    page = np.full((height, width), 255, np.uint8)
    k, (left, top) = board.step_mm * px_per_mm, (v * px_per_mm for v in origin_mm(board))
    if board.kind == "charuco":
        inner = _charuco_board(board).generateImage((round(board.columns * k), round(board.rows * k)), marginSize=0)
        rim = round(left - k)
        page[rim : rim + inner.shape[0], rim : rim + inner.shape[1]] = inner
    elif board.kind == "chessboard":
        for r in range(board.rows + 1):
            for c in range(r % 2, board.columns + 1, 2):
                y, x = (round(top + (r - 1) * k), round(top + r * k)), (round(left + (c - 1) * k), round(left + c * k))
                page[y[0] : y[1], x[0] : x[1]] = 0
    else:
        for x, y, _ in board.points_mm * px_per_mm:
            centre = (round((left + x) * 16 - 8), round((top + y) * 16 - 8))
            cv2.circle(page, centre, round(RADIUS[board.kind] * k * 16), 0, -1, cv2.LINE_AA, 4)
    return page


def outer_mm(board: Board) -> tuple[float, float]:
    """Width and height of what `draw` draws, rim included."""
    reach = board.points_mm[:, :2].max(0)
    left, top = origin_mm(board)
    return float(reach[0]) + 2 * left, float(reach[1]) + 2 * top


def origin_mm(board: Board) -> tuple[float, float]:
    """Where the first point of `points_mm` stands on what `draw` draws, from its left and upper edge."""
    steps = {"charuco": 1.5, "chessboard": 2.0, "circles": 1.5, "acircles": 2.0}[board.kind]
    return steps * board.step_mm, steps * board.step_mm
