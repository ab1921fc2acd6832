"""The geometry between the lenses, read from a calibration file: one homography, or one for every face distance.

`edgefer calibrate` writes the file, see `edgefer.calibrate.file`. Pure but for reading it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from edgefer.errors import InputError
from edgefer.types import F64, Face, Lens

FORMAT: Final = 2
NEAREST_MM, FARTHEST_MM = 200.0, 6000.0
BOX_TO_EYES: Final = 2.65
"""height of the detector's box over the distance of the eyes, on a face seen from the front"""
TURNED_DEG: Final = 35.0
"""head turn from which the eyes stand too close in the picture to measure with: then the box is taken"""
Size = tuple[int, ...]


@dataclass(frozen=True)
class Calibration:
    """The homography from visible to infrared pixels, at the frame sizes (height, width) it was measured with.

    Without a file it is the identity of the picture planes: a pixel maps to the same share of the other frame.
    """

    homography: F64 | None = None
    visible_size: tuple[int, int] = (0, 0)
    infrared_size: tuple[int, int] = (0, 0)

    def matrix(self, visible: Size, infrared: Size, face: Face | None = None) -> F64:
        """float64 [3, 3] from visible to infrared pixels about ``face``, for frames of the given (height, width).

        They may differ from those of the measurement.
        """
        if self.homography is None:
            return np.diag((infrared[1] / visible[1], infrared[0] / visible[0], 1.0))
        return self._at_sizes(self.homography, visible, infrared)

    def _at_sizes(self, h: F64, visible: Size, infrared: Size) -> F64:
        into = np.diag((self.visible_size[1] / visible[1], self.visible_size[0] / visible[0], 1.0))
        back = np.diag((infrared[1] / self.infrared_size[1], infrared[0] / self.infrared_size[0], 1.0))
        return back @ h @ into


@dataclass(frozen=True)
class Optics:
    """One lens: matrix float64 [3, 3] in pixels, distortion float64 [5] (k1 k2 p1 p2 k3)."""

    matrix: F64
    distortion: F64


@dataclass(frozen=True, kw_only=True)
class StereoCalibration(Calibration):
    """Both lenses and the pose between them, which give a homography for every distance of the face.

    A face at distance Z is taken for a plane across the optical axis of its lens; pixels map by undistorting, going
    to Z, crossing over (X' = R X + t) and distorting anew. About one face that is a homography: four points give it.
    Z comes from the distance of the eyes in the picture; eyes_mm is that of the person.
    """

    visible: Optics
    infrared: Optics
    rotation: F64
    translation_mm: F64
    eyes_mm: float

    def matrix(self, visible: Size, infrared: Size, face: Face | None = None) -> F64:
        if face is None:
            return super().matrix(visible, infrared)
        seen = visible if face.lens is Lens.VISIBLE else infrared
        frame = self.visible_size if face.lens is Lens.VISIBLE else self.infrared_size
        scale = np.array((frame[1] / seen[1], frame[0] / seen[0]))
        corners, rays = self._rays(face, scale, frame)
        across = self._across(corners, rays[2:], self._distance_mm(face, rays, scale), face.lens)
        return self._at_sizes(across, visible, infrared)

    def distance_mm(self, face: Face, size: Size) -> float:
        """How far ``face`` is from its lens, whose frames have ``size`` (height, width); millimetres."""
        frame = self.visible_size if face.lens is Lens.VISIBLE else self.infrared_size
        scale = np.array((frame[1] / size[1], frame[0] / size[0]))
        return self._distance_mm(face, self._rays(face, scale, frame)[1], scale)

    def _rays(self, face: Face, scale: F64, frame: tuple[int, int]) -> tuple[F64, F64]:
        """Four corners about the face [4, 2], in pixels of the measurement, and rays [6, 2] of its eyes and of them."""
        marks = face.landmarks * scale
        (left, top), (right, bottom) = marks.min(0), marks.max(0)
        reach = 0.5 * max(right - left, bottom - top)
        x0, x1 = _within(left - reach, right + reach, frame[1])
        y0, y1 = _within(top - reach, bottom + reach, frame[0])
        corners = np.array(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), np.float64)
        lens = self.visible if face.lens is Lens.VISIBLE else self.infrared
        points = np.concatenate((marks[:2], corners))[:, None]
        return corners, cv2.undistortPoints(points, lens.matrix, lens.distortion)[:, 0]

    def _distance_mm(self, face: Face, rays: F64, scale: F64) -> float:
        span = math.hypot(*(rays[0] - rays[1]))
        turned = abs(face.yaw_deg)
        if turned > TURNED_DEG:
            lens = self.visible if face.lens is Lens.VISIBLE else self.infrared
            span = face.box[3] * scale[1] / lens.matrix[1, 1] / BOX_TO_EYES
        else:
            span /= math.cos(math.radians(turned))
        return min(max(self.eyes_mm / max(span, 1e-6), NEAREST_MM), FARTHEST_MM)

    def _across(self, corners: F64, rays: F64, distance_mm: float, lens: Lens) -> F64:
        """float64 [3, 3] from visible to infrared pixels, at the sizes of the measurement."""
        r, t, far = self.rotation, self.translation_mm, self.infrared
        if lens is Lens.INFRARED:
            r, t, far = r.T, -r.T @ t, self.visible
        places = np.column_stack((rays, np.ones(4))) * distance_mm @ r.T + t
        other = cv2.projectPoints(places, _ZERO, _ZERO, far.matrix, far.distortion)[0][:, 0]
        a, b = corners.astype(np.float32), other.astype(np.float32)
        if lens is Lens.INFRARED:
            a, b = b, a
        return np.asarray(cv2.getPerspectiveTransform(a, b), np.float64)


_ZERO: Final = np.zeros(3)


def _within(low: float, high: float, size: int) -> tuple[float, float]:
    """A little outside the frame is allowed; far outside a lens's polynomial says anything. At least 8 pixels apart."""
    least, most = -0.05 * size, 1.05 * size
    low = min(max(low, least), most - 8)
    return low, max(min(high, most), low + 8)


def read_calibration(path: Path, eyes_mm: float = 63.0) -> Calibration:
    """Reads what `edgefer calibrate` wrote, or {"homography": 3x3, "visible_size": [w, h], "infrared_size": [w, h]}.

    Raises InputError of one line.
    """
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")), eyes_mm)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such calibration file ('align.calibration'); leave it empty for identity"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as e:
        raise InputError(
            f"{path}: not a calibration ('align.calibration'; {type(e).__name__}: {e}); calibrate the lenses again"
        ) from None


def _parsed(raw: Any, eyes_mm: float) -> Calibration:
    if raw.get("format", 1) not in (1, FORMAT):
        raise ValueError(f"format {raw['format']!r} is of a later edgefer")
    h = _array(raw["homography"], (3, 3), "homography")
    if abs(np.linalg.det(h)) < 1e-9:
        raise ValueError("'homography' is not an invertible matrix")
    (vw, vh), (iw, ih) = (tuple(int(v) for v in raw[k]) for k in ("visible_size", "infrared_size"))
    if min(vw, vh, iw, ih) < 1:
        raise ValueError("a size is not positive")
    if "rotation" not in raw:
        return Calibration(h, (vh, vw), (ih, iw))
    rotation = _array(raw["rotation"], (3, 3), "rotation")
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise ValueError("'rotation' is not a rotation")
    return StereoCalibration(
        h, (vh, vw), (ih, iw), visible=_optics(raw["visible"]), infrared=_optics(raw["infrared"]), rotation=rotation,
        translation_mm=_array(raw["translation_mm"], (3,), "translation_mm"), eyes_mm=eyes_mm,
    )  # fmt: skip


def _optics(raw: Any) -> Optics:
    matrix = _array(raw["matrix"], (3, 3), "matrix")
    if min(matrix[0, 0], matrix[1, 1]) <= 0:
        raise ValueError("'matrix' has no positive focal length")
    return Optics(matrix, _array(raw["distortion"], (5,), "distortion"))


def _array(raw: Any, shape: tuple[int, ...], name: str) -> F64:
    array = np.asarray(raw, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"'{name}' must be {'x'.join(map(str, shape))} finite numbers")
    return array
