"""Targets softened by teachers: what they are, that a training follows them, and who may not be a teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from export import checkpoint, distil, recipe, train  # noqa: E402
from export.data import augment, fer2013  # noqa: E402
from export.errors import InputError, RecipeError  # noqa: E402
from export.recipe import Augment, Distil  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


@pytest.fixture
def teacher(recipe_file: Path, data_root: Path, tmp_path: Path, silent: Any) -> distil.Teacher:
    (file,) = train.train(train.Job(recipe_file, tmp_path / "tiny"), silent)
    return distil.Teacher(recipe.read(recipe_file), file)


def test_a_target_is_label_and_teachers_in_the_shares_asked_for(teacher: distil.Teacher, silent: Any) -> None:
    faces, watched = fer2013.load("train"), fer2013.load("public")
    asked = Distil(teachers=["tiny"], share=0.25)
    quarter = distil.with_targets(faces, watched, asked, [teacher], teacher.file.parent, silent).soft
    whole = distil.with_targets(
        faces, watched, Distil(teachers=["tiny"], share=1.0), [teacher], teacher.file.parent, silent
    ).soft
    assert quarter is not None
    assert whole is not None
    label = np.eye(7, dtype=np.float32)[faces.labels]
    np.testing.assert_allclose(quarter, 0.75 * label + 0.25 * whole, atol=1e-6)
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-5)
    assert whole.std() > 0


def test_the_mirror_image_counts_as_much(teacher: distil.Teacher, silent: Any) -> None:
    faces = fer2013.load("train")
    mirrored = replace(faces, images=faces.images[..., ::-1].copy())
    asked = Distil(teachers=["tiny"], share=1.0)
    one, other = (
        distil.with_targets(f, None, asked, [teacher], teacher.file.parent, silent).soft for f in (faces, mirrored)
    )
    assert one is not None
    # The infrared lens is simulated from what the visible one shows, with noise of its own for each picture.
    np.testing.assert_allclose(one, other, atol=0.02)


def test_a_pupil_is_taught_what_its_recipe_says(
    teacher: distil.Teacher, recipe_file: Path, data_root: Path, tmp_path: Path, silent: Any
) -> None:
    text = recipe_file.read_text().replace('name = "tiny"', 'name = "pupil"')
    said: list[str] = []
    for share in ("0.0", "1.0"):
        pupil = recipe_file.with_name("pupil.toml")
        pupil.write_text(f'{text}\n[distil]\nteachers = ["tiny"]\nshare = {share}\n')
        train.train(train.Job(pupil, tmp_path / share / "pupil"), said.append)
    plain, taught = (checkpoint.read_state(tmp_path / s / "pupil" / "network.pt")["network"] for s in ("0.0", "1.0"))
    alone = checkpoint.read_state(teacher.file)["network"]
    assert all(torch.equal(plain[k], alone[k]) for k in plain)  # the labels alone: nothing has changed
    assert any(not torch.equal(plain[k], taught[k]) for k in plain)
    assert any(line.startswith("pupil starts from tiny") for line in said)


def test_a_teacher_of_other_rows_is_refused(teacher: distil.Teacher, silent: Any) -> None:
    faces = fer2013.load("train")
    fewer = faces.take(np.arange(len(faces) - 1))
    with pytest.raises(InputError, match=r"network\.pt: the teacher was trained on other rows"):
        distil.with_targets(fewer, None, Distil(teachers=["tiny"]), [teacher], teacher.file.parent, silent)


def test_a_recipe_that_teaches_itself_is_refused(recipe_file: Path, tmp_path: Path, silent: Any) -> None:
    recipe_file.write_text(recipe_file.read_text() + '\n[distil]\nteachers = ["tiny"]\n')
    with pytest.raises(RecipeError, match="starts from itself"):
        train.train(train.Job(recipe_file, tmp_path / "out"), silent)


def test_softened_targets_are_refused_where_the_loss_knows_whole_labels(
    recipe_file: Path, tmp_path: Path, silent: Any
) -> None:
    text = recipe_file.read_text().replace('name = "dual-resnet"\nwidths = [8, 8, 16, 16]', 'name = "pyconv-se18"')
    recipe_file.write_text(text + '[distil]\nteachers = ["default"]\n')
    with pytest.raises(RecipeError, match="'distil': the loss of pyconv-se18 needs whole labels"):
        train.train(train.Job(recipe_file, tmp_path / "out"), silent)


def test_a_training_does_not_go_on_with_other_teachers_but_with_keys_added_since(
    recipe_file: Path, data_root: Path, tmp_path: Path, silent: Any
) -> None:
    job = train.Job(recipe_file, tmp_path / "tiny")
    train.train(job, silent)
    state = checkpoint.read_state(job.out / "joined.pt")
    del state["recipe"]["distil"], state["recipe"]["augment"]["misregistered"]
    torch.save(state, job.out / "joined.pt")
    train.train(job, silent)
    other = recipe_file.with_name("other.toml")
    other.write_text(recipe_file.read_text().replace('"tiny"', '"other"'))
    recipe_file.write_text(recipe_file.read_text() + '\n[distil]\nteachers = ["other"]\n')
    with pytest.raises(InputError, match="begun with another distil"):
        train.train(job, silent)


def test_misregistration_moves_infrared_alone(data_root: Path) -> None:
    faces = fer2013.load("train")
    still = Augment(rotation_deg=0, zoom=0, shift=0, contrast=0, dark=0, erase=0)
    coarse = still.model_copy(update={"misregistered": 1.0})
    moved = 0
    for row in range(8):
        one, other = (
            augment.pairs(faces, row, 16, ("visible", "infrared"), np.random.default_rng(row), a)
            for a in (still, coarse)
        )
        moved += not np.array_equal(one[1], other[1])
    assert moved == 8
    assert np.array_equal(*(augment.draw_geometry(16, 16, np.random.default_rng(5), a) for a in (still, coarse)))


@pytest.mark.parametrize(("change", "lens"), [({"dark": 1.0, "darkest": 0.001}, 0), ({"black": 1.0}, None)])
def test_a_dark_cabin_and_a_black_lens(data_root: Path, change: dict[str, float], lens: int | None) -> None:
    faces = fer2013.load("train")
    ranges = Augment(rotation_deg=0, zoom=0, shift=0, contrast=0, dark=0, erase=0).model_copy(update=change)
    seen = [augment.pairs(faces, 0, 16, ("visible", "infrared"), np.random.default_rng(k), ranges) for k in range(40)]
    black = [[int(view.max()) < 16 for view in pair] for pair in seen]
    if lens is None:
        assert all(sum(pair) == 1 for pair in black)
        assert 5 < sum(pair[0] for pair in black) < 35
    else:
        assert sum(pair[lens] for pair in black) > 10
        assert not any(pair[1 - lens] for pair in black)


def test_an_opinion_is_kept_and_made_anew_for_other_weights_or_a_torn_file(
    teacher: distil.Teacher, tmp_path: Path
) -> None:
    faces, asked, said = fer2013.load("train"), Distil(teachers=["tiny"], share=1.0), []

    def soft() -> Any:
        said.clear()
        found = distil.with_targets(faces, None, asked, [teacher], tmp_path, said.append).soft
        return found, any("view 0" in line for line in said)

    first, worked = soft()
    again, worked_again = soft()
    assert (worked, worked_again) == (True, False)
    assert np.array_equal(first, again)
    (kept,) = tmp_path.glob("teacher-*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    torn, worked = soft()
    assert worked
    assert np.array_equal(first, torn)
    state = checkpoint.read_state(teacher.file)
    state["network"]["head.4.bias"] += 5 * torch.arange(7)
    torch.save(state, teacher.file)
    other, worked = soft()
    assert worked
    assert not np.allclose(first, other)
