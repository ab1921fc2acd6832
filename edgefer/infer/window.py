"""The last frames' features, for a network that looks back. Pure."""

from __future__ import annotations

import numpy as np

from edgefer.types import F32


class Window:
    """The last ``frames`` features of ``width`` numbers; before that many were seen, the first stands for the rest.

    A ring that is written twice, ``frames`` rows apart, so that the rows from oldest to newest always lie together
    and nothing is moved or allocated per frame.
    """

    def __init__(self, frames: int, width: int) -> None:
        self._ring = np.zeros((2 * frames, width), np.float32)
        self._frames = frames
        self._next = 0
        self._empty = True

    def push(self, features: F32) -> F32:
        """features: float32 [width] -> float32 [1, frames, width], oldest first, valid until the next call."""
        if self._empty:
            self._ring[:] = features
            self._empty = False
        k = self._next
        self._ring[k] = self._ring[k + self._frames] = features
        self._next = (k + 1) % self._frames
        return self._ring[k + 1 : k + 1 + self._frames][None]

    def reset(self) -> None:
        """Forget what was seen."""
        self._empty = True
