"""The public-domain portraits the demo shows, for tests that want a real face."""

from __future__ import annotations

import cv2
import numpy as np

from edgefer.demo.clip import portraits


def astronaut(size: tuple[int, int] = (640, 480)) -> np.ndarray:
    """uint8 [H, W, 3] BGR with one face of about 110 pixels."""
    return cv2.resize(portraits()[0][:384], size, interpolation=cv2.INTER_AREA)


def two_faces() -> np.ndarray:
    """uint8 [480, 1280, 3] BGR: a face left, a larger one right."""
    large = cv2.resize(portraits()[1][60:444], (640, 480), interpolation=cv2.INTER_AREA)
    return np.hstack((astronaut(), large))
