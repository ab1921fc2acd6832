"""``python -m export template``: where the eyes, nose and mouth stand in a training crop.

The device warps the driver's face so that its five landmarks fall on this template; the network was trained on
its set's own framing, so the template is measured there, with the very detector the device runs.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgefer.locate.yunet import model_path
from export.data.faces import Faces
from export.errors import InputError

F64 = npt.NDArray[np.float64]

MIRRORED = (1, 0, 2, 4, 3)
"""landmark that takes each one's place in a mirror: eyes and mouth corners change sides"""


def landmarks(image: npt.NDArray[np.uint8], detector: Any, side: int = 160, border: int = 48) -> F64 | None:
    """Five landmarks of a grey uint8 [S, S] face in its own pixels, float64 [5, 2]; None when no face is seen.

    The face fills a FER2013 crop, which no detector likes: it is enlarged and framed first.
    """
    big = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    framed = cv2.cvtColor(
        cv2.copyMakeBorder(big, border, border, border, border, cv2.BORDER_REPLICATE), cv2.COLOR_GRAY2BGR
    )
    _, found = detector.detect(framed)
    if found is None:
        return None
    best = found[np.argmax(found[:, -1])]
    scale = image.shape[0] / side
    return np.asarray((best[4:14].reshape(5, 2).astype(np.float64) - border + 0.5) * scale - 0.5)


def symmetrise(points: F64, side: int) -> F64:
    """Mean of ``points`` and their mirror image: [5, 2] -> [5, 2]. A driver has no better half."""
    mirrored = points[list(MIRRORED)].copy()
    mirrored[:, 0] = side - 1 - mirrored[:, 0]
    return np.asarray((points + mirrored) / 2)


def measure(faces: Faces, count: int = 2000, seed: int = 1) -> tuple[F64, int]:
    """(median landmarks [5, 2] in crop pixels, faces they rest on) over ``count`` random training faces."""
    detector = cv2.FaceDetectorYN.create(str(model_path()), "", (256, 256), 0.6)
    chosen = np.random.default_rng(seed).choice(len(faces), min(count, len(faces)), replace=False)
    found = [p for i in chosen if (p := landmarks(faces.images[i], detector)) is not None]
    if not found:
        raise InputError(
            "the detector saw no face in the training pictures; cut them closer to the face, or give 'template'"
        )
    return symmetrise(np.median(np.stack(found), axis=0), faces.images.shape[1]), len(found)
