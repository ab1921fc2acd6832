"""Aligned patches for the adversarial training: squares of scene pairs, or faces with a simulated infrared lens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np

from edgefer.capture.nir import draw_optics, simulate_nir
from edgefer.types import U8
from export.data.augment import darken
from export.errors import InputError
from export.pixelfusion import Pair


class PatchSource(Protocol):
    """Where the aligned patches come from."""

    def patches(self, count: int, side: int, rng: np.random.Generator) -> tuple[U8, U8]:
        """(visible, infrared), uint8 [count, side, side] each."""
        ...


class ScenePatches:
    """Random squares of aligned pairs, mirrored at random. Raises InputError when a pair is smaller than asked for.

    ``vary``: each square also turned by quarters, at its own scale (shrunk up to twice), each lens at its own contrast
    and brightness, so that the generator learns more than the one camera of the training pairs.
    """

    def __init__(self, pairs: Sequence[Pair], vary: bool = False) -> None:
        if not pairs:
            raise InputError("no infrared/visible pairs to train on")
        self.pairs, self.vary = pairs, vary

    def patches(self, count: int, side: int, rng: np.random.Generator) -> tuple[U8, U8]:
        return _stacked(self._one(side, rng) for _ in range(count))

    def _one(self, side: int, rng: np.random.Generator) -> tuple[U8, U8]:
        name, *images = self.pairs[int(rng.integers(len(self.pairs)))]
        wanted = min(int(side * rng.uniform(1.0, 2.0)), *images[0].shape) if self.vary else side
        room = np.asarray(images[0].shape) - max(wanted, side)
        if room.min() < 0:
            raise InputError(f"{name}: smaller than the patches of {side} pixels; lower 'side'")
        y, x = (int(rng.integers(r + 1)) for r in room)
        turns = int(rng.integers(4)) if self.vary else 0
        flip = -1 if rng.random() < 0.5 else 1
        visible, infrared = (np.rot90(im[y : y + wanted, x : x + wanted], turns)[:, ::flip] for im in images)
        if not self.vary:
            return visible, infrared
        return _varied(visible, side, rng), _varied(infrared, side, rng)


def _varied(image: U8, side: int, rng: np.random.Generator) -> U8:
    """The square at ``side`` pixels and another contrast and brightness."""
    small = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    mean = small.mean()
    moved = (small - mean) * np.exp(rng.uniform(-1.0, 0.5)) + mean + rng.uniform(-40, 40)
    return np.asarray(np.clip(moved, 0, 255), np.uint8)


class FacePatches:
    """Visible faces uint8 [N, S, S] with a SIMULATED near-infrared lens; some of them darkened on the visible side."""

    def __init__(self, images: U8, dark: float = 0.25) -> None:
        if not len(images):
            raise InputError("no faces to train on")
        self.images, self.dark = images, dark

    def patches(self, count: int, side: int, rng: np.random.Generator) -> tuple[U8, U8]:
        return _stacked(self._one(side, rng) for _ in range(count))

    def _one(self, side: int, rng: np.random.Generator) -> tuple[U8, U8]:
        face = self.images[int(rng.integers(len(self.images)))]
        if (room := face.shape[0] - side) < 0:
            raise InputError(f"faces of {face.shape[0]} pixels are smaller than patches of {side}; lower 'side'")
        face = face[:, ::-1] if rng.random() < 0.5 else face
        infrared = simulate_nir(np.ascontiguousarray(face), draw_optics(rng), rng)
        if rng.random() < self.dark:
            face = darken(face, float(np.exp(rng.uniform(np.log(0.02), np.log(0.5)))), rng)
        y, x = (int(k) for k in rng.integers(0, room + 1, 2))
        window = np.s_[y : y + side, x : x + side]
        return face[window], infrared[window]


def _stacked(pairs: Iterator[tuple[U8, U8]]) -> tuple[U8, U8]:
    visible, infrared = zip(*pairs, strict=True)
    return np.stack(visible), np.stack(infrared)


# ---- losses
