"""The golden vectors of a bundle: pairs whose answers every machine must reproduce.

No data set's picture may leave the workstation, so they are cut from two portraits in the public domain: Eileen
Collins (NASA, in scikit-image) and Grace Hopper (US Navy, in matplotlib).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgefer.align.geometry import similarity
from edgefer.bundle import Golden
from edgefer.capture.nir import draw_optics, simulate_nir
from edgefer.types import F64, U8
from export.data.augment import darken
from export.errors import InputError
from export.lenses import Answer, Inputs, modes

COUNT = 24


@dataclass(frozen=True)
class Portrait:
    """A picture inside an installed package; landmarks in its pixels, right eye first (YuNet's, rounded)."""

    package: str
    file: str
    landmarks: tuple[tuple[float, float], ...]


PORTRAITS = (
    Portrait("skimage", "data/astronaut.png", ((200, 102), (247, 103), (220, 125), (199, 143), (240, 144))),
    Portrait(
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        ((227, 193), (308, 195), (267, 240), (229, 268), (302, 270)),
    ),
)


def read(portrait: Portrait) -> U8:
    """Grey uint8 [H, W]; the package is located, not imported. Raises InputError when it is not installed."""
    spec = importlib.util.find_spec(portrait.package)
    path = Path(spec.origin).parent / portrait.file if spec and spec.origin else None
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path and path.is_file() else None
    if image is None:
        raise InputError(f"the portrait {portrait.file} is missing: pip install scikit-image matplotlib")
    return np.asarray(image, np.uint8)


def pairs(size: int, template: F64, needed: Sequence[str] = (), count: int = COUNT, seed: int = 7) -> Inputs:
    """``count`` pairs: mild random similarity warps, every third dark, lenses lost in turn; template float64 [5, 2]."""
    rng = np.random.default_rng(seed)
    faces = [(read(p), np.array(p.landmarks, np.float64)) for p in PORTRAITS]
    states = list(modes(needed).values())
    visible, infrared = (np.zeros((count, size, size, 1), np.uint8) for _ in range(2))
    present = np.empty((count, 2), np.float32)
    for k in range(count):
        crop = _crop(*faces[k % len(faces)], _shaken(template, rng), size)
        present[k] = seen = states[(k // len(faces)) % len(states)]
        if seen[1]:
            infrared[k, ..., 0] = simulate_nir(crop, draw_optics(rng), rng)
        if seen[0]:
            visible[k, ..., 0] = darken(crop, rng.uniform(0.04, 0.3), rng) if k % 3 == 2 else crop
    return visible, infrared, present


def _shaken(template: F64, rng: np.random.Generator) -> F64:
    """The template turned by up to 8 degrees, scaled by up to 8 % and shifted by up to 2 pixels."""
    middle = template.mean(axis=0)
    turn = np.exp(1j * np.radians(rng.uniform(-8, 8))) * rng.uniform(0.92, 1.08)
    z = ((template - middle) @ np.array([1, 1j])) * turn
    return np.asarray(np.stack([z.real, z.imag], axis=1) + middle + rng.uniform(-2, 2, 2))


def _crop(image: U8, landmarks: F64, target: F64, size: int) -> U8:
    """Both portraits are larger than the crop: blur to its pixel first, or the warp would alias."""
    m = similarity(landmarks, target)
    scale = float(np.hypot(m[0, 0], m[1, 0]))
    smooth = cv2.GaussianBlur(image, (0, 0), max(0.3, 0.4 / scale))
    crop = cv2.warpAffine(smooth, m, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(crop, np.uint8)


def make(answer: Answer, size: int, template: F64, needed: Sequence[str]) -> Golden:
    """The vectors and the logits that the graph's ``answer`` gives to them on this machine."""
    inputs = pairs(size, template, needed)
    return Golden(*inputs, answer(inputs))
