"""What evaluation adds to accuracy: faults of a lens, patches, other sets, steadiness of the label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the export extra")
from export import otherdata, robustness, steadiness
from export.data.faces import Faces
from export.report import failures

N, SIDE, CLASSES = 14, 48, ("happiness", "neutral")
TEMPLATE = np.array([[14.8, 18.1], [32.2, 18.1], [23.5, 28.1], [16.4, 35.4], [30.6, 35.4]])


def _faces(bright: int = 250) -> Faces:
    """The class can be read off the brightest corner: top left or bottom right."""
    labels = np.arange(N, dtype=np.int64) % 2
    images = np.full((N, SIDE, SIDE), 90, np.uint8)
    images[labels == 0, :8, :8] = bright
    images[labels == 1, -8:, -8:] = bright
    return Faces(images, labels, "", CLASSES)


def _reader(trusts: str) -> Any:
    """A network that reads the corners of one lens alone while it is there, else of the other."""

    def answer(inputs: Any, title: str) -> Any:
        visible, infrared, present = inputs
        first, second = (visible, infrared) if trusts == "visible" else (infrared, visible)
        there = present[:, 0 if trusts == "visible" else 1].astype(bool)
        seen = np.where(there[:, None, None], first[..., 0], second[..., 0]).astype(np.float32)
        return np.stack([seen[:, :8, :8].mean((1, 2)), seen[:, -8:, -8:].mean((1, 2))], axis=1)

    return answer


def _rows(trusts: str, bright: int = 250) -> dict[str, Any]:
    faces, answer = _faces(bright), _reader(trusts)
    known = {m: answer(robustness.lenses.inputs(faces.images, faces.images, m), m) for m in robustness.lenses.MODES}
    found = robustness.rows(faces, faces.images, known, TEMPLATE, 1, answer)
    assert "points" in robustness.table(found)[0]
    return {r["fault"]: r for r in found}


def test_a_pair_that_hangs_on_one_lens_is_seen_to_be_worse_than_the_other() -> None:
    rows = _rows("visible")
    assert rows["visible lens black, unnoticed"]["points"] == pytest.approx(-50)
    assert "visible" not in rows["visible lens black, unnoticed"]
    assert rows["infrared lens black, unnoticed"]["points"] == pytest.approx(0)
    assert rows["visible lens shows another face"]["points"] == pytest.approx(-100)
    assert rows["visible lens dead, black or frozen, noticed"]["fused"] == 1.0
    assert _rows("infrared")["infrared lens shows another face"]["points"] == pytest.approx(-100)


def test_a_shift_moves_every_picture_by_as_much_and_never_in_one_direction() -> None:
    dots = np.zeros((20, SIDE, SIDE), np.uint8)
    dots[:, 24, 24] = 255
    moved = robustness.shifted(dots, 6.0, 1).astype(np.float64)
    y, x = np.mgrid[:SIDE, :SIDE]
    total = moved.sum((1, 2))
    cx, cy = (moved * x).sum((1, 2)) / total - 24, (moved * y).sum((1, 2)) / total - 24
    assert np.hypot(cx, cy) == pytest.approx(6.0, abs=0.1)
    assert np.hypot(cx.mean(), cy.mean()) < 4


def test_the_sun_shines_on_the_visible_lens_alone() -> None:
    """Every face has a sun of its own, the same one each time; infrared counts as it does without."""
    faces = _faces()
    lit = robustness.in_the_sun(faces.images, 1)
    assert np.array_equal(lit, robustness.in_the_sun(faces.images, 1))
    assert all(not np.array_equal(lit[k], lit[k + 2]) for k in range(N - 2))
    rows = [_rows(trusts, bright=100)["sun on one side, visible lens"] for trusts in ("infrared", "visible")]
    assert [row["infrared"] for row in rows] == [1.0, 1.0]
    assert rows[0]["points"] == 0
    assert rows[1]["points"] < -20  # corners a little brighter than the rest are outshone


@pytest.mark.parametrize(
    ("name", "hidden", "open_"), [("sunglasses", (18, 15), (40, 24)), ("mask", (36, 24), (10, 24))]
)
def test_patches_lie_where_the_template_has_the_face(name: str, hidden: Any, open_: Any) -> None:
    images = np.random.default_rng(0).integers(60, 140, (6, SIDE, SIDE), np.uint8)
    out = robustness.covered(images, TEMPLATE, robustness.COVERS[name], 1)
    assert (out[:, hidden[0], hidden[1]] != images[:, hidden[0], hidden[1]]).all()
    assert (out[:, open_[0], open_[1]] == images[:, open_[0], open_[1]]).all()


def test_a_hand_covers_one_mouth_corner_or_the_other_and_some_but_not_all_of_the_face() -> None:
    images = np.random.default_rng(0).integers(60, 140, (20, SIDE, SIDE), np.uint8)
    changed = robustness.covered(images, TEMPLATE, robustness.COVERS["hand"], 1) != images
    left, right = (changed[:, 34:37, 16].any(axis=1), changed[:, 34:37, 30].any(axis=1))
    assert (left | right).all()
    assert left.any()
    assert right.any()
    assert 0.08 < changed.mean() < 0.4


def test_a_set_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFER_DATA", str(tmp_path))
    found = otherdata.cross(list(CLASSES), TEMPLATE, 48, (), 1, _reader("visible"))
    assert set(found) == {"ckplus", "thermal"}
    assert all("skipped" in f for f in found.values())
    assert all("left out" in line for line in otherdata.table(found)[1:])


def test_answers_can_be_limited_to_the_classes_of_a_set() -> None:
    logits = np.array([[1.0, 3.0, 2.0]], np.float32)
    assert otherdata._among(logits, np.array([0, 2])).argmax() == 2


def test_flicker_and_delay_are_counted_against_the_changes_of_face() -> None:
    said = [(0.0, "a"), (1.0, "a"), (2.3, "b"), (2.5, "a"), (2.7, "b"), (5.4, "a")]
    found = steadiness.judged(said, [2.0, 5.0, 8.0])
    assert found == {"true_changes": 3, "label_changes": 4, "delay_s": [0.3, 0.4, None]}


def test_a_label_that_comes_with_the_fade_counts_as_no_delay() -> None:
    assert steadiness.judged([(0.0, "a"), (1.9, "b")], [2.0])["delay_s"] == [0.0]


def test_the_drive_has_the_changes_of_its_script() -> None:
    assert steadiness.true_changes() == pytest.approx([2.76, 5.28, 8.48, 10.88, 14.28, 17.28], abs=0.05)


def test_reaction_is_that_of_the_decision_at_its_defaults() -> None:
    logits = np.where(np.eye(2)[[0, 1, 0, 1]] > 0, 4.0, 0.0).astype(np.float32)
    found = steadiness.reaction(logits, np.array([0, 1, 0, 1]), list(CLASSES), 1.0, 0.5, 1)
    assert found["pairs"] == steadiness.PAIRS
    assert 0.2 < found["median_s"] <= found["longest_s"] <= 0.8  # hold 0.2 s, smoothing 0.35 s
    assert (found["in_time"], found["never"]) == (1.0, 0)


def test_answers_that_hardly_leave_doubt_are_counted_and_not_infinite() -> None:
    barely = np.log(0.5500001 / 0.4499999)  # the filter comes close to it and never there
    logits = np.array([[4.0, 0.0], [0.0, barely]], np.float32)
    found = steadiness.reaction(logits, np.array([0, 1]), list(CLASSES), 1.0, 0.5, 1)
    assert 0 < found["never"] < steadiness.PAIRS
    assert found["in_time"] == pytest.approx(1 - found["never"] / steadiness.PAIRS)
    assert found["median_s"] <= found["longest_s"] <= 0.8


def test_the_surest_mistakes_come_first_and_right_answers_never(tmp_path: Path) -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    lead = np.array([5.0, -1.0, -4.0, 3.0, 2.0, -6.0])  # of class 0 over class 1
    logits = np.stack([lead, np.zeros(6)], axis=1).astype(np.float32)
    found = failures.surest(logits, labels, 1.0, count=2)
    assert {true: [m.row for m in row] for true, row in found.items()} == {0: [2, 1], 1: [3, 4]}
    assert found[1][0].said == 0
    assert found[1][0].confidence == pytest.approx(1 / (1 + np.exp(-3.0)))
    faces = Faces(np.zeros((6, 8, 8), np.uint8), labels, "", CLASSES)
    assert failures.montage(failures.surest(logits, labels, 1.0, 1), faces, tmp_path / "a.png").stat().st_size > 500
