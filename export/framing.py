"""Pictures of faces framed as the device frames a driver's: YuNet's landmarks on the bundle's template.

A data set's own crops are not: FER2013's faces stand off its template by a pixel or two of 48, turned and scaled a
little, and a network trained on these alone answers the device's crops worse than the set's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgefer.align.geometry import similarity
from edgefer.locate.yunet import model_path
from edgefer.types import F64, U8
from export import template
from export.data.faces import Faces
from export.recipe import Recipe

SIDE, BORDER, SURE = 192, 64, 0.3
"""side of the copy that the detector looks at, the replicated border round it, and its least score: one face fills the
picture, so a doubtful one is that face"""
Say = Callable[[str], None]


def onto(images: U8, points: F64, side: int, say: Say | None = None) -> tuple[F64, npt.NDArray[np.bool_]]:
    """Similarities float64 [N, 2, 3] that put the face of each square picture uint8 [N, S, S] onto the template
    ``points`` float64 [5, 2] of a crop of ``side`` pixels, and bool [N]: where there is a face. A picture without one
    is only made as large as the crop."""
    whole = SIDE + 2 * BORDER
    detector = cv2.FaceDetectorYN.create(str(model_path()), "", (whole, whole), SURE)
    ratio = side / images.shape[1]
    whole_picture = np.array([[ratio, 0, (ratio - 1) / 2], [0, ratio, (ratio - 1) / 2]])
    out, there = np.tile(whole_picture, (len(images), 1, 1)), np.zeros(len(images), np.bool_)
    for k, image in enumerate(images):
        found = template.landmarks(image, detector, SIDE, BORDER)
        if found is not None:
            out[k], there[k] = similarity(found, points), True
        if say is not None and k % 500 == 499:
            say(f"\rlandmarks: {k + 1}/{len(images)}")
    return out, there


def faces(given: Faces, points: F64, side: int) -> tuple[Faces, int]:
    """Every picture as a crop of ``side`` pixels framed by the template ``points`` float64 [5, 2], infrared as visible,
    and in how many there is no face."""
    matrices, there = onto(given.images, points, side)
    infrared = None if given.infrared is None else _warped(given.infrared, matrices, side)
    return replace(given, images=_warped(given.images, matrices, side), infrared=infrared), int((~there).sum())


def _warped(images: U8, matrices: F64, side: int) -> U8:
    how: dict[str, Any] = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    pairs = zip(images, matrices, strict=True)
    return np.stack([np.asarray(cv2.warpAffine(x, m, (side, side), **how), np.uint8) for x, m in pairs])


def framed(faces: Faces, recipe: Recipe, say: Say | None = None, whole: Faces | None = None) -> Faces:
    """``faces`` with ``onto`` for a recipe that shows some of its views framed as the device does (`Augment.framed`),
    else as they are. ``whole``: the training rows, where these are some of them.

    Raises InputError when the recipe has no template and no face is found to measure one by.
    """
    if not recipe.augment.framed:
        return faces
    points = _points(recipe, faces if whole is None else whole)
    matrices, there = onto(faces.images, points, faces.images.shape[1], say)
    if say is not None:
        say(f"{there.mean():.1%} of the training faces found; {recipe.augment.framed:.0%} of their views are framed")
    return replace(faces, onto=matrices)


def _points(recipe: Recipe, faces: Faces) -> F64:
    """The template float64 [5, 2] in the pixels of the pictures: archives keep their own, whatever the crop."""
    if not recipe.template:
        return template.measure(faces)[0]
    return (np.array(recipe.template, np.float64) + 0.5) * (faces.images.shape[1] / recipe.crop) - 0.5
