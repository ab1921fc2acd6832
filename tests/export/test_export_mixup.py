"""Faces mixed in pairs: the picture and its target carry the same shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from export import checkpoint, train  # noqa: E402
from export.data import augment  # noqa: E402
from export.data.faces import Faces  # noqa: E402
from export.errors import RecipeError  # noqa: E402
from export.recipe import Augment  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

STILL = Augment(rotation_deg=0, zoom=0, shift=0, contrast=0, dark=0, erase=0, lens_lost=0)
BRIGHT, MANY = 200, 60


def _faces(infrared: bool = False, sequence: bool = False) -> Faces:
    """As many black faces of one expression as bright ones of the other."""
    images = np.repeat(np.array([0, BRIGHT], np.uint8), MANY)[:, None, None] * np.ones((1, 16, 16), np.uint8)
    labels = np.repeat(np.arange(2), MANY)
    frames = np.repeat(np.arange(2 * MANY)[:, None], 3, axis=1) if sequence else None
    return Faces(images, labels, "", ("sadness", "happiness"), infrared=images if infrared else None, sequence=frames)


def _examples(faces: Faces, a: Augment) -> list[Any]:
    data = augment.PairDataset(faces, 16, ("visible", "infrared"), a, 1, 0)
    return [data[k] for k in range(len(data))]


@pytest.mark.parametrize("sequence", [False, True])
def test_the_share_of_a_picture_is_the_share_of_its_target(sequence: bool) -> None:
    mixed = STILL.model_copy(update={"mixed": 1.0})
    shares = []
    for k, (visible, infrared, _, target) in enumerate(_examples(_faces(True, sequence), mixed)):
        assert target.dtype == torch.float32
        assert float(target.sum()) == pytest.approx(1)
        assert float(target[k // MANY]) >= 0.5  # the example's own face is the larger part
        for view in (visible, infrared):
            assert float(view.float().mean()) == pytest.approx(BRIGHT * float(target[1]), abs=1)
        shares.append(float(target[1]))
    assert len(np.unique(np.round(shares, 2))) > 20


def test_softened_targets_are_mixed_too() -> None:
    soft = np.repeat(np.array([[0.75, 0.25], [0.25, 0.75]], np.float32), MANY, axis=0)
    faces = _faces()
    faces = Faces(faces.images, faces.labels, "", faces.classes, soft=soft)
    for visible, _, _, target in _examples(faces, STILL.model_copy(update={"mixed": 1.0})):
        bright = float(visible.float().mean()) / BRIGHT
        assert float(target[1]) == pytest.approx(0.25 + 0.5 * bright, abs=0.01)


def test_half_of_the_examples_stay_as_they_are_and_all_without_it() -> None:
    targets = np.stack([x[3].numpy() for x in _examples(_faces(), STILL.model_copy(update={"mixed": 0.5}))])
    whole = float((targets.max(axis=1) == 1).mean())
    assert 0.6 < whole < 0.9  # a quarter is mixed with the other expression
    assert [int(x[3]) for x in _examples(_faces(), STILL)] == [0] * MANY + [1] * MANY


def test_a_recipe_with_mixed_faces_trains(recipe_file: Path, data_root: Path, tmp_path: Path, silent: Any) -> None:
    plain = train.train(train.Job(recipe_file, tmp_path / "plain"), silent)[0]
    recipe_file.write_text(recipe_file.read_text() + "\n[augment]\nmixed = 1.0\n")
    mixed = train.train(train.Job(recipe_file, tmp_path / "mixed"), silent)[0]
    one, other = (checkpoint.read_state(file)["network"] for file in (plain, mixed))
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_mixed_targets_are_refused_where_the_loss_knows_whole_labels(
    recipe_file: Path, tmp_path: Path, silent: Any
) -> None:
    text = recipe_file.read_text().replace('name = "dual-resnet"\nwidths = [8, 8, 16, 16]', 'name = "pyconv-se18"')
    recipe_file.write_text(text + "\n[augment]\nmixed = 0.5\n")
    with pytest.raises(RecipeError, match=r"'augment\.mixed': the loss of pyconv-se18 needs whole labels"):
        train.train(train.Job(recipe_file, tmp_path / "out"), silent)
