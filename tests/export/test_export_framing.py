"""A face of a data set, framed as the device frames a driver's."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("skimage", reason="needs the demo extra (public-domain portraits)")

from edgefer.locate.yunet import model_path
from export import framing, golden, recipe, template
from export.data import augment
from export.data.faces import Faces

POINTS = np.array([[14.76, 18.08], [32.24, 18.08], [23.5, 28.1], [16.41, 35.44], [30.59, 35.44]])
BLANK = np.full((1, 48, 48), 128, np.uint8)


@pytest.fixture(scope="module")
def face() -> Any:
    """A portrait's face, cut as another set would: float off the template."""
    portrait = golden.PORTRAITS[0]
    points = np.array(portrait.landmarks, np.float64)
    (x0, y0), (x1, y1) = points.min(0) - 75, points.max(0) + 40
    cut = golden.read(portrait)[int(y0) : int(y1), int(x0) : int(x1)]
    return cv2.resize(cut, (48, 48), interpolation=cv2.INTER_AREA)


def _faces(images: Any, infrared: Any = None) -> Faces:
    return Faces(images, np.zeros(len(images), np.int64), "", ("happiness",), infrared=infrared)


def _landmarks(image: Any) -> Any:
    side = framing.SIDE + 2 * framing.BORDER
    detector = cv2.FaceDetectorYN.create(str(model_path()), "", (side, side), framing.SURE)
    found = template.landmarks(image, detector, framing.SIDE, framing.BORDER)
    assert found is not None
    return found


def _off(image: Any) -> float:
    return float(np.abs(_landmarks(image) - POINTS).mean())


def test_a_face_lands_on_the_template_infrared_with_it(face: Any) -> None:
    faces, missed = framing.faces(_faces(face[None], face[None]), POINTS, 48)
    assert missed == 0
    assert np.array_equal(faces.images, faces.infrared)
    assert _off(faces.images[0]) < 0.5 * _off(face)  # her head is turned a little


def test_a_crop_may_be_larger_than_the_picture(face: Any) -> None:
    twice = (POINTS + 0.5) * 2 - 0.5
    faces, missed = framing.faces(_faces(np.stack([face, BLANK[0]])), twice, 96)
    assert (faces.images.shape, missed) == ((2, 96, 96), 1)
    assert np.abs(_landmarks(faces.images[0]) - twice).mean() < _off(face)
    assert np.array_equal(faces.images[1], np.full((96, 96), 128, np.uint8))


def test_a_picture_without_a_face_stays_as_it_is() -> None:
    kept, missed = framing.faces(_faces(BLANK), POINTS, 48)
    assert missed == 1
    assert np.array_equal(kept.images, BLANK)


STILL = recipe.Augment(
    rotation_deg=0, zoom=0, shift=0, contrast=0, dark=0, erase=0, lens_lost=0, misregistered=0, framed=1
)


def _plan(**changes: Any) -> recipe.Recipe:
    points = [(float(x), float(y)) for x, y in POINTS]
    views = STILL.model_copy(update=changes)
    return recipe.Recipe(name="t", model=recipe.Model(name="shared-trunk"), augment=views, template=points)


def _view(faces: Faces, plan: recipe.Recipe, seed: int) -> Any:
    return augment.pairs(faces, 0, 48, ("visible",), np.random.default_rng(seed), plan.augment)[0][0]


def test_training_views_are_framed_as_often_as_the_recipe_says(face: Any) -> None:
    always, half, never = (_plan(framed=share) for share in (1.0, 0.5, 0.0))
    faces = framing.framed(_faces(face[None]), always)
    assert all(_off(_view(faces, always, k)) < 0.5 * _off(face) for k in range(4))
    assert all(np.array_equal(x, face) or np.array_equal(x, face[:, ::-1])
               for x in (_view(faces, never, k) for k in range(4)))  # fmt: skip
    offs = [_off(_view(faces, half, k)) for k in range(40)]
    assert 8 < sum(off < 0.5 * _off(face) for off in offs) < 32


def test_the_framing_goes_with_the_rows_that_are_taken(face: Any) -> None:
    faces = framing.framed(_faces(np.stack([BLANK[0], face])), _plan())
    assert np.array_equal(faces.onto[0], np.eye(2, 3))
    assert np.array_equal(faces.take(np.array([1])).onto, faces.onto[1:])


def test_a_recipe_that_does_not_ask_needs_no_detector(face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "onto", None)
    faces = _faces(face[None])
    assert framing.framed(faces, _plan(framed=0.0)) is faces


def test_without_a_template_that_of_the_training_faces_is_used(face: Any) -> None:
    plan = _plan().model_copy(update={"template": None})
    faces = _faces(np.stack([face] * 3))
    assert np.allclose(framing.framed(faces, plan).onto, framing.onto(faces.images, template.measure(faces)[0], 48)[0])


def test_some_of_the_training_faces_are_framed_by_the_template_of_all(face: Any) -> None:
    """A part in which no face is found must not stop what the whole was trained with."""
    plan = _plan().model_copy(update={"template": None})
    faces = _faces(np.stack([face, face, BLANK[0]]))
    part = framing.framed(faces.take(np.array([1, 2])), plan, whole=faces)
    assert np.allclose(part.onto, framing.framed(faces, plan).onto[1:])
    blank = framing.framed(faces.take(np.array([2])), plan, whole=faces)
    assert np.array_equal(blank.onto[0], np.eye(2, 3))


def test_a_template_of_another_crop_than_the_pictures_is_scaled(face: Any) -> None:
    """Archives keep their 48 pixels whatever the crop."""
    plan = _plan().model_copy(update={"crop": 96, "template": [tuple((p + 0.5) * 2 - 0.5) for p in POINTS]})
    assert np.allclose(framing.framed(_faces(face[None]), plan).onto, framing.framed(_faces(face[None]), _plan()).onto)
