"""What quantisation looks at: training pairs with all their faults, and ONNX Runtime's three ways to choose a range."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod

from export import framing, lenses
from export.data.augment import PairDataset
from export.data.faces import Faces
from export.lenses import Inputs
from export.models.network import BOTH
from export.recipe import Recipe

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
PERCENTILE = 99.99
AT_ONCE = 64
"""pairs whose activations are held at a time"""


class Pairs(CalibrationDataReader):
    """Feeds inputs one by one; ORT asks for them in slices so that histograms need no room for all of them."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs, self._next, self._end = inputs, 0, len(inputs[2])

    def __len__(self) -> int:
        return len(self._inputs[2])

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        if self._next >= self._end:
            return None
        one = slice(self._next, self._next + 1)
        self._next += 1
        return lenses.feed(self._inputs, one)


def stride(count: int) -> int:
    """The largest slice of at most 64 pairs that divides ``count``."""
    return next(s for s in range(min(AT_ONCE, count), 0, -1) if count % s == 0)


def calibration_inputs(faces: Faces, recipe: Recipe, needed: Sequence[str] = ()) -> Inputs:
    """``quantisation.calibration_images`` random training pairs with the recipe's views, from another stream than those
    of training, and none mixed of two faces, which no device ever sees."""
    part = lenses.head(faces, recipe.quantisation.calibration_images, recipe.seed)
    part = framing.framed(part, recipe, whole=faces)
    views = recipe.augment.model_copy(update={"mixed": 0.0} | ({"lens_lost": 0.0} if needed else {}))
    data = PairDataset(part, recipe.crop, BOTH, views, recipe.seed + 5000, 0)
    v, i, present, _ = zip(*(data[k] for k in range(len(data))), strict=True)
    visible, infrared = (np.stack([x.numpy()[0] for x in lens])[..., None] for lens in (v, i))
    return visible, infrared, np.stack([p.numpy() for p in present])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """ORT prints every histogram and asks for a pre-processing that has nothing left to do here."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
