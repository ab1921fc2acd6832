"""The demo's drive: two public-domain portraits take turns before a simulated dual-lens camera, from day into night.

Portraits: Eileen Collins (NASA, shipped by scikit-image) and Grace Hopper (US Navy, shipped by matplotlib). They are
aligned to one place, mixed into each other, moved, lit and darkened. The infrared lens is simulated (capture/nir.py).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgefer.align.geometry import similarity
from edgefer.capture.nir import WHOLE_FRAME, simulate_nir
from edgefer.errors import ServiceError
from edgefer.types import F32, F64, U8, Frame, Lens

WIDTH, HEIGHT, FPS, SECONDS = 640, 480, 25, 20

# Right eye, left eye, nose tip, right and left mouth corner, in the pixels of each portrait.
_PORTRAITS = {
    ("skimage", "data/astronaut.png"): [(200.1, 101.8), (247.1, 102.6), (220.4, 124.5), (198.6, 142.8), (239.7, 143.6)],
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"): [
        (227.1, 193.3), (307.8, 195.4), (266.5, 240.0), (228.5, 267.9), (302.2, 269.6)],
}  # fmt: skip
_PLACE = np.array([(287, 215), (353, 215), (320, 253), (293, 287), (347, 287)], np.float64)


@dataclass(frozen=True)
class Shot:
    """mix: 0 first portrait, 1 second; light: of the cabin, 0 to 1; lenses alive: visible, infrared."""

    mix: float
    light: float
    alive: tuple[bool, bool]


def script(t: float) -> Shot:
    """The drive at ``t`` seconds: six changes of face, the visible lens dead from 5.8 to 7.8 s, night from 12 s."""
    changes = ((2.5, 1), (5.0, -1), (8.2, 1), (10.6, -1), (14.0, 1), (17.0, -1))
    mix = sum(sign * _ramp(t, at, 0.5) for at, sign in changes)
    light = 1.0 - 0.995 * _ramp(t, 9.0, 3.0)
    return Shot(mix, light, (not 5.8 <= t < 7.8, True))


def _ramp(t: float, start: float, length: float) -> float:
    return min(1.0, max(0.0, (t - start) / length))


def portraits() -> list[U8]:
    """uint8 [H, W, 3] BGR each. Raises ServiceError when the demo extra is not installed."""
    found = []
    for package, name in _PORTRAITS:
        spec = importlib.util.find_spec(package)
        folder = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
        image = cv2.imread(str(folder / name)) if spec else None
        if image is None:
            raise ServiceError(f"the portrait {name} of {package} is missing: pip install 'edgefer[demo]'")
        found.append(image.astype(np.uint8))
    return found


class Scene:
    """Renders the drive. Portraits and their infrared views are made once; a frame is one warp and one mix a lens."""

    def __init__(self, seed: int = 7) -> None:
        rng = np.random.default_rng(seed)
        self._faces = [self._placed(p, np.array(m)) for p, m in zip(portraits(), _PORTRAITS.values(), strict=True)]
        self._infrared = [simulate_nir(f, WHOLE_FRAME, rng) for f in self._faces]
        self._noise = rng.normal(0.0, 1.0, (HEIGHT * 2, WIDTH * 2)).astype(np.float32)
        self._rng = rng

    def frames(self, t: float, index: int, mono_ns: int) -> list[Frame]:
        """The frames of the living lenses at ``t`` seconds."""
        shot, sway = script(t), self._sway(t)
        out = []
        if shot.alive[0]:
            day = self._mixed(self._faces, shot.mix, sway)
            out.append(Frame(Lens.VISIBLE, self._exposed(day, shot.light), mono_ns, index))
        if shot.alive[1]:
            nir = self._mixed(self._infrared, shot.mix, sway)
            out.append(Frame(Lens.INFRARED, self._exposed(nir, 1.0, 3.0), mono_ns, index))
        return out

    @staticmethod
    def _placed(portrait: U8, landmarks: F64) -> U8:
        m = similarity(landmarks, _PLACE)
        return cv2.warpAffine(portrait, m, (WIDTH, HEIGHT), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)

    @staticmethod
    def _sway(t: float) -> F64:
        """The driver moves: a few centimetres sideways, nods, leans."""
        angle, scale = 3.0 * math.sin(0.9 * t), 1.0 + 0.08 * math.sin(0.5 * t)
        m = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), angle, scale)
        m[:, 2] += (30 * math.sin(0.7 * t), 12 * math.sin(1.3 * t))
        return np.asarray(m, np.float64)

    @staticmethod
    def _mixed(faces: list[U8], mix: float, sway: F64) -> U8:
        pure = mix in (0.0, 1.0)
        image = faces[int(mix)] if pure else cv2.addWeighted(faces[0], 1.0 - mix, faces[1], mix, 0.0)
        return cv2.warpAffine(image, sway, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)

    def _exposed(self, image: U8, light: float, noise: float = 1.5) -> U8:
        """Dimmed, with the sensor's noise: a window of a large noise field, another one every frame."""
        y, x = self._rng.integers(0, (HEIGHT, WIDTH))
        field: F32 = self._noise[y : y + HEIGHT, x : x + WIDTH] * noise
        if image.ndim == 3:
            field = cv2.merge((field, field, field))
        return cv2.add(cv2.multiply(image, light), field, dtype=cv2.CV_8U)


def render(
    seconds: float = SECONDS, progress: Callable[[float], None] = lambda share: None
) -> Iterator[tuple[int, list[Frame]]]:
    """(index, frames) of the whole drive; ``progress`` hears the share done."""
    scene, count = Scene(), round(seconds * FPS)
    for k in range(count):
        yield k, scene.frames(k / FPS, k, round(k * 1e9 / FPS))
        progress((k + 1) / count)
