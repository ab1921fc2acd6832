"""The calibration file: what `edgefer.align` reads, plus what a person wants to know of it later."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgefer.calibrate.boards import Board
from edgefer.calibrate.solve import LensFit, RigFit
from edgefer.errors import InputError
from edgefer.types import F64, Lens

FORMAT: Final = 2
REFERENCE_MM: Final = 700.0
"""distance whose homography is written beside the lenses, for readers that know nothing else"""
Sizes = Mapping[Lens, tuple[int, int]]


def rig_description(board: Board, fit: RigFit, sizes: Sizes) -> dict[str, Any]:
    """The full form: both lenses, the pose between them, and the homography at `REFERENCE_MM`."""
    return {
        **_head(board, sizes, homography_at(fit, REFERENCE_MM)),
        "distance_mm": REFERENCE_MM,
        "visible": _lens(fit.visible),
        "infrared": _lens(fit.infrared),
        "rotation": fit.rotation.tolist(),
        "translation_mm": fit.translation_mm.tolist(),
        "baseline_mm": float(np.linalg.norm(fit.translation_mm)),
        "rms_px": fit.rms_px,
        "views": fit.views,
    }


def quick_description(board: Board, homography: F64, rms_px: float, sizes: Sizes) -> dict[str, Any]:
    """The quick form: one homography, right at the distance of the board alone."""
    return {**_head(board, sizes, homography), "rms_px": rms_px}


def homography_at(fit: RigFit, distance_mm: float) -> F64:
    """Visible to infrared pixels for the plane Z = distance_mm of the visible lens, lens distortion left out."""
    plane = np.zeros((3, 3))
    plane[:, 2] = fit.translation_mm / distance_mm
    h = fit.infrared.matrix @ (fit.rotation + plane) @ np.linalg.inv(fit.visible.matrix)
    return np.asarray(h / h[2, 2], np.float64)


def write(path: Path, description: dict[str, Any]) -> None:
    """Whole or not at all. Raises InputError."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror}") from None


def _head(board: Board, sizes: Sizes, homography: F64) -> dict[str, Any]:
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "format": FORMAT,
        "made": made,
        "board": str(board),
        "homography": homography.tolist(),
        "visible_size": list(sizes[Lens.VISIBLE]),
        "infrared_size": list(sizes[Lens.INFRARED]),
    }


def _lens(fit: LensFit) -> dict[str, Any]:
    return {
        "matrix": fit.matrix.tolist(),
        "distortion": fit.distortion.tolist(),
        "rms_px": fit.rms_px,
        "views": fit.views,
    }
