"""The sun on one side of the face: the visible lens is lit and shaded, the infrared one is not."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the export extra")
from export.data import augment
from export.data.faces import Faces
from export.recipe import Augment

STILL = Augment(rotation_deg=0, zoom=0, shift=0, contrast=0, dark=0, erase=0, lens_lost=0)
SIDE, GREY = 32, 120


def _sides(face: np.ndarray) -> tuple[float, float]:
    """Mean of the brightest and of the darkest tenth."""
    ordered = np.sort(face.ravel())
    return float(ordered[-SIDE * SIDE // 10 :].mean()), float(ordered[: SIDE * SIDE // 10].mean())


def test_one_side_is_brighter_than_the_other_and_where_the_sensor_is_full_it_clips() -> None:
    grey, white = (np.full((SIDE, SIDE), level, np.uint8) for level in (GREY, 255))
    lit = [augment.sunlit(grey, np.random.default_rng(k)) for k in range(200)]
    assert all((augment.sunlit(white, np.random.default_rng(k)) >= face).all() for k, face in enumerate(lit))
    ratio = np.array([bright / max(dark, 1.0) for bright, dark in map(_sides, lit)])
    assert (ratio >= 1).all()
    assert 1.5 < np.median(ratio) < 8
    assert 0.1 < np.mean([face.max() == 255 for face in lit]) < 0.9
    assert len(np.unique([face.argmax() for face in lit])) > 20  # the sun comes from anywhere


@pytest.mark.parametrize("sun", [0.0, 0.5, 1.0])
def test_as_many_visible_views_are_lit_as_the_recipe_says_and_no_infrared_one(sun: float) -> None:
    images = np.full((200, SIDE, SIDE), GREY, np.uint8)
    faces = Faces(images, np.zeros(len(images), np.int64), "", ("neutral",), infrared=images)
    ranges = STILL.model_copy(update={"sun": sun})
    views = [augment.PairDataset(faces, SIDE, ("visible", "infrared"), ranges, 1, 0)[k] for k in range(len(images))]
    lit = np.mean([(v[0].numpy() != GREY).mean() > 0.5 for v in views])
    assert lit == pytest.approx(sun, abs=0.1)
    assert all((v[1].numpy() == GREY).all() for v in views)


def test_the_sun_does_not_shine_into_a_dark_cabin_and_all_frames_of_a_sequence_have_the_same() -> None:
    images = np.full((3, SIDE, SIDE), GREY, np.uint8)
    sequence = Faces(images, np.zeros(1, np.int64), "", ("neutral",), infrared=images, sequence=np.arange(3)[None])
    for k in range(20):
        rng = np.random.default_rng(k)
        visible = augment.pairs(sequence, 0, SIDE, ("visible",), rng, STILL.model_copy(update={"sun": 1.0}))[0]
        assert (visible == visible[0]).all()
    night = STILL.model_copy(update={"sun": 1.0, "dark": 1.0})
    dark = [augment.relight(images[0], np.random.default_rng(k), night) for k in range(50)]
    assert max(float(face.mean()) for face in dark) <= GREY / 2 + 1
