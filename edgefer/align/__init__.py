"""Cuts the same aligned crop out of both lenses: one warp a lens, at crop size, into buffers that are reused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edgefer.align.calibration import Calibration, read_calibration
from edgefer.align.geometry import similarity
from edgefer.config import Align
from edgefer.types import F64, U8, AlignedPair, Face, FramePair, Lens

MAX_OVERSAMPLING = 4
STEP = 1.5
"""source pixels between samples up to which bilinear sampling shows no aliasing to speak of"""


class Aligner:
    """crop_size: side in pixels; channels: of the visible crop (1 grey, 3 BGR); template: landmarks in the crop."""

    def __init__(self, config: Align, crop_size: int, channels: int, template: list[tuple[float, float]]) -> None:
        file = config.calibration
        self._calibration = read_calibration(Path(file), config.eyes_mm) if file else Calibration()
        self._size, self._template = crop_size, np.asarray(template, np.float64)
        self._visible: U8 = np.zeros((1, crop_size, crop_size, channels), np.uint8)
        self._infrared: U8 = np.zeros((1, crop_size, crop_size, 1), np.uint8)
        self._present = np.zeros((1, 2), np.float32)

    def cut(self, pair: FramePair, face: Face) -> AlignedPair:
        """The crops of every lens that is OK; a lens that is not gives a zero crop and present = 0."""
        for k, (lens, out) in enumerate(((Lens.VISIBLE, self._visible), (Lens.INFRARED, self._infrared))):
            frame = pair.frame(lens)
            self._present[0, k] = frame is not None
            if frame is None:
                out[:] = 0
            else:
                self._warp(frame.image, self.to_crop(pair, face, lens), out[0])
        return AlignedPair(self._visible, self._infrared, self._present)

    def to_crop(self, pair: FramePair, face: Face, lens: Lens) -> F64:
        """3x3 homography from the pixels of ``lens`` to the crop."""
        m = np.vstack((similarity(face.landmarks, self._template), (0.0, 0.0, 1.0)))
        if face.lens is lens:
            return m
        visible, infrared = pair.visible, pair.infrared
        assert visible is not None, "a warp across lenses needs both frames"
        assert infrared is not None, "a warp across lenses needs both frames"
        across = self._calibration.matrix(visible.image.shape[:2], infrared.image.shape[:2], face)
        return m @ (np.linalg.inv(across) if lens is Lens.INFRARED else across)

    def _warp(self, image: U8, m: F64, out: U8) -> None:
        """A face larger than the crop is sampled on a finer grid and averaged down: plain sampling would alias."""
        shrink = 1.0 / max(abs(m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]) ** 0.5, 1e-6)
        k = min(max(round(shrink / STEP), 1), MAX_OVERSAMPLING)
        fine = np.diag((k, k, 1.0)) @ _pixel_centres(k) @ m
        side = (self._size * k, self._size * k)
        if (fine[2] == (0.0, 0.0, 1.0)).all():  # no perspective, as always on the lens of the face: less work
            crop = cv2.warpAffine(image, fine[:2], side, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        else:
            crop = cv2.warpPerspective(image, fine, side, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if k > 1:
            crop = cv2.resize(crop, (self._size, self._size), interpolation=cv2.INTER_AREA)
        if crop.ndim == 3 and out.shape[2] == 1:
            crop = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
        elif crop.ndim == 2 and out.shape[2] == 3:
            crop = cv2.cvtColor(crop, cv2.COLOR_GRAY2BGR)
        out[:] = crop.reshape(out.shape)


def _pixel_centres(k: int) -> F64:
    """Shift by which the centres of k x k fine pixels fall on the centre of the pixel they make up."""
    shift = (k - 1) / (2 * k)
    return np.array([[1, 0, shift], [0, 1, shift], [0, 0, 1]], np.float64)
