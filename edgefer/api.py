"""The Python API: two arrays in, a typed reading out. Every call stands alone; for a stream run the pipeline."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from edgefer import bundle as bundles
from edgefer.align import Aligner
from edgefer.config import Align, Decide, Infer, Locate
from edgefer.decide import Decider
from edgefer.infer import open_network
from edgefer.locate import Locator
from edgefer.types import U8, Frame, FramePair, Lens, LensState, Reading, now_ns


class Estimator:
    """Callable on (visible, infrared); a context manager. Not for several threads at once."""

    def __init__(self, path: str | Path | None = None, *, threads: int = 2) -> None:
        self.bundle = bundles.open_bundle(Path(path) if path else bundles.DEFAULT)
        m = self.bundle.manifest
        self.labels = tuple(m.labels)
        self._network = open_network(self.bundle, Infer(threads=threads))
        self._aligner = Aligner(Align(), m.crop.size, m.crop.visible_channels, m.crop.template)
        self._locator = Locator(Locate(), threads)

    def __call__(self, visible: U8 | None, infrared: U8 | None = None) -> Reading:
        """visible: uint8 [H, W, 3] BGR or None; infrared: uint8 [H, W] grey or None -> a reading without smoothing.

        Raises ValueError when an array has another type or shape.
        """
        pair = _pair(visible, infrared)
        self._locator.forget()
        self._network.reset()
        face = self._locator.find(pair) or self._locator.find(pair)  # the second look is at the other lens
        scores = self._network.infer(self._aligner.cut(pair, face)) if face else None
        m = self.bundle.manifest
        return Decider(Decide(), m.labels, m.temperature, m.thresholds.min_conf).update(pair, face, scores)

    def close(self) -> None:
        self._network.close()

    def __enter__(self) -> Estimator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _pair(visible: U8 | None, infrared: U8 | None) -> FramePair:
    now = now_ns()
    frames, states = [], []
    for lens, image, ndim in ((Lens.VISIBLE, visible, 3), (Lens.INFRARED, infrared, 2)):
        if image is not None:
            _check(lens, image, ndim)
        frames.append(Frame(lens, image, now, 0) if image is not None else None)
        states.append(LensState.OK if image is not None else LensState.LOST)
    return FramePair(frames[0], frames[1], states[0], states[1], now)


def _check(lens: Lens, image: U8, ndim: int) -> None:
    shape = "[H, W, 3] BGR" if ndim == 3 else "[H, W] grey"
    if image.dtype != np.uint8 or image.ndim != ndim or (ndim == 3 and image.shape[2] != 3) or min(image.shape) < 1:
        raise ValueError(f"{lens.value}: {image.dtype} {image.shape}, expected uint8 {shape}")
