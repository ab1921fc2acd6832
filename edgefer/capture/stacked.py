"""Both lenses in one picture: splits it into halves, or into even and odd rows."""

from __future__ import annotations

import cv2

from edgefer.capture.look import chroma_of
from edgefer.capture.pool import FramePool
from edgefer.capture.source import Source
from edgefer.errors import ConfigError
from edgefer.types import U8, Frame, Lens


class StackedSource:
    """Wraps a source of one lens whose pictures hold both views, the visible one first (left, top, or even rows).

    The visible half is a view of the picture, nothing is copied; of the infrared half the green channel is taken,
    which is the grey picture wherever a grey sensor was sent through a colour format, and carries the most light
    elsewhere.
    """

    def __init__(self, inner: Source, layout: str) -> None:
        """layout: side-by-side, top-bottom or interleaved."""
        self._inner = inner
        self._interleaved = layout == "interleaved"
        self._axis = 1 if layout == "side-by-side" else 0
        self._pool = FramePool()

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
        if self._interleaved:
            first, second = image[::2], image[1::2]
        else:
            first, second = (image[:, :half], image[:, half:]) if axis else (image[:half], image[half:])
        chroma = chroma_of(second) if second.ndim == 3 else frame.chroma
        grey: U8 = second
        if second.ndim == 3:
            grey = cv2.extractChannel(second, 1, dst=self._pool.take(second.shape[:2]))
        return (
            Frame(Lens.VISIBLE, first, frame.mono_ns, frame.index),
            Frame(Lens.INFRARED, grey, frame.mono_ns, frame.index, chroma),
        )
