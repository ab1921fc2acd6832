"""A clock that moves only when told to, and pictures, for the capture tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgefer.types import U8, Lens

Write = Callable[..., Path]


class FakeClock:
    """Nanoseconds; `wait` is a sleep that takes no time."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


def picture(lens: Lens, seed: int, size: tuple[int, int] = (64, 48)) -> U8:
    w, h = size
    shape = (h, w, 3) if lens is Lens.VISIBLE else (h, w)
    return np.random.default_rng(seed).integers(20, 200, shape, dtype=np.uint8)


_BLOCKS = np.random.default_rng(5).integers(30, 200, (12, 16)).astype(np.uint8)
_SCENE = np.kron(_BLOCKS, np.ones((40, 40), np.uint8))
_NOISE = np.random.default_rng(6).integers(0, 6, (579, 739), dtype=np.uint8)


def scene(noise: int) -> U8:
    """Something with sharp edges, lit: uint8 [480, 640]; every number has its own sensor noise."""
    y, x = np.random.default_rng(noise).integers(0, 99, 2)
    return np.asarray(_SCENE + _NOISE[y : y + 480, x : x + 640])
