"""From a recipe to a results file: starts from other recipes, budgets, folds by person, late fusion, scoring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the export extra")
for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason="needs the export and cpu extras")

from export import __main__ as command  # noqa: E402
from export import checkpoint, compare, protocol, recipe, score, train  # noqa: E402
from export.errors import InputError, RecipeError  # noqa: E402
from export.models import naseem  # noqa: E402
from export.report import results  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
SINGLE = """
name = "{name}"
crop = 16
family = "{modality}"
[model]
name = "single"
modality = "{modality}"
widths = [8, 8, 8, 8]
[training]
batch = 8
ema = 0.5
steps = [{{ name = "joined", sizes = [[16, 1]], lr = 0.05 }}]
"""
LATE = """
name = "late"
crop = 16
family = "late"
[model]
name = "late-fusion"
widths = [8, 8, 8, 8]
[start]
"singles.visible" = "one"
"singles.infrared" = "two"
"""
EARLY = """
name = "early"
crop = 16
[model]
name = "early-fusion"
widths = [8, 8, 8, 8]
frozen = true
[start]
"branches.visible" = "one"
"branches.infrared.backbone" = "one"
[training]
batch = 8
ema = 0.0
steps = [{ name = "joined", sizes = [[16, 1]], lr = 0.05 }]
"""


@pytest.fixture
def recipes(tmp_path: Path, data_root: Path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "one.toml").write_text(SINGLE.format(name="one", modality="visible"))
    (folder / "two.toml").write_text(SINGLE.format(name="two", modality="infrared"))
    (folder / "late.toml").write_text(LATE)
    (folder / "early.toml").write_text(EARLY)
    return folder


def _job(recipes: Path, name: str, **more: Any) -> train.Job:
    return train.Job(recipes / f"{name}.toml", recipes.parent / "runs" / name, **more)


def test_a_late_fusion_trains_what_it_starts_from_and_is_scored(recipes: Path) -> None:
    said: list[str] = []
    (path,) = train.train(_job(recipes, "late"), said.append)
    assert any(line.startswith("late: late fusion weights visible ") for line in said)
    runs = recipes.parent / "runs"
    one = torch.load(runs / "one" / train.NETWORK, weights_only=False)["network"]
    late = torch.load(path, weights_only=False)["network"]
    assert all(torch.equal(late[f"singles.visible.{k}"], v) for k, v in one.items())
    found = score.score(_job(recipes, "late"), said.append)
    assert list(found.modes) == ["visible+infrared"]
    assert found.modes["visible+infrared"].images == 12
    assert found.clean["visible+infrared"].images == 11
    assert len(found.darkness) == 7
    assert found.extra["weight of visible"] + found.extra["weight of infrared"] == pytest.approx(1)
    assert "simulation" in found.simulated
    again = results.read_one(results.write(found, runs), results.System)
    assert again == found


def test_frozen_backbones_stay_what_they_were_given(recipes: Path, silent: Any) -> None:
    (path,) = train.train(_job(recipes, "early"), silent)
    one = torch.load(recipes.parent / "runs" / "one" / train.NETWORK, weights_only=False)["network"]
    early = torch.load(path, weights_only=False)["network"]
    for k, v in one.items():
        if k.startswith("modal.backbone."):
            own = k.removeprefix("modal.backbone.")
            assert torch.equal(early[f"branches.visible.backbone.{own}"], v)
            assert torch.equal(early[f"branches.infrared.backbone.{own}"], v)
    assert not torch.equal(early["branches.visible.neck.1.weight"], one["modal.neck.1.weight"])


def test_the_infrared_lens_keeps_its_light_in_the_dark(recipes: Path, silent: Any) -> None:
    train.train(_job(recipes, "two"), silent)
    found = score.score(_job(recipes, "two"), silent)
    assert len({x.accuracy for x in found.darkness}) == 1
    assert list(found.modes) == ["infrared"]


def test_a_budget_scales_the_epochs_and_is_kept(recipes: Path, silent: Any) -> None:
    job = _job(recipes, "one", minutes=0.02)
    train.train(job, silent)
    plan = json.loads((job.out / train.PLAN).read_text())
    assert plan["minutes"] == 0.02
    state = torch.load(job.out / train.NETWORK, weights_only=False)
    assert state["epoch"] == plan["steps"][0]["sizes"][0][1]
    assert state["spent"]["budget"] == 0.02
    assert state["spent"]["cpu"] > 0


def test_what_is_made_of_trained_parts_has_half_the_budget_and_folds_none(recipes: Path) -> None:
    one, early = _job(recipes, "one", minutes=4.0), _job(recipes, "early", minutes=4.0)
    assert (train.budget(one, one.recipe), train.budget(early, early.recipe)) == (4.0, 2.0)
    folds = one.recipe.model_copy(update={"data": recipe.Data(name="ckplus", train="all", folds="person")})
    assert train.budget(one, folds) is None


def test_within_a_budget_no_size_is_left_out() -> None:
    steps = [recipe.Step(sizes=[(32, 4), (48, 1)], lr=0.1)]
    cost = {("joined", 32): 10.0, ("joined", 48): 20.0}
    assert train.within(steps, cost, 120)[0].sizes == [(32, 8), (48, 2)]
    assert train.within(steps, cost, 30)[0].sizes == [(32, 2), (48, 1)]
    with pytest.raises(RecipeError, match=r"--cpu-minutes 0\.05: not one epoch fits"):
        train.within(steps, cost, 3)


def test_a_start_that_does_not_fit_is_named(recipes: Path, silent: Any) -> None:
    file = recipes / "early.toml"
    file.write_text(file.read_text().replace("widths = [8, 8, 8, 8]", "widths = [16, 16, 16, 16]"))
    with pytest.raises(InputError, match=r"network\.pt: nothing in it fits 'branches\.visible'"):
        train.train(_job(recipes, "early"), silent)


def _ckplus(root: Path) -> None:
    """Six people with two sequences of three frames each."""
    rng = np.random.default_rng(0)
    n = 36
    arrays = {
        "images": rng.integers(0, 256, (n, 48, 48), np.uint8), "labels": (np.arange(n) // 3 % 7).astype(np.uint8),
        "subject": np.repeat([f"S{k:03}" for k in range(6)], 6), "sequence": np.tile(np.repeat(["001", "002"], 3), 6),
        "frame": np.tile(np.arange(1, 4, dtype=np.int32), 12),
        "classes": np.array(["anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"]),
    }  # fmt: skip
    np.savez_compressed(root / "ckplus48.npz", **arrays)


FOLDS = '[data]\nname = "ckplus"\ntrain = "all"\nfolds = "person"\ncount = 3\n'


def test_folds_keep_people_apart_and_test_everybody_once(recipes: Path, data_root: Path, silent: Any) -> None:
    _ckplus(data_root)
    file = recipes / "one.toml"
    file.write_text(file.read_text().replace("[model]", FOLDS + "[model]"))
    job = _job(recipes, "one")
    for part in protocol.parts(job.recipe, temporal=False):
        assert not set(part.train.person) & set(part.test.person)
    assert len(train.train(job, silent)) == 3
    found = score.score(job, silent)
    assert sum(f.images for f in found.folds) == found.headline.images == 36
    assert found.training.images_seen > 0
    assert not found.darkness


def test_temporal_networks_are_tested_on_whole_sequences(data_root: Path) -> None:
    _ckplus(data_root)
    plan = recipe.Recipe.model_validate(
        {
            "name": "t",
            "model": {"name": "singh"},
            "data": {"name": "ckplus", "train": "all", "folds": "person", "count": 3},
        }
    )
    rows = [len(protocol.whole(p.test)) for p in protocol.parts(plan, temporal=True)]
    assert sum(rows) == 12
    assert all(p.train.sequence is not None for p in protocol.parts(plan, temporal=True))


def test_folds_need_people(recipes: Path) -> None:
    file = recipes / "one.toml"
    file.write_text(file.read_text().replace("[model]", '[data]\nfolds = "person"\n[model]'))
    with pytest.raises(RecipeError, match=r"'data\.folds': the set fer2013 does not say"):
        list(protocol.parts(recipe.read(file), temporal=False))


def test_one_command_trains_scores_and_draws(
    recipes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot run here is named, has a row, and does not stop the others."""
    other = EARLY.replace('"early"', '"vgg"').replace("frozen = true", 'backbone = "nonesuch"')
    (recipes / "vgg.toml").write_text(other)
    for name, value in (("RECIPES", recipes), ("RESULTS", tmp_path / "results")):
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(compare, "RUNS", tmp_path / "runs")
    (tmp_path / "results" / "systems").mkdir(parents=True)
    assert command.main(["report", "--train", "--out", str(tmp_path / "page")]) == 0
    assert "vgg: passed over: [model] backbone = 'nonesuch'" in capsys.readouterr().err
    page = (tmp_path / "page" / "report.md").read_text()
    assert {p.stem for p in (tmp_path / "results" / "systems").glob("*.json")} == {"one", "two", "early", "late"}
    assert "not trained yet" in page


def test_msx_of_the_camera_is_taken_where_a_set_has_it(silent: Any) -> None:
    torch.manual_seed(0)
    options = naseem.SingleOptions(modality="msx", widths=[8, 8, 8, 8], msx_is_lens=True)
    network = naseem.SingleModality(options, 7).eval()
    assert network.uses == ("infrared",)
    assert network.modal.msx is None


def test_a_torn_network_file_is_one_line(recipes: Path) -> None:
    job = _job(recipes, "one")
    job.out.mkdir(parents=True)
    (job.out / train.NETWORK).write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"network\.pt: not a checkpoint"):
        checkpoint.load(job.out / train.NETWORK, job.recipe)


def _viri(root: Path) -> None:
    """The layout of VIRI: a folder per modality and expression, pairs by file name."""
    rng = np.random.default_rng(1)
    for lens in ("visible", "infrared", "msx"):
        for label in ("angry", "happy", "neutral", "sad", "surprised"):
            folder = root / "viri" / lens / label
            folder.mkdir(parents=True)
            for k in range(8):
                cv2.imwrite(str(folder / f"{k:03}.jpg"), rng.integers(0, 256, (50, 50), np.uint8))


def test_the_papers_fusion_runs_on_a_folder_in_viri_layout(
    recipes: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """3-step training on real pairs: nothing is simulated, the classes are the folder's five."""
    _viri(data_root)
    (data_root / "viri" / "infrared" / "sad" / "003.jpg").unlink()
    monkeypatch.chdir(recipes.parent)
    file = recipes / "early.toml"
    file.write_text(file.read_text().replace("frozen = true\n", ""))
    assert command.main(["train", str(file), "--data", "viri", "--threads", "1"]) == 0
    assert command.main(["score", str(file), "--data", "viri", "--threads", "1"]) == 0
    found = results.read_one(recipes.parent / "runs" / "viri" / "early" / "early.json", results.System)
    assert found.labels == ("anger", "happiness", "sadness", "surprise", "neutral")
    assert found.simulated == ""
    assert found.headline.images == 5 * 2
    unused = (recipes.parent / "runs" / "viri" / "early" / "not-used.txt").read_text()
    assert "003.jpg" in unused
    assert "files not used, listed in" in capsys.readouterr().err
    assert "VIRI" in found.dataset


def test_an_unknown_set_is_named(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["train", str(recipes / "one.toml"), "--data", "virri"]) == 64
    assert "did you mean 'viri'?" in capsys.readouterr().err
