"""Crop geometry and the calibration between the lenses. Pure but for reading the calibration file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefer.errors import InputError
from edgefer.types import F32, F64


def similarity(source: F32 | F64, target: F64) -> F64:
    """Least-squares rotation, uniform scale and shift: float64 [2, 3] that maps source [P, 2] onto target [P, 2].

    A similarity is multiplication by one complex number and a shift, so the fit is linear (Umeyama 1991 without the
    reflection case, which a face cannot show). Coinciding source points give scale 0.
    """
    s = source[:, 0].astype(np.float64) + 1j * source[:, 1]
    t = target[:, 0] + 1j * target[:, 1]
    centred = s - s.mean()
    spread = float((centred * centred.conj()).real.sum())
    a = complex((centred.conj() * (t - t.mean())).sum() / spread) if spread > 1e-12 else 0j
    b = complex(t.mean() - a * s.mean())
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


@dataclass(frozen=True)
class Calibration:
    """The homography from visible to infrared pixels, at the frame sizes (height, width) it was measured with.

    Without a file it is the identity of the picture planes: a pixel maps to the same share of the other frame.
    """

    homography: F64 | None = None
    visible_size: tuple[int, int] = (0, 0)
    infrared_size: tuple[int, int] = (0, 0)

    def matrix(self, visible: tuple[int, ...], infrared: tuple[int, ...]) -> F64:
        """float64 [3, 3] for frames of the given (height, width), which may differ from those of the measurement."""
        if self.homography is None:
            return np.diag((infrared[1] / visible[1], infrared[0] / visible[0], 1.0))
        into = np.diag((self.visible_size[1] / visible[1], self.visible_size[0] / visible[0], 1.0))
        back = np.diag((infrared[1] / self.infrared_size[1], infrared[0] / self.infrared_size[0], 1.0))
        return back @ self.homography @ into


def read_calibration(path: Path) -> Calibration:
    """Reads {"homography": 3x3, "visible_size": [w, h], "infrared_size": [w, h]}. Raises InputError of one line."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        h = np.asarray(raw["homography"], np.float64)
        (vw, vh), (iw, ih) = (tuple(int(v) for v in raw[k]) for k in ("visible_size", "infrared_size"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such calibration file ('align.calibration'); leave it empty for identity"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as e:
        raise InputError(f"{path}: not a calibration ({type(e).__name__}: {e}); calibrate the lenses again") from None
    if h.shape != (3, 3) or not np.isfinite(h).all() or abs(np.linalg.det(h)) < 1e-9 or min(vw, vh, iw, ih) < 1:
        raise InputError(f"{path}: 'homography' must be an invertible 3x3 matrix; calibrate the lenses again")
    return Calibration(h, (vh, vw), (ih, iw))
