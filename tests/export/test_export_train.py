"""A training that is interrupted ends where an unbroken one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
from export import checkpoint, curve, models, recipe, train, trainer  # noqa: E402
from export.data.faces import Faces  # noqa: E402
from export.errors import InputError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


class Stop(Exception):
    pass


def _cut() -> None:
    raise Stop


def _stop_at(line_start: str) -> Any:
    def say(line: str) -> None:
        if line.startswith(line_start):
            raise Stop

    return say


@pytest.mark.parametrize("at", ["single 1/2", "single 2/2", "joined 1/2"])
def test_stopped_and_resumed_equals_straight(
    recipe_file: Path, data_root: Path, tmp_path: Path, silent: Any, at: str
) -> None:
    straight = checkpoint.read_state(train.train(train.Job(recipe_file, tmp_path / "straight"), silent)[0])
    broken = train.Job(recipe_file, tmp_path / "broken")
    with pytest.raises(Stop):
        train.train(broken, _stop_at(at))
    resumed = checkpoint.read_state(train.train(broken, silent)[0])
    assert straight["epoch"] == resumed["epoch"] == 4
    for key, value in straight["network"].items():
        assert torch.equal(value, resumed["network"][key]), key


def _curve(folder: Path) -> list[tuple[str, int]]:
    rows = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    return [(row["step"], row["epoch"]) for row in rows]


WHOLE = [("single", 1), ("single", 2), ("joined", 1), ("joined", 2)]


def test_a_training_begun_anew_has_a_curve_of_its_own(
    recipe_file: Path, data_root: Path, tmp_path: Path, silent: Any
) -> None:
    job = train.Job(recipe_file, tmp_path / "out")
    train.train(job, silent)
    assert _curve(job.out) == WHOLE
    for name in ("single", "joined", "network"):
        (job.out / f"{name}.pt").unlink()
    recipe_file.write_text(recipe_file.read_text().replace("[[12, 1], [16, 1]]", "[[16, 1]]"))
    with pytest.raises(Stop):
        train.train(job, _stop_at("single 1/1"))
    assert _curve(job.out) == [("single", 1)]
    train.train(job, silent)
    assert _curve(job.out) == [("single", 1), ("joined", 1), ("joined", 2)]
    train.train(job, silent)
    assert _curve(job.out) == [("single", 1), ("joined", 1), ("joined", 2)]


def test_a_power_cut_leaves_no_row_twice_and_none_torn(
    recipe_file: Path, data_root: Path, tmp_path: Path, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between a row and its checkpoint, and in the middle of a row."""
    job = train.Job(recipe_file, tmp_path / "out")
    kept = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda path, state: _cut() if state["epoch"] == 2 else kept(path, state))
    with pytest.raises(Stop):
        train.train(job, silent)
    monkeypatch.setattr(checkpoint, "write", kept)
    assert _curve(job.out) == WHOLE[:2]
    with (job.out / "training.jsonl").open("a") as f:
        f.write('{"step": "sin')
    train.train(job, silent)
    assert _curve(job.out) == WHOLE


def test_a_checkpoint_of_another_network_is_refused(
    recipe_file: Path, data_root: Path, tmp_path: Path, silent: Any
) -> None:
    (path,) = train.train(train.Job(recipe_file, tmp_path / "out"), silent)
    recipe_file.write_text(recipe_file.read_text().replace("[8, 8, 16, 16]", "[8, 8, 8, 8]"))
    with pytest.raises(InputError, match="another \\[model\\]"):
        checkpoint.load(path, recipe.read(recipe_file))


def test_a_broken_checkpoint_is_one_line(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "network.pt").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "network.pt", recipe.read(recipe_file))


def test_weights_of_a_file_start_the_branch_where_they_fit(
    recipe_file: Path, data_root: Path, tmp_path: Path, silent: Any
) -> None:
    """A torchvision-style ResNet: three colours in the stem, a classifier of its own, other widths deeper down."""
    from export.models.resnet import Branch, start_from_file

    donor = {k: torch.randn_like(v) for k, v in Branch([8, 8, 16, 16], 1).state_dict().items() if v.is_floating_point()}
    donor.update({"conv1.weight": torch.ones(8, 3, 3, 3), "fc.weight": torch.ones(10, 512)})
    donor["layer4.0.conv1.weight"] = torch.ones(512, 256, 3, 3)
    torch.save(donor, tmp_path / "resnet.pth")
    branch = Branch([8, 8, 16, 16], 1)
    assert start_from_file(branch, tmp_path / "resnet.pth") == donor.keys() - {"fc.weight", "layer4.0.conv1.weight"}
    assert torch.equal(branch.conv1.weight, torch.full((8, 1, 3, 3), 3.0))
    assert torch.equal(branch.state_dict()["layer1.0.conv1.weight"], donor["layer1.0.conv1.weight"])
    recipe_file.write_text(
        recipe_file.read_text().replace("[training]", f'[start]\nvisible = "{tmp_path / "resnet.pth"}"\n[training]')
    )
    said: list[str] = []
    train.train(train.Job(recipe_file, tmp_path / "out"), said.append)
    assert any(line.endswith("resnet.pth") for line in said)


@pytest.mark.parametrize("content", [None, b"no", {"conv1.weight": [1]}, {"conv1.weight": "widths"}])
def test_weights_that_do_not_fit_are_one_line(content: Any, tmp_path: Path) -> None:
    from export.models.resnet import Branch, start_from_file

    path = tmp_path / "resnet.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        wide = content["conv1.weight"] == "widths"
        torch.save({"conv1.weight": torch.ones(64, 3, 7, 7)} if wide else content, path)
    with pytest.raises(InputError, match=r"resnet\.pth"):
        start_from_file(Branch([8, 8, 16, 16], 1), path)


def _never_better(out: Path, watched: bool, say: Any) -> None:
    """Black faces of one class, at a rate that moves nothing: every epoch is as good as the first."""
    faces = Faces(np.zeros((16, 16, 16), np.uint8), np.zeros(16, np.int64), "black", ("a", "b"))
    plan = recipe.Recipe(
        name="flat", crop=16, model={"name": "single", "widths": [4, 4], "dropout": 0},
        augment={"dark": 0, "erase": 0, "contrast": 0}, training={"batch": 8, "schedule": "plateau", "ema": 0,
        "weight_decay": 0, "steps": [{"name": "joined", "sizes": [[16, 8]], "lr": 1e-30, "warmup": 0}]},
    )  # fmt: skip
    torch.manual_seed(0)
    network = models.build(plan.model, 2)
    trainer.Trainer(plan.training.steps[0], plan, network, out).run(faces, faces if watched else None, say)


@pytest.mark.parametrize("watched", [True, False])
def test_a_plateau_lowers_the_rate_also_where_no_rows_are_watched(tmp_path: Path, watched: bool) -> None:
    said: list[str] = []
    with pytest.raises(Stop):
        _never_better(tmp_path, watched, _stop_at("joined 4/8"))
    _never_better(tmp_path, watched, said.append)
    rows = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows] == [1e-30] * 6 + [1e-31] * 2
    told = "joined: no rows are watched; the rate falls when the training loss stops falling" in said
    assert told is not watched


def test_a_new_best_begins_the_patience_anew() -> None:
    assert curve.plateau_factor([-3.0, -2.0, -1.5, -1.2, -1.1, -1.05]) == 1
    assert curve.plateau_factor([0.5, 0.4, 0.4, 0.4, 0.4, 0.6, 0.6, 0.6]) == 1
    assert curve.plateau_factor([0.5] * 11) == pytest.approx(0.01)


@pytest.mark.parametrize(("prior", "share"), [(0.0, 0.9), (1.0, 0.5)])
def test_a_prior_that_is_taken_out_makes_rare_classes_as_likely(tmp_path: Path, prior: float, share: float) -> None:
    """Faces that look alike, nine of ten of one class: the answer is that frequency, or none."""
    labels = np.array([0] * 180 + [1] * 20)
    faces = Faces(np.zeros((200, 16, 16), np.uint8), labels, "alike", ("a", "b"))
    plan = recipe.Recipe(
        name="prior", crop=16, model={"name": "shared-trunk", "widths": [4, 4], "blocks": [1, 1], "shared_from": 2,
                                      "dropout": 0}, augment={"dark": 0, "erase": 0, "contrast": 0},
        training={"batch": 40, "prior": prior, "label_smoothing": 0, "ema": 0, "weight_decay": 0,
                  "steps": [{"name": "single", "sizes": [[16, 20]], "lr": 0.1}]},
    )  # fmt: skip
    network = models.build(plan.model, 2)
    trainer.Trainer(plan.training.steps[0], plan, network, tmp_path).run(faces, None, lambda line: None)
    view = torch.zeros(4, 1, 16, 16)
    said = torch.softmax(network.eval()(view, view, torch.ones(4, 2)), 1)[0, 0].item()
    assert said == pytest.approx(share, abs=0.05)
