"""Picture buffers that are used again once nobody looks at them: a frame costs no memory of its own."""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_FREE: Final = 3
"""references to a buffer nobody else holds: the list's, the loop variable's, and the question's own"""


class FramePool:
    """At most ``depth`` buffers are kept; when all are in use a new one is made, and not kept."""

    def __init__(self, depth: int = 12) -> None:
        self._depth = depth
        self._buffers: list[npt.NDArray[Any]] = []
        self._form: Any = None

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
        """An array of ``shape`` that no frame, and no view of one, refers to; its content is left over."""
        if (shape, dtype) != self._form:
            self._buffers, self._form = [], (shape, dtype)
        for buffer in self._buffers:
            if sys.getrefcount(buffer) <= _FREE:
                return buffer
        fresh = np.empty(shape, dtype)
        if len(self._buffers) < self._depth:
            self._buffers.append(fresh)
        return fresh
