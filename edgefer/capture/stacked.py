"""Both lenses in one picture: splits it into halves."""

from __future__ import annotations

import cv2

from edgefer.capture.source import Source
from edgefer.errors import ConfigError
from edgefer.types import U8, Frame, Lens


class StackedSource:
    """Wraps a source of one lens whose pictures hold both views, the visible one first (left or top).

    The visible half is a view of the picture, nothing is copied; of the infrared half the green channel is taken,
    which is the grey picture wherever a grey sensor was sent through a colour format, and carries the most light
    elsewhere.
    """

    def __init__(self, inner: Source, layout: str) -> None:
        """layout: side-by-side or top-bottom."""
        self._inner = inner
        self._axis = 1 if layout == "side-by-side" else 0

    @property
    def lenses(self) -> tuple[Lens, ...]:
        return (Lens.VISIBLE, Lens.INFRARED)

    def open(self) -> None:
        self._inner.open()

    def read(self, timeout_s: float) -> tuple[Frame, ...]:
        """(visible, infrared) with one time stamp. Raises ConfigError when the picture cannot be halved."""
        return tuple(half for frame in self._inner.read(timeout_s) for half in self._split(frame))

    def close(self) -> None:
        self._inner.close()

    def _split(self, frame: Frame) -> tuple[Frame, Frame]:
        image, axis = frame.image, self._axis
        if image.shape[axis] % 2:
            h, w = image.shape[:2]
            raise ConfigError(f"'capture.layout': a picture of {w}x{h} cannot be halved; choose the layout it has")
        half = image.shape[axis] // 2
        first, second = (image[:, :half], image[:, half:]) if axis else (image[:half], image[half:])
        grey: U8 = cv2.extractChannel(second, 1) if second.ndim == 3 else second
        return (
            Frame(Lens.VISIBLE, first, frame.mono_ns, frame.index),
            Frame(Lens.INFRARED, grey, frame.mono_ns, frame.index),
        )
