"""A still picture as a live array camera: for the demo, and to try an installation without a camera."""

from __future__ import annotations

import math
import time
from pathlib import Path

import cv2
import numpy as np

from edgefer.capture.nir import WHOLE_FRAME, simulate_nir
from edgefer.capture.source import Clock, Wait
from edgefer.errors import InputError
from edgefer.types import U8, Frame, Lens, now_ns

_MARGIN = 16
"""pixels around the frame into which the picture drifts and from which the noise is cut"""
_DRIFT_S = 7.0
_VISIBLE_NOISE = 2.0
"""noise is added frame by frame instead: a picture that repeats is a frozen lens"""
_INFRARED_NOISE = 4.0


class PictureSource:
    """Serves both lenses: the picture itself, and its near-infrared simulation (see `edgefer.capture.nir`).

    size: width and height of the frames. They hold the picture letterboxed, drifting by some pixels, with sensor
    noise; ``fps`` of them come a second, for ever. Raises InputError when the file cannot be read.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], fps: float, clock: Clock = now_ns, wait: Wait = time.sleep
    ) -> None:
        visible = letterbox(read_picture(path), *size)
        rng = np.random.default_rng(0)
        self._views = {
            Lens.VISIBLE: _View(visible, _VISIBLE_NOISE, rng),
            Lens.INFRARED: _View(simulate_nir(visible, WHOLE_FRAME, rng), _INFRARED_NOISE, rng),
        }
        self._period_ns = round(1e9 / fps)
        self._clock = clock
        self._wait = wait
        self._rng = rng
        self._due_ns: int | None = None
        self._index = 0

    @property
    def lenses(self) -> tuple[Lens, ...]:
        return (Lens.VISIBLE, Lens.INFRARED)

    def open(self) -> None:
        self._due_ns = self._clock()
        self._index = 0

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        """Both frames at their time, or nothing when that is more than ``timeout_s`` away."""
        now = self._clock()
        due = now if self._due_ns is None else self._due_ns
        self._wait(min(timeout_s, max(0.0, (due - now) / 1e9)))
        now = self._clock()
        if now < due:
            return ()
        stalled = now - due >= self._period_ns  # then there is no burst to catch up
        self._due_ns = (now if stalled else due) + self._period_ns
        self._index += 1
        dx, dy = _drift(now)
        return tuple(
            Frame(lens, view.frame(dx, dy, self._rng), now, self._index - 1) for lens, view in self._views.items()
        )

    def close(self) -> None:
        self._due_ns = None


class _View:
    """One lens's picture with room to drift, and one plane of noise from which every frame cuts another piece."""

    def __init__(self, image: U8, noise: float, rng: np.random.Generator) -> None:
        self._size = image.shape[:2]
        self._image = cv2.copyMakeBorder(image, _MARGIN, _MARGIN, _MARGIN, _MARGIN, cv2.BORDER_REPLICATE)
        plane = rng.normal(0.0, noise, self._image.shape)
        # two unsigned halves: OpenCV adds and subtracts bytes with saturation ten times faster than mixed types
        self._more = np.clip(np.rint(plane), 0, 255).astype(np.uint8)
        self._less = np.clip(np.rint(-plane), 0, 255).astype(np.uint8)

    def frame(self, dx: int, dy: int, rng: np.random.Generator) -> U8:
        """A new array: uint8, [H, W, 3] or [H, W], the picture moved by dx, dy within the margin."""
        x, y = (int(v) for v in rng.integers(0, 2 * _MARGIN, 2))
        brighter = cv2.add(self._cut(self._image, _MARGIN + dx, _MARGIN + dy), self._cut(self._more, x, y))
        noisy: U8 = cv2.subtract(brighter, self._cut(self._less, x, y))
        return noisy

    def _cut(self, plane: U8, x: int, y: int) -> U8:
        h, w = self._size
        return plane[y : y + h, x : x + w]


def _drift(now: int) -> tuple[int, int]:
    phase = 2 * math.pi * (now / 1e9 % _DRIFT_S) / _DRIFT_S
    return round(0.5 * _MARGIN * math.sin(phase)), round(0.25 * _MARGIN * math.sin(2 * phase))


def read_picture(path: Path) -> U8:
    """The picture at ``path`` as uint8 [H, W, 3] BGR. Raises InputError."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as e:
        raise InputError(f"{path}: the picture cannot be read: {e.strerror}; see capture.source") from None
    image: U8 | None = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise InputError(f"{path}: not a picture OpenCV can read; use PNG or JPEG")
    return image


def letterbox(image: U8, width: int, height: int) -> U8:
    """``image``, uint8 [h, w, 3], scaled to fit into [height, width, 3] and centred on black."""
    h, w = image.shape[:2]
    scale = min(width / w, height / h)
    size = (max(1, min(width, round(w * scale))), max(1, min(height, round(h * scale))))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    out = np.zeros((height, width, 3), np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    out[top : top + size[1], left : left + size[0]] = small
    return out
